"""
misconception: no brain mask in the Dice
fails: [a1-dice-test]
says: "apply the brain mask"
"""


# %% a1-dice
def dice(marked, truth, brain):
    if not truth.any():
        return np.nan
    return 2 * (marked & truth).sum() / (marked.sum() + truth.sum())
