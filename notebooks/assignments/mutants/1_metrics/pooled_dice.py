"""
misconception: one Dice over all pixels is taken for the mean over people
fails: [a1-report-test]
says: "pooled over all pixels"
"""

# %% a1-report
well = (validation.table["family"] == "healthy").to_numpy()
calm = (test.table["family"] == "healthy").to_numpy()
t = threshold_at(validation_maps[well], validation.brains[well], 0.01)
detections = (test_maps >= t) & test.brains
report = {
    "threshold": t,
    "healthy_fpr": detections[calm].sum() / test.brains[calm].sum(),
    "mean_dice": dice(detections[~calm], test.masks[~calm], test.brains[~calm]),
}
