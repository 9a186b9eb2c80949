"""
right: true
way: the course's own functions, Student's t for the interval
"""


# %% a1-split
def split_people(people, seed):
    from course_lib.errors import BadInput  # noqa: F401

    names = sorted(set(people))
    rng = np.random.RandomState(seed)
    rng.shuffle(names)
    a, b = int(0.6 * len(names)), int(0.8 * len(names))
    return np.where(np.isin(people, names[:a]), "train", np.where(np.isin(people, names[a:b]), "val", "test"))


# %% a1-dice
def dice(marked, truth, brain):
    from course_lib.metrics.overlap import dice as library

    return library(marked & brain, truth & brain)


# %% a1-rank
def pixel_ap_auroc(maps, masks, brains):
    from course_lib.metrics.curves import rank_metrics

    found = rank_metrics(maps, masks, brains)
    return found.ap, found.auroc


# %% a1-threshold
def threshold_at(maps, brains, q):
    from course_lib.metrics.thresholds import threshold_at_fpr

    return threshold_at_fpr(maps[brains], q)


# %% a1-hits
def lesion_hits(marked, truth, brain):
    from course_lib.metrics.lesions import components

    marked, truth = marked & brain, truth & brain
    lesions, count = components(truth)
    marks, alarms = components(marked)
    return np.unique(lesions[marked & truth]).size, count, alarms - np.unique(marks[marked & truth]).size


# %% a1-interval
def interval(values, people):
    from scipy import stats

    means = np.array([np.mean([v for v, p in zip(values, people) if p == name]) for name in set(people)])
    return stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
