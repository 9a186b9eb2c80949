# %% [markdown]
# # 3.7 Side by side
#
# **Which constraint pays, on which disease, and what does it cost?**
#
# You have met six ways to constrain what a network can say: by a judge of codes (AAE and GPND), by a cube without holes
# (OCGAN), by a VAE that criticises itself (Soft-IntroVAE), by predictable codes (LSA), by an exact likelihood (the Glow
# hierarchy), and by a prior that may only bend (MorphAEus). Each lesson looked at its own claim. Here all six meet the
# plain, the variational and the denoising auto-encoder, and two baselines that no network needs, under one budget.
#
# After this lesson you can
#
# 1. set up a fair comparison: one budget, one loss, several seeds, intervals over people and trainings;
# 2. read accuracy beside cost, and say what a constraint bought;
# 3. tell a game of two networks that ended well from one that did not.
#
# | time | memory | needs |
# |---|---|---|
# | 5 minutes to run from the store (an hour at first), 40 to read | under 3 GiB | lessons 3.1 to 3.6 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>Why can a network's image score and its map disagree about which method is best?</summary>
# They ask different questions. A score sums over the slice, and may come from a likelihood that has no place; a map has
# to put its highest values on the lesson's pixels. GPND, LSA and the flows score by something that is no map.
# </details>
#
# <details><summary>Two methods differ by `0.03` AP on twelve people, one training each. What do you know?</summary>
# Little. People differ, and so do trainings. Resample both, and look at the interval of the difference.
# </details>

# %% tags=["parameters"]
data: str = "atlas"  # data set: "atlas", "stroke", or the path of a folder made by prepare_folder
profile: str = "standard"  # how much to compute: "quick", "standard" or "full"
seed: int = 0  # seed of everything random; the trainings use seed, seed + 1, ...
device: str = "cpu"  # "cpu", "cuda" or "auto"

# %%
import course_lib.doctor

course_lib.doctor.check()  # importing the course first also makes torch fast on small machines

# %%
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from course_lib import plots
from course_lib.contenders import BATCH, PRECISE, contenders, train_contenders
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.errors import BadInput
from course_lib.evaluation import evaluate, paired_difference, predict, residual_contrast, results_table
from course_lib.images.artefacts import ARTEFACTS
from course_lib.metrics.intervals import bootstrap
from course_lib.teaching import Lesson
from course_lib.training import fit
from data_scripts import open_slices
from IPython.display import display

plots.use_style()
lesson = Lesson("3.7", profile=profile, seed=seed)

# %% [markdown]
# ## One test for all
#
# All families of disease, artefacts left out. To keep ten networks within five minutes, every third height of the
# test people is scored (every fourth in `quick`, all in `full`). The training slices are all there.

# %%
slices = open_slices(data, profile, progress=False)
train = slices.select("split == 'train' and family == 'healthy'")
validation = slices.select("split == 'val' and family == 'healthy'")
table = slices.table
some_heights = np.unique(table["z_mm"])[:: {"quick": 4, "standard": 3, "full": 1}[profile]]
wanted = (table["split"] == "test") & ~table["family"].isin(ARTEFACTS) & table["z_mm"].isin(some_heights)
test = slices.select(wanted.to_numpy())
families = [family for family in test.families if family != "healthy"]
lesson.say(
    "{train} healthy slices to train on; {test} test slices of {people} people: healthy ones and {names}.",
    train=len(train),
    test=len(test),
    people=len(test.subjects),
    names=", ".join(families),
)

# %% [markdown]
# ## What is equal, and what is not
#
# Equal are the training slices, the number of steps and of images in a step, the squared error wherever images are
# rebuilt, and, but for the denoiser's U-Net, the flow and MorphAEus, encoder and decoder. No number was tuned on these
# test people, with two exceptions that you should know of. AAE's rate was chosen from trials whose printout also showed
# test AP. And every default of this part was chosen while its short trials were being looked at.
#
# Not equal is the *price of a step*. An adversarial step has several updates; MorphAEus integrates a velocity. So
# seconds stand beside every result. Equal steps favour methods with dear steps; equal seconds would favour the plain
# ones. Exercise 3.7.1 is about that.

