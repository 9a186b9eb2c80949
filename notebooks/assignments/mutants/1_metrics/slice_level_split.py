"""
misconception: slices are split, so that one person is in two splits
fails: [a1-split-test]
says: "a person is in two splits"
"""


# %% a1-split
def split_people(people, seed):
    drawn = np.random.default_rng(seed).permutation(len(people)) / len(people)
    return ["train" if d < 0.6 else "val" if d < 0.8 else "test" for d in drawn]
