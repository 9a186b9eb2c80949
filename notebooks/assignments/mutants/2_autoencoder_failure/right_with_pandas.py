"""
right: true
way: batches by epochs, pandas for the people, the library's bootstrap
"""


# %% a2-train
def train(network, images, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    network.train()
    losses, order = [], torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < 32:
            order = torch.randperm(len(images), generator=generator)
        x, order = images[order[:32]], order[32:]
        optimizer.zero_grad(set_to_none=True)
        loss = nn.MSELoss()(network(x), x)
        loss.backward()
        optimizer.step()
        losses += [loss.detach().item()]
    return network.eval() and losses


# %% a2-contrast
def contrast(maps, masks, brains, people):
    import pandas as pd

    inside, rest = masks & brains, brains & ~masks
    sums = pd.DataFrame(
        {
            "a": (maps * inside).sum((1, 2)),
            "b": (maps * rest).sum((1, 2)),
            "c": inside.sum((1, 2)),
            "d": rest.sum((1, 2)),
        }
    )
    sums = sums.groupby(list(people), sort=False).sum().query("c > 0")
    return ((sums["a"] / sums["c"]) / (sums["b"] / sums["d"])).to_numpy()


# %% a2-copied
def log_ratio(network, before, after, spots):
    network.eval()
    where, errors = torch.as_tensor(spots)[:, None], []
    with torch.no_grad():
        for x in (after, before):
            errors.append(((x - network(x)).abs() * where).sum((1, 2, 3)) / where.sum((1, 2, 3)))
    return torch.log2(errors[0]) - torch.log2(errors[1])


# %% a2-interval
def paired_interval(a, b, people):
    import pandas as pd

    from course_lib.metrics.intervals import bootstrap, difference
    from course_lib.metrics.statistics import Mean

    a, b = (pd.Series(np.asarray(side)).groupby(list(people)).mean().to_numpy() for side in (a, b))
    found = bootstrap(difference(Mean(a), Mean(b)), len(a))
    return found.low, found.high


# %% a2-finding
finding, people = {}, well.table["subject"].to_numpy()
for kind in networks:
    ratios = np.asarray(log_ratio(networks[kind], batch(before), batch(after), spots))
    low, high = paired_interval(ratios, 0 * ratios, people.tolist())
    finding[kind] = {"value": np.mean([ratios[people == p].mean() for p in set(people)]), "low": low, "high": high}
finding["claim"] = finding["copying"]["high"] < 0
