"""
misconception: the free nats are granted to each image, not to each code number
fails: [a3-term-test]
says: "The nats are free for each code number"
"""

# %% a3-term
method = "vae"


def latent_term(mu, logvar, step):
    each = 0.5 * (mu.square() + logvar.exp() - logvar - 1)
    return {"encoder": min(1, step / 100) * each.clamp(min=0.05).sum(1).mean()}
