"""
misconception: the people who are judged set the threshold
fails: [a4-mark-test]
says: "The threshold comes from the people you test"
"""


# %% a4-mark
def mark(healthy, healthy_brain, new, new_brain, share):
    return (new > np.quantile(new[new_brain], 1 - share)) & new_brain
