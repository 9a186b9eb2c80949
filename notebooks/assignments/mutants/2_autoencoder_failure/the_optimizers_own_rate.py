"""
misconception: the optimizer's own learning rate is left as it is
fails: [a2-train-test]
says: "moves weights by the learning rate"
"""


# %% a2-train
def train(network, images, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters())
    network.train()
    losses = []
    for _ in range(steps):
        x = images[torch.randperm(len(images), generator=generator)[:32]]
        loss = nn.functional.mse_loss(network(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    return losses
