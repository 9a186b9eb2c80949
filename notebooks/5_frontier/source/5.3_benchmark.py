# %% [markdown]
# # 5.3 The benchmark
#
# **Which detector should you take, and how sure can you be of the order?**
#
# Every lesson so far looked at one method, beside a few rivals. Now all of them stand side by side: the same healthy
# slices, the same test people, the same cleaning of maps, several trainings each. A table with so many rows is easy to
# print and hard to read. This lesson is about reading it.
#
# After this lesson you can
#
# 1. run a grid of detectors, data sets and seeds on all your cores, stop it, and go on;
# 2. say which differences in a league table mean something, and how stable its order is;
# 3. weigh quality against cost, and say for whom a benchmark speaks.
#
# | time | memory | needs |
# |---|---|---|
# | 5 minutes to run once the sweep is done (15 with it), 40 to read | under 3 GiB | the detectors of parts 1 to 5 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>Why are people resampled for an interval, and not pixels or slices?</summary>
# Pixels of a person resemble each other. A hundred thousand of them say how this person does, and little about the
# next one.
# </details>
#
# <details><summary>A detector was picked because its number was the highest. What is wrong with its interval?</summary>
# It was picked in part for its luck. On other people it will do worse than its number says: the winner's curse.
# </details>

# %% tags=["parameters"]
data: str = "atlas"  # data set: "atlas", "stroke", or the path of a folder made by prepare_folder
profile: str = "standard"  # how much to compute: "quick", "standard" or "full"
seed: int = 0  # seed of everything random; the trainings use seed, seed + 1, ...
device: str = "cpu"  # "cpu", "cuda" or "auto"
detectors: list = []  # names of course_lib.line_up, or "file.py:Class"; empty: all (in quick: some of each kind)

# %%
import course_lib.doctor

course_lib.doctor.check()

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from course_lib import plots, sweep
from course_lib.benchmark import test_slices
from course_lib.errors import BadInput
from course_lib.evaluation import results_table
from course_lib.line_up import RECIPES
from course_lib.metrics.intervals import bootstrap, difference
from course_lib.metrics.measurements import RANKING
from course_lib.metrics.ranks import (
    critical_difference,
    order_agreement,
    rank_people,
    rank_shares,
    resampled_means,
    value_cube,
)
from course_lib.metrics.statistics import GroupMean, Mean
from course_lib.teaching import Lesson
from data_scripts import open_slices
from IPython.display import display
from scipy.stats import kendalltau, t

plots.use_style()
lesson = Lesson("5.3", profile=profile, seed=seed)

# %% [markdown]
# ## A grid of runs
#
# One *run* is one detector, one data set, one seed: train it (or take it from the store), score the test people, write
# a table. A *sweep* is a grid of runs. `course_lib.sweep` deals them out to worker processes, keeps what is finished,
# and repeats what was killed. A run knows nothing of the others, so that none can spoil another.
#
# From a terminal a sweep is a small file and a command. The list of seeds, or of anything else, spans the grid:
#
# ```yaml
# name: my-benchmark
# detectors: [positional Gaussian, DAE, "my_file.py:MyDetector"]
# data: [atlas]
# seed: [0, 1, 2]
# profile: standard
# ```
#
# `python -m course_lib.sweep my-benchmark.yaml --workers 2`, or on a cluster `--scheduler tcp://host:8786` or
# `--slurm settings.yaml`. What fails costs itself alone, and stands in `runs.csv`. In Python it is `sweep.run(grid)`.

# %%
lesson.predict(
    "first",
    "Which of these has the highest pixel AP, averaged over the families?",
    kind="choice",
    choices=["brightness", "positional Gaussian", "DAE", "made-up anomalies", "all orders"],
)
lesson.predict(
    "tied",
    "A test for all pairs at once: what share of the detectors cannot be told apart from the one that ranks first?",
    kind="number",
    bounds=(0, 1),
)

# %%
some = ["brightness", "positional Gaussian", "Gaussian", "PCA 16", "AE", "DAE", "one order", "made-up anomalies"]
everyone = list(detectors) or (some if profile == "quick" else [name for name in RECIPES if name != "witnesses"])
closed = [name for name in ("brightness", "positional Gaussian", "Gaussian", "mixture", "KDE", "OC-SVM", "PCA 16")]
seeds = list(range(seed, seed + {"quick": 2, "standard": 3, "full": 5}[profile]))


