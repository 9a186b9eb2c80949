# %% [markdown]
# # 1.3 The leak lab
#
# **Nine sins of evaluation: how much does each of them move the number that you publish?**
#
# Nobody who inflates a result means to. One threshold is set a little late, one split is made a line too early, one
# baseline is left out. Such sins are known by name, and reviews of medical imaging keep finding them. Here you commit
# nine of them yourself, on people whose truth is known. You guess the size first, you measure it, and you repair it.
#
# After this lesson you can
#
# 1. commit nine evaluation sins on purpose, and say in which direction each moves the number;
# 2. measure an inflation with an interval over freshly drawn cohorts, against a known truth;
# 3. repair each of them, and show that the repaired number returns to the truth;
# 4. see the sin in a paper's methods section.
#
# | time | memory | needs |
# |---|---|---|
# | 3 minutes to run, 60 to read | under 2 GiB | lesson 1.2 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>What is an oracle threshold?</summary>
# One that was chosen with the labels of the very data on which it is scored.
# </details>
#
# <details><summary>What does AP depend on that AUROC does not?</summary>
# On the prevalence. Guessing reaches an AUROC of one half always, and an AP equal to the prevalence.
# </details>

# %% tags=["parameters"]
data: str = "atlas"  # this lesson always draws its people from the atlas cohort: only there the truth is known
profile: str = "standard"  # how much to compute: "quick", "standard" or "full"
seed: int = 0  # seed of everything random; draw k uses the pair (seed, k)
device: str = "cpu"  # "cpu", "cuda" or "auto"; this lesson trains nothing that needs more than a CPU

# %%
import course_lib.doctor

course_lib.doctor.check()  # importing the course first also makes torch fast on small machines

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from course_lib import plots
from course_lib.detectors.base import Detector
from course_lib.detectors.gaussian import Gaussian
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.pca import PCA
from course_lib.detectors.zscore import PixelZScore
from course_lib.evaluation import predict
from course_lib.images.people import People, paint_discs
from course_lib.metrics.curves import rank_metrics, roc
from course_lib.metrics.intervals import bootstrap
from course_lib.metrics.statistics import Mean
from course_lib.metrics.thresholds import threshold_at_fpr
from course_lib.teaching import Lesson
from course_lib.training import fit
from data_scripts import open_slices
from scipy.stats import norm, rankdata
from threadpoolctl import threadpool_limits

plots.use_style()
lesson = Lesson("1.3", profile=profile, seed=seed)
threadpool_limits(1)  # hundreds of tiny matrices: handing each to several threads takes longer than the sums
if data != "atlas":
    print(f"The people of this lesson are drawn from the atlas cohort, not from {data!r}: only there is a truth.")

# %% [markdown]
# ## People without end
#
# To know how wrong a number is you need the right one. The atlas cohort has a few dozen healthy people, which is no
# population. So we make one: a Gaussian model of the cohort's heads, 40 principal components and noise, from which new
# people can be drawn without end. They are blurred, at 4 mm a pixel, but their brains differ as the cohort's do, and
# slices of one person resemble each other. Lesions are bright discs.
#
# A *study* draws a few dozen of them. The *truth* is what the same detector, threshold or rule reaches on many other
# people, or, where there is a formula, on all.

# %%
healthy = open_slices("atlas", profile, progress=False).select("family == 'healthy'")
people = People(healthy, [22], components=40)  # one slice each
stacks = People(healthy, [6, 10, 14, 18, 22, 26, 30, 34, 38], components=40)  # nine slices each
shape, brain = people.brains.shape[1:], people.brains[0]
rng = np.random.default_rng([seed, 0])
drawn = people.draw(6, rng)
painted, discs = paint_discs(drawn, people.brains, rng, contrast=0.25)
fig, axes = plt.subplots(1, 6, figsize=(plots.WIDTH, 1.9), layout="constrained")
for k, ax in enumerate(axes):
    image, mask = (drawn[k, 0], None) if k < 3 else (painted[k, 0], discs[k, 0])
    title = "new person" if k < 3 else "with a disc"
    plots.show_slice(image, mask, title=title, sides=k == 0, spacing_mm=people.spacing_mm, ax=ax)
lesson.figure("Six people who never were; the last three have a bright disc, outlined.")

# %% [markdown]
# ## The ledger
#
# Each sin is committed on many studies, each with people of its own and, where a detector is trained, a training of
# its own. Two numbers are kept for each study:
#
# - **inflation**: what the sinner reports, minus the truth about what was reported;
# - **what is left** after the repair: the repaired number, minus *its* truth.
#
# The intervals are over studies. There will be eighteen of them. Of eighteen intervals of 95 %, one misses by luck
# more often than not, and to report the eighteen as if each stood alone would be a tenth sin. So each is made wider,
# such that all of them hold together in 95 of 100 lessons (Bonferroni: the level is $1 - 0.05 / 18$).

# %%
studies = {"quick": 20, "standard": 50, "full": 100}[profile]  # with images
many = 10 * studies  # with scores alone
ledger = {}


def over(values):
    """The interval of a mean over studies, made so wide that 18 of them hold together."""
    level = 1 - 0.05 / 18
    return bootstrap(Mean(values), len(values), resamples=20000, level=level, method="percentile", seed=seed)


def enter(sin, metric, rows, direction="more"):
    """Keep the rows (reported, truth, repaired, its truth), one a study, and claim what they show."""
    kept = pd.DataFrame(rows, columns=["reported", "truth", "repaired", "its truth"])
    gap, left = over(kept["reported"] - kept["truth"]), over(kept["repaired"] - kept["its truth"])
    ledger[sin] = {"metric": metric, "rows": kept, "inflation": gap, "left": left}
    side = {"above": 0} if direction == "more" else {"below": 0}
    name = f"{sin}: inflates" if direction == "more" else f"{sin}: deflates"
    statement = f"The sin '{sin}' reports {direction} than the truth ({metric}, difference)."
    lesson.claim_interval(name, statement, gap, over="studies", **side)
    statement = f"Repaired, '{sin}' returns to the truth: the interval of the difference contains 0 ({metric})."
    ends = {"value": left.value, "low": left.low, "high": left.high, "over": f"{len(kept)} studies"}
    lesson.claim(f"{sin}: repaired", statement, left.low <= 0 <= left.high, **ends)


# %%
def strip(sin, ax):
    """Each study's four numbers as dots, and their means as bars."""
    rows = ledger[sin]["rows"]
    colours = [plots.PALETTE[3], "0.45", plots.PALETTE[0], "0.45"]
    for place, (name, colour) in enumerate(zip(rows, colours, strict=True)):
        values = rows[name].to_numpy()[:80]
        spread = np.linspace(-0.22, 0.22, len(values))
        ax.plot(place + spread, values, plots.MARKERS[place % 3], color=colour, ms=3, alpha=0.5)
        ax.hlines(rows[name].mean(), place - 0.36, place + 0.36, color=colour, lw=2.5)
    ax.set(xticks=range(4), ylabel=ledger[sin]["metric"])
    ax.set_xticklabels(["reported", "truth", "repaired", "its truth"])
    ax.grid(axis="x", visible=False)


