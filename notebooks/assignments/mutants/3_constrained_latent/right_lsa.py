"""
right: true
way: latent autoregression, AUROC by scikit-learn
"""

# %% a3-term
method = "lsa"


def latent_term(codes, A, c):
    bins = (codes.detach() * A.shape[2]).floor().long().clamp(0, A.shape[2] - 1)

    def nll(z, A, c):
        return -chain(z, A, c).log_softmax(-1).gather(-1, bins[..., None]).sum((1, 2)).mean()

    return {"helper": nll(codes.detach(), A, c), "encoder": nll(codes, A.detach(), c.detach())}


# %% a3-result
from sklearn.metrics import roc_auc_score

threshold = np.sort(validation_scores)[-int(0.05 * len(validation_scores))]
flags = test_scores >= threshold
result = dict(
    auroc=roc_auc_score(test_labels, test_scores),
    threshold=threshold,
    sensitivity=np.mean(flags[test_labels]),
    specificity=1 - np.mean(flags[~test_labels]),
)
