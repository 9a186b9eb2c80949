"""
misconception: slices are resampled as if they were independent
fails: [a1-interval-test]
says: "you resampled slices"
"""


# %% a1-interval
def interval(values, people):
    drawn = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    return tuple(np.quantile(values[drawn].mean(1), [0.025, 0.975]))
