"""
misconception: noise is multiplied by the variance
fails: [a3-sample-test]
says: "exp(logvar) is the variance"
"""


# %% a3-sample
def sample(mu, logvar, noise):
    return mu + logvar.exp() * noise
