"""
misconception: the two sides are resampled apart
fails: [a2-interval-test]
says: "you resampled the two sides apart"
"""


# %% a2-interval
def paired_interval(a, b, people):
    names, rng = np.asarray(people), np.random.default_rng(0)
    sides = [np.array([side[names == name].mean() for name in sorted(set(people))]) for side in (a, b)]
    draws = [side[rng.integers(0, len(side), (2000, len(side)))].mean(1) for side in sides]
    return tuple(np.quantile(draws[0] - draws[1], [0.025, 0.975]))