def run_grid(data, seeds):
    """All runs on a data set: networks with every seed, the others once. Finished ones are kept."""
    tables = []
    for kind, names, own in (
        ("networks", [name for name in everyone if name not in closed], seeds),
        ("closed", [name for name in everyone if name in closed], seeds[:1]),
    ):
        grid = {"name": f"benchmark-{kind}-{profile}", "detectors": names, "data": [data], "seed": own}
        if names:
            tables.append(sweep.run(grid | {"profile": profile, "parameters": {"device": device}}, progress=False))
    return pd.concat(tables, ignore_index=True)


table = run_grid(data, seeds)
table[["detector", "seed", "family", "subject", "level", "metric", "value"]].sample(5, random_state=seed)

# %% [markdown]
# That is all a benchmark is: one tidy table, a row for each number. Everything below is read from it.
#
# For each person with a lesion there is the pixel AP in this person's brain, and the AUROC of this person's lesion
# slices against all healthy test slices. In other lessons a family's pixels are pooled. Here each person counts once,
# so that people can be resampled, ranked and compared.

# %%
people_rows = table[(table["subject"] != "all") & (table["level"] != "cost")]
cubes = {metric: value_cube(rows) for metric, rows in people_rows.groupby("metric")}
values, names, people = cubes["AP"]  # (D, R, S): detectors, trainings, people
families = list(dict.fromkeys(people["family"]))
sizes = people.groupby("family", sort=True).size().tolist()
of_family = {family: (people["family"] == family).to_numpy() for family in families}
mean = np.mean([values[:, :, rows].mean((1, 2)) for rows in of_family.values()], 0)  # (D,)
best_first = np.argsort(-mean)
test = test_slices(open_slices(data, profile, progress=False), data, 1 if profile == "full" else 4)  # as in a run
pixels = pd.DataFrame({"lesion": (test.masks & test.brains).sum((1, 2)), "brain": test.brains.sum((1, 2))})
pixels = pixels.groupby([test.table["family"].to_numpy(), test.table["subject"].to_numpy()]).sum()
chance = (pixels["lesion"] / pixels["brain"]).loc[pd.MultiIndex.from_frame(people)].groupby(level=0).mean()[families]
lesson.say(
    "{runs} runs: {detectors} detectors, {trainings} trainings of each network. {people} people with a "
    "lesion, in {families} families.",
    runs=int(table["run"].nunique()),
    detectors=len(names),
    trainings=values.shape[1],
    people=len(people),
    families=len(families),
)

# %% [markdown]
# ## The table
#
# The order is that of the mean over families: each family counts alike. The last row is *chance*: the AP of a map that
# knows nothing is the lesion's share of the brain, on average over the people.

# %%
card = pd.DataFrame({f: values[:, :, rows].mean((1, 2)) for f, rows in of_family.items()}, index=names)
card["mean"] = mean
card = card.iloc[best_first]
with_chance = pd.concat([card, chance.to_frame("chance").T.assign(mean=chance.mean())])
fig, ax = plt.subplots(figsize=(plots.WIDTH, 0.27 * len(with_chance) + 1.2))
style = {"annot": True, "fmt": ".2f", "cmap": "magma", "annot_kws": {"size": 8}, "cbar_kws": {"label": "AP"}}
sns.heatmap(with_chance, vmin=0, vmax=1, ax=ax, **style)
ax.axhline(len(names), color="white", lw=3)
ax.axvline(len(families), color="white", lw=3)
ax.set(xlabel="", ylabel="")
fig.tight_layout()
winners = card[families].idxmax()
lesson.figure(
    "Detectors by families, pixel AP, mean over people and trainings; darker is lower. Best in each family: {winners}. "
    "Highest mean: {first}, {high:.2f}.",
    winners=", ".join(f"{name} on {family}" for family, name in winners.items()),
    first=card.index[0],
    high=card["mean"].iloc[0],
)
below = (card[families] < chance).sum()
lesson.say(
    "Chance is {low:.3f} on {rare} and {high:.2f} on {common}: read that column as height above its floor. Detectors "
    "below chance on {worst}: {count} of {all}.",
    low=chance.min(),
    rare=chance.idxmin(),
    high=chance.max(),
    common=chance.idxmax(),
    worst=below.idxmax(),
    count=int(below.max()),
    all=len(names),
)

