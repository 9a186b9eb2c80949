"""
misconception: a healthy person with nothing marked gets a Dice of 1
fails: [a1-dice-test]
says: "healthy people move your mean"
"""


# %% a1-dice
def dice(marked, truth, brain):
    marked, truth = marked & brain, truth & brain
    total = marked.sum() + truth.sum()
    return 1.0 if total == 0 else 2 * (marked & truth).sum() / total
