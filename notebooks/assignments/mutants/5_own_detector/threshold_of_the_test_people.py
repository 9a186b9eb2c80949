"""
misconception: the threshold is set on the people who are tested
fails: [a5-threshold-test]
says: "You chose the threshold on the people you test"
"""

# %% a5-threshold
validation_maps, test_maps = (mine.anomaly_map(x).numpy() for x in (validation_images, test_images))
threshold = np.quantile(test_maps[test_people.brains], 0.99)
rates = {
    "validation": (validation_maps >= threshold)[validation_people.brains].mean(),
    "test_healthy_tissue": (test_maps >= threshold)[test_people.brains & ~test_people.masks].mean(),
}
