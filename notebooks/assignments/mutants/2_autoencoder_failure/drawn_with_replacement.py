"""
misconception: a batch is drawn with replacement, a slice may be in it twice
fails: [a2-train-test]
says: "drawn without replacement"
"""


# %% a2-train
def train(network, images, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    losses = []
    for _ in range(steps):
        x = images[torch.randint(len(images), (32,), generator=generator)]
        loss = nn.functional.mse_loss(network(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    return losses
