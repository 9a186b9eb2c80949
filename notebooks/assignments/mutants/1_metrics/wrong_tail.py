"""
misconception: the q-quantile, so that all but a share q is marked
fails: [a1-threshold-test]
says: "The wrong tail"
"""


# %% a1-threshold
def threshold_at(maps, brains, q):
    return np.quantile(maps[brains], q)
