"""
misconception: each map is stretched to 0 .. 1 before the pixels are pooled
fails: [a1-rank-test]
says: "(min-max)"
"""


# %% a1-rank
def pixel_ap_auroc(maps, masks, brains):
    from course_lib.metrics.curves import rank_metrics

    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    found = rank_metrics((maps - low) / (high - low), masks, brains)
    return found.ap, found.auroc
