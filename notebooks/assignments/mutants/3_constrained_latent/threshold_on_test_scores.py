"""
misconception: the threshold is set on the test scores
fails: [a3-result-test]
says: "You chose the threshold on the people you test"
"""

# %% a3-result
from sklearn.metrics import roc_auc_score

threshold = np.quantile(test_scores, 0.95)
result = {
    "auroc": roc_auc_score(test_labels, test_scores),
    "threshold": threshold,
    "sensitivity": (test_scores[test_labels] >= threshold).mean(),
    "specificity": (test_scores[~test_labels] < threshold).mean(),
}
