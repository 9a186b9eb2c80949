"""
right: true
way: mean squared error by hand, NumPy maps, the library's post-processing, Student's t
"""


# %% a2-rows
def training_rows(split, family, lesion_px):
    return np.flatnonzero((np.asarray(split) == "train") & (np.asarray(family) == "healthy"))


# %% a2-train
def train(network, images, steps, seed):
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    losses = []
    for _ in range(steps):
        x = images[torch.from_numpy(rng.choice(len(images), 32, replace=False))]
        for p in network.parameters():
            p.grad = None
        loss = torch.mean((x - network(x)) ** 2)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.train(False)
    return losses


# %% a2-residual
def residual_map(network, images):
    was = network.training
    network.eval()
    rebuilt = network(images).detach().numpy()
    network.train(was)
    return np.where(images.numpy() > 0, np.abs(rebuilt - images.numpy()), 0).squeeze(1)


# %% a2-clean
def clean(maps, brains):
    from course_lib.maps import postprocess

    return postprocess(maps, brains, [("rim", 2), ("median", 3)])


# %% a2-interval
def paired_interval(a, b, people):
    import pandas as pd
    from scipy import stats

    gaps = pd.Series(np.asarray(a) - np.asarray(b)).groupby(list(people)).mean()
    return stats.t.interval(0.95, len(gaps) - 1, gaps.mean(), stats.sem(gaps))
