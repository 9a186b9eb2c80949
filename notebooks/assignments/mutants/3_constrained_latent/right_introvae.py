"""
right: true
way: the Soft-IntroVAE-like push and pull
"""

# %% a3-term
method = "introvae"


def latent_term(fakes, M, S):
    pushed = kl(*posterior(fakes.detach(), M, S))
    pulled = kl(*posterior(fakes, M.detach(), S.detach()))
    return {"encoder": torch.exp(-2 * pushed / M.shape[1]).mean(), "decoder": pulled.mean()}