def two_panels(sin):
    """A figure with the studies on the left; returns the right axes, for the mechanism."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.3), layout="constrained")
    strip(sin, left)
    return right


# %%
def describe(sin):
    """What the left panel shows, in words."""
    means, gap, left = ledger[sin]["rows"].mean(), ledger[sin]["inflation"], ledger[sin]["left"]
    return (
        f"Reported {means['reported']:.2f}, truth {means['truth']:.2f}: inflation {gap.value:+.3f} "
        f"[{gap.low:+.3f}, {gap.high:+.3f}]. Repaired {means['repaired']:.2f}, its truth {means['its truth']:.2f}: "
        f"{left.value:+.3f} [{left.low:+.3f}, {left.high:+.3f}] is left."
    )


def auroc(well, ill):
    """AUROC of image scores."""
    return rank_metrics(np.r_[well, ill], np.r_[np.zeros(len(well)), np.ones(len(ill))].astype(bool)).auroc


# %% [markdown]
# ## Sin 1: the threshold is chosen on the test set
#
# A detector gives each *person* a score: healthy people $N(0, 1)$, ill ones $N(d, 1)$ with $d = 1.2$. A study has 12 of
# each. Flag whoever passes a cut-off. The number is the *balanced accuracy*, the mean of sensitivity and specificity;
# a coin reaches one half. The sinner tries all cut-offs on the test people, and reports the best.
#
# Here the truth is a formula: at cut-off $t$, specificity is $\Phi(t)$ and sensitivity $\Phi(d - t)$.

# %%
lesson.predict("threshold", "By how much is the balanced accuracy inflated? (0.10 is ten points.)", bounds=(-0.5, 0.5))
d, n = 1.2, 12
ill = np.arange(2 * n) >= n


def balanced(t, d):
    """The true balanced accuracy of the cut-off t."""
    return (norm.cdf(t) + norm.cdf(d - t)) / 2


def best_cutoff(scores, ill):
    """The cut-off with the best balanced accuracy on these people, and that accuracy."""
    curve = roc(scores, ill)
    best = ((1 + curve["tpr"] - curve["fpr"]) / 2).idxmax()
    return curve.loc[best, "threshold"], (1 + curve.loc[best, "tpr"] - curve.loc[best, "fpr"]) / 2


rows = []
for study in range(many):
    rng = np.random.default_rng([seed, 1, study])
    test, validation = (rng.normal(d * ill, 1) for _ in range(2))
    chosen, reported = best_cutoff(test, ill)
    honest, _ = best_cutoff(validation, ill)  # of other people
    measured = ((test[ill] >= honest).mean() + (test[~ill] < honest).mean()) / 2
    rows.append((reported, balanced(chosen, d), measured, balanced(honest, d)))
enter("threshold on test", "balanced accuracy", rows)

# %%
right = two_panels("threshold on test")
grid = np.linspace(-1.5, 3, 181)
seen = [((test[ill] >= t).mean() + (test[~ill] < t).mean()) / 2 for t in grid]
right.plot(grid, seen, color=plots.PALETTE[3], drawstyle="steps-post", label="the last study's own people")
right.plot(grid, balanced(grid, d), color="0.35", ls="--", label="everybody (formula)")
right.plot(chosen, reported, "o", color=plots.PALETTE[3], label="reported")
right.plot(chosen, balanced(chosen, d), "D", color="0.35", label="what it is worth")
right.set(xlabel="cut-off (s.d. of the healthy score)", ylabel="balanced accuracy", ylim=(0.2, 1))
right.legend(fontsize=8, loc="lower center")
lesson.figure("Left: {left} Right: balanced accuracy against the cut-off.", left=describe("threshold on test"))
lesson.reveal("threshold", ledger["threshold on test"]["inflation"].value)

# %% [markdown]
# The study's curve is jagged, and its highest spike is picked. The spike is a feature of these people.
#
# *Who, and how to see it:* whoever reports "best Dice", "optimal F1" or "Youden's index" without naming other people
# on whom it was found. Lesson 1.2 measured the same luck in Dice. Look for the sentence that says where the threshold
# comes from; most often there is none.
#
# ## Sin 2: the split is made by slice
#
# Twenty healthy people have nine slices each. Half of the *slices* train a Gaussian of whole images, half are tested
# against the slices of ten ill people, each with a faint disc. The ill people are all new. So the healthy test slices
# alone have siblings in the training set, 4 mm above or below. The repair splits by person.

# %%
lesson.predict("slices", "By how much does the split by slice inflate the image AUROC?", bounds=(-0.5, 0.5))


def ill_stacks(count, rng):
    """Slices of new ill people, all with a faint disc."""
    return stacks.slice_set(*paint_discs(stacks.draw(count, rng), stacks.brains, rng, contrast=0.2))


rows = []
for study in range(studies):
    rng = np.random.default_rng([seed, 2, study])
    own, ill_own = stacks.slice_set(stacks.draw(20, rng), split="train"), ill_stacks(10, rng)
    new, ill_new = stacks.slice_set(stacks.draw(40, rng)), ill_stacks(40, rng)
    person = pd.factorize(own.table["subject"])[0]
    row, shown = [], []
    for in_training in (rng.permutation(len(own)) % 2 == 0, person % 2 == 0):  # by slice, by person
        detector = Gaussian(shape, pool=4)
        fit(detector, own.select(in_training), progress=False)
        scored = (own.select(~in_training), new, ill_own, ill_new)
        siblings, strangers, sick, sick_new = (predict(detector, some).image_scores for some in scored)
        row += [auroc(siblings, sick), auroc(strangers, sick_new)]
        shown += [siblings, strangers, sick_new]
    rows.append(row)
enter("split by slice", "image AUROC", rows)

# %%
right = two_panels("split by slice")
names = ("healthy, siblings in training", "healthy, strangers", "ill")
for k, (name, scores) in enumerate(zip(names, shown[:3], strict=True)):
    right.hist(
        np.log10(scores),
        18,
        density=True,
        histtype="step",
        lw=1.6,
        ls=("-", "--", ":")[k],
        color=plots.PALETTE[(0, 7, 3)[k]],
        label=name,
    )
top = 1.45 * right.get_ylim()[1]  # room for the legend
right.set(xlabel="anomaly score (log10 of squared Mahalanobis distance)", ylabel="density", ylim=(0, top))
right.legend(fontsize=8, loc="upper right")
lesson.figure(
    "Left: {left} Right: scores in the last study. Healthy slices with siblings in training score lowest; healthy "
    "strangers score nearly as high as the ill.",
    left=describe("split by slice"),
)
lesson.reveal("slices", ledger["split by slice"]["inflation"].value)

# %% [markdown]
# The detector did not get better at disease. It got better at *acquaintances*: what tells ill from healthy here is
# mostly "not seen before".
#
# *Who, and how to see it:* Yagis and colleagues (2021) found it in brain MRI, and networks trained on labels at random
# still looked accurate. Suspect any paper that counts slices, not persons, in its table of data.
#
# ## Sin 3: the best of ten seeds
#
# Take an untrained network: 24 random features of an image, and a Gaussian of them fitted to 40 healthy people. Its
# seed is all that it has. Run ten seeds on 12 healthy and 12 ill test people, and report the best. The repair reports
# the mean of all ten.


# %%
class RandomFeatures(Detector):
    """Random features relu(W x), and how far they are from their healthy mean in healthy standard deviations."""

    def __init__(self, image_shape, features: int = 24, draw: int = 0):
        super().__init__()
        self.image_shape, self.features, self.draw = image_shape, features, draw
        made = torch.Generator().manual_seed(draw)
        self.weights = torch.randn(image_shape[0] * image_shape[1] // 16, features, generator=made)

    def layer(self, images):
        pooled = torch.nn.functional.avg_pool2d(images, 4).flatten(1)  # (B, D)
        return torch.relu(pooled @ (self.weights - self.weights.mean(0)))

    def fit(self, images):
        f = self.layer(images)
        self.mean, self.sd = f.mean(0), f.std(0) + 0.1
        return self

    def anomaly_score(self, images):
        return ((self.layer(images) - self.mean) / self.sd).square().mean(1)

    def anomaly_map(self, images):
        return torch.zeros_like(images[:, 0])  # it says nothing about places


# %%
lesson.predict("seeds", "By how much does the best of ten seeds inflate the image AUROC?", bounds=(-0.5, 0.5))


def cohort(count, rng, healthy=True, **how):
    """One slice each of `count` new healthy people (or none) and `count` new ill ones."""
    sick, masks = paint_discs(people.draw(count, rng), people.brains, rng, **how)
    well = people.draw(count if healthy else 0, rng)
    return people.slice_set(np.concatenate([well, sick]), np.concatenate([np.zeros(well.shape, bool), masks]))


def image_auroc(detector, some):
    """How well the detector tells the ill of a cohort from the healthy."""
    scored, sick = predict(detector, some).image_scores, some.table["family"] == "ill"
    return auroc(scored[~sick], scored[sick])


large = {"radius": (3, 6), "contrast": 0.3}
on_test, on_all = np.zeros((2, studies, 10))
for study in range(studies):
    rng = np.random.default_rng([seed, 3, study])
    train = people.slice_set(people.draw(40, rng), split="train")
    few, all_ = (cohort(k, rng, **large) for k in (12, 300))
    for number in range(10):
        network = RandomFeatures(shape, draw=int(rng.integers(2**31)))
        fit(network, train, progress=False)
        on_test[study, number], on_all[study, number] = image_auroc(network, few), image_auroc(network, all_)
winner = on_test.argmax(1)[:, None]
of_winner = [np.take_along_axis(table, winner, 1)[:, 0] for table in (on_test, on_all)]
enter("best of ten seeds", "image AUROC", np.c_[of_winner[0], of_winner[1], on_test.mean(1), on_all.mean(1)])

# %%
right = two_panels("best of ten seeds")
counts = np.arange(1, 11)
best_of = np.array([on_test[:, :k].max(1).mean() for k in counts])
worth = [np.take_along_axis(on_all, on_test[:, :k].argmax(1)[:, None], 1).mean() for k in counts]
right.plot(counts, best_of, "o-", color=plots.PALETTE[3], label="best of N on the test people: reported")
right.plot(counts, worth, "D--", color="0.35", label="the same winner on everybody else")
right.axhline(0.5, color="0.6", ls=":", label="a coin")
right.set(xlabel="N, seeds tried", ylabel="image AUROC, mean over studies", xticks=counts)
right.legend(fontsize=8, loc="best")
lesson.figure(
    "Left: {left} Right: the reported best of N rises from {first:.2f} to {last:.2f}, what it is worth from {a:.2f} "
    "to {b:.2f}.",
    left=describe("best of ten seeds"),
    first=best_of[0],
    last=best_of[-1],
    a=worth[0],
    b=worth[-1],
)
lesson.reveal("seeds", ledger["best of ten seeds"]["inflation"].value)
lesson.say(
    "The winner leads the mean of the ten seeds by {lead:.3f} on the test people. Of that lead {real:.3f} is real: it "
    "is still there on everybody else.",
    lead=(of_winner[0] - on_test.mean(1)).mean(),
    real=(of_winner[1] - on_all.mean(1)).mean(),
)

# %% [markdown]
# What is not real is the luck of 24 test people. With fresh ones the winner falls back, towards the mean. *Regression
# to the mean* is the old name.
#
# *Who, and how to see it:* Bouthillier and colleagues (2021) show that variation between seeds and splits rivals the
# progress that is claimed. One number without seeds, or "best of five runs", is the sign.
#
# ## Sin 4: validation is the test set
#
# Now forty *settings*: four detectors, smoothing of the map or none, and five rules that make one score of a map. The
# sinner picks the best on the test people. The repair picks on as many validation people, and looks at the test once.

# %%
lesson.predict(
    "settings", "Forty settings, 12 healthy and 12 ill people: the inflation of the image AUROC?", bounds=(-0.5, 0.5)
)
makers = {
    "brightness": IntensityThreshold,
    "z-score": lambda: PixelZScore(shape, levels=1),
    "PCA 8": lambda: PCA(shape, components=8),
    "Gaussian": lambda: Gaussian(shape, pool=8),
}
parts = (1, 0.2, 0.05, 0.01, 0)  # a map's score: the mean of its highest pixels, all, a fifth, ..., or one
settings = [f"{name}, smooth {width}, top {part:.0%}" for name in makers for width in (0, 1) for part in parts]


def all_settings(detectors, some):
    """Image AUROC of each setting on a cohort."""
    found, sick = [], (some.table["family"] == "ill").to_numpy()
    for detector in detectors:
        for steps in ([], [("smooth", 1)]):
            maps = -np.sort(-predict(detector, some, steps).maps[:, brain], 1)  # (N, P), the highest first
            scored = [maps[:, : max(1, int(part * maps.shape[1]))].mean(1) for part in parts]
            found += [auroc(s[~sick], s[sick]) for s in scored]
    return np.array(found)


# %%
rows = []
for study in range(3 * studies):
    rng = np.random.default_rng([seed, 4, study])
    train = people.slice_set(people.draw(40, rng), split="train")
    detectors = [make() for make in makers.values()]
    for detector in detectors:
        fit(detector, train, progress=False)
    test, validation, everybody = (all_settings(detectors, cohort(k, rng, contrast=0.17)) for k in (12, 12, 60))
    sinner, honest = test.argmax(), validation.argmax()
    rows.append((test[sinner], everybody[sinner], test[honest], everybody[honest]))
enter("validation is test", "image AUROC", rows)

# %%
right = two_panels("validation is test")
right.plot(validation, test, "o", color="0.6", ms=5, label="a setting")
for k, (name, pick) in enumerate((("test", sinner), ("validation", honest))):
    style = {"color": plots.PALETTE[(3, 0)[k]], "marker": "Ds"[k], "ms": (9, 7)[k], "ls": "none"}
    right.plot(validation[pick], test[pick], label=f"picked on {name}", **style)
ends = [min(validation.min(), test.min()) - 0.03, max(validation.max(), test.max()) + 0.03]
right.plot(ends, ends, color="0.6", ls=":")
right.set(xlabel="image AUROC on validation people", ylabel="image AUROC on test people")
right.legend(fontsize=8, loc="upper left")
kept = ledger["validation is test"]["rows"]
lesson.figure(
    "Left: {left} Right: the forty settings of the last study: {a} won on test, {b} on validation.",
    left=describe("validation is test"),
    a=settings[sinner],
    b=settings[honest],
)
lesson.reveal("settings", ledger["validation is test"]["inflation"].value)
lesson.say(
    "Look at the two truths. What was picked on test is worth {a:.2f}, what was picked on validation {b:.2f}. So "
    "looking at the test people made the detector better by {real:+.3f}, and the number by {seen:+.3f}.",
    a=kept["truth"].mean(),
    b=kept["its truth"].mean(),
    real=(kept["truth"] - kept["its truth"]).mean(),
    seen=(kept["reported"] - kept["repaired"]).mean(),
)

# %% [markdown]
# *Who, and how to see it:* for years the default of a popular library for anomaly detection used its test set for
# validation, and some medical benchmarks have no validation set at all. Ask of each hyper-parameter, and of the
# epoch: on whom was it chosen?
#
# ## Sin 5: pixel AUROC where lesions are rare
#
# This one is no bias. The AUROC is estimated perfectly well. It answers another question than the reader asks: *of what
# is marked, how much is lesion?* Healthy pixels score $N(0, 1)$, lesion pixels $N(d, 1)$ with $d = 2.2$, and one
# pixel in a hundred is lesion. To compare the two numbers we put both on one scale, the *skill*: 0 for guessing, 1 for
# perfect,
#
# $$\frac{\text{AUROC} - \frac12}{1 - \frac12} \quad\text{and}\quad \frac{\text{AP} - \pi}{1 - \pi}.$$
#
# The inflation is how much more skill the reader of an AUROC believes in. The truth is the AP's skill, from an
# integral. (With few lesion pixels AP is a little too high on average, so these studies are large ones.)

# %%
lesson.predict("rare", "The skill by AUROC, minus the skill by AP, at 1 % lesion pixels?", bounds=(-1, 1))
far, share = 2.2, 0.01


def true_ap(d, share):
    """The average precision of N(0, 1) against N(d, 1): the integral of precision over recall."""
    t = np.linspace(-6, d + 6, 4001)
    recall, fpr = norm.sf(t - d), norm.sf(t)
    precision = share * recall / (share * recall + (1 - share) * fpr)
    return -np.trapezoid(precision, recall)


def skill_of_ap(ap, share):
    return (ap - share) / (1 - share)


rows = []
lesion = np.arange(200_000) < 200_000 * share  # two hundred patients of a thousand pixels
for study in range(studies):
    rng = np.random.default_rng([seed, 5, study])
    m = rank_metrics(rng.normal(far * lesion, 1), lesion)
    truth = skill_of_ap(true_ap(far, share), share)
    rows.append((2 * m.auroc - 1, truth, skill_of_ap(m.ap, share), truth))
enter("AUROC of rare pixels", "skill", rows)

# %%
right = two_panels("AUROC of rare pixels")
prevalences = np.geomspace(0.001, 0.5, 40)
by_auroc = 2 * norm.cdf(far / np.sqrt(2)) - 1
right.axhline(by_auroc, color=plots.PALETTE[3], label="by AUROC")
right.plot(
    prevalences, [skill_of_ap(true_ap(far, p), p) for p in prevalences], color=plots.PALETTE[0], ls="--", label="by AP"
)
right.axvline(share, color="0.6", ls=":", label="this study")
right.set(xscale="log", xlabel="share of lesion pixels", ylabel="true skill", ylim=(0, 1))
right.set_xticks([0.001, 0.01, 0.1, 0.5], ["0.1 %", "1 %", "10 %", "50 %"])
right.legend(fontsize=8, loc="lower right")
lesson.figure(
    "Left: {left} Right: the skill by AUROC is {flat:.2f} at every prevalence, that by AP falls with it.",
    left=describe("AUROC of rare pixels"),
    flat=by_auroc,
)
lesson.reveal("rare", ledger["AUROC of rare pixels"]["inflation"].value)

# %% [markdown]
# *Who, and how to see it:* the tables of industrial inspection report pixel AUROC, and medical papers took the habit
# along. A pixel AUROC near one beside a picture full of false alarms is the sign. Ask for AP, with the prevalence.
#
# ## Sin 6: each map is scaled to [0, 1] by itself
#
# An anomaly map looks best if its darkest pixel is 0 and its brightest is 1. So many programs scale each image that
# way, for the figure, and then go on and compute with it. The detector is the z-score, smoothed; 12 healthy and 12
# ill people; pixel AP over all of them.

# %%
lesson.predict(
    "minmax",
    "By how much does scaling each map by itself change the pixel AP? (A minus sign if it falls.)",
    bounds=(-1, 1),
)


def minmax(maps):
    """Each row of maps (N, P), a person, from 0 to 1."""
    low = maps.min(1, keepdims=True)
    return (maps - low) / (maps.max(1, keepdims=True) - low)


rows, seen = [], []
for study in range(studies):
    rng = np.random.default_rng([seed, 6, study])
    zscore = PixelZScore(shape, levels=1)
    fit(zscore, people.slice_set(people.draw(40, rng), split="train"), progress=False)
    row = []
    for k in (12, 300):
        found = predict(zscore, cohort(k, rng), [("smooth", 1)])  # k healthy people, then k ill ones
        maps, truth = found.maps[:, brain], found.masks[:, brain]  # (2 k, P)
        row += [rank_metrics(minmax(maps), truth).ap, rank_metrics(maps, truth).ap]
        seen.append(
            {"people": k, "peak": auroc(maps[:k].max(1), maps[k:].max(1))}
            | {
                "scaled peak": auroc(minmax(maps)[:k].max(1), minmax(maps)[k:].max(1)),
                "ill only": rank_metrics(maps[k:], truth[k:]).ap,
                "ill only, scaled": rank_metrics(minmax(maps)[k:], truth[k:]).ap,
            }
        )
    rows.append((row[0], row[3], row[1], row[3]))
enter("scaling by image", "pixel AP", rows, direction="less")

# %%
fig, axes = plt.subplots(1, 4, figsize=(plots.WIDTH, 3.1), layout="constrained", width_ratios=[1, 1, 1, 1])
for column, row in enumerate((0, 300)):
    name, mask = ("a healthy person", "an ill person")[column], found.masks[row]
    plots.show_map(found.maps[row] * brain, mask, title=name, limit=4, label="z-score", ax=axes[column])
    scaled = np.zeros(shape)
    scaled[brain] = minmax(maps[row : row + 1])[0]
    plots.show_map(scaled, mask, title=f"{name}, scaled", limit=1, label="scaled", ax=axes[2 + column])
after = pd.DataFrame(seen).groupby("people").mean().loc[300]
lesson.figure(
    "Two maps as they are and scaled by themselves: then the healthy person has a 1 somewhere, too. {left}",
    left=describe("scaling by image"),
)
lesson.reveal("minmax", ledger["scaling by image"]["inflation"].value)
lesson.say(
    "This sin *deflates*: the sinner is punished by the number. Every healthy person now has a highest pixel of "
    "exactly 1, which competes with the lesions of the ill. Tell people apart by the highest pixel of their map: AUROC "
    "{peak:.2f} as it is, and {flat:.2f} once scaled. All of them peak at 1. Among the *ill alone* scaling costs less, "
    "AP {ill:.2f} against {scaled:.2f}: a paper that tests no healthy people hardly notices.",
    peak=after["peak"],
    flat=after["scaled peak"],
    ill=after["ill only"],
    scaled=after["ill only, scaled"],
)
lesson.claim_interval(
    "scaling hides who is ill",
    "By the highest pixel of their map, scaled to [0, 1], ill and healthy people cannot be told apart (AUROC).",
    over([row["scaled peak"] for row in seen if row["people"] == 300]),
    above=0.499,
    below=0.501,
    over="studies",
)

# %% [markdown]
# *Who, and how to see it:* look for "maps are normalised to [0, 1]" in a methods section, and for the word *each*. A
# scale is harmless if it comes from healthy validation people, and is one for everybody.
#
# ## Sin 7: healthy people and patients come from different scanners
#
# Scanner A took the healthy people, scanner B the patients. B is a bit noisier, and that is all: **no patient has any
# disease in the picture**. So the truth needs no formula. It is one half, for every detector there is. Ours is
# the z-score, trained on healthy people of scanner A. The repair takes both classes, and the training people, from both
# scanners.

# %%
lesson.predict("scanner", "By how much is the AUROC of a disease that nobody has above one half?", bounds=(-0.5, 0.5))


def scanner_b(images, rng, noise=0.04):
    """The same people on a scanner with more noise (s.d. in intensity; 0.125 is one s.d. of the brain)."""
    noisy = images + noise * rng.standard_normal(images.shape)
    return np.where(people.brains, np.maximum(noisy, 0.01), 0).astype(np.float32)


def from_both(count, rng):
    return np.concatenate([people.draw(count // 2, rng), scanner_b(people.draw(count // 2, rng), rng)])


def trained(images):
    """The z-score of healthy training people."""
    detector = PixelZScore(shape, levels=1)
    fit(detector, people.slice_set(images, split="train"), progress=False)
    return detector


def two_sides(detector, *sides):
    """AUROC of the second side's people against the first side's."""
    return auroc(*(predict(detector, people.slice_set(side)).image_scores for side in sides))


def confounded(rng, noise):
    """AUROC of 20 healthy people of scanner A against 20 people of scanner B who are as healthy."""
    detector = trained(people.draw(40, rng))
    return two_sides(detector, people.draw(20, rng), scanner_b(people.draw(20, rng), rng, noise))


rows = []
for study in range(studies):
    rng = np.random.default_rng([seed, 7, study])
    reported = confounded(rng, 0.04)
    repaired = two_sides(trained(from_both(40, rng)), from_both(20, rng), from_both(20, rng))
    rows.append((reported, 0.5, repaired, 0.5))
enter("two scanners", "image AUROC", rows)

# %%
right = two_panels("two scanners")
noises = np.array([0, 0.01, 0.02, 0.03, 0.04, 0.06])
rng = np.random.default_rng([seed, 7])
levels = [[confounded(rng, noise) for _ in range(8)] for noise in noises]
right.errorbar(
    8 * noises, np.mean(levels, 1), np.std(levels, 1), fmt="o-", color=plots.PALETTE[3], capsize=3, label="reported"
)
right.axhline(0.5, color="0.35", ls="--", label="truth")
right.set(xlabel="added noise of scanner B (s.d. of the brain)", ylabel="image AUROC", ylim=(0.2, 1.02))
right.legend(fontsize=8, loc="lower right")
lesson.figure(
    "Left: {left} Right: reported AUROC against the noise of scanner B, mean and s.d. of eight studies: from {a:.2f} "
    "without to {b:.2f} with the most.",
    left=describe("two scanners"),
    a=np.mean(levels[0]),
    b=np.mean(levels[-1]),
)
lesson.reveal("scanner", ledger["two scanners"]["inflation"].value)

# %% [markdown]
# A little noise makes a detector of nothing. How large the inflation is depends on the scanners alone, and it ends only
# at a perfect AUROC: an anomaly detector is *made* to notice what it was not trained on.
#
# *Who, and how to see it:* Roberts and colleagues (2021) read the papers on COVID-19 in chest X-rays: children as the
# healthy, adults as the ill, from different archives. Zech and colleagues (2018) watched a network recognise the
# hospital. Look where each *class* came from, not only the data.
#
# ## Sin 8: no intensity baseline
#
# A paper reports the AP of its residual maps, far above guessing. The gain seems to be the method's. But bright
# lesions are found by brightness, without learning anything. So the honest gain is that over brightness, and the
# sin's inflation is the difference of the two gains: what brightness had for free. The method is PCA with 4
# components; all maps are smoothed alike.

# %%
lesson.predict(
    "baseline",
    "The reported gain (pixel AP minus guessing), minus the true gain over brightness?",
    bounds=(-1, 1),
)


def pixel_ap(detectors, slices):
    """The pixel AP of each detector, and last that of guessing."""
    found = [predict(detector, slices, [("smooth", 1)]) for detector in detectors.values()]
    measured = [rank_metrics(s.maps, s.masks, s.brains) for s in found]
    return dict(zip([*detectors, "guessing"], [*(m.ap for m in measured), measured[0].prevalence], strict=True))


rows, population = [], []
for study in range(studies):
    rng = np.random.default_rng([seed, 8, study])
    train = people.slice_set(people.draw(40, rng), split="train")
    detectors = {
        "brightness": IntensityThreshold(),
        "PCA 4": PCA(shape, components=4),
        "PCA 16": PCA(shape, components=16),
    }
    for detector in detectors.values():
        fit(detector, train, progress=False)
    seen, true = (pixel_ap(detectors, cohort(count, rng, healthy=False)) for count in (20, 200))
    gain = true["PCA 4"] - true["brightness"]
    rows.append((seen["PCA 4"] - seen["guessing"], gain, seen["PCA 4"] - seen["brightness"], gain))
    population.append(true)
enter("no brightness row", "gain in pixel AP", rows)

# %%
right = two_panels("no brightness row")
level = pd.DataFrame(population)
order = ["guessing", "PCA 4", "brightness", "PCA 16"]
colours = ["0.7", plots.PALETTE[3], "0.35", plots.PALETTE[2]]
bars = right.bar(order, level[order].mean(), color=colours, hatch=["", "//", "", ".."], edgecolor="white")
right.bar_label(bars, fmt="%.2f", fontsize=8)
right.set(ylabel="true pixel AP, mean over studies", ylim=(0, 1))
right.grid(axis="x", visible=False)
lesson.figure(
    "Left: {left} Right: the true pixel AP: {numbers}.",
    left=describe("no brightness row"),
    numbers=", ".join(f"{name} {level[name].mean():.2f}" for name in order),
)
lesson.reveal("baseline", ledger["no brightness row"]["inflation"].value)
lesson.claim_interval(
    "the gain was a loss",
    "PCA with 4 components is worse than brightness (true pixel AP, difference).",
    over(level["PCA 4"] - level["brightness"]),
    below=0,
    over="studies",
)
lesson.say(
    "A gain of {reported:+.2f} over nothing is one of {gain:+.2f} over brightness. With 16 components PCA reaches "
    "{more:.2f}. Before you believe that: the people of this lesson were *drawn from* principal components, so PCA "
    "meets its own kind here. A test that shares its generator with the method is a sin of its own (lesson 5.2). "
    "On the cohort of lesson 1.2 brightness is harder to beat.",
    reported=ledger["no brightness row"]["rows"]["reported"].mean(),
    gain=(level["PCA 4"] - level["brightness"]).mean(),
    more=level["PCA 16"].mean(),
)

# %% [markdown]
# *Who, and how to see it:* Meissen and colleagues (2021) put the missing row beside published auto-encoders, and most
# fell below it. A table without a line that learns nothing is the sign.
#
# ## Sin 9: the scores are normalised over the whole test set
#
# Each hospital's scores have an offset and a scale of their own. That is easily mended: take the mean and the
# standard deviation *of the test set*, and flag who is above its mean. In a study of 20 healthy and 20 ill people
# this works very well. The set's mean lies between the two groups because half of the set is ill. In a screening at
# the same hospital two in a hundred are ill, and the same rule runs on the screening's own mean. Balanced accuracy
# does not depend on prevalence. The rule does. The repair takes mean and s.d. from 60 healthy validation people of
# that hospital, once, and flags above the 95 % point.

# %%
lesson.predict(
    "whole set",
    "By how much is the study's balanced accuracy above the one in the screening?",
    bounds=(-0.5, 0.5),
)
d, n = 2.0, 20
ill = np.arange(2 * n) >= n
rows = []
for study in range(many):
    rng = np.random.default_rng([seed, 9, study])
    offset, scale = rng.normal(0, 3), rng.uniform(0.5, 2)  # of this hospital
    test = offset + scale * rng.normal(d * ill, 1)
    validation = offset + scale * rng.normal(0, 1, 60)
    z = (test - test.mean()) / test.std()
    reported = ((z[ill] > 0).mean() + (z[~ill] <= 0).mean()) / 2
    fixed = (test - validation.mean()) / validation.std()
    limit = threshold_at_fpr((validation - validation.mean()) / validation.std(), 0.05)
    measured = ((fixed[ill] >= limit).mean() + (fixed[~ill] < limit).mean()) / 2
    cutoff = (validation.mean() + limit * validation.std() - offset) / scale  # in s.d. of the healthy
    rows.append((reported, balanced(0.02 * d, d), measured, balanced(cutoff, d)))
enter("normalised over the set", "balanced accuracy", rows)

# %%
right = two_panels("normalised over the set")
shares = np.linspace(0, 1, 101)
right.plot(shares, balanced(shares * d, d), color=plots.PALETTE[3], label="flag above the set's mean")
right.axhline(
    ledger["normalised over the set"]["rows"]["its truth"].mean(),
    color=plots.PALETTE[0],
    ls="--",
    label="limit from healthy validation people",
)
right.plot([0.5, 0.02], balanced(np.array([0.5, 0.02]) * d, d), "o", color=plots.PALETTE[3])
right.annotate("study", (0.5, balanced(0.5 * d, d)), (0, 6), textcoords="offset points", ha="center", fontsize=8)
right.annotate("screening", (0.02, balanced(0.02 * d, d)), (9, -3), textcoords="offset points", fontsize=8)
right.set(xlabel="share of the test set that is ill", ylabel="true balanced accuracy", ylim=(0.7, 0.9))
right.legend(fontsize=8, loc="lower center")
lesson.figure(
    "Left: {left} Right: the true balanced accuracy against the share of ill people in the set.",
    left=describe("normalised over the set"),
)
lesson.reveal("whole set", ledger["normalised over the set"]["inflation"].value)
lesson.say(
    "In the screening the rule flags {alarms:.0%} of the healthy. And for *one* new patient there is no rule at all: "
    "the mean of a set of one is the patient, and the standard deviation is 0.",
    alarms=norm.sf(0.02 * d),
)

# %% [markdown]
# AUROC would have noticed nothing: a scale for all changes no rank. That makes the sin easy to miss.
#
# *Who, and how to see it:* "scores are normalised to [0, 1] over the test set", "we flag the top ten per cent", a
# `contamination` set to the known share of the ill. Ask what the rule says about a single patient who walks in
# tomorrow.
#
# ## The nine beside each other
#
# All inflations in one figure, with what is left after the repair. Their metrics differ, so read each with its own
# metric; a point to the right of the line is an inflated number, one to the left is a number that the sin made worse.

# %%
order = sorted(ledger, key=lambda sin: ledger[sin]["inflation"].value)
fig, ax = plt.subplots(figsize=(plots.WIDTH * 0.9, 4.8), layout="constrained")
for key, label, shift, k in (("inflation", "inflation", 0.13, 3), ("left", "left after the repair", -0.17, 0)):
    found = [ledger[sin][key] for sin in order]
    values = np.array([f.value for f in found])
    bars = [values - [f.low for f in found], [f.high for f in found] - values]
    style = {"fmt": "oD"[k == 0], "color": plots.PALETTE[k], "capsize": 2, "ms": 5, "label": label}
    ax.errorbar(values, np.arange(len(order)) + shift, xerr=bars, **style)
ax.axvline(0, color="0.35", lw=1)
ax.set(yticks=range(len(order)), xlabel="reported minus truth (points of the metric), interval over studies")
ax.set_yticklabels([f"{sin}\n({ledger[sin]['metric']})" for sin in order], fontsize=8)
ax.grid(axis="y", visible=False)
ax.legend(fontsize=8, loc="lower right")
lesson.figure(
    "The nine sins by inflation, with simultaneous intervals: {found}. Repaired, all lie at zero but for chance.",
    found="; ".join(f"{sin} {ledger[sin]['inflation'].value:+.2f}" for sin in reversed(order)),
)

# %%
table = pd.DataFrame(
    {
        "metric": {sin: entry["metric"] for sin, entry in ledger.items()},
        "studies": {sin: len(entry["rows"]) for sin, entry in ledger.items()},
        **{name: {sin: entry["rows"][name].mean() for sin, entry in ledger.items()} for name in kept},
        "inflation": {sin: str(entry["inflation"]) for sin, entry in ledger.items()},
        "left after the repair": {sin: str(entry["left"]) for sin, entry in ledger.items()},
    }
)
upward = [entry["inflation"] for entry in ledger.values() if entry["inflation"].low > 0]
repaired = [entry["left"].low <= 0 <= entry["left"].high for entry in ledger.values()]
lesson.claim(
    "all repaired together",
    "All nine repaired numbers contain the truth in their intervals, at once.",
    all(repaired),
    value=float(np.mean(repaired)),
)
lesson.say(
    "{up} of {all_} sins inflate in this run, by {low:.2f} to {high:.2f}; {back} of the repaired numbers return to the "
    "truth.",
    up=len(upward),
    all_=len(ledger),
    low=min(gap.value for gap in upward),
    high=max(gap.value for gap in upward),
    back=sum(repaired),
)
table.style.format("{:.2f}", subset=list(kept))

# %% [markdown]
# Read the figure with care: these are the sizes of *these* studies, with a dozen people for the sins of choice, one
# difference between two scanners, one prevalence. What would more people change? Take sin 1 again, with more of them.

# %%
luck = {}
for size in (12, 50, 200):
    sick = np.arange(2 * size) >= size
    luck[size] = []
    for study in range(many):
        rng = np.random.default_rng([seed, 10, size, study])
        chosen, reported = best_cutoff(rng.normal(1.2 * sick, 1), sick)
        luck[size].append(reported - balanced(chosen, 1.2))
lesson.say(
    "With 12 people a side the cut-off's luck is {few:.3f}, with 50 {more:.3f}, with 200 {lots:.3f}.",
    few=np.mean(luck[12]),
    more=np.mean(luck[50]),
    lots=np.mean(luck[200]),
)
lesson.claim_interval(
    "luck shrinks",
    "With 200 people a side, the inflation by a threshold chosen on test is below half of that with 12 (difference).",
    over(np.array(luck[12]) / 2 - np.array(luck[200])),
    above=0,
    over="studies",
)

# %% [markdown]
# More people shrink the sins of choice, 1, 3 and 4. They do nothing for the others. Those ask the wrong question, or
# ask it of the wrong data, and a larger study only puts a narrower interval around the wrong number.
#
# ## Exercises


# %%
def check_split(answer):
    """A function (persons, rng) to a boolean array: True where a slice is in the training set."""
    persons = np.repeat([f"p{k:02d}" for k in range(20)], np.tile([3, 5], 10))
    mixed = persons[np.random.default_rng(1).permutation(len(persons))]
    seen = []
    for order_, of in ((0, persons), (1, mixed)):
        for number in range(6):
            got = np.asarray(answer(of.copy(), np.random.default_rng(number)))
            if got.shape != of.shape or got.dtype != bool:
                return "Return one boolean for each slice: True where it trains."
            if got.all() or not got.any():
                return "One of the two sides is empty."
            both = set(of[got]) & set(of[~got])
            if len(both) == 1 and not order_:
                return f"{both.pop()} is cut in two: you cut the list of slices, and the border lies within a person."
            if both:
                return f"{len(both)} persons are on both sides. Draw persons, not slices."
            if len(set(of[got])) != 10:
                return f"{len(set(of[got]))} of 20 persons train. Half of the persons should."
            seen.append(tuple(sorted(set(of[got]))))
    if len(set(seen)) == 1:
        return "The same persons train whatever the generator says. Files are sorted by hospital or date: draw them."
    return None


lesson.card(
    "1.3.1",
    "Split by person",
    difficulty=1,
    minutes=10,
    task="`persons` says for each slice whose it is. Write `split(persons, rng)` that returns a boolean array, True "
    "where a slice trains: half of the *persons*, drawn by `rng`, with all of their slices. Put the function into "
    "`answer`.",
    hints=["`np.unique(persons)` has each person once.", "`np.isin(persons, chosen)`"],
    solution="""
    ```python
    def answer(persons, rng):
        everyone = np.unique(persons)
        return np.isin(persons, rng.permutation(everyone)[: len(everyone) // 2])
    ```
    """,
    check=check_split,
)

# %%
answer = ...
lesson.check("1.3.1", answer)


# %%
def check_scale(answer):
    """A function (healthy validation scores, test scores) to the test scores in healthy standard deviations."""
    rng = np.random.default_rng(5)
    validation, test = rng.normal(3, 2, 80), np.r_[rng.normal(3, 2, 30), rng.normal(9, 2, 10)]
    got = np.asarray(answer(validation.copy(), test.copy()), float)
    if got.shape != test.shape:
        return "Return one number for each test score."
    everybody = np.r_[validation, test]

    def near(other):
        return np.allclose(got, other, atol=0.01 * np.ptp(other))

    if near((test - test.mean()) / test.std()) or near((test - np.median(test)) / test.std()):
        return "This is the test set's own mean and s.d.: what a patient gets depends on who else came that day."
    if near((test - test.min()) / np.ptp(test)):
        return "Min-max over the test set: the most abnormal patient of the day sets everybody's scale."
    if near(rankdata(test) / len(test)) or near(rankdata(test)):
        return "Ranks within the test set: somebody is always the most abnormal, even among the healthy."
    if near((test - everybody.mean()) / everybody.std()):
        return "You pooled validation and test people: the ill are still in the mean."
    if near(test - validation.mean()):
        return "Divide by the healthy standard deviation, too."
    alone = [float(np.ravel(answer(validation.copy(), np.array([score])))[0]) for score in test]
    if not np.allclose(alone, got, equal_nan=False):
        return "A patient who comes alone gets another number than in the set."
    if near((test - validation.mean()) / validation.std()):
        return None
    return "Take the mean and the standard deviation of the healthy validation scores."


lesson.card(
    "1.3.2",
    "A score for one patient",
    difficulty=2,
    minutes=10,
    task="Write `scaled(validation, test)`: the test scores in standard deviations above the healthy mean, such that "
    "no patient's number depends on the other test patients. `validation` are scores of healthy validation people. "
    "Put the function into `answer`. A test set of one patient must work.",
    hints=["Whose mean may you know before the first patient comes?"],
    solution="`lambda validation, test: (test - validation.mean()) / validation.std()`",
    check=check_scale,
)

# %%
answer = ...
lesson.check("1.3.2", answer)


# %%
def check_luck(answer):
    """A function (runs, sd) to the expected inflation of the best of some runs that are all equally good."""
    rng = np.random.default_rng(11)
    for runs, sd in ((5, 0.05), (10, 0.02), (30, 0.1)):
        truth = rng.normal(0, sd, (200_000, runs)).max(1).mean()
        got = float(answer(runs, sd))
        if np.isclose(got, truth, rtol=0.03):
            continue
        if np.isclose(got, 0, atol=0.05 * sd):
            return "That is the inflation of the mean, or of a single run. The best of several is above it."
        if np.isclose(got, sd / np.sqrt(runs), rtol=0.02):
            return "This is the standard error of the mean, which falls with more runs. The best rises with more runs."
        if np.isclose(got, sd, rtol=0.02):
            return "One standard deviation, whatever the number of runs? Try two runs, and a hundred."
        if np.isclose(got, np.array([1.64, 1.645, 1.96, 2, 3]) * sd, rtol=0.01).any():
            return "A fixed number of standard deviations is a limit for one run. The best of many depends on how many."
        if np.isclose(got, sd * np.sqrt(2 * np.log(runs)), rtol=0.01):
            return "This is the limit for very many runs; for ten it is a fifth too large. Simulate it."
        if np.isclose(got, truth / sd, rtol=0.03):
            return "In standard deviations it is right: multiply by sd."
        return f"For {runs} runs and sd {sd} the best is {truth:.3f} too high on average, not {got:.3f}."
    return None


lesson.card(
    "1.3.3",
    "How lucky is the best?",
    difficulty=2,
    minutes=10,
    task="All seeds are equally good. Each one's test AUROC is the truth plus Gaussian noise of standard deviation "
    "`sd`, independent of the others. Write `luck(runs, sd)`: by how much is the best of `runs` too high, on average? "
    "Simulate it, or integrate. Put the function into `answer`. (In sin 3 the seeds share their test people, "
    "so their noise is not independent, and the luck is smaller.)",
    hints=["`rng.normal(0, sd, (100_000, runs))`: a row is a paper.", "The maximum of each row, then the mean."],
    solution="`lambda runs, sd: np.random.default_rng(0).normal(0, sd, (100_000, runs)).max(1).mean()`",
    check=check_luck,
)

# %%
answer = ...
lesson.check("1.3.3", answer)

# %%
excerpts = {
    "A": "We report the mean Dice at the threshold that maximises it, for each method.",
    "B": "The 2,400 slices were shuffled and divided 80:10:10.",
    "C": "Healthy controls came from a public archive, patients from our stroke unit.",
    "D": "Anomaly scores were standardised with the mean and s.d. of the test scans; the cut-off was 0.",
    "E": "The epoch with the highest AUROC on the evaluation set was kept, and its results are shown in Table 2.",
    "F": "Our residual maps reach an AP of 0.41, five times the lesion prevalence.",
}
pd.Series(excerpts, name="from a methods section").to_frame().style.set_properties(**{"text-align": "left"})


# %%
def check_excerpts(answer):
    """A dict from "A" ... "F" to the number of the sin, 1 to 9."""
    right = {"A": 1, "B": 2, "C": 7, "D": 9, "E": 4, "F": 8}
    why = {
        "A": "the threshold is found on the data that it is scored on",
        "B": "what was shuffled are slices, so a person is on several sides",
        "C": "class and scanner are one and the same thing",
        "D": "the cut-off moves with the share of the ill among the test scans",
        "E": "something was chosen on the set that is reported; no threshold, no seed",
        "F": "the AP is set beside guessing, and nothing that learns nothing stands between",
    }
    missing = sorted(set(right) - set(answer))
    if missing:
        return f"No sin yet for {', '.join(missing)}."
    for letter, sin in right.items():
        if int(answer[letter]) != sin:
            return f"{letter} is not sin {answer[letter]}: {why[letter]}."
    return None


lesson.card(
    "1.3.4",
    "Read a methods section",
    difficulty=1,
    minutes=10,
    task="Which of the nine sins does each of the six sentences above confess? Put a dict such as "
    '`{"A": 3, "B": 9, ...}` into `answer`.',
    hints=["Ask of each: who chose what, on whom?", "Each of the six is another sin."],
    solution="A 1, B 2, C 7, D 9, E 4, F 8.",
    check=check_excerpts,
)

# %%
answer = ...
lesson.check("1.3.4", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "Choosing on the test people inflates by luck: threshold, seed, setting. Choose on others, look once.",
    "A wrong split, scanner, metric, scale or baseline inflates (or deflates) whatever the size of the study.",
    "Where the truth is known, an inflation is a number with an interval. Simulate your own protocol first.",
)

# %% [markdown]
# ## References
#
# - Varoquaux G, Cheplygina V. Machine learning for medical imaging: methodological failures and recommendations for the
#   future. *npj Digital Medicine* 5:48 (2022).
# - Kapoor S, Narayanan A. Leakage and the reproducibility crisis in machine-learning-based science. *Patterns* 4
#   (2023).
# - Leeflang M, Moons K, Reitsma J, Zwinderman A. Bias in sensitivity and specificity caused by data-driven selection of
#   optimal cutoff values. *Clinical Chemistry* 54 (2008): sin 1.
# - Yagis E, et al. Effect of data leakage in brain MRI classification using 2D convolutional neural networks.
#   *Scientific Reports* 11 (2021): sin 2.
# - Bouthillier X, et al. Accounting for variance in machine learning benchmarks. *MLSys* (2021): sin 3.
# - Cawley G, Talbot N. On over-fitting in model selection and subsequent selection bias in performance evaluation.
#   *JMLR* 11 (2010): sin 4.
# - Akcay S, et al. Anomalib: a deep learning library for anomaly detection. *ICIP* (2022), and its
#   [issue 1067](https://github.com/open-edge-platform/anomalib/issues/1067): sin 4.
# - Saito T, Rehmsmeier M. The precision-recall plot is more informative than the ROC plot when evaluating binary
#   classifiers on imbalanced datasets. *PLOS ONE* 10 (2015): sin 5.
# - Zech J, et al. Variable generalization performance of a deep learning model to detect pneumonia in chest
#   radiographs. *PLOS Medicine* 15 (2018): sin 7.
# - Roberts M, et al. Common pitfalls and recommendations for using machine learning to detect and prognosticate for
#   COVID-19 using chest radiographs and CT scans. *Nature Machine Intelligence* 3 (2021): sin 7.
# - Meissen F, Kaissis G, Rueckert D. Challenging current semi-supervised anomaly segmentation methods for brain MRI.
#   *BrainLes* (2021): sin 8.
