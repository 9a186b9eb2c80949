"""
misconception: the surprise of unmarked tokens stays in the map
fails: [a4-map-test]
says: "Unmarked tokens have no part in the map"
"""


# %% a4-map
def anomaly_map(images, rebuilt, healed, surprise, marked):
    factor = images.shape[1] // surprise.shape[1]
    weight = np.kron(surprise, np.ones((1, factor, factor)))
    return np.abs(images - healed) * weight * (images > 0)
