"""
misconception: the mean over the code in place of the sum
fails: [a3-kl-test]
says: "You took the mean over the code"
"""


# %% a3-kl
def kl(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() - logvar - 1).mean(1)