# %%
contest = ["brightness", "positional Gaussian", "DAE", "made-up anomalies", "all orders"]
offered = [name for name in contest if name in names]
lesson.reveal("first", card.loc[offered, "mean"].idxmax())
most = winners.value_counts()
lesson.claim(
    "no detector for everything",
    "No detector is the best in more than half of the families (value: the share that the most frequent winner wins).",
    bool(most.iloc[0] / len(families) <= 0.5),
    value=float(most.iloc[0] / len(families)),
    because=f"{most.index[0]} wins most of these families",
    seeds=len(seeds),
)
lesson.say(
    "If you knew the family beforehand and took its winner each time, the mean would be {oracle:.2f}. One detector for "
    "all reaches {one:.2f}. Lesson 5.4 starts from this gap. (The winners were picked on these people, so the first "
    "number flatters.)",
    oracle=card[families].max().mean(),
    one=card["mean"].iloc[0],
)

# %% [markdown]
# The same with intervals over people and trainings, and image AUROC below it:

# %%
resamples = {"quick": 200, "standard": 1000, "full": 2000}[profile]
options = {"resamples": resamples, "seed": seed, "minimum": 2}
rows = []
for metric, level, called in (("AP", "pixel", "AP (subject mean)"), ("AUROC", "image", "AUROC")):
    cube, called_names, who = cubes[metric]
    for name, of_trainings in zip(called_names, cube, strict=True):
        for family in families:
            own = of_trainings[: 1 if name in closed else None, (who["family"] == family).to_numpy()]  # (R, S)
            interval = bootstrap([Mean(one) for one in own], own.shape[1], **options)
            measured = {"value": interval.value, "low": interval.low, "high": interval.high}
            measured |= {"chance": chance[family] if level == "pixel" else 0.5}
            about = {"detector": name, "data": data, "family": family, "level": level, "metric": called}
            about |= {"protocol": RANKING, "postprocess": "rim 2, median 3" if level == "pixel" else "none"}
            rows.append(about | measured | {"subjects": own.shape[1], "seeds": len(own)})
benchmark = pd.DataFrame(rows)
lesson.results(benchmark)
order = [*card.index, "chance"]
display(results_table(benchmark, "AP (subject mean)").loc[order].style.set_caption("pixel AP, mean over people"))
images = results_table(benchmark, "AUROC", level="image").loc[order]
display(images.style.set_caption("image AUROC, mean over people"))

# %% [markdown]
# ## How sure is a mean?
#
# Two things could have been otherwise: the test people, and the trainings. Each interval resamples both. (Drawing $R$
# trainings from $R$ shows $(R - 1) / R$ of their variance: with few trainings a network's interval is a little short.)
# Some detectors are fitted once: closed forms, and a mixture and a support vector machine, whose fits get no seed here.


# %%
def means_of(name):
    """The mean over families, one statistic for each training."""
    own = values[names.index(name)]
    return [GroupMean(of_training, people["family"]) for of_training in own]


intervals = {name: bootstrap(means_of(name), sizes, **options) for name in card.index}
fig, ax = plt.subplots(figsize=(7.4, 0.24 * len(names) + 1.1))
for place, (name, interval) in enumerate(intervals.items()):
    bars = [[interval.value - interval.low], [interval.high - interval.value]]
    color = plots.PALETTE[1] if name in closed else plots.PALETTE[0]
    ax.errorbar(interval.value, place, xerr=bars, fmt="s" if name in closed else "o", color=color, ms=5)
ax.set(yticks=range(len(intervals)), yticklabels=list(intervals), xlabel="pixel AP, mean over families", xlim=(0, None))
ax.invert_yaxis()
ax.plot([], [], "o", color=plots.PALETTE[0], label="networks: people and trainings")
ax.plot([], [], "s", color=plots.PALETTE[1], label="fitted once: people")
ax.legend(fontsize=8, loc="lower right")
fig.tight_layout()
lesson.figure(
    "Mean pixel AP with 95 % intervals over people and trainings, highest first: {first} {a:.2f}, {second} {b:.2f}.",
    first=card.index[0],
    a=card["mean"].iloc[0],
    second=card.index[1],
    b=card["mean"].iloc[1],
)

