"""
misconception: the residual of the VQ-VAE, not of the healed picture
fails: [a4-map-test]
says: "The residual of the wrong pair"
"""


# %% a4-map
def anomaly_map(images, rebuilt, healed, surprise, marked):
    factor = images.shape[1] // surprise.shape[1]
    weight = (surprise * marked).repeat(factor, 1).repeat(factor, 2)
    return np.abs(images - rebuilt) * weight * (images > 0)
