"""
misconception: the network is in evaluation mode while it trains
fails: [a2-train-test]
says: "You trained in evaluation mode"
"""


# %% a2-train
def train(network, images, steps, seed):
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.eval()
    losses = []
    for _ in range(steps):
        x = images[torch.randperm(len(images))[:32]]
        loss = ((network(x) - x) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
