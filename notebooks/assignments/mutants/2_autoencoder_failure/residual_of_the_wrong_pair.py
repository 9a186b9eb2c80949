"""
misconception: the reconstruction of the slice with the lesion is compared with the slice without
fails: [a2-copied-test]
says: "The residual of the wrong pair"
"""


# %% a2-copied
def log_ratio(network, before, after, spots):
    network.eval()
    with torch.no_grad():
        errors = [(before - network(x)).abs()[:, 0].numpy() for x in (after, before)]
    means = [np.array([e[s].mean() for e, s in zip(error, spots)]) for error in errors]
    return np.log2(means[0] / means[1])
