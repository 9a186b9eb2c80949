"""
misconception: no brain mask on the residual
fails: [a2-residual-test]
says: "There is residual outside the brain"
"""


# %% a2-residual
def residual_map(network, images):
    network.eval()
    with torch.no_grad():
        return (images - network(images)).abs()[:, 0]
