"""
misconception: gradients of old steps pile up
fails: [a2-train-test]
says: "old gradients pile up"
"""


# %% a2-train
def train(network, images, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    losses = []
    for _ in range(steps):
        x = images[torch.randperm(len(images), generator=generator)[:32]]
        loss = ((network(x) - x) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    return losses
