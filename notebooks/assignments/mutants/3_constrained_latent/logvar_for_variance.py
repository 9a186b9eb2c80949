"""
misconception: the log-variance is taken for the variance
fails: [a3-kl-test]
says: "You took the log-variance for the variance"
"""


# %% a3-kl
def kl(mu, logvar):
    variance = logvar.abs()
    return 0.5 * (mu**2 + variance - variance.log() - 1).sum(1)
