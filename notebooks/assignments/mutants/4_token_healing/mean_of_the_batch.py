"""
misconception: a code is the mean of this batch's vectors, and a code without any is NaN
fails: [a4-codebook-test]
says: "became NaN"
"""


# %% a4-codebook
def update(codebook, sizes, sums, z, decay, training):
    if not training:
        return codebook, sizes, sums
    hot = F.one_hot(nearest(z, codebook).flatten(), len(codebook)).to(z.dtype)
    sizes, sums = hot.sum(0), hot.T @ z.movedim(1, -1).flatten(0, -2)
    return sums / sizes[:, None], sizes, sums