# %%
constrained = ["AAE", "GPND", "OCGAN", "Soft-IntroVAE", "LSA", "Glow hierarchy", "MorphAEus"]
lesson.predict(
    "winner",
    "Which network has the highest pixel AP on `stroke`, the dark lesions?",
    kind="choice",
    choices=["AE", "VAE", "DAE", *constrained],
)
lesson.predict(
    "humble",
    "Of the ten networks, how many have a higher mean pixel AP over all families than the positional Gaussian?",
    kind="number",
    bounds=(0, 10),
)

# %%
steps = {"quick": 100, "standard": 800, "full": 5000}[profile]
seeds = range(seed, seed + {"quick": 2, "standard": 3, "full": 5}[profile])
recipes = contenders(slices.image_shape, steps)
pairs = train_contenders(recipes, train, seeds, steps=steps, device=device)
trained = {name: [detector for detector, _ in runs] for name, runs in pairs.items()}
where = next(trained["AE"][0].parameters()).device
healthy_images = validation.batch(np.arange(len(validation))).to(where)
for lsa in trained["LSA"]:
    lsa.calibrate(healthy_images)  # its score adds two terms, each in units of its healthy range
levels = train.table["z_mm"].nunique()  # how many heights the slices have
baselines = {"brightness": IntensityThreshold(), "positional Gaussian": PositionalGaussian(slices.image_shape, levels)}
for detector in baselines.values():
    fit(detector, train, progress=False)
trained |= {name: [detector] for name, detector in baselines.items()}

# %% [markdown]
# All maps have their rim silenced and a 3 × 3 median, as everywhere since lesson 2.1. The image score is each method's
# own: the mean residual (squared for OCGAN), the energy of Soft-IntroVAE, the likelihoods of GPND and of the hierarchy,
# the sum of LSA.

# %%
clean = [("rim", 2), ("median", 3)]
scores = {
    name: [replace(predict(detector, test, clean, name=name), raw=None) for detector in runs]
    for name, runs in trained.items()
}
resamples = {"quick": 100, "standard": 200, "full": 1000}[profile]
results = pd.concat([evaluate({name: runs}, resamples=resamples, seed=seed) for name, runs in scores.items()])
results = results[results["family"].isin(families)]
lesson.results(results)

# %% [markdown]
# ## The summary
#
# Pixel AP first, then the AUROC of slices. Below each name stands how many trainings are in the mean.

# %%
pixel = results_table(results)
display(pixel.style.set_caption(pixel.attrs["title"]))
image = results_table(results, "AUROC", level="image")
display(image.style.set_caption(image.attrs["title"]))


# %%
def heat(ax, level, metric, title):
    """Names by families, each cell with its number; darker is lower."""
    part = results[(results["level"] == level) & (results["metric"] == metric)]
    card = part.pivot(index="detector", columns="family", values="value").loc[list(scores), families]
    card["mean"] = card.mean(axis=1)
    ends = {"vmin": 0, "vmax": 1} if level == "pixel" else {"vmin": 0.4, "vmax": 1}
    sns.heatmap(
        card, annot=True, fmt=".2f", cmap="magma", ax=ax, annot_kws={"size": 8}, cbar_kws={"label": metric}, **ends
    )
    ax.set(title=title, xlabel="", ylabel="")
    ax.tick_params(axis="x", rotation=40)
    return card


fig, axes = plt.subplots(1, 2, figsize=(12, 4.6), sharey=True, layout="constrained")
ap = heat(axes[0], "pixel", "AP", "pixels: average precision")
auroc = heat(axes[1], "image", "AUROC", "slices: AUROC (0.5 is a coin)")
best = {family: ap[family].idxmax() for family in families}
lesson.figure(
    "Two tables as heat maps, methods by families. Pixel AP: the best in each family are {best}. The mean over the "
    "families is {low:.2f} to {high:.2f}.",
    best=", ".join(f"{name} on {family}" for family, name in best.items()),
    low=ap["mean"].min(),
    high=ap["mean"].max(),
)

# %%
networks = ["AE", "VAE", "DAE", *constrained]
if "stroke" in families:
    lesson.reveal("winner", ap.loc[networks, "stroke"].idxmax())
