# %% [markdown]
# # 1.2 Measuring
#
# **When is a number about a detector worth believing?**
#
# A detector gives every pixel a score. A paper gives you one number. Between the two lie a threshold, a population, an
# average and an interval, and each of them can make the same detector look excellent or useless. This lesson trains
# no network. It takes the simplest detector there is, brightness, and measures it in every way that you
# will meet.
#
# After this lesson you can
#
# 1. read a confusion matrix, and say what accuracy, precision, recall and Dice each leave out;
# 2. explain why AUROC stays and average precision falls when disease gets rarer, and compute what a finding is worth;
# 3. tell an honest threshold from an oracle, and a pooled Dice from a mean one;
# 4. put an interval around a number by resampling the right thing.
#
# | time | memory | needs |
# |---|---|---|
# | 1 minute to run, 50 to read | under 2 GiB | lesson 1.1 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>What is 0 and what is 0.5 in the course's images?</summary>
# 0 is background, 0.5 is the median of the brain; 0.125 is one robust standard deviation (s.d.).
# </details>
#
# <details><summary>Why must a person be in one split only?</summary>
# Slices of one person look alike. A detector tested on a neighbour of what it saw is tested on its memory.
# </details>

# %% tags=["parameters"]
data: str = "atlas"  # data set: "atlas", "stroke", or the path of a folder made by prepare_folder
profile: str = "standard"  # how much to compute: "quick", "standard" or "full"
seed: int = 0  # seed of everything random; the draws use seed, seed + 1, ...
device: str = "cpu"  # "cpu", "cuda" or "auto"; this lesson trains no network

# %%
import course_lib.doctor

course_lib.doctor.check()  # importing the course first also makes torch fast on small machines

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from course_lib import plots
from course_lib.curve_plots import plot_coverage, plot_roc_and_precision_recall, plot_threshold, threshold_curves
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.errors import BadInput
from course_lib.evaluation import evaluate, paired_difference, predict, results_table
from course_lib.images.pathology import place
from course_lib.images.slices import SliceSet
from course_lib.metrics.curves import counts_at, rank_metrics, sorted_classes
from course_lib.metrics.intervals import bootstrap, difference
from course_lib.metrics.lesions import match
from course_lib.metrics.overlap import dice, pixel_counts
from course_lib.metrics.statistics import Mean, PooledRanking, Ratio
from course_lib.metrics.thresholds import HealthyFPR, OracleDataset, threshold_at_fpr
from course_lib.teaching import Lesson
from course_lib.training import fit
from course_lib.widgets.threshold import ThresholdExplorer, ThresholdState, threshold_figure
from data_scripts import open_slices
from IPython.display import display

plots.use_style()
lesson = Lesson("1.2", profile=profile, seed=seed)

# %% [markdown]
# ## One slice, one threshold
#
# Brightness is our detector: its anomaly map is the image, slightly smoothed inside the brain. To mark anything, it
# needs a threshold. Healthy people of the validation split set it: the brightest 1 % of their brain pixels may be
# marked, no more. All of these are *false positives*, so 1 % is the *false-positive rate* (FPR).

# %%
slices = open_slices(data, profile, progress=False)
validation = slices.select("split == 'val' and family == 'healthy'")
wanted = [family for family in ("ms", "tumour", "stroke") if family in slices.families]
families = wanted or [family for family in slices.families if family != "healthy"][:3]
in_test = (slices.table["split"] == "test") & slices.table["family"].isin([*families, "healthy"])
test = slices.select(in_test.to_numpy())
smoothed = [("smooth", 1)]  # a Gaussian of one pixel
brightness = IntensityThreshold()
healthy_map = predict(brightness, validation, smoothed, name="brightness")
test_map = predict(brightness, test, smoothed, name="brightness")
honest = HealthyFPR(0.01).fit(healthy_map)
lesson.say(
    "{people} healthy validation people put the threshold at {t:.2f}, which is {sd:.1f} s.d. above the brain's median.",
    people=len(healthy_map.subjects),
    t=honest.value,
    sd=8 * (honest.value - 0.5),
)
lesson.predict(
    "accuracy",
    "A slice has a few small lesions. A program marks nothing at all. What share of the brain's pixels does it "
    "label correctly, in per cent?",
    bounds=(0, 100),
)

# %%
row = test.example(families[0])
truth, brain = test.masks[row], test.brains[row]
marked = honest.apply(test_map)[row]
outcomes = {"found (TP)": marked & truth, "false alarm (FP)": marked & ~truth, "missed (FN)": truth & ~marked}
fig, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3.6))
plots.show_slice(test.images[row], truth, title="slice and truth", sides=True, ax=axes[0])
plots.show_map(test_map.maps[row] * brain, truth, title="smoothed brightness", limit=1.2, label="score", ax=axes[1])
plots.show_slice(test.images[row], title="at the threshold", ax=axes[2])
for k, (name, where) in enumerate(outcomes.items()):
    rows, columns = np.nonzero(where)
    axes[2].plot(columns, rows, "sDo"[k], color=plots.PALETTE[(2, 1, 4)[k]], ms=2.5, label=name)
axes[2].legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, -0.22), ncols=3, columnspacing=0.8, handletextpad=0)
fig.tight_layout()
found = {name: int(where.sum()) for name, where in outcomes.items()}
lesson.figure("A slice with its lesions outlined, its smoothed brightness, and at the threshold: {found}.", found=found)

# %% [markdown]
# Four counts say everything about a threshold on a slice: true and false positives and negatives (TP, FP, TN, FN), the
# *confusion matrix*. Four popular numbers compress it:
#
# $$\text{accuracy} = \frac{TP + TN}{\text{all}}, \quad \text{precision} = \frac{TP}{TP + FP}, \quad
# \text{recall} = \frac{TP}{TP + FN}, \quad \text{Dice} = \frac{2\,TP}{2\,TP + FP + FN}.$$
#
# Recall is also called *sensitivity*. *Specificity* is $TN / (TN + FP)$, one minus the FPR. Beside brightness stand
# three detectors that know nothing.

# %%
rng = np.random.default_rng(seed)
guesses = {
    "brightness": marked,
    "1 % at random": brain & (rng.random(brain.shape) < 0.01),
    "mark everything": brain,
    "mark nothing": np.zeros_like(brain),
}
rows = {}
for name, guess in guesses.items():
    tp, fp, fn = (guess & truth).sum(), (guess & brain & ~truth).sum(), (truth & ~guess).sum()
    tn = brain.sum() - tp - fp - fn
    four = {"accuracy": (tp + tn) / brain.sum(), "precision": tp / max(tp + fp, 1), "recall": tp / (tp + fn)}
    rows[name] = {"TP": tp, "FP": fp, "FN": fn, "TN": tn, **four, "Dice": dice(guess, truth)}
matrix = pd.DataFrame(rows).T
display(matrix.style.format("{:.3f}").format("{:.0f}", subset=["TP", "FP", "FN", "TN"]))
lesson.reveal("accuracy", 100 * matrix.loc["mark nothing", "accuracy"])
lesson.say(
    "Marking nothing is {nothing:.1%} accurate, brightness {ours:.1%}. Accuracy counts the healthy pixels, and nearly "
    "all pixels are healthy. Precision, recall and Dice leave TN out: there, marking nothing earns 0, and "
    "brightness has a Dice of {dice:.2f}.",
    nothing=matrix.loc["mark nothing", "accuracy"],
    ours=matrix.loc["brightness", "accuracy"],
    dice=matrix.loc["brightness", "Dice"],
)

