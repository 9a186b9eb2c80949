"""
misconception: the mean over the code of a chain of probabilities
fails: [a3-term-test]
says: "a chain of probabilities is a sum"
"""

# %% a3-term
method = "lsa"


def latent_term(codes, A, c):
    bins = (codes * A.shape[2]).long().clamp(max=A.shape[2] - 1).flatten()

    def nll(z, A, c):
        return F.cross_entropy(chain(z, A, c).flatten(0, 1), bins)

    return {"helper": nll(codes.detach(), A, c), "encoder": nll(codes, A.detach(), c.detach())}
