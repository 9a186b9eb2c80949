"""
misconception: the ELBO is minimised
fails: [a3-elbo-test]
says: "The sign is flipped"
"""


# %% a3-elbo
def negative_elbo(images, rebuilt, mu, logvar, variance, beta):
    log_p = torch.distributions.Normal(rebuilt, variance**0.5).log_prob(images).flatten(1).sum(1)
    return log_p - beta * kl(mu, logvar)
