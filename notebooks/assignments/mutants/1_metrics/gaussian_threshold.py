"""
misconception: mean plus standard deviations, as if scores were Gaussian
fails: [a1-threshold-test]
says: "assumes a Gaussian"
"""


# %% a1-threshold
def threshold_at(maps, brains, q):
    from scipy.stats import norm

    return maps[brains].mean() + norm.ppf(1 - q) * maps[brains].std()
