"""
misconception: the background is ranked with the brain
fails: [a1-rank-test]
says: "You counted the background"
"""


# %% a1-rank
def pixel_ap_auroc(maps, masks, brains):
    from sklearn.metrics import average_precision_score, roc_auc_score

    return average_precision_score(masks.ravel(), maps.ravel()), roc_auc_score(masks.ravel(), maps.ravel())
