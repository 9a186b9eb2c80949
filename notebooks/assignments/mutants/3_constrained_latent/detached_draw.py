"""
misconception: the draw is detached, the encoder is not trained through it
fails: [a3-sample-test]
says: "You detached"
"""


# %% a3-sample
def sample(mu, logvar, noise):
    with torch.no_grad():
        return torch.normal(mu, logvar.exp().sqrt()) * 0 + mu + logvar.mul(0.5).exp() * noise
