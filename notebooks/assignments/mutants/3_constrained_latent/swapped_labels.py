"""
misconception: codes are called real and draws from the prior fake
fails: [a3-term-test]
says: "The labels are swapped"
"""

# %% a3-term
method = "aae"


def latent_term(codes, draws, W, w):
    real, fake = judge(draws, W, w), judge(codes.detach(), W, w)
    fool = judge(codes, W.detach(), w.detach())
    return {"helper": (F.softplus(real) + F.softplus(-fake)).mean(), "encoder": F.softplus(-fool).mean()}
