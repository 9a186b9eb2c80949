"""
misconception: sensitivity and specificity change places
fails: [a3-result-test]
says: "a share of its own class"
"""

# %% a3-result
from sklearn.metrics import roc_auc_score

threshold = np.quantile(validation_scores, 0.95)
result = {
    "auroc": roc_auc_score(test_labels, test_scores),
    "threshold": threshold,
    "sensitivity": (test_scores[~test_labels] < threshold).mean(),
    "specificity": (test_scores[test_labels] >= threshold).mean(),
}
