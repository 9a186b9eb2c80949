"""
misconception: the encoder's loss weakens the discriminator
fails: [a3-route-test]
says: "moves the helper's weights"
"""

# %% a3-term
method = "aae"


def latent_term(codes, draws, W, w):
    real, fake, fool = judge(draws, W, w), judge(codes.detach(), W, w), judge(codes, W, w)
    return {"helper": (F.softplus(-real) + F.softplus(fake)).mean(), "encoder": F.softplus(-fool).mean()}