better = int((ap.loc[networks, "mean"] > ap.loc["positional Gaussian", "mean"]).sum())
lesson.reveal("humble", better)
lesson.say(
    "Mean pixel AP over the families: positional Gaussian {gauss:.2f}, brightness {bright:.2f}, the plain AE {ae:.2f}. "
    "Of the constrained networks {first} comes first with {top:.2f}, {last} last with {low:.2f}. {better} of ten "
    "networks lie above the positional Gaussian.",
    gauss=ap.loc["positional Gaussian", "mean"],
    bright=ap.loc["brightness", "mean"],
    ae=ap.loc["AE", "mean"],
    first=ap.loc[constrained, "mean"].idxmax(),
    top=ap.loc[constrained, "mean"].max(),
    last=ap.loc[constrained, "mean"].idxmin(),
    low=ap.loc[constrained, "mean"].min(),
    better=better,
)

# %% [markdown]
# ## Against the plain auto-encoder
#
# Every paper of this part promises more than a plain auto-encoder gives. Here is the difference of pixel AP, on the
# same people. A filled mark is an interval that does not contain zero. With so many intervals a few are filled by
# chance: one in twenty, if nothing were there.

# %%
gaps = {
    (name, family): paired_difference(scores[name], scores["AE"], family=family, resamples=resamples, seed=seed)
    for name in networks[1:]
    for family in families
}
fig, axes = plt.subplots(1, len(families), figsize=(12, 3.8), sharey=True, sharex=True, squeeze=False)
for ax, family in zip(axes[0], families, strict=True):
    for place, name in enumerate(reversed(networks[1:])):
        gap = gaps[name, family]
        clear = gap.low > 0 or gap.high < 0
        color = plots.PALETTE[0] if gap.value > 0 else plots.PALETTE[3]
        bars = [[gap.value - gap.low], [gap.high - gap.value]]
        ax.errorbar(gap.value, place, xerr=bars, fmt="o", color=color, mfc=color if clear else "white", ms=5, lw=1.2)
    ax.axvline(0, color="0.35", lw=1)
    ax.set(title=family, yticks=range(len(networks) - 1), yticklabels=networks[:0:-1])
fig.supxlabel("pixel AP less that of the plain AE, 95 % interval over people and trainings", fontsize=9)
fig.tight_layout()
clear_gains = [key for key, gap in gaps.items() if gap.low > 0]
clear_losses = [key for key, gap in gaps.items() if gap.high < 0]
lesson.figure(
    "Differences of pixel AP from the plain auto-encoder, one panel for each family: {gains} of {all} intervals lie "
    "above zero, {losses} below.",
    gains=len(clear_gains),
    all=len(gaps),
    losses=len(clear_losses),
)

# %%
ours = [key for key in gaps if key[0] in constrained]
lesson.say(
    "Of {all} intervals of constrained methods, {gains} lie above zero ({names}) and {losses} below. The denoiser, "
    "which has no narrow code, changes the mean AP by {dae:+.2f}; the constrained ones by {low:+.2f} to {high:+.2f}.",
    all=len(ours),
    gains=sum(key in clear_gains for key in ours),
    names=", ".join(f"{name} on {family}" for name, family in ours if (name, family) in clear_gains) or "none",
    losses=sum(key in clear_losses for key in ours),
    dae=ap.loc["DAE", "mean"] - ap.loc["AE", "mean"],
    low=ap.loc[constrained, "mean"].min() - ap.loc["AE", "mean"],
    high=ap.loc[constrained, "mean"].max() - ap.loc["AE", "mean"],
)

# %%
for name in constrained:
    for family in ("stroke", "tumour"):
        if family in families:
            lesson.claim_interval(
                f"{name} above AE on {family}",
                f"On `{family}`, {name} beats the plain AE at equal steps (difference of pixel AP).",
                gaps[name, family],
                above=0,
                because="the constraint costs accuracy on healthy tissue, and so few steps do not earn it back",
            )

