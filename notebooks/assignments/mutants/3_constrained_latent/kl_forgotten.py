"""
misconception: the KL is not in the bound
fails: [a3-elbo-test]
says: "You forgot the KL term"
"""


# %% a3-elbo
def negative_elbo(images, rebuilt, mu, logvar, variance, beta):
    squares = (images - rebuilt).square().flatten(1)
    return squares.sum(1) / (2 * variance) + 0.5 * squares.shape[1] * np.log(2 * np.pi * variance)
