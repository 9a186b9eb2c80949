"""
misconception: the discriminator's loss moves the encoder
fails: [a3-route-test]
says: "You forgot to detach the codes"
"""

# %% a3-term
method = "aae"


def latent_term(codes, draws, W, w):
    real, fake = judge(draws, W, w), judge(codes, W, w)
    fool = judge(codes, W.detach(), w.detach())
    return {"helper": (F.softplus(-real) + F.softplus(fake)).mean(), "encoder": F.softplus(-fool).mean()}
