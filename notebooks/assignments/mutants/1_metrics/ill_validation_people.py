"""
misconception: all validation people set the threshold, ill ones too
fails: [a1-report-test]
says: "ill people are among those who set your threshold"
"""

# %% a1-report
t = threshold_at(validation_maps, validation.brains, 0.01)
detections = (test_maps >= t) & test.brains
calm = (test.table["family"] == "healthy").to_numpy()
people = test.table["subject"].to_numpy()
dices = [dice(detections[people == p], test.masks[people == p], test.brains[people == p]) for p in test.subjects]
report = {
    "threshold": t,
    "healthy_fpr": detections[calm].sum() / test.brains[calm].sum(),
    "mean_dice": np.nanmean(dices),
}