# %% [markdown]
# ## The intensity baseline
#
# In 2021 Meissen and colleagues asked how much of the published success in FLAIR was brightness. They equalised the
# histogram of each scan, so that a pixel's score is its *rank* among the scan's brain pixels, and thresholded it. No
# network. It beat most auto-encoders of the time. So brightness belongs into every table of this course, with four
# cautions that we measure now:
#
# - **smoothing**: averaging neighbours removes noise, and small lesions;
# - **ranks by person or by slice**: equalising each slice alone gives every slice equally many top ranks, ill or not;
# - **the sign**: where lesions are dark, the fair counterpart is *darkness*, the negative of brightness;
# - **a learned rival**: the positional Gaussian of lesson 1.0, which knows each place's healthy spread.


# %%
def equalised(scores, by):
    """The same scores with each brain pixel's map value replaced by its rank, 0 to 1, within a group of slices."""
    maps = scores.maps.copy()
    for rows in pd.Series(range(len(scores))).groupby(by).indices.values():
        inside = np.zeros(scores.brains.shape, bool)
        inside[rows] = scores.brains[rows]
        maps[inside] = pd.Series(maps[inside]).rank(pct=True)
    return replace(scores, maps=maps, raw=None)


train = slices.select("split == 'train' and family == 'healthy'")
gaussian = PositionalGaussian(slices.image_shape, levels=train.table["z_mm"].nunique())
fit(gaussian, train, progress=False)
ill = test_map.family(*families)
versions = {
    "brightness, raw": ill.raw,
    "brightness": replace(ill, raw=None),
    "ranks by person": equalised(ill, ill.units),
    "ranks by slice": equalised(ill, np.arange(len(ill))),
    "darkness": replace(ill, maps=-ill.maps, raw=None),
    "positional Gaussian": predict(gaussian, test, name="positional Gaussian").family(*families),
}
versions = {name: replace(scores, detector=name, postprocess="none") for name, scores in versions.items()}

# %%
table = evaluate(versions, resamples=300, seed=seed)
lesson.results(table)
ap = table[(table["level"] == "pixel") & (table["metric"] == "AP")]
plots.plot_results(ap, ylabel="pixel AP, 95 % interval over subjects")
best = ap.loc[ap.groupby("family")["value"].idxmax()]
lesson.figure(
    "Pixel AP of six maps on each family; the highest: {best}.",
    best=", ".join(f"{row.family} {row.detector} {row.value:.2f}" for row in best.itertuples()),
)


# %%
def compare(a, b, family, name, statement, metric="AP", because="", **limits):
    """Claim that a is better than b on a family."""
    if family in families:
        gap = paired_difference(versions[a], versions[b], metric, family=family, resamples=500, seed=seed)
        limits = limits or {"above": 0}
        lesson.claim_interval(name, f"{statement} (difference of pixel {metric}).", gap, because=because, **limits)


gaussian_loses = "On `tumour`, smoothed brightness beats the positional Gaussian, which has learned"
reason = "people differ more than the two maps do"
compare("brightness", "positional Gaussian", "tumour", "brightness beats learning", gaussian_loses, because=reason)
for family in ("ms", "tumour"):
    compare(
        "brightness",
        "brightness, raw",
        family,
        f"smoothing helps on {family}",
        f"On `{family}`, light smoothing makes brightness better",
        because="its lesions are a few pixels wide, so smoothing takes from them what it takes from the noise",
    )
compare(
    "ranks by person",
    "ranks by slice",
    "ms",
    "equalise by person",
    "On `ms`, ranks within a person beat ranks within a slice",
)

# %% [markdown]
# Each slice holds the same number of top ranks once it is equalised alone: a healthy slice must then have its
# "brightest" pixels, and they compete with the lesions of another. Within a person, the ill slices keep theirs.
#
# So the baseline is a family of baselines, and its details move it as much as many a paper's method. Write them down.
# And a threshold on brightness says nothing about dark lesions: that a benchmark is solved by brightness tells you
# about the benchmark.
#
# ## All thresholds at once
#
# A *ROC curve* draws recall against FPR while the threshold falls. The area below it, AUROC, is the probability that a
# lesion pixel outscores a healthy one; guessing reaches 0.5. A *precision-recall curve* draws precision against recall;
# its summary is the average precision, AP, and guessing reaches the *prevalence*, the share of lesion pixels. Both
# below come from the very same scores.

# %%
first = families[0]
rivals = {name: versions[name].family(first) for name in ("brightness", "positional Gaussian", "darkness")}
ranks = {name: rank_metrics(s.maps, s.masks, s.brains) for name, s in rivals.items()}
natural = ranks["brightness"].prevalence
plot_roc_and_precision_recall(rivals)
lesson.figure(
    "ROC and precision-recall curves of three maps: {numbers}.",
    numbers="; ".join(f"{name} AUROC {m.auroc:.3f}, AP {m.ap:.3f}" for name, m in ranks.items()),
)

# %%
compare("brightness", "positional Gaussian", "ms", "AP tells them apart", "On `ms`, brightness beats the Gaussian")
compare(
    "brightness",
    "positional Gaussian",
    "ms",
    "AUROC does not",
    "On `ms`, AUROC puts the two within 0.01 of each other",
    metric="AUROC",
    above=-0.01,
    below=0.01,
)
lesson.say(
    "One healthy pixel in a hundred is nothing on the ROC's axis. But here {ratio:.0f} pixels are healthy for each one "
    "that is not, so that hundredth outnumbers the lesions. AUROC averages over false-positive rates that nobody "
    "would use; AP lives where the lesions are.",
    ratio=(1 - natural) / natural,
)

# %% [markdown]
# ## Make the disease rarer
#
# Neither number belongs to the detector alone. We keep all lesion pixels of the family, and only a random share of its
# healthy ones: half lesion, a tenth, and so on. Then we go the other way, and add the brains of healthy people.

# %%
lesson.predict(
    "thinning",
    "Starting from half lesion and half healthy pixels, more and more healthy ones join. What do AUROC and AP of "
    "brightness do? (A change below 0.05 counts as none.)",
    kind="choice",
    choices=["both fall", "AUROC falls, AP stays", "AUROC stays, AP falls", "both stay"],
)
draws = {"quick": 6, "standard": 12, "full": 20}[profile]
groups = {name: s.by_unit() for name, s in rivals.items()}


def pixels_of(name, share=1.0, draw=0):
    """Scores and labels of each person's brain pixels: all of the lesions, a random share of the others."""
    s, rng = rivals[name], np.random.default_rng([seed, draw])
    kept = s.brains & (s.masks | (rng.random(s.masks.shape) < share))
    return [s.maps[r][kept[r]] for r in groups[name].values()], [s.masks[r][kept[r]] for r in groups[name].values()]


