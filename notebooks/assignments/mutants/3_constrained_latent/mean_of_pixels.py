"""
misconception: the mean over pixels beside a KL in nats
fails: [a3-elbo-test]
says: "You took the mean over the pixels"
"""


# %% a3-elbo
def negative_elbo(images, rebuilt, mu, logvar, variance, beta):
    return (images - rebuilt).square().mean((1, 2, 3)) + beta * kl(mu, logvar)