# %% [markdown]
# Intervals that overlap do *not* say that two detectors are equal: both have seen the same people, and what is hard for
# both cancels in the difference. So ask for the difference.

# %%
network_names = [name for name in card.index if name not in closed]
top, humble = network_names[0], max((name for name in names if name in closed), key=lambda name: card["mean"][name])
gap = bootstrap(difference(means_of(top), means_of(humble)), sizes, **options)
undecided = f"{len(people)} people and {len(seeds)} trainings leave it open: the interval holds 0"
lesson.claim_interval(
    "the best network above the best closed form",
    f"The network with the highest mean ({top}) is above the best detector that is fitted once ({humble}; difference "
    "of mean pixel AP; both were picked on these people).",
    gap,
    above=0,
    because=undecided if gap.high > 0 else "a few statistics of each place say more than networks this small learn",
)
between = values.mean(2).std(1, ddof=1)  # (D,) over trainings, of the mean over people
half = np.array([(intervals[name].high - intervals[name].low) / 2 for name in names])
moving = np.array([name not in closed for name in names])
lesson.say(
    "Training the same network again moves its mean by {seed_sd:.3f} (s.d.; most of all {worst}, {worst_sd:.3f}). The "
    "half width of an interval is {half:.3f}, on average over the networks.",
    seed_sd=float(between[moving].mean()),
    worst=names[int(np.argmax(np.where(moving, between, 0)))],
    worst_sd=float(between[moving].max()),
    half=float(half[moving].mean()),
)

# %% [markdown]
# ## Ranks, and all pairs at once
#
# A mean of AP is ruled by families with high numbers. *Ranks* are not: on each person the best detector gets rank 1,
# the next 2; ties share. Average over people. If nothing but chance were at work, how far apart could two mean ranks
# be? With $k$ detectors on $N$ people, Nemenyi's *critical difference* guards all pairs at once:
#
# $$CD = \frac{q}{\sqrt 2} \sqrt{\frac{k (k + 1)}{6 N}} .$$
#
# $q$ comes from the range of $k$ normal variables. Ranks closer than $CD$ are not told apart. Mind its price: $k$
# detectors make $k (k - 1) / 2$ pairs, and $CD$ is wide. It also takes people for independent and knows nothing of
# trainings, over which we average first.

# %%
mean_rank = pd.Series(rank_people(values.mean(1)).mean(1), index=names).sort_values()
cd = critical_difference(len(names), len(people))
within = mean_rank[mean_rank <= mean_rank.iloc[0] + cd]
draws = resampled_means(values, people["family"], resamples, seed)  # (B, D)
shares = rank_shares(draws)[best_first]
fig, axes = plt.subplots(1, 2, figsize=(plots.WIDTH + 2, 0.26 * len(names) + 1.3), layout="constrained")
axes[0].axvspan(mean_rank.iloc[0], mean_rank.iloc[0] + cd, color="0.85", label=f"critical difference, {cd:.1f}")
axes[0].plot(mean_rank, range(len(names)), "o", color=plots.PALETTE[0])
axes[0].set(yticks=range(len(names)), yticklabels=mean_rank.index, xlabel="mean rank over people (1 is best)")
axes[0].invert_yaxis()
axes[0].legend(fontsize=8, loc="lower left")
image = axes[1].imshow(shares, cmap="magma", vmin=0, vmax=1, aspect="auto")
axes[1].set(yticks=range(len(names)), yticklabels=card.index, xlabel="place by mean AP, in resamples")
axes[1].set_xticks(range(0, len(names), 3), range(1, len(names) + 1, 3))
axes[1].grid(False)
fig.colorbar(image, ax=axes[1], label="share of resamples")
lesson.figure(
    "Left: mean ranks, and the critical difference from the first. Right: how often each detector takes each place "
    "when people and trainings are resampled. {first} has the best mean rank, {rank:.1f}; {within} of {all} lie within "
    "the critical difference of it.",
    first=mean_rank.index[0],
    rank=float(mean_rank.iloc[0]),
    within=len(within),
    all=len(names),
)

