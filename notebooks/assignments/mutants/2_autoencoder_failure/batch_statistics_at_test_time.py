"""
misconception: batch normalisation uses the test batch
fails: [a2-residual-test]
says: "must not use the batch"
"""


# %% a2-residual
def residual_map(network, images):
    with torch.no_grad():
        return ((images - network(images)).abs() * (images > 0))[:, 0]
