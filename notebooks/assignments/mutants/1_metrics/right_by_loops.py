"""
right: true
way: pandas and plain loops, a pair of lists for the ranks
"""


# %% a1-dice
def dice(marked, truth, brain):
    m, t = marked[brain].astype(int), truth[brain].astype(int)
    return np.float32(np.nan) if t.sum() == 0 else 2 * np.dot(m, t) / (m + t).sum()


# %% a1-rank
def pixel_ap_auroc(maps, masks, brains):
    y = masks[brains][np.argsort(-maps[brains], kind="stable")]
    s = np.sort(-maps[brains].astype(np.float64), kind="stable")
    last = np.r_[s[1:] != s[:-1], True]  # the end of each run of ties
    tp, n = np.cumsum(y)[last], np.flatnonzero(last) + 1
    ap = np.sum(np.diff(np.r_[0, tp]) * tp / n) / y.sum()
    fp = n - tp
    auroc = np.trapezoid(np.r_[0, tp] / y.sum(), np.r_[0, fp] / (~y).sum())
    return [ap, auroc]


# %% a1-threshold
def threshold_at(maps, brains, q):
    scores = np.sort(maps[brains])[::-1]
    return scores[max(int(q * len(scores)) - 1, 0)]


# %% a1-report
well, calm = ((people.table["family"] == "healthy").to_numpy() for people in (validation, test))
t = threshold_at(validation_maps[well], validation.brains[well], 0.01)
found = (test_maps >= t) & test.brains
dices = []
for name in test.table.loc[~calm, "subject"].unique():
    own = (test.table["subject"] == name).to_numpy()
    dices.append(dice(found[own], test.masks[own], test.brains[own]))
report = dict(threshold=t, healthy_fpr=found[calm][test.brains[calm]].mean(), mean_dice=np.mean(dices))


# %% a1-interval
def interval(values, people):
    import pandas as pd

    from course_lib.metrics.intervals import bootstrap
    from course_lib.metrics.statistics import Mean

    means = pd.Series(np.asarray(values)).groupby(list(people)).mean().to_numpy()
    found = bootstrap(Mean(means), len(means))
    return found.low, found.high


# %% a1-ppv
def ppv(sensitivity, specificity, prevalence):
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.float64(prevalence) / (1 - prevalence) * sensitivity / np.float64(1 - specificity)
        return odds / (1 + odds) if np.isfinite(odds) else (np.nan if np.isnan(odds) else 1.0)
