"""
misconception: the detach of the commitment is on the wrong side
fails: [a4-quantise-test]
says: "The detach is on the wrong side"
"""


# %% a4-quantise
def quantise(z, codebook):
    codes = codebook[nearest(z, codebook)].movedim(-1, 1)
    return z + (codes - z).detach(), F.mse_loss(z.detach(), codes)