# %%
for family in families:
    first = ap.loc[networks, family].idxmax()
    humble = ap.loc[list(baselines), family].idxmax()
    gap = paired_difference(scores[humble] * len(seeds), scores[first], family=family, resamples=resamples, seed=seed)
    lesson.claim_interval(
        f"{family}: humble above the best network",
        f"On `{family}`, the better of the two baselines beats the best of ten networks (difference of pixel AP; the "
        "network was picked on these people, in its favour).",
        gap,
        above=0,
        because="here a network wins, or the people are too few to tell",
    )

# %% [markdown]
# ## Healthy tissue comes first
#
# A map ranks lesions against the errors elsewhere. Before you believe in a latent space, look at how well it rebuilds
# *healthy* people. The guard of this part is the mean of all training slices, one picture: whoever errs by more than
# `0.9` of that has collapsed, whatever its AP. The mean slice of each height, the dotted line, is a harder yardstick: a
# code that holds the height and nothing else would reach it.

# %%
heights = train.table["z_mm"].to_numpy()
mean_slice = {z: train.images[heights == z].mean(0) for z in np.unique(heights)}  # (H, W) each
guess = np.stack([mean_slice[z] for z in validation.table["z_mm"]])
person = validation.table["subject"].to_numpy()


def by_person(errors):
    """(N, H, W) absolute errors to the mean in each person's brains, (P,)."""
    sums = np.where(validation.brains, errors, 0).sum((1, 2))
    frame = pd.DataFrame({"sum": sums, "px": validation.brains.sum((1, 2))}).groupby(person, sort=False).sum()
    return (frame["sum"] / frame["px"]).to_numpy()


@torch.inference_mode()
def healthy_error(detector):
    """The mean absolute residual in each validation person's brain, (P,); the map of all these methods."""
    maps = [detector.anomaly_map(part) for part in healthy_images.split(64)]
    return by_person(torch.cat(maps).cpu().numpy())


blank = by_person(np.abs(validation.images - train.images.mean(0)))
of_height = by_person(np.abs(validation.images - guess)).mean() / blank.mean()
rebuilding = [name for name in networks if name != "Glow hierarchy"]
error = {name: [healthy_error(detector) for detector in trained[name]] for name in rebuilding}
share = {name: [float(one.mean() / blank.mean()) for one in runs] for name, runs in error.items()}
contrast = {}
for name in rebuilding:
    ill = pd.concat([residual_contrast(run) for run in scores[name]])
    contrast[name] = ill["lesion"].mean() / ill["rest"].mean()

# %%
fig, ax = plt.subplots(figsize=(7, 3.6))
for k, name in enumerate(rebuilding):
    ax.plot(share[name], [k] * len(share[name]), plots.MARKERS[k], color=plots.PALETTE[k], ms=6, mec="0.25")
    ax.annotate(
        f"lesion / rest {contrast[name]:.2f}",
        (1.12, k),
        va="center",
        fontsize=8,
        backgroundcolor="white",
    )
ax.axvline(0.9, color="0.35", ls="--", label="collapsed beyond")
ax.axvline(of_height, color="0.35", ls=":", label="mean slice of each height")
ax.set(
    yticks=range(len(rebuilding)),
    yticklabels=rebuilding,
    xlabel="healthy error / that of one mean picture, one mark a training",
)
ax.set_xlim(0, 1.5)
ax.invert_yaxis()
ax.legend(fontsize=8, loc="upper left")
fig.tight_layout()
lesson.figure(
    "Healthy error of each training over that of one mean picture: {ae:.2f} for the plain AE, {worst} is worst with "
    "{high:.2f}; the mean slice of each height has {height:.2f}. Beside each the residual inside lesions over that in "
    "the rest.",
    ae=np.mean(share["AE"]),
    worst=max(share, key=lambda name: max(share[name])),
    high=max(max(runs) for runs in share.values()),
    height=of_height,
)

# %% [markdown]
# ## What it costs
#
# Parameters; seconds of training, which are those of a step from the middle of the schedule times the number of steps;
# and milliseconds for the map and the score of a slice. Seconds are *processor* seconds on one thread, taken here one
# after another, so that they compare with each other, on a busy computer too.


