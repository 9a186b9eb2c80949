"""
misconception: no detach in the commitment, so that it drags the codebook along
fails: [a4-quantise-test]
says: "You forgot to detach the codes"
"""


# %% a4-quantise
def quantise(z, codebook):
    codes = codebook[nearest(z, codebook)].movedim(-1, 1)
    return z + (codes - z).detach(), F.mse_loss(z, codes)