prevalences = [p for p in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01) if p > natural] + [natural]
thinned = []
for name in ("brightness", "positional Gaussian"):
    for p in prevalences:
        share = natural / (1 - natural) * (1 - p) / p  # of the healthy pixels, so that lesions make up p
        for draw in range(draws if share < 1 else 1):
            scores, labels = (np.concatenate(part) for part in pixels_of(name, share, draw))
            m = rank_metrics(scores, labels)
            thinned.append({"map": name, "prevalence": m.prevalence, "AUROC": m.auroc, "AP": m.ap, "set": p})

# %%
for name, detector, steps in (("brightness", brightness, smoothed), ("positional Gaussian", gaussian, [])):
    s = predict(detector, test, steps).family(first, "healthy")
    m = rank_metrics(s.maps, s.masks, s.brains)
    thinned.append({"map": name, "prevalence": m.prevalence, "AUROC": m.auroc, "AP": m.ap, "set": 0})
means = pd.DataFrame(thinned).groupby(["map", "set"]).mean().reset_index().sort_values("prevalence")
fig, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.3), sharex=True, sharey=True)
for ax, metric in zip(axes, ("AUROC", "AP"), strict=True):
    for k, (name, part) in enumerate(means.groupby("map")):
        ax.plot(part["prevalence"], part[metric], color=plots.PALETTE[k], marker=plots.MARKERS[k], label=name)
    chance = means["prevalence"] if metric == "AP" else np.full(len(means), 0.5)
    ax.plot(means["prevalence"], chance, color="0.4", ls=":", label="guessing")
    ax.set(xscale="log", xlabel="share of lesion pixels", ylabel=metric, title=metric)
    ax.xaxis.set_inverted(True)
axes[0].legend(fontsize=8, loc="lower left")
fig.tight_layout()
ours = means[means["map"] == "brightness"]
lesson.figure(
    "As lesion pixels get rarer, AUROC of brightness goes from {a:.3f} to {b:.3f}, its AP from {c:.3f} to {d:.3f}.",
    a=ours["AUROC"].iloc[-1],
    b=ours["AUROC"].iloc[0],
    c=ours["AP"].iloc[-1],
    d=ours["AP"].iloc[0],
)
falls = {metric: ours[metric].iloc[-1] - ours[metric].iloc[0] > 0.05 for metric in ("AUROC", "AP")}
both = f"AUROC {'falls' if falls['AUROC'] else 'stays'}, AP {'falls' if falls['AP'] else 'stays'}"
lesson.reveal("thinning", {"AUROC falls, AP falls": "both fall", "AUROC stays, AP stays": "both stay"}.get(both, both))

# %%
half = natural / (1 - natural)  # the share of healthy pixels that leaves as many as there are lesion pixels
balanced = [PooledRanking(*pixels_of("positional Gaussian", half, draw)) for draw in range(draws)]
whole = PooledRanking(*pixels_of("positional Gaussian"))
people = len(groups["brightness"])
for metric, limits, statement in (
    ("ap", {"above": 0.1}, "at half lesion pixels AP is higher than at the natural share by more than 0.1"),
    ("auroc", {"above": -0.01, "below": 0.01}, "AUROC at the two shares differs by less than 0.01"),
):
    gaps = difference([getattr(each, metric) for each in balanced], getattr(whole, metric))
    gap = bootstrap(gaps, people, resamples=500, seed=seed)
    lesson.claim_interval(
        f"prevalence and {metric.upper()}",
        f"For the positional Gaussian, {statement}.",
        gap,
        **limits,
        because="the family's lesions stand out so far that hardly a healthy pixel outranks them",
    )

# %% [markdown]
# So an AP without its prevalence is half a number, and two APs from different cohorts do not compare. The course
# prints the chance level beside each. And whoever reports AP on lesion slices alone has raised the prevalence without
# saying so.
#
# ## Simulated patients
#
# The rest of this lesson asks about *people*, and a dozen are too few to see what chance does. So we simulate. Each
# patient is a healthy person's slice with one to four bright lesions, of `2.5` to `12` mm radius, painted by the
# cohort's own program. One slice each, as in the real stroke data below. Every third healthy person stays unpainted and
# serves as a control. Brightness learns nothing, so people of the training split may be used; the validation people,
# who set the threshold, may not.

# %%
middle = slices.select("family == 'healthy' and split != 'val' and z_mm >= 2 and z_mm <= 42")
who = "person" if "person" in middle.table else "subject"  # a real person may have several scans
everyone = middle.table[who].unique()
patient = middle.table[who].isin(everyone[np.arange(len(everyone)) % 3 != 0]).to_numpy()
controls, hosts = middle.select(~patient), middle.select(patient)


def paint(image, rng):
    """A healthy slice with a few bright lesions of very different sizes."""
    radius = float(np.exp(rng.uniform(np.log(2.5), np.log(12))))  # mm
    return place(image, "ms", rng, count=int(rng.integers(1, 5)), radius_mm=radius, intensity=float(rng.uniform(2, 5)))


def simulate(draw):
    """One slice of each patient, chosen and painted anew in every draw."""
    rng = np.random.default_rng([seed, draw])
    rows = np.array([rng.choice(rows) for rows in hosts.table.groupby(who, sort=False).indices.values()])
    done = [paint(hosts.images[row], rng) for row in rows]
    table = hosts.table.iloc[rows].drop(columns="digest").assign(split="test", family="ms")
    images, masks = (np.stack([getattr(d, name) for d in done]) for name in ("image", "mask"))
    return SliceSet(images, masks, hosts.brains[rows], table, name="simulated patients")


