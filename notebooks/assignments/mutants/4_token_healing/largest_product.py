"""
misconception: the largest inner product is taken for the smallest distance
fails: [a4-nearest-test]
says: "The largest inner product favours long codes"
"""


# %% a4-nearest
def nearest(z, codebook):
    return (z.movedim(1, -1) @ codebook.T).argmax(-1)