# %%
lesson.reveal("tied", (len(within) - 1) / (len(names) - 1))
certain = float(shares[0, 0])
lesson.claim(
    "the first place is sure",
    "The detector with the highest mean keeps the first place in more than 95 % of resamples of people and trainings "
    "(value: the share).",
    certain > 0.95,
    value=certain,
    because="the first few are too close for so few people and trainings",
    seeds=len(seeds),
)
agreement = order_agreement(values[moving], people["family"])
lesson.claim(
    "trainings agree about the order",
    "Any two trainings of all networks put them in nearly the same order (least Kendall's tau over pairs of seeds, "
    "above 0.8; 1 is the same order, 0 none).",
    bool(agreement.min() > 0.8),
    value=float(agreement.min()),
    because="many networks differ by less than a training moves them",
    seeds=len(seeds),
)

# %% [markdown]
# ## Does one family stand for another?
#
# A benchmark with one disease orders detectors for this disease. Compare the orders of two families by Kendall's
# $\tau$: the share of pairs of detectors that both order alike, less the share of those that they do not.

# %%
tau = card[families].corr(method="kendall")
fig, ax = plt.subplots(figsize=(6.4, 4.6))
sns.heatmap(tau, annot=True, fmt=".2f", cmap="magma", vmin=-1, vmax=1, ax=ax, cbar_kws={"label": "Kendall's tau"})
ax.tick_params(axis="x", rotation=35)
fig.tight_layout()
off = tau.to_numpy()[np.triu_indices(len(families), 1)]
lesson.figure(
    "Agreement of the order of detectors between each two families: {low:.2f} to {high:.2f}, on average {mid:.2f}.",
    low=float(off.min()),
    high=float(off.max()),
    mid=float(off.mean()),
)

# %% [markdown]
# Is that much, or little? Compare like with like: networks only, and within one family the order by one training with
# that by another, on the same people. And for the noise of few people: the order by one half of a family's people with
# that by the other half.


# %%
def tau_of_halves(some, rng):
    """Kendall's tau between the orders (D, R, S) by two random halves of the people."""
    shuffled = rng.permutation(some.shape[2])
    one, other = np.array_split(shuffled, 2)
    return kendalltau(some[:, :, one].mean((1, 2)), some[:, :, other].mean((1, 2))).statistic


nets, rng = values[moving], np.random.default_rng(seed)
by_family = pd.DataFrame({f: nets[:, :, rows].mean((1, 2)) for f, rows in of_family.items()}).corr(method="kendall")
between_families = float(by_family.to_numpy()[np.triu_indices(len(families), 1)].mean())
trainings = [order_agreement(nets[:, :, rows], people["family"][rows]).mean() for rows in of_family.values()]
halves = [np.mean([tau_of_halves(nets[:, :, rows], rng) for _ in range(20)]) for rows in of_family.values()]
lesson.claim(
    "families disagree more than trainings",
    "Two families agree less about the order of networks than two trainings do within a family (mean tau; difference).",
    bool(between_families < np.mean(trainings)),
    value=float(between_families - np.mean(trainings)),
    because="the families of this data set ask for the same thing",
    seeds=len(seeds),
)
lesson.say(
    "Mean tau over the networks: between families {between:.2f}; between two trainings within a family "
    "{trainings:.2f}; between two halves of a family's people {halves:.2f}.",
    between=between_families,
    trainings=float(np.mean(trainings)),
    halves=float(np.mean(halves)),
)


# %%
def around(value, resampled):
    """A value with the middle 95 % of its resamples, widened to hold it, as arguments of a claim."""
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return {"value": float(value), "low": float(min(low, value)), "high": float(max(high, value))}


image_values, image_names, image_people = cubes["AUROC"]
image_draws = resampled_means(image_values, image_people["family"], resamples, seed)
both = np.array([kendalltau(a, b).statistic for a, b in zip(draws, image_draws, strict=True)])
image_mean = np.mean([image_values[:, :, (image_people["family"] == f).to_numpy()].mean((1, 2)) for f in families], 0)
measured = around(kendalltau(mean, image_mean).statistic, both)
lesson.claim(
    "pixels and images",
    "Who outlines best is not who sorts slices best: Kendall's tau between the orders by pixel AP and by image AUROC "
    "lies below 0.8.",
    measured["high"] < 0.8,
    **measured,
    over=f"{len(people)} subjects and {len(seeds)} seeds",
    because="here a detector that is good at one is good at the other",
    seeds=len(seeds),
)

