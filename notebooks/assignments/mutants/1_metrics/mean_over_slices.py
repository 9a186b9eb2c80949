"""
misconception: the mean of each slice's AP instead of pooled pixels
fails: [a1-rank-test]
says: "mean over slices"
"""


# %% a1-rank
def pixel_ap_auroc(maps, masks, brains):
    from course_lib.metrics.curves import rank_metrics

    found = [rank_metrics(m, t, b) for m, t, b in zip(maps, masks, brains) if t.any()]
    return np.mean([f.ap for f in found]), np.mean([f.auroc for f in found])