cohorts = [simulate(draw) for draw in range(draws)]
patients = [predict(brightness, cohort, smoothed, name="brightness") for cohort in cohorts]
names = patients[0].subjects
control_map = predict(brightness, controls, smoothed, name="brightness")
shown = np.argsort(cohorts[0].table["lesion_px"].to_numpy())[:: max(1, len(cohorts[0]) // 5)][:5]
plots.show_maps(
    cohorts[0].images[shown], cohorts[0].masks[shown], {"score": patients[0].maps[shown]}, label="intensity"
)
lesson.figure("Five simulated patients, from the smallest lesions to large ones, with the truth and their scores.")

# %% [markdown]
# ## What is a finding worth?
#
# Now the detector screens: it flags a *slice* whose brightest smoothed pixel passes a threshold. The threshold lets 5 %
# of the healthy validation slices pass. Its sensitivity is the share of patients flagged, its specificity the share
# of control slices left alone. A doctor asks something else: *this* slice is flagged, is the patient ill? That is the
# positive predictive value, PPV. With the prevalence $\pi$, Bayes' rule gives
#
# $$\text{PPV} = \frac{\text{sensitivity} \cdot \pi}
# {\text{sensitivity} \cdot \pi + (1 - \text{specificity})(1 - \pi)}.$$
#
# Of the people in a study, half are often ill. Of those who walk into a screening, perhaps one in two hundred.


# %%
def peak(scores):
    """The highest score in each slice's brain."""
    return np.where(scores.brains, scores.maps, -np.inf).max((1, 2))


alike = healthy_map.table["z_mm"].between(2, 42).to_numpy()  # the heights of patients and controls
flag_at = threshold_at_fpr(peak(healthy_map)[alike], 0.05)
flagged_ill = [peak(s) >= flag_at for s in patients]  # one array a draw, in the order of the patients
flagged_well = peak(control_map) >= flag_at
per_control = pd.DataFrame({"who": control_map.units, "passed": ~flagged_well}).groupby("who")["passed"]


def ppv(sensitivity, specificity, prevalence):
    """The share of the flagged who are ill."""
    true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    return true / (true + false)


def ppv_of(flagged, prevalence):
    """PPV as a statistic of how often each patient, and each control, is drawn."""
    sensitivity, specificity = Mean(flagged), Ratio(per_control.sum(), per_control.size())
    return lambda w: ppv(sensitivity(w[:, : len(flagged)]), specificity(w[:, len(flagged) :]), prevalence)


sensitivity, specificity = np.mean(flagged_ill), 1 - flagged_well.mean()

# %%
lesson.say(
    "Sensitivity {sens:.0%}, specificity {spec:.0%}. (On the validation slices the specificity was set to 95 %. New "
    "people differ: that is why it is measured again.) At a prevalence of one half, PPV is {half:.0%}.",
    sens=sensitivity,
    spec=specificity,
    half=ppv(sensitivity, specificity, 0.5),
)
lesson.predict(
    "ppv",
    "The same program, the same threshold. Now 0.5 % of the people are ill. Of 100 flagged, how many are ill?",
    bounds=(0, 100),
)
screens = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
size = 1000  # people in one screening
rng = np.random.default_rng(seed)
observed = []
for prevalence in screens:
    for draw in range(20):
        sick = rng.random(size) < prevalence
        alarms = np.where(sick, rng.choice(flagged_ill[draw % draws], size), rng.choice(flagged_well, size))
        observed.append({"prevalence": prevalence, "PPV": sick[alarms].mean(), "ill": sick.sum()})
observed = pd.DataFrame(observed)

# %%
strata = (len(flagged_ill[0]), len(per_control))
bands = [bootstrap([ppv_of(f, p) for f in flagged_ill], strata, resamples=500, seed=seed) for p in screens]
fig, ax = plt.subplots(figsize=(plots.WIDTH * 0.72, 3.6))
ax.plot(
    observed["prevalence"],
    observed["PPV"],
    "o",
    color="0.55",
    ms=3,
    alpha=0.6,
    label="counted in one screening of 1000",
)
ax.plot(screens, [b.value for b in bands], color=plots.PALETTE[0], marker="D", label="Bayes, interval over people")
low, high = [b.low for b in bands], [b.high for b in bands]
ax.fill_between(screens, low, high, color=plots.PALETTE[0], alpha=0.2)
ax.plot(screens, screens, color="0.3", ls=":", label="flag at random (PPV = prevalence)")
ax.set(xscale="log", xlabel="prevalence: share of people who are ill", ylabel="PPV: share of the flagged who are ill")
ax.xaxis.set_inverted(True)
ax.set_xticks(screens, [f"{100 * p:g} %" for p in screens])
ax.minorticks_off()
ax.legend(fontsize=8)
fig.tight_layout()
lesson.figure(
    "PPV against prevalence: {a:.2f} at 50 %, {b:.3f} at 0.5 %; counts of single screenings scatter around it.",
    a=bands[0].value,
    b=bands[-1].value,
)

# %%
lesson.reveal("ppv", 100 * bands[-1].value)
falls = [difference(ppv_of(flagged, 0.5), ppv_of(flagged, 0.005))[0] for flagged in flagged_ill]
# BCa corrects a skewed estimate, and fails where the quantity has a maximum, as this one has in the specificity
loss = bootstrap(falls, strata, resamples=1000, method="percentile", seed=seed)
lesson.claim_interval(
    "PPV falls with prevalence",
    "From 50 % to 0.5 % prevalence, at one sensitivity and specificity, PPV falls by more than one half.",
    loss,
    above=0.5,
    over="people",
)
needed = 1 - sensitivity * 0.005 / 0.995
last = observed[observed["prevalence"] == screens[-1]]
lesson.say(
    "A single screening of a thousand has about {ill:.0f} ill people, and its counted PPV lies anywhere from {low:.0%} "
    "to {high:.0%}. For every second alarm to be right, specificity would have to be {needed:.2%}. Flagging "
    "nobody, by the way, would be {nobody:.1%} accurate.",
    ill=last["ill"].mean(),
    low=last["PPV"].min(),
    high=last["PPV"].max(),
    needed=needed,
    nobody=1 - screens[-1],
)

# %% [markdown]
# ## Turn the threshold
#
# Back to pixels, and to one question: where does the threshold come from? An *oracle* is chosen with the test labels
# in hand. The tables of many papers are made of oracles. Meissen's says so, by writing ⌈DSC⌉, a ceiling over the Dice.

# %%
s = patients[0]
rates = (0.05, 0.01, 0.001)
marks = {f"healthy FPR {100 * q:g} %": HealthyFPR(q).fit(healthy_map).value for q in rates}
marks["oracle"] = OracleDataset().fit(s).value
curves = threshold_curves(s, np.linspace(0.4, 1.1, 141))
ax = plot_threshold(curves, marks, xlabel="threshold (intensity; 0.5 is the brain's median)")
at_random = s.masks[s.brains].mean()
ax.axhline(2 * at_random / (1 + at_random), color="0.6", lw=1, label="Dice of marking all")
ax.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
ax.figure.tight_layout()
at = {name: threshold_curves(s, np.array([t]))["dice"][0] for name, t in marks.items()}
lesson.figure(
    "Recall, precision and Dice against the threshold. Dice at four choices: {at}.",
    at=", ".join(f"{name} {value:.2f}" for name, value in at.items()),
)

# %%
lesson.say(
    "Dice is {strict:.2f} at a healthy FPR of 0.1 %, {one:.2f} at 1 %, {five:.2f} at 5 %, and {oracle:.2f} for the "
    "oracle. An honest threshold need not be a bad one: a false-positive rate is allowed to be small. But it has to be "
    "fixed before the test, and lesions that fill little of the brain ask for a smaller one.",
    strict=at["healthy FPR 0.1 %"],
    one=at["healthy FPR 1 %"],
    five=at["healthy FPR 5 %"],
    oracle=at["oracle"],
)
table = evaluate(
    {"brightness": test_map}, {"brightness": healthy_map}, false_positive_rates=(0.01, 0.001), resamples=200
)
cells = [results_table(table, "Dice", protocol=f"healthy FPR {rate} %") for rate in ("1", "0.1")]
pd.concat(
    [*cells, results_table(table, "best Dice")], keys=["healthy FPR 1 %", "healthy FPR 0.1 %", "oracle"]
).rename_axis(["Dice, threshold from", ""])

# %% [markdown]
# ### Your hand on the threshold
#
# Everything so far moves at once below. Choose lesions, a detector and one beside it, and slide. What is found is
# filled, a false alarm hatched, a missed pixel hollow; the dot walks along the curves. The last rows of the table are a
# clinic that recalls a person if *anything* is marked. Three things to try:
#
# 1. How small does the healthy FPR have to be until half of the healthy people are left alone?
# 2. What does a *smallest piece* of ten pixels do to the clinic, and what to small lesions?
# 3. Press *oracle*, then look at the healthy FPR that it would need.

# %%
state = ThresholdState(
    {"brightness": test_map, "positional Gaussian": predict(gaussian, test, name="positional Gaussian")},
    {"brightness": healthy_map, "positional Gaussian": predict(gaussian, validation, name="positional Gaussian")},
    test.images,
    unit={"brightness": "smoothed intensity (0.125 = 1 s.d.)", "positional Gaussian": "distance (s.d.)"},
)
state.choose_beside("positional Gaussian")
ThresholdExplorer(state)

# %% [markdown]
# Where sliders do not move, as on GitHub, this is how the explorer starts.

# %%
here = {name: state.reading(name) for name in state.detectors}
threshold_figure(state)
lesson.figure(
    "A slice with found, falsely marked and missed pixels for two detectors at a healthy FPR of 1 %, their curves with "
    "the operating points, and the scores' histograms. Dice: {dice}.",
    dice=", ".join(f"{name} {reading.dice.value:.2f}" for name, reading in here.items()),
)
if here["brightness"].clinic is not None:
    lesson.say(
        "One pixel in a hundred sounds strict. But this clinic leaves {spec:.0%} of the healthy people alone. A "
        "head has thousands of pixels, so something is always marked: {pieces:.0f} pieces in a healthy scan.",
        spec=here["brightness"].clinic.specificity.value,
        pieces=here["brightness"].false_per_healthy_scan.value,
    )

# %% [markdown]
# ### How much of an oracle is luck?
#
# Some of the oracle's lead is real: a better threshold exists. Some is luck: it fits the very patients on whom it is
# scored. We can split the two. Draw $2n$ patients. Choose the best threshold on $n$ of them. Score it there, as an
# oracle is scored, and on the other $n$, as a new hospital would. Swap the halves, and do this over and over.

# %%
steps = np.linspace(0.45, 1.0, 111)


def counts_by_person(scores):
    """TP and FP of each patient at each threshold (S, U), and the lesion pixels (S,)."""
    classes = [sorted_classes(scores.maps[r], scores.masks[r], scores.brains[r]) for r in scores.by_unit().values()]
    pairs = [counts_at(*pair, steps) for pair in classes]
    return *(np.array(side) for side in zip(*pairs, strict=True)), np.array([len(p) for p, _ in classes])


def two_halves(counts, n, rng):
    """Pooled Dice of n patients by the threshold best for them, best for n others, and honest (0.1 %, 1 %)."""
    who = rng.permutation(len(counts[2]))[: 2 * n]
    tp, fp, p = (each[who] for each in counts)
    a, b = (2 * tp[h].sum(0) / (tp[h].sum(0) + fp[h].sum(0) + p[h].sum()) for h in (slice(n), slice(n, None)))
    fixed = [(a[t] + b[t]) / 2 for t in (strict, usual)]
    return (a.max() + b.max()) / 2, (b[a.argmax()] + a[b.argmax()]) / 2, *fixed


strict, usual = (np.searchsorted(steps, HealthyFPR(q).fit(healthy_map).value) for q in (0.001, 0.01))
sizes = [n for n in (2, 3, 6, 12, 24) if 2 * n <= len(names)]
studies = {"quick": 100, "standard": 200, "full": 500}[profile]
by_person = [counts_by_person(s) for s in patients]
rng = np.random.default_rng(seed)
halves = {n: np.array([[two_halves(c, n, rng) for _ in range(studies)] for c in by_person]) for n in sizes}

# %%
fig, ax = plt.subplots(figsize=(plots.WIDTH * 0.9, 3.4))
ways = ("oracle, on the patients who chose it", "oracle, on as many others")
ways += ("healthy FPR 0.1 %, no labels", "healthy FPR 1 %, no labels")
for k, name in enumerate(ways):
    values = [halves[n][..., k].mean() for n in sizes]
    ax.plot(sizes, values, color=plots.PALETTE[k], marker=plots.MARKERS[k], ls=("-", "-", "--", ":")[k], label=name)
ax.set(xscale="log", xlabel="patients who chose the threshold", ylabel="pooled Dice, mean over studies")
ax.set_xticks(sizes, [str(n) for n in sizes])
ax.minorticks_off()
ax.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
fig.tight_layout()
lesson.figure(
    "Dice of the chosen threshold on its own patients and on others; the gap is {a:.3f} with {n} patients, {b:.3f} "
    "with {m}.",
    a=float(-np.diff(halves[sizes[0]][..., :2]).mean()),
    n=sizes[0],
    b=float(-np.diff(halves[sizes[-1]][..., :2]).mean()),
    m=sizes[-1],
)

# %%
luck = [Mean(run) for run in halves[6][..., 0] - halves[6][..., 1]]
lesson.claim_interval(
    "oracle luck",
    "A threshold chosen on 6 patients has a higher Dice on them than on 6 others (mean difference).",
    bootstrap(luck, studies, seed=seed),
    above=0,
    over="studies",
)
for k, (name, rate) in enumerate((("six labels against 0.1 %", "0.1 %"), ("six labels against 1 %", "1 %")), start=2):
    lesson.claim_interval(
        name,
        f"Chosen on 6 patients and scored on 6 others, it beats the healthy FPR of {rate} (mean difference of Dice).",
        bootstrap([Mean(run) for run in halves[6][..., 1] - halves[6][..., k]], studies, seed=seed),
        above=0,
        over="studies",
        because="this rate happens to suit lesions of this size, and six patients choose no better",
    )

# %% [markdown]
# The gap between the two solid lines is the luck. With few patients it is large; with many it nearly closes, as one
# threshold is only one number to overfit. Choose the smoothing, the rim and the smallest component with it, each by
# its test Dice, and the luck adds up. Lesson 1.3 is about such sins. The broken lines needed no patient at all. They
# show that an honest threshold can be good or poor, and that nobody knows which before there are labels.
#
# ## Small against large
#
# One Dice for many people can be made in two ways. *Pooled*: add up everyone's TP, FP and FN, then divide. *Mean*: one
# Dice for each person, then the average. And a lesion can be counted whole: *found* if any of its pixels is marked.

# %%
counts = [pixel_counts(honest.apply(s), s) for s in patients]
lesions = pd.concat([match(honest.apply(s), s).lesions.assign(draw=k) for k, s in enumerate(patients)])
borders = np.quantile(lesions["pixels"], [1 / 3, 2 / 3])
lesions["size"] = pd.Categorical.from_codes(np.searchsorted(borders, lesions["pixels"]), ["small", "medium", "large"])
lesions["bin"] = pd.qcut(lesions["pixels"], 8, labels=False, duplicates="drop")
mm2 = slices.spacing_mm**2  # the area of a pixel
curve = lesions.groupby("bin").agg(pixels=("pixels", "mean"), found=("found", "mean"))
fig, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.5))
left.plot(mm2 * curve["pixels"], curve["found"], "o-", color=plots.PALETTE[0], label="brightness, healthy FPR 1 %")
grid = np.geomspace(1, lesions["pixels"].max(), 60)
left.plot(mm2 * grid, 1 - 0.99**grid, color="0.4", ls=":", label="1 % marked at random")
left.set(xscale="log", xlabel="lesion area (mm²)", ylabel="share of lesions found", ylim=(0, 1.03))
own = counts[0]
area = mm2 * (own["tp"] + own["fn"])
right.plot(area, own["dice"], "o", color=plots.PALETTE[0], ms=4, alpha=0.6, label="one patient")
pooled = float(2 * own["tp"].sum() / (2 * own["tp"] + own["fp"] + own["fn"]).sum())
right.axhline(pooled, color=plots.PALETTE[1], label=f"pooled {pooled:.2f}")
right.axhline(own["dice"].mean(), color=plots.PALETTE[2], ls="--", label=f"mean {own['dice'].mean():.2f}")
right.set(xscale="log", xlabel="all lesions of a patient (mm²)", ylabel="Dice at healthy FPR 1 %", ylim=(0, 1))
left.legend(fontsize=8, loc="lower right")
right.legend(fontsize=8, loc="upper left")
fig.tight_layout()
by_size = lesions.groupby("size", observed=False)["found"].mean()
lesson.figure(
    "Left, the share of lesions found against their area: small {s:.2f}, large {b:.2f}. Right, Dice of each patient "
    "against lesion area, with pooled {p:.2f} and mean {m:.2f}.",
    s=by_size["small"],
    b=by_size["large"],
    p=pooled,
    m=own["dice"].mean(),
)