# %% [markdown]
# ## What does quality cost?
#
# Processor seconds of training, on one thread: the steps times the dearest step, measured in each run; for closed forms
# the fit. Detectors on the *front* are those that no other beats in both: whoever is cheaper is worse.

# %%
cost = table[table["level"] == "cost"].pivot_table(index="detector", columns="metric", values="value").loc[names]


def front(column):
    """Indices of the detectors on the front, the cheapest first."""
    order = np.argsort(cost[column].to_numpy())
    return [k for place, k in enumerate(order) if mean[k] > max(mean[order[:place]], default=-1)]


fig, axes = plt.subplots(1, 2, figsize=(plots.WIDTH + 2, 4.3), sharey=True, layout="constrained")
named = {*front("training seconds"), *front("ms a slice"), *best_first[:6], best_first[-1]}
for ax, column, label in (
    (axes[0], "training seconds", "training (processor seconds)"),
    (axes[1], "ms a slice", "a map (processor milliseconds)"),
):
    x, best = cost[column].to_numpy(), front(column)
    for k, name in enumerate(names):
        marker, color = ("s", plots.PALETTE[1]) if name in closed else ("o", plots.PALETTE[0])
        ax.plot(x[k], mean[k], marker, color=color)
        if k in named:
            ax.annotate(name, (x[k], mean[k]), xytext=(5, -9), textcoords="offset points", fontsize=7)
    ax.plot(x[best], mean[best], color="0.5", lw=1, zorder=0, label="the front")
    ax.set(xscale="log", xlabel=label, ylim=(0, None))
    ax.set_xlim(right=ax.get_xlim()[1] * 5)
axes[0].set(ylabel="pixel AP, mean over families")
axes[0].legend(fontsize=8, loc="lower left")
lesson.figure(
    "Mean pixel AP against the cost of training (left) and of a map (right). On the front: {front}.",
    front=", ".join(names[k] for k in front("training seconds")),
)

# %%
networks = np.flatnonzero(moving)
seconds = cost["training seconds"].to_numpy()[networks]
rng, bought = np.random.default_rng(seed), []
for draw in draws[:, networks]:
    some = rng.integers(0, len(networks), len(networks))  # other networks could have been in the table, too
    bought.append(kendalltau(seconds[some], draw[some]).statistic)
measured = around(kendalltau(seconds, mean[networks]).statistic, bought)
lesson.claim(
    "seconds do not buy quality",
    "Among networks, dearer training is no sign of a better detector: Kendall's tau between processor seconds of "
    "training and mean pixel AP lies below 0.3. (It compares methods, and not longer with shorter training of one.)",
    measured["high"] < 0.3,
    **measured,
    over=f"{len(networks)} networks, {len(people)} subjects and {len(seeds)} seeds",
    because="undecided: the interval holds 0.3" if measured["low"] < 0.3 else "the dear ones are the good ones here",
    seeds=len(seeds),
)

# %% [markdown]
# ## Real strokes
#
# Does any of this carry over to people? The same grid, on lesion-free FLAIR slices of real persons, with one training
# each. Strokes are bright there, so brightness is smoothed, and the positional Gaussian looks at the bright side.

# %%
try:
    open_slices("stroke", profile, progress=False)
    real = run_grid("stroke", seeds[:1])
except BadInput as problem:
    real = None
    print(problem.cause, problem.remedy)

# %%
if real is not None:
    of_people = real[(real["subject"] != "all") & (real["level"] != "cost")]
    real_values, real_names, real_people = value_cube(of_people[of_people["metric"] == "AP"])
    real_mean = pd.Series(real_values.mean((1, 2)), index=real_names)
    fig, ax = plt.subplots(figsize=(7.4, 5))
    for name in names:
        point = card["mean"][name], real_mean[name]
        ax.plot(*point, "s" if name in closed else "o", color=plots.PALETTE[1 if name in closed else 0])
        ax.annotate(name, point, xytext=(5, 2), textcoords="offset points", fontsize=7)
    ax.set(xlabel="simulated: pixel AP, mean over families", ylabel="real strokes: pixel AP, mean over persons")
    ax.margins(x=0.15)
    fig.tight_layout()
    lesson.figure(
        "Pixel AP on real strokes against that on the simulated cohort. First on real strokes: {first}, {value:.2f}.",
        first=real_mean.idxmax(),
        value=real_mean.max(),
    )

