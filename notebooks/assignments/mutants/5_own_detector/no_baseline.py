"""
misconception: the own number stands alone
fails: [a5-comparison-test]
says: "The humble baselines are missing"
"""

# %% a5-comparison
test_maps = mine.anomaly_map(test_images).numpy()
comparison = {"mine": rank_metrics(test_maps, test_people.masks, test_people.brains).ap}
gap = comparison["mine"], comparison["mine"] - 0.05, comparison["mine"] + 0.05