# %%
def found_of(size, draw):
    """The share of lesions of a size that were found, as a statistic over patients."""
    some = lesions[(lesions["size"] == size) & (lesions["draw"] == draw)].groupby("subject")["found"]
    total, hits = (part.reindex(names, fill_value=0) for part in (some.size(), some.sum()))
    return Ratio(hits, total)


def dice_gap(c):
    """Pooled Dice minus mean Dice, as a statistic over patients."""
    return difference(Ratio(2 * c["tp"], 2 * c["tp"] + c["fp"] + c["fn"]), Mean(c["dice"]))[0]


sizes_gap = difference(*([found_of(size, draw) for draw in range(draws)] for size in ("large", "small")))
lesson.claim_interval(
    "large lesions are found",
    "Of the largest third of the lesions a larger share is found than of the smallest third (difference).",
    bootstrap(sizes_gap, len(names), seed=seed),
    above=0,
    over="patients",
)
lesson.claim_interval(
    "pooling favours the large",
    "Pooled Dice is higher than the mean of the patients' own (difference).",
    bootstrap([dice_gap(c) for c in counts], len(names), seed=seed),
    above=0,
    over="patients",
)
top = lesions.nlargest(len(lesions) // 10, "pixels")["pixels"].sum() / lesions["pixels"].sum()
lesson.say(
    "The largest tenth of the lesions holds {top:.0%} of all lesion pixels, and the pooled Dice listens to them. "
    "Whoever treats small lesions should read the mean, or the share of lesions found. But look at the dotted line: "
    "random marks *find* large lesions, too, as one pixel is enough. A generous criterion needs its chance level.",
    top=top,
)

# %% [markdown]
# ## Intervals: what was drawn?
#
# A study of 12 patients reports a Dice. Another 12 would give another. An interval of 95 % should contain the true
# value, that of all patients there are, in 95 of 100 studies. The *bootstrap* makes one from the study itself: draw
# anew from it with replacement, compute again, many times, and keep the middle 95 % of the results. But draw anew
# *what*? A study of 12 slices has tens of thousands of brain pixels. Drawing pixels gives a wonderfully narrow
# interval. Drawing patients gives a wide one.
#
# Here we know the truth: the Dice of all simulated patients together. So we can count. Studies are drawn from these
# patients, each gets an interval of both kinds, and we look which of them contain the truth.

# %%
lesson.predict(
    "coverage",
    "Of 100 studies, how many of the 95 % intervals from resampled *pixels* contain the true Dice?",
    bounds=(0, 100),
)
n, repeats = 12, {"quick": 60, "standard": 100, "full": 200}[profile]
parts = ["tp", "fp", "fn", "tn"]
everybody = np.concatenate([c[parts].to_numpy(float) for c in counts])  # (patients of all draws, 4)
total = everybody.sum(0)
true_dice = 2 * total[0] / (2 * total[0] + total[1] + total[2])


def pixel_interval(study, number):
    """Resample the study's pixels: a pixel is a TP, FP, FN or TN, so a resample is a multinomial draw of four."""
    four = study.sum(0)
    tp, fp, fn, _ = np.random.default_rng(number).multinomial(int(four.sum()), four / four.sum(), 500).T
    return np.quantile(2 * tp / (2 * tp + fp + fn), [0.025, 0.975])


def person_interval(study, number):
    """Resample the study's patients, each with all pixels."""
    tp, fp, fn, _ = study.T
    found = bootstrap(Ratio(2 * tp, 2 * tp + fp + fn), len(study), resamples=500, seed=number)
    return found.low, found.high


ways = {"pixels": pixel_interval, "patients": person_interval}
rows = []
for size in (n, 4 * n):
    for number in range(draws * repeats):
        rng = np.random.default_rng([seed + number // repeats, size, number % repeats])
        study = everybody[rng.integers(0, len(everybody), size)]
        for of, way in ways.items():
            low, high = way(study, number)
            rows.append({"n": size, "seed": number // repeats, "of": of, "low": low, "high": high})
intervals = pd.DataFrame(rows).assign(covers=lambda t: (t["low"] <= true_dice) & (true_dice <= t["high"]))

# %%
fig, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.6), sharey=True)
shares = intervals.groupby(["n", "of"])["covers"].mean()
for ax, of in zip(axes, ways, strict=True):
    some = intervals[(intervals["of"] == of) & (intervals["n"] == n)]
    plot_coverage(some.iloc[:: -(-len(some) // 40)], true_dice, ax=ax)
    ax.set_title(f"resampled {of}: {shares[n, of]:.0%} of all contain the truth")
axes[0].set_ylabel(f"Dice of {n} patients, 95 % interval")
axes[1].legend(fontsize=8, loc="lower right")
fig.tight_layout()
lesson.figure(
    "Intervals of some forty studies around the true Dice {truth:.2f}. Of all studies {pixels:.0%} of the pixel "
    "intervals and {people:.0%} of the patient intervals contain it.",
    truth=true_dice,
    pixels=shares[n, "pixels"],
    people=shares[n, "patients"],
)

# %%
lesson.reveal("coverage", 100 * shares[n, "pixels"])
covered = {key: [Mean(g["covers"]) for _, g in part.groupby("seed")] for key, part in intervals.groupby(["n", "of"])}
claims = {
    "pixels deceive": ("Fewer than half of the 95 % intervals from resampled pixels contain it", n, "pixels"),
    "patients are nearly right": ("Of the 95 % intervals from resampled patients more than 85 % do", n, "patients"),
    "larger studies are right": ("Of the 95 % intervals from resampled patients more than 85 % do", 4 * n, "patients"),
}
for name, (statement, size, of) in claims.items():
    lesson.claim_interval(
        name,
        f"{statement} (share of studies of {size} patients).",
        bootstrap(covered[size, of], repeats, seed=seed),
        over="studies",
        because="a dozen patients are few, and the bootstrap of a skewed ratio is then a little too short",
        **({"below": 0.5} if of == "pixels" else {"above": 0.85}),
    )

# %%
width = intervals.assign(width=intervals["high"] - intervals["low"]).groupby(["n", "of"])["width"].mean()
lesson.say(
    "With {n} patients, pixel intervals are {pixels:.2f} wide, patient intervals {people:.2f}. Pixels of one patient "
    "share a lesion, its brightness and a scanner: thousands of them carry the news of one. Four times as many "
    "patients halve the patient interval, to {more:.2f}, and it contains the truth in {right:.0%} of the studies. The "
    "pixel interval shrinks as well, and still does so in only {wrong:.0%}: more data do not mend a wrong unit. The "
    "library has no function that resamples pixels.",
    n=n,
    pixels=width[n, "pixels"],
    people=width[n, "patients"],
    more=width[4 * n, "patients"],
    right=shares[4 * n, "patients"],
    wrong=shares[4 * n, "pixels"],
)

# %% [markdown]
# ## Real strokes
#
# Everything once more on real patients, one slice each, with lesions from a few pixels to half a hemisphere. Acute
# strokes are bright in FLAIR, and brightness is a serious detector here.

# %%
try:
    real = open_slices("stroke", profile, progress=False)
except BadInput as error:
    real = None
    print(error.cause, error.remedy)
if real is not None:
    sick = real.select("split == 'test' and family == 'stroke' and lesion_px >= 10")
    calm = real.select("split == 'val' and family == 'healthy'")
    kinds = {"raw": [], "smoothed": smoothed}
    real_maps = {name: predict(brightness, sick, steps, name=name) for name, steps in kinds.items()}
    real_honest = HealthyFPR(0.01).fit(predict(brightness, calm, smoothed, name="smoothed"))
    reality = evaluate({name: replace(s, raw=None) for name, s in real_maps.items()}, resamples=300, seed=seed)
    lesson.results(reality)
    real_counts = pixel_counts(real_honest.apply(real_maps["smoothed"]), real_maps["smoothed"])
    real_lesions = match(real_honest.apply(real_maps["smoothed"]), real_maps["smoothed"])
    number = reality[reality["level"] == "pixel"].set_index(["metric", "detector"])["value"]
    lesson.say(
        "{people} persons, {share:.1%} of their brain pixels are lesion. Smoothed brightness: AUROC {auroc:.2f}, AP "
        "{ap:.2f}, best Dice (oracle) {oracle:.2f}; at a healthy FPR of 1 % pooled Dice {pooled:.2f}, mean {mean:.2f}.",
        people=len(real_counts),
        share=(real_counts["tp"] + real_counts["fn"]).sum() / real_counts[parts].to_numpy().sum(),
        auroc=number["AUROC", "smoothed"],
        ap=number["AP", "smoothed"],
        oracle=number["best Dice", "smoothed"],
        pooled=2 * real_counts["tp"].sum() / (2 * real_counts["tp"] + real_counts["fp"] + real_counts["fn"]).sum(),
        mean=real_counts["dice"].mean(),
    )

# %%
if real is not None:
    area = real_counts["tp"] + real_counts["fn"]
    fig, ax = plt.subplots(figsize=(plots.WIDTH * 0.66, 3.3))
    pixel = sick.spacing_mm**2  # mm²
    ax.plot(area * pixel, real_counts["dice"], "o", color=plots.PALETTE[0], ms=4, alpha=0.6, label="person")
    chance = np.geomspace(10, area.max(), 50)
    brain_px = real_counts[parts].sum(axis=1).mean()
    expected = 2 * 0.01 * chance / (0.01 * brain_px + chance)
    ax.plot(chance * pixel, expected, color="0.4", ls=":", label="1 % marked at random")
    ax.set(xscale="log", xlabel="lesion area (mm²)", ylabel="Dice at healthy FPR 1 %", ylim=(-0.02, 1))
    ax.legend(fontsize=8)
    fig.tight_layout()
    lesson.figure("Dice of each real person against the area of the stroke, with the level of random marks.")
    claims = {
        "smoothing": paired_difference(
            real_maps["smoothed"], real_maps["raw"], family="stroke", resamples=500, seed=seed
        ),
        "pooling": bootstrap(dice_gap(real_counts), len(real_counts), seed=seed),
    }
    statements = {
        "smoothing": "On real strokes light smoothing makes brightness better (difference of pixel AP).",
        "pooling": "On real strokes pooled Dice is higher than the mean of the persons' own (difference).",
    }
    for name, gap in claims.items():
        lesson.claim_interval(f"real {name}", statements[name], gap, above=0, over="persons")

# %% [markdown]
# ## A checklist
#
# Before you believe a number, or publish one: Which pixels or people were counted, and how rare was the disease among
# them? Who chose the threshold? Pooled, or mean over people? Interval over what? And what does brightness get?
#
# ## Exercises


# %%
def check_dice(answer):
    """A function from two boolean arrays, predicted and truth, to their Dice; NaN for an empty truth."""
    truth = np.zeros((6, 6), bool)
    truth[1:4, 1:4] = True
    predicted = np.zeros((6, 6), bool)
    predicted[2:6, 2:4] = True
    got = float(answer(predicted.copy(), truth.copy()))
    a, b, both, either = predicted.sum(), truth.sum(), (predicted & truth).sum(), (predicted | truth).sum()

    def near(other):
        return np.isclose(got, other)

    if near(both / either):
        return "This is the intersection over union (Jaccard). Dice divides by the two sizes added, not by the union."
    if near(2 * both / either):
        return "You divided by the union. Adding two boolean arrays gives their union: sum each one first."
    if near((predicted == truth).mean()):
        return "This is accuracy: it counts the pixels that nobody marked."
    if near(both / a) or near(both / b):
        return f"This is {'precision' if near(both / a) else 'recall'}: it looks at one of the two sizes alone."
    if near(both / (a + b)):
        return "The 2 is missing: two equal masks must reach 1."
    if not near(2 * both / (a + b)):
        return "Dice is twice the overlap, over the sum of the two sizes."
    empty = np.zeros_like(truth)
    for guess in (empty, predicted):
        value = float(answer(guess.copy(), empty.copy()))
        if not np.isnan(value):
            return f"Without a lesion you return {value:g}. There is no Dice without a lesion: return NaN."
    return None


lesson.card(
    "1.2.1",
    "Dice, and where there is none",
    difficulty=1,
    minutes=10,
    task="Write `dice(predicted, truth)` for two boolean arrays. Where the truth is empty, return `np.nan`: a healthy "
    "person has no Dice, and neither a 0 nor a 1 may enter the mean. Put the function into `answer`.",
    hints=["The overlap is `(predicted & truth).sum()`.", "Test for the empty truth first."],
    solution="""
    ```python
    def answer(predicted, truth):
        if not truth.any():
            return np.nan
        return 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    ```
    """,
    check=check_dice,
)

# %%
answer = ...
lesson.check("1.2.1", answer)


# %%
def check_threshold(answer):
    """A function of healthy maps, brains and a rate to the threshold that marks this share of the brain's pixels."""
    rng = np.random.default_rng(3)
    brains = np.zeros((4, 60, 60), bool)
    brains[:, 15:45, 15:45] = True  # a quarter of the picture
    maps = np.where(brains, rng.gamma(2.0, 0.1, brains.shape), 0.0)  # skewed, as scores are
    for q in (0.05, 0.2):
        t = float(answer(maps.copy(), brains.copy(), q))
        inside = maps[brains]
        share = (inside >= t).mean()
        if abs(share - q) <= 0.002:
            continue
        if abs(share - (1 - q)) <= 0.002:
            return "You took the q-quantile: most of the brain passes. The *highest* share q may pass."
        if abs((maps >= t).mean() - q) <= 0.002:
            return "You counted the background. It scores 0, so the brain's own rate is several times q."
        if np.isclose(t, inside.max()):
            return "The maximum lets one pixel pass, whatever q is."
        if np.isclose((t - inside.mean()) / inside.std(), (1, 1.64, 1.645, 1.96, 2, 3), atol=0.01).any():
            return "Mean and standard deviation assume a Gaussian. Scores are skewed: take a quantile."
        return f"At q = {q} your threshold marks {share:.3f} of the healthy brain."
    return None


lesson.card(
    "1.2.2",
    "An honest threshold",
    difficulty=2,
    minutes=10,
    task="Write `threshold(maps, brains, q)`: `maps` are anomaly maps `(N, H, W)` of healthy validation people, "
    "`brains` says which pixels are brain. Return the threshold at which a share `q` of their brain pixels is marked "
    "(scores at or above the threshold). Put the function into `answer`.",
    hints=["Which pixels count? `maps[brains]`.", "If 5 % pass, 95 % do not."],
    solution="`lambda maps, brains, q: np.quantile(maps[brains], 1 - q)`. The library's `threshold_at_fpr` also "
    "treats ties, so that never more than a share q passes.",
    check=check_threshold,
)

# %%
answer = ...
lesson.check("1.2.2", answer)


# %%
def check_specificity(answer):
    """A function of sensitivity, prevalence and the wanted PPV to the specificity that it takes."""
    for sens, prevalence, wanted in ((0.95, 0.3, 0.6), (0.9, 0.005, 0.5), (0.6, 0.02, 0.8)):
        rate = sens * prevalence * (1 - wanted) / (wanted * (1 - prevalence))
        got = float(answer(sens, prevalence, wanted))
        if np.isclose(got, 1 - rate, atol=1e-6):
            continue
        if np.isclose(got, rate, atol=1e-6):
            return "This is the false-positive rate that may remain. Specificity is one minus it."
        if np.isclose(got, 1 - sens * (1 - wanted) / wanted, atol=1e-6):
            return "The prevalence is missing: this holds only if half of the people are ill."
        if np.isclose(got, 1 - sens * prevalence * (1 - wanted) / wanted, atol=1e-6):
            return "Of the healthy there are 1 - prevalence, not 1: divide by it."
        if np.isclose(got, wanted):
            return "PPV and specificity are different shares: one is of the flagged, the other of the healthy."
        if np.isclose(got, 100 * (1 - rate), atol=1e-4):
            return "Give it as a share between 0 and 1, not in per cent."
        return "Solve PPV = s p / (s p + (1 - specificity)(1 - p)) for the specificity."
    return None


lesson.card(
    "1.2.3",
    "How specific must it be?",
    difficulty=2,
    minutes=10,
    task="A screening programme wants a PPV. Write `needed(sensitivity, prevalence, ppv)` that returns the specificity "
    "it takes, all as shares between 0 and 1. Put the function into `answer`. Then try a prevalence of `0.005`.",
    hints=[
        "There are (1 - PPV) / PPV false alarms for each true one.",
        "There are 1 - prevalence healthy.",
    ],
    solution="`lambda s, p, ppv: 1 - s * p * (1 - ppv) / (ppv * (1 - p))`. At a prevalence of `0.005` and a PPV of one "
    "half, about one healthy person in two hundred may be flagged.",
    check=check_specificity,
)

# %%
answer = ...
lesson.check("1.2.3", answer)


# %%
def check_interval(answer):
    """A function of pixel values and each pixel's subject to the 95 % interval of the mean over pixels."""
    rng = np.random.default_rng(8)
    level = rng.normal(0.5, 0.1, 20)  # 20 subjects differ by 0.1, the pixels of one hardly
    subjects = np.repeat([f"sub-{k:02d}" for k in range(20)], 200)
    values = np.repeat(level, 200) + rng.normal(0, 0.02, 4000)
    low, high = (float(end) for end in answer(values.copy(), subjects.copy()))
    if low > high:
        return "The lower end comes first."
    width, right = high - low, 2 * 1.96 * level.std(ddof=1) / np.sqrt(20)
    if width < 0.2 * right:
        return "Far too narrow: you resampled pixels (or treated them as independent). Draw subjects, with all pixels."
    if width > 2.5 * right:
        return "Too wide: this is the spread of the values themselves, not of their mean."
    if not low < values.mean() < high:
        return "The interval does not contain the mean itself."
    if 0.86 * right < width < 1.25 * right:
        return None
    return "Not the 95 % interval: take the 2.5th and 97.5th percentile of the resampled means."


lesson.card(
    "1.2.4",
    "Resample the right thing",
    difficulty=3,
    minutes=15,
    task="`values` holds a number for each pixel, `subjects` whose pixel it is; all have equally many. Write "
    "`interval(values, subjects)` that returns the low and the high end of the 95 % bootstrap interval of the mean, "
    "with *subjects* resampled. Put the function into `answer`.",
    hints=[
        "One number for each subject is enough: its mean.",
        "`rng.integers(0, n, (1000, n))` draws a thousand resamples of n subjects.",
        "`np.quantile(means, [0.025, 0.975])`",
    ],
    solution="""
    ```python
    def answer(values, subjects):
        means = pd.Series(values).groupby(subjects).mean().to_numpy()
        drawn = np.random.default_rng(0).integers(0, len(means), (1000, len(means)))
        return np.quantile(means[drawn].mean(1), [0.025, 0.975])
    ```
    """,
    check=check_interval,
)

# %%
answer = ...
lesson.check("1.2.4", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "AUROC hides the rare; AP and PPV depend on how rare the disease is, so say how rare it was.",
    "A threshold comes from healthy validation people, or is called an oracle.",
    "Resample people, not pixels; report brightness beside everything.",
)

# %% [markdown]
# ## References
#
# - Meissen F, Kaissis G, Rueckert D. Challenging current semi-supervised anomaly segmentation methods for brain MRI.
#   *BrainLes* (2021): the intensity baseline.
# - Davis J, Goadrich M. The relationship between precision-recall and ROC curves. *ICML* (2006).
# - Saito T, Rehmsmeier M. The precision-recall plot is more informative than the ROC plot when evaluating binary
#   classifiers on imbalanced datasets. *PLoS ONE* 10 (2015).
# - Altman D, Bland M. Diagnostic tests 2: predictive values. *BMJ* 309 (1994).
# - Maier-Hein L, et al. Metrics reloaded. *Nature Methods* 21 (2024): which metric for which question.
# - Efron B. Better bootstrap confidence intervals. *JASA* 82 (1987).
# - Absher J, et al. The stroke outcome optimization project. *Scientific Data* 11:839 (2024): the real scans.
