"""
misconception: the spread of people is given as the interval of their mean
fails: [a1-interval-test]
says: "Too wide"
"""


# %% a1-interval
def interval(values, people):
    means = [np.mean([v for v, p in zip(values, people) if p == name]) for name in sorted(set(people))]
    return np.mean(means) - 1.96 * np.std(means), np.mean(means) + 1.96 * np.std(means)
