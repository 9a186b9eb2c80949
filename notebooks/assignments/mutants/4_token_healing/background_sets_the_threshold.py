"""
misconception: tokens without brain count among the healthy ones
fails: [a4-mark-test]
says: "Tokens of the background set your threshold"
"""


# %% a4-mark
def mark(healthy, healthy_brain, new, new_brain, share):
    return (new > np.quantile(healthy, 1 - share)) & new_brain
