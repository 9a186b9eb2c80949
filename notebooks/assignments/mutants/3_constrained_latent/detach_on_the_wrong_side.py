"""
misconception: the encoder's loss detaches the encoder and moves the fakes
fails: [a3-route-test]
says: "the detach is on the wrong side"
"""

# %% a3-term
method = "introvae"


def latent_term(fakes, M, S):
    pushed = kl(*posterior(fakes, M.detach(), S.detach()))
    return {"encoder": (-2 * pushed / M.shape[1]).exp().mean(), "decoder": pushed.mean()}
