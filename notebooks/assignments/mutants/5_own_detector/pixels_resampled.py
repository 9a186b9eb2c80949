"""
misconception: pixels are resampled as if they were independent
fails: [a5-paired-test]
says: "Resample people"
"""


# %% a5-paired
def paired_gap(first, second, masks, brains, people):
    labels, sides = masks[brains], [maps[brains] for maps in (first, second)]
    value = rank_metrics(sides[0], labels).ap - rank_metrics(sides[1], labels).ap
    rng, gaps = np.random.default_rng(0), []
    for _ in range(200):
        drawn = rng.integers(0, len(labels), len(labels))
        a, b = (rank_metrics(side[drawn], labels[drawn]).ap for side in sides)
        gaps.append(a - b)
    low, high = np.quantile(gaps, [0.025, 0.975])
    return value, low, high
