"""
misconception: each image has a threshold of its own
fails: [a4-mark-test]
says: "A quantile of each image marks something in everybody"
"""


# %% a4-mark
def mark(healthy, healthy_brain, new, new_brain, share):
    limits = [np.quantile(n[b], 1 - share) for n, b in zip(new, new_brain)]
    return (new > np.array(limits)[:, None]) & new_brain