# %%
if real is not None:
    real_draws = resampled_means(real_values, real_people["family"], resamples, seed + 1)
    index = [real_names.index(name) for name in names]
    carried = np.array([kendalltau(a, b).statistic for a, b in zip(draws, real_draws[:, index], strict=True)])
    measured = around(kendalltau(mean, real_mean[names]).statistic, carried)
    lesson.claim(
        "real stroke: the order carries over",
        "The order on simulated people says something about the order on real strokes: Kendall's tau lies above 0.",
        measured["low"] > 0,
        **measured,
        over=f"{len(people)} simulated and {len(real_people)} real persons",
        because="real strokes are bright, and most simulated families are not",
    )
    table_of_real = real_mean.sort_values(ascending=False).rename("pixel AP, real strokes").to_frame()
    display(table_of_real.join(card["mean"].rename("pixel AP, simulated")).style.format(precision=2))

# %% [markdown]
# ## For whom does a benchmark speak?
#
# For people like its test people, lesions like its lesions, scanners like its scanners, and the budgets of its table.
# Ours are small: minutes of training on a processor, where the papers take days. A method that needs long training
# stands lower here than it would there; the table compares *these* trainings. And the defaults were chosen by the
# authors of the course, in short trials on this very cohort; some of their printouts showed test numbers, too, as
# lesson 3.7 says.
#
# Mind kinship as well. One row was trained on made-up anomalies, and these test lesions are made up, too. Lesson 5.2
# measured how related the two generators are. Where that row stands says little about lesions that nobody drew.
#
# Three habits follow. Print the humble rows and chance, always. Print the spread over trainings beside the spread over
# people. And keep people whom no table has ranked: with this lesson the test people are not new any more, so lesson 5.4
# draws others.
#
# ## Where the sweep leaves things
#
# `output/sweeps/<name>/results.csv` (and `.parquet`) is the table above, with what made each number: code, versions,
# computer, seconds. `runs/<run>/` holds each run's log and numbers. Training that outgrows one device goes through
# `torchrun`, which starts one process for each GPU: `torchrun --nproc-per-node 4 -m course_lib.distributed --help`.
#
# ## Exercises


# %%
def check_cd(answer):
    """A function (q, k, N) to the critical difference."""
    q, k, n = 4.474, 10, 40
    found, right = float(answer(q, k, n)), q / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
    if np.isclose(found, right, rtol=1e-3):
        return None
    if np.isclose(found, right * np.sqrt(2), rtol=1e-3):
        return "The studentised range is divided by the root of two. (Tables often print q after that division.)"
    if np.isclose(found, q / np.sqrt(2) * k * (k + 1) / (6 * n), rtol=1e-3):
        return "The root over k (k + 1) / 6 N is missing: this is a variance, and ranks are compared with its root."
    if np.isclose(found, q / np.sqrt(2) * np.sqrt(k * (k + 1) / 6), rtol=1e-3):
        return "Where are the people? With more of them the critical difference falls, by the root of N."
    if np.isclose(found, q / np.sqrt(2) * np.sqrt(n * (n + 1) / (6 * k)), rtol=1e-3):
        return "k and N have changed places: k is how many detectors are ranked, N on how many people."
    return "CD = q / sqrt(2) x sqrt(k (k + 1) / (6 N))."


lesson.card(
    "5.3.1",
    "How far apart is far?",
    difficulty=1,
    minutes=10,
    task="Write a function of `q` (quantile of the studentised range), `k` (detectors) and `N` (people) that returns "
    "the critical difference of mean ranks, and put it into `answer`. Then take two neighbours in the figure of ranks "
    "that lie a distance $d$ apart: how many people would tell them apart?",
    hints=["The formula stands above the figure of ranks.", "`numpy.sqrt`", "Set $CD = d$ and solve for $N$."],
    solution="```python\nanswer = lambda q, k, N: q / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * N))\n```\n"
    "From $CD = d$ follows $N = q^2 k (k + 1) / (12 d^2)$: half the distance wants four times the people.",
    check=check_cd,
)

# %%
answer = ...
lesson.check("5.3.1", answer)


