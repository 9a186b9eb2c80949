"""
misconception: 60 % of the slices rather than of the people go into training
fails: [a1-split-test]
says: "count people"
"""


# %% a1-split
def split_people(people, seed):
    names = np.random.default_rng(seed).permutation(sorted(set(people)))
    place = np.cumsum([people.count(name) for name in sorted(names, key=people.count)]) / len(people)
    split_of = dict(
        zip(sorted(names, key=people.count), ["train" if p < 0.6 else "val" if p < 0.8 else "test" for p in place])
    )
    return [split_of[name] for name in people]
