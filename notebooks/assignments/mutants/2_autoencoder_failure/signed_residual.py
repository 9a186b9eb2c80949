"""
misconception: the sign of the residual is kept, dark lesions rank last
fails: [a2-residual-test]
says: "A residual map is absolute"
"""


# %% a2-residual
def residual_map(network, images):
    network.eval()
    with torch.no_grad():
        return ((images - network(images)) * (images > 0))[:, 0]
