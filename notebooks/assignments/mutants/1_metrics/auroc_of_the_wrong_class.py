"""
misconception: AUROC of the healthy class
fails: [a1-rank-test]
says: "The wrong class"
"""


# %% a1-rank
def pixel_ap_auroc(maps, masks, brains):
    from sklearn.metrics import average_precision_score, roc_auc_score

    healthy, scores = ~masks[brains], maps[brains]
    return average_precision_score(~healthy, scores), roc_auc_score(healthy, scores)