# %%
def check_front(answer):
    """A function (cost, quality) to the indices of those that nobody beats in both."""
    cost, quality = np.array([5.0, 1.0, 3.0, 9.0, 2.0]), np.array([0.5, 0.2, 0.15, 0.9, 0.1])
    try:
        given = np.asarray(list(answer(cost.copy(), quality.copy())))
        found = {int(index) for index in given}
    except (TypeError, ValueError):
        return "Return the indices, as a list or an array of whole numbers."
    if given.dtype == bool:
        return "This is a mask, one truth value for each detector. Return indices: `numpy.flatnonzero`."
    if found == {0, 1, 3}:
        return None
    if found == {2, 4}:
        return "These are the ones that are beaten: return the others."
    if found == {0, 1, 2, 3}:
        return "Each is compared with the next cheaper one alone. A detector can also be beaten by one far cheaper."
    if found == {3}:
        return "The best alone is not the front: a cheaper detector belongs to it, if none as cheap is as good."
    if found == {1}:
        return "The cheapest alone is not the front: a better one belongs to it, if none as good is as cheap."
    if found == {1, 4}:
        return "Low quality is taken for good here: cost is to be low, quality high."
    return "A detector is beaten if another one costs less and is better. Who is beaten by nobody?"


lesson.card(
    "5.3.2",
    "The front",
    difficulty=2,
    minutes=15,
    task="Write a function of two arrays, `cost` and `quality`, that returns the indices of the detectors on the "
    "front: those for which no other is both cheaper and better. All values differ. Put the function into `answer`.",
    hints=["Compare each with all others.", "`any` over the others, then `not`."],
    solution="```python\nanswer = lambda cost, quality: [\n    i for i in range(len(cost))\n"
    "    if not any(cost[j] < cost[i] and quality[j] > quality[i] for j in range(len(cost)))\n]\n```",
    check=check_front,
)

# %%
answer = ...
lesson.check("5.3.2", answer)


# %%
def check_curse(answer):
    """The expected excess of the best of 27 equal detectors, in standard deviations of one."""
    answer = float(answer)
    draws = np.random.default_rng(0).normal(size=(200_000, 27)).max(1).mean()
    if abs(answer - draws) < 0.05:
        return None
    if abs(answer) < 0.05:
        return "The best of many is not an average one: it was picked for its luck."
    if abs(answer - t.ppf(1 - 1 / 27, 1e9)) < 0.05:
        return "Close: this is the value that one in 27 exceeds. Asked is the mean of the largest of 27."
    if answer < 0:
        return "The luck of a winner lifts its number."
    return "Draw 27 normal numbers, take the largest, and repeat. What is its mean?"


lesson.card(
    "5.3.3",
    "The winner's curse",
    difficulty=2,
    minutes=15,
    task="Suppose that `27` detectors were equally good, and the mean of each were measured with an independent normal "
    "error. By how many standard deviations of that error is the best number too high, on average? Simulate it, and "
    "put the number into `answer`. Then say what that is in AP: an error is about the half width of an interval "
    "above, divided by 1.96.",
    hints=["Simulate one table: 27 normal numbers. With what does the best win?", "`rng.normal(size=(100_000, 27))`"],
    solution="About `2.0`: the winner's number is too high by about the half width of its interval. On other people "
    "this comes off again. Our detectors share their test people, so their errors go together: less comes off.",
    check=check_curse,
)

# %%
answer = ...
lesson.check("5.3.3", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "A league table has an order and a doubt: resample people and trainings, and print both.",
    "Print chance and the humble rows. Whoever is first on one disease need not be so on another.",
    "Cost and quality are two axes. A closed form that is fitted in seconds belongs into every table.",
)

# %% [markdown]
# ## References
#
# - Demsar J. Statistical comparisons of classifiers over multiple data sets. *Journal of Machine Learning Research* 7
#   (2006).
# - Maier-Hein L, Eisenmann M, Reinke A, et al. Why rankings of biomedical image analysis competitions should be
#   interpreted with care. *Nature Communications* 9 (2018).
# - Wiesenfarth M, Reinke A, Landman BA, et al. Methods and open-source toolkit for analyzing and visualizing challenge
#   results. *Scientific Reports* 11 (2021).
# - Lagogiannis I, Meissen F, Kaissis G, Rueckert D. Unsupervised pathology detection: a deep dive into the state of the
#   art. *IEEE Transactions on Medical Imaging* (2024).
# - Rocklin M. Dask: parallel computation with blocked algorithms and task scheduling. *SciPy* (2015).
