"""
misconception: each residual map is stretched to 0 .. 1
fails: [a2-residual-test]
says: "You stretched each map"
"""


# %% a2-residual
def residual_map(network, images):
    network.eval()
    with torch.no_grad():
        maps = ((images - network(images)).abs() * (images > 0))[:, 0]
    return maps / maps.amax((1, 2), keepdim=True)
