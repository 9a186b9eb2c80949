"""
misconception: the threshold is set on the people who are tested
fails: [a1-report-test]
says: "you chose the threshold on the people you test"
"""

# %% a1-report
t = threshold_at(test_maps, test.brains, 0.01)
detections = (test_maps >= t) & test.brains
calm = (test.table["family"] == "healthy").to_numpy()
people = test.table["subject"].to_numpy()
dices = [dice(detections[people == p], test.masks[people == p], test.brains[people == p]) for p in test.subjects]
report = {
    "threshold": t,
    "healthy_fpr": detections[calm].sum() / test.brains[calm].sum(),
    "mean_dice": np.nanmean(dices),
}