# %%
def step_seconds(recipe):
    """Processor seconds of a step in the middle of the method's schedule: of twelve steps, less two."""
    taken = []
    for count in (2, 12):
        probe = type(recipe)(**recipe.hyperparameters())
        if hasattr(probe, "step"):
            probe.step.fill_(3 * steps // 5)
        fast, started = not isinstance(recipe, PRECISE), time.process_time()
        fit(probe, train, steps=count, batch_size=BATCH, fast=fast, device=device, progress=False)
        taken.append(time.process_time() - started)
    return (taken[1] - taken[0]) / 10


@torch.inference_mode()
def slice_ms(detector, images):
    """Processor milliseconds for map and score of one slice, the quickest of three times."""
    taken = []
    for _ in range(3):
        started = time.process_time()
        detector.anomaly_map(images), detector.anomaly_score(images)
        taken.append(time.process_time() - started)
    return 1000 * min(taken) / len(images)


# %%
threads = torch.get_num_threads()
torch.set_num_threads(1)
costs = pd.DataFrame(
    {
        "parameters": {name: sum(p.numel() for p in trained[name][0].parameters()) for name in networks},
        "training (s)": {name: steps * step_seconds(recipes[name]) for name in networks},
        "ms a slice": {name: slice_ms(trained[name][0], healthy_images[:32]) for name in networks},
        "mean pixel AP": ap.loc[networks, "mean"],
        "mean image AUROC": auroc.loc[networks, "mean"],
    }
)
torch.set_num_threads(threads)
costs["x AE"] = costs["training (s)"] / costs.loc["AE", "training (s)"]
shown = {"parameters": "{:,.0f}", "training (s)": "{:.0f}", "ms a slice": "{:.1f}", "x AE": "{:.1f}"}
display(costs.style.format(shown | {"mean pixel AP": "{:.2f}", "mean image AUROC": "{:.2f}"}))

# %%
fig, ax = plt.subplots(figsize=(7, 4))
for k, name in enumerate(networks):
    point = (costs.loc[name, "training (s)"], costs.loc[name, "mean pixel AP"])
    ax.plot(*point, plots.MARKERS[k], color=plots.PALETTE[k], mec="0.25", ms=8, ls="")
    ax.annotate(name, point, xytext=(7, 3), textcoords="offset points", fontsize=8)
for k, name in enumerate(baselines):
    ax.axhline(ap.loc[name, "mean"], color="0.35", ls=("--", ":")[k], lw=1.2, label=f"{name}, fitted in seconds")
ax.set(xscale="log", xlabel="processor seconds of training", ylabel="mean pixel AP over the families")
ax.set_xlim(right=ax.get_xlim()[1] * 1.8)
ax.set_ylim(bottom=0)
ax.legend(fontsize=8)
fig.tight_layout()
dear = costs["x AE"].idxmax()
lesson.figure(
    "Mean pixel AP against processor seconds of training: {dear} takes {times:.0f} times as long as the plain AE; the "
    "positional Gaussian, fitted in seconds, has {gauss:.2f}.",
    dear=dear,
    times=costs.loc[dear, "x AE"],
    gauss=ap.loc["positional Gaussian", "mean"],
)

# %% [markdown]
# ## Did the games end well?
#
# Four of the methods are games between networks, which need not settle. So look at more trainings than the table
# needs: at the judges' losses, at the codes, and at what the decoder paints for draws of the prior. Beware of three
# ends. A *judge that has won* sends no useful gradient: its loss is near zero. A *decoder that paints one head* for
# every draw has collapsed. An *encoder that lost its images* shows in the healthy error.

# %%
games = {
    "AAE": "discriminator",
    "GPND": "code_discriminator",
    "OCGAN": "latent_discriminator",
    "Soft-IntroVAE": "exp_f",
}
chance = {
    "AAE": 2 * np.log(2),
    "GPND": 2 * np.log(2),
    "OCGAN": np.log(2),
    "Soft-IntroVAE": np.nan,
}  # a judge that guesses
many = range(seed, seed + {"quick": 2, "standard": 5, "full": 5}[profile])
played = train_contenders({name: recipes[name] for name in games}, train, many, steps=steps, device=device)
fig, axes = plt.subplots(1, 4, figsize=(12, 3), layout="constrained")
for ax, (name, loss) in zip(axes, games.items(), strict=True):
    for k, (_, history) in enumerate(played[name]):
        smooth = history[loss].rolling(25, min_periods=1, center=True).median()
        ax.plot(history["step"], smooth, color=plots.PALETTE[k], lw=1.2, label=f"seed {many[k]}")
    ax.axhline(chance[name], color="0.35", ls=":", lw=1.2)
    ax.set(title=f"{name}: {loss}", xlabel="training step", ylim=(0, None))
    ax.ticklabel_format(axis="y", scilimits=(-3, 3), useMathText=True)
axes[0].set_ylabel("loss (nats; Soft-IntroVAE's\nis a share), median of 25 steps")
axes[0].legend(fontsize=7)
lesson.figure("The judges' losses over training for each seed, with the level at which a judge guesses (dotted).")


# %%
def draws(name, detector, count=64):
    """Decoded draws of the method's prior, (count, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, detector.latent, generator=generator)
    code = 2 * torch.rand(count, detector.latent, generator=generator) - 1 if name == "OCGAN" else normal
    return detector.decode(code.to(where))[:, 0].cpu().numpy()


few = healthy_images[:: max(1, len(healthy_images) // 64)][:64]
rows, pictures = [], {}
with torch.no_grad():
    for name, runs in played.items():
        pictures[name] = []
        for number, (detector, history) in zip(many, runs, strict=True):
            drawn, rebuilt = draws(name, detector), detector.decode(detector.encode(few))[:, 0].cpu().numpy()
            pictures[name].append(drawn[0])
            errors = healthy_error(detector)
            entry = {"method": name, "seed": number, "finite": np.isfinite(history.to_numpy()).all(), "errors": errors}
            entry["judge, last steps"] = history[games[name]].tail(25).median()
            entry["s.d. of codes"] = detector.encode(few).std(0).mean().item()
            entry["variety of draws"] = drawn.std(0).mean() / rebuilt.std(0).mean()
            rows.append(entry | {"healthy error / one picture": errors.mean() / blank.mean()})
state = pd.DataFrame(rows)
display(state.drop(columns="errors").style.format(precision=2).hide(axis="index"))

# %% [markdown]
# *Variety* compares how much draws of the prior differ from each other with how much decoded healthy slices do: `0` is
# one head for all, `1` is as varied as people.

# %%
fig, axes = plt.subplots(len(games), len(many), figsize=(1.75 * len(many) + 0.6, 7.4), layout="constrained")
for row, name in enumerate(games):
    for column, picture in enumerate(pictures[name]):
        plots.show_slice(picture, ax=axes[row, column], title=f"seed {many[column]}" if row == 0 else "")
    axes[row, 0].set_ylabel(name, fontsize=9)
lesson.figure(
    "One decoded draw of the prior for each method and seed. Variety of draws, lowest and highest: {low:.2f} and "
    "{high:.2f}.",
    low=state["variety of draws"].min(),
    high=state["variety of draws"].max(),
)

# %%
for name in games:
    runs = np.stack(state.loc[state["method"] == name, "errors"])  # (seeds, P)
    worst = bootstrap(lambda w, runs=runs: (w @ runs.T).max(1) / (w @ blank), len(blank), seed=seed)
    lesson.claim_interval(
        f"{name}: no seed collapses",
        f"The worst of {len(many)} trainings of {name} rebuilds healthy people better than 0.9 of the error of one "
        "mean picture (ratio).",
        replace(worst, seeds=len(many)),
        below=0.9,
        because="a game of this kind needs more steps, or another balance, than the budget has",
    )
fine = bool(state["finite"].all() and (state["variety of draws"] > 0.25).all())
lesson.claim(
    "no game diverges",
    "In every training of the four games all losses stay finite, and draws of the prior have more than a quarter of "
    "the variety of decoded people (value: the least variety).",
    fine,
    value=float(state["variety of draws"].min()),
    because="draws of one of the priors all look alike",
    seeds=len(many),
)

# %% [markdown]
# ## Real strokes
#
# All of it again on lesion-free FLAIR slices of real persons, where an acute stroke is *bright*. One training each. The
# positional Gaussian looks at the bright side here, and brightness is smoothed, as in 1.4.

# %%
try:
    real = open_slices("stroke", profile, progress=False)
except BadInput as problem:
    real = None
    print(problem.cause, problem.remedy)
if real is not None:
    calm = real.select("split == 'train' and family == 'healthy'")
    ill = real.select("split == 'test' and (family == 'healthy' or (family == 'stroke' and lesion_px >= 50))")
    well = real.select("split == 'val' and family == 'healthy'")
    real_recipes = contenders(real.image_shape, steps)
    real_pairs = train_contenders(real_recipes, calm, [seed], steps=steps, device=device)
    measured = {}
    for name, [(detector, _)] in real_pairs.items():
        if name == "LSA":
            detector.calibrate(well.batch(np.arange(len(well))).to(where))
        measured[name] = replace(predict(detector, ill, clean, name=name), raw=None)
    gaussian = PositionalGaussian(real.image_shape, levels=1, side="bright")
    fit(gaussian, calm, progress=False)
    measured["positional Gaussian"] = replace(predict(gaussian, ill, clean, name="positional Gaussian"), raw=None)
    smooth = predict(IntensityThreshold(), ill, [("smooth", 1)], name="brightness")
    measured["brightness"] = replace(smooth, raw=None)

# %%
if real is not None:
    reality = pd.concat([evaluate({name: run}, resamples=resamples, seed=seed) for name, run in measured.items()])
    lesson.results(reality)
    strokes = reality[reality["family"] == "stroke"]
    chosen = strokes[
        ((strokes["level"] == "pixel") & (strokes["metric"].isin(["AP", "Dice"])) & (strokes["protocol"] != ""))
        | ((strokes["level"] == "image") & (strokes["metric"] == "AUROC"))
    ]
    columns = ["detector", "level", "metric", "protocol", "value", "low", "high", "subjects", "chance"]
    display(
        chosen[columns]
        .sort_values(["level", "metric", "value"], ascending=[False, True, False])
        .round(3)
        .style.hide(axis="index")
        .format(precision=3)
    )

# %%
if real is not None:
    for name in constrained:
        gap = paired_difference(measured[name], measured["AE"], family="stroke", resamples=resamples, seed=seed)
        lesson.claim_interval(
            f"real stroke: {name} above AE",
            f"On real strokes {name} beats the plain AE at equal steps (difference of pixel AP, one training).",
            gap,
            above=0,
            over="persons",
            because="the constraint costs accuracy on healthy tissue, and so few steps do not earn it back",
        )

# %% [markdown]
# ## Exercises


# %%
def check_seconds(answer):
    """A function of the seconds a step and the AE's number of steps: steps for the same time, by name."""
    seconds = {"AE": 0.02, "AAE": 0.03, "slow": 0.25}
    found = {name: float(value) for name, value in dict(answer(dict(seconds), 800)).items()}
    if set(found) != set(seconds):
        return "One number for each name, also for the AE itself."
    right = {name: 800 * 0.02 / s for name, s in seconds.items()}
    if all(abs(found[name] - right[name]) <= 1 for name in right):
        return None
    if all(abs(found[name] - 800 * s / 0.02) <= 1 for name, s in seconds.items()):
        return "Upside down: a method with dearer steps gets fewer of them."
    if all(abs(found[name] - 800) <= 1 for name in right):
        return "These are equal steps. Equal is to be the time: steps times seconds a step."
    if all(abs(found[name] - 800 * s) <= 1 for name, s in seconds.items()):
        return "These are seconds, not steps."
    return "The AE's time is its steps times its seconds a step. How many steps of the other fit into it?"


lesson.card(
    "3.7.1",
    "Equal minutes",
    difficulty=1,
    minutes=10,
    task="Write a function of `seconds`, a dict from name to seconds for one step, and of `steps`, what the AE gets. "
    'It returns a dict: how many steps each may take in the time of the AE, `seconds["AE"]`. Put it into `answer`.',
    hints=["Time is steps times seconds a step.", "Whole numbers or not: both are accepted."],
    solution='`lambda seconds, steps: {name: steps * seconds["AE"] / s for name, s in seconds.items()}`',
    check=check_seconds,
)

# %%
answer = ...
lesson.check("3.7.1", answer)


# %%
def check_ranks(answer):
    """A function of AP (methods, families) to the mean rank of each method, 1 the best."""
    values = np.array([[0.9, 0.10, 0.10], [0.5, 0.20, 0.20], [0.1, 0.30, 0.20]])
    right = np.array([7 / 3, (2 + 2 + 1.5) / 3, (3 + 1 + 1.5) / 3])
    found = np.asarray(answer(values.copy()), float)
    if found.shape == (3, 3):
        return "These are ranks for each family; take their mean over the families."
    if found.shape != (3,):
        return "One number for each method: the array has methods as rows."
    if np.allclose(found, right):
        return None
    if np.allclose(found, 4 - right):
        return "Rank 1 is to be the best, the highest AP; you gave it to the lowest."
    if np.allclose(found, values.mean(1)):
        return "This is the mean AP: a family with high numbers decides it alone. Rank within each family first."
    if np.allclose(found, [7 / 3, 5 / 3, 2]) or np.allclose(found, [7 / 3, 2, 5 / 3]):
        return "Two methods that tie share the mean of their ranks: here both get 1.5, in whatever order they stand."
    if np.allclose(found, right - 1):
        return "Ranks start at 1."
    return "Within each column the highest gets rank 1; then the mean along each row."


lesson.card(
    "3.7.2",
    "The mean rank",
    difficulty=2,
    minutes=15,
    task="A mean of AP over families is decided by the families with high numbers. Ranks are not. Write a function of "
    "an array of AP, `(methods, families)`, that returns each method's mean rank over the families, `(methods,)`; rank "
    "1 is the best, ties share the mean of their ranks. Put the function into `answer`.",
    hints=["`scipy.stats.rankdata` ranks from the lowest, and knows how to share.", "It has an `axis`."],
    solution="```python\nfrom scipy.stats import rankdata\nanswer = lambda ap: rankdata(-ap, axis=0).mean(1)\n```",
    check=check_ranks,
)

# %%
answer = ...
lesson.check("3.7.2", answer)


# %%
def check_chance(answer):
    """The chance that at least one of 63 intervals at 95 % misses zero when nothing is there, if independent."""
    answer, right = float(answer), 1 - 0.95**63
    if abs(answer - right) < 0.005:
        return None
    named = {
        63 * 0.05: "This is how many you expect, about three. Asked is the chance of at least one, at most 1.",
        0.05: "That is the chance for one of them.",
        0.95**63: "This is the chance that none of them does. Take the other side.",
        0.05**63: "This is the chance that all of them do.",
    }
    for wrong, message in named.items():
        if abs(answer - wrong) < 0.005:
            return message
    if 1 < answer <= 100:
        return "A chance lies between 0 and 1."
    return "First the chance that all of them contain zero; they are taken to be independent."


lesson.card(
    "3.7.3",
    "Sixty-three intervals",
    difficulty=2,
    minutes=10,
    task="The figure against the plain AE has `9 × 7 = 63` intervals at 95 %. If no method differed from the AE, and "
    "the intervals were independent, what is the chance that at least one would not contain zero? Put the number into "
    "`answer`.",
    hints=["What is the chance that one of them contains zero? And that all do?"],
    solution="`1 - 0.95**63`, about 0.96. So a claim is stated before its interval is seen, and the few that are "
    "picked afterwards are called picked.",
    check=check_chance,
)

# %%
answer = ...
lesson.check("3.7.3", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "One budget, several seeds, people resampled: read the interval of a difference before you name a winner.",
    "A constraint has a price in healthy error and in seconds. Print both beside every AP.",
    "A humble Gaussian of local statistics is the mark to beat. Part four asks what discrete codes can do about it.",
)

# %% [markdown]
# ## References
#
# - Baur C, Denner S, Wiestler B, Navab N, Albarqouni S. Autoencoders for unsupervised anomaly segmentation in brain MR
#   images: a comparative study. *Medical Image Analysis* 69 (2021).
# - Meissen F, Kaissis G, Rueckert D. Challenging current semi-supervised anomaly segmentation methods for brain MRI.
#   *BrainLes, MICCAI workshops* (2021).
# - Lucic M, Kurach K, Michalski M, Gelly S, Bousquet O. Are GANs created equal? A large-scale study. *NeurIPS* (2018).
# - The methods' own papers are listed in lessons 3.1 to 3.6.
