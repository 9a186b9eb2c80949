"""
right: true
way: an AAE with torch's binary cross-entropy, the KL through torch.distributions
"""


# %% a3-sample
def sample(mu, logvar, noise):
    return torch.addcmul(mu, logvar.exp().sqrt(), noise)


# %% a3-kl
def kl(mu, logvar):
    from torch.distributions import Independent, Normal, kl_divergence

    q = Independent(Normal(mu, (logvar / 2).exp()), 1)
    return kl_divergence(q, Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1))


# %% a3-elbo
def negative_elbo(images, rebuilt, mu, logvar, variance, beta):
    log_p = torch.distributions.Normal(rebuilt, variance**0.5).log_prob(images)
    return -log_p.sum(dim=(1, 2, 3)) + beta * kl(mu, logvar)


# %% a3-term
method = "aae"


def latent_term(*given):
    codes, draws, W, w = given
    bce = F.binary_cross_entropy_with_logits
    real, fake = judge(draws, W, w), judge(codes.detach(), W, w)
    fool = judge(codes, W.detach(), w.detach())
    return {
        "helper": bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake)),
        "encoder": bce(fool, torch.ones_like(fool)),
    }


# %% a3-score
def score(errors, surprises, healthy_errors, healthy_surprises):
    pairs = ((errors, healthy_errors), (surprises, healthy_surprises))
    return sum((new - calm.mean()) / calm.std(ddof=1) for new, calm in pairs)
