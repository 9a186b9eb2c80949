"""
misconception: the test people give the scale of their own scores
fails: [a3-score-test]
says: "You normalised over the test set"
"""


# %% a3-score
def score(errors, surprises, healthy_errors, healthy_surprises):
    both = np.stack([errors, surprises])
    return ((both - both.mean(1, keepdims=True)) / both.std(1, keepdims=True)).sum(0)
