"""
misconception: each detector meets its own draw of people
fails: [a5-paired-test]
says: "You resampled the two sides apart"
"""


# %% a5-paired
def paired_gap(first, second, masks, brains, people):
    names, rng = np.asarray(people), np.random.default_rng(0)
    rows_of = [np.flatnonzero(names == name) for name in sorted(set(people))]

    def ap(maps, rows):
        return rank_metrics(maps[rows], masks[rows], brains[rows]).ap

    def draw():
        return np.concatenate([rows_of[k] for k in rng.integers(0, len(rows_of), len(rows_of))])

    gaps = [ap(first, draw()) - ap(second, draw()) for _ in range(200)]
    everyone = np.arange(len(names))
    return ap(first, everyone) - ap(second, everyone), *np.quantile(gaps, [0.025, 0.975])
