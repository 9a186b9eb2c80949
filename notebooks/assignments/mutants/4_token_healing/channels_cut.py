"""
misconception: reshape cuts through the channels
fails: [a4-nearest-test]
says: "cuts through the channels"
"""


# %% a4-nearest
def nearest(z, codebook):
    flat = torch.cdist(z.reshape(-1, z.shape[1]), codebook).argmin(1)
    return flat.view(z.shape[0], *z.shape[2:])
