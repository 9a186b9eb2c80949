"""
misconception: the codebook follows the test people
fails: [a4-codebook-test]
says: "You update the codebook in evaluation mode"
"""


# %% a4-codebook
def update(codebook, sizes, sums, z, decay, training):
    hot = F.one_hot(nearest(z, codebook).flatten(), len(codebook)).to(z.dtype)
    sizes = decay * sizes + (1 - decay) * hot.sum(0)
    sums = decay * sums + (1 - decay) * hot.T @ z.movedim(1, -1).flatten(0, -2)
    return sums / sizes[:, None], sizes, sums
