# %% [markdown]
# # 2.3 Variational and denoising
#
# **What can you ask of a network, other than a narrow code, so that it leaves the disease out?**
#
# Lesson 2.1 counted the numbers in the code. This lesson meets two other ways. The *variational* auto-encoder (VAE)
# makes the code pay for what it says. The *denoising* auto-encoder has no narrow place at all: it is taught to take
# blobs off healthy slices, in the hope that it takes a lesion for one.
#
# After this lesson you can
#
# 1. write down the evidence lower bound with all its weights, and turn the dial that they hide;
# 2. make four maps from one trained VAE, and name the control that decides what *restoration* really adds;
# 3. choose the noise of a denoising auto-encoder, and show by two residuals why it works.
#
# | time | memory | needs |
# |---|---|---|
# | 5 minutes to run at first (later the networks come from the store), 45 to read | under 3.5 GiB | lesson 2.1 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>Which number of lesson 2.1 told a copying network from a useful one?</summary>
# The contrast: the residual inside lesions, over the residual in the rest of the brain. The training loss did not.
# </details>
#
# <details><summary>Why is an oracle threshold called one?</summary>
# It is chosen with the answers of the test set at hand. An honest one comes from healthy validation people.
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
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from course_lib import plots
from course_lib.detectors.autoencoder import DenseAE
from course_lib.detectors.dae import DenoisingAE
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.detectors.restoration import Restoration
from course_lib.detectors.vae import VAE
from course_lib.errors import BadInput
from course_lib.evaluation import evaluate, paired_difference, predict, residual_contrast, results_table
from course_lib.metrics.intervals import bootstrap
from course_lib.store import load_or_train_all
from course_lib.teaching import Lesson
from course_lib.training import fit
from course_lib.widgets.latent import LatentExplorer, LatentState, latent_figure
from data_scripts import open_slices
from IPython.display import display

plots.use_style()
lesson = Lesson("2.3", profile=profile, seed=seed)

# %% [markdown]
# ## The slices
#
# Healthy people to train on, other healthy people for validation, and two test families that fail in opposite ways:
# `ms` (small, bright) and `stroke` (dark). A method that only sees brightness gives itself away on the second.

# %%
slices = open_slices(data, profile, progress=False)
train = slices.select("split == 'train' and family == 'healthy'")
validation = slices.select("split == 'val' and family == 'healthy'")
wanted = slices.table["family"].isin(["ms", "stroke"]).to_numpy()
test = slices.select((slices.table["split"] == "test").to_numpy() & wanted)
families = test.families
lesson.say(
    "{train} healthy slices to train on, {validation} to validate, {test} test slices of {people} people.",
    train=len(train),
    validation=len(validation),
    test=len(test),
    people=len(test.subjects),
)

# %% [markdown]
# ## A code that costs something
#
# A VAE's encoder does not name one code but a Gaussian, $q(z|x) = \mathcal{N}(\mu, \sigma^2)$. The decoder is given a
# sample of it. What the Gaussian says beyond the standard normal is counted in *nats* (a nat is `1.44` bits) by the
# Kullback-Leibler divergence, KL. With a Gaussian likelihood of constant variance $v$, training minimises
#
# $$\underbrace{\sum_p \frac{(x_p - \hat{x}_p)^2}{2v}}_{\text{distortion}} + \beta\,
# \underbrace{\tfrac12 \sum_j \big(\mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1\big)}_{\text{rate, the KL}} .$$
#
# At $\beta = 1$ this is, up to a constant, the negative *evidence lower bound* (ELBO): minus a bound on
# $\log p(x)$. Mind the **sum**. Whoever writes the mean over pixels, and forgets $v$, has multiplied $\beta$ by
# $HW / 2v$ without noticing. Exercise 2.3.2 asks how much that is. The course has $v = 0.005$.

# %% [markdown]
# ## The dial
#
# Now turn $\beta$ up: each nat costs more. Encoder and decoder are those of AE dense 16, and so are
# the steps; the code has room for 32 numbers.

# %%
lesson.predict(
    "rate",
    "At a heavy beta, of 1000: how many of the 32 code numbers still carry more than 0.1 nat?",
    kind="number",
    bounds=(0, 32),
)
betas = (1, 10, 100, 1000)
recipes = {f"VAE beta {beta}": VAE(slices.image_shape, beta=float(beta)) for beta in betas}
recipes["AE dense 16"] = DenseAE(slices.image_shape, latent=16)  # as trained in lesson 2.1
steps = {"quick": 150, "standard": 800, "full": 5000}[profile]
seeds = range(seed, seed + {"quick": 2, "standard": 3, "full": 5}[profile])
budget = {"steps": steps, "batch_size": 16, "fast": True, "device": device, "progress": False}
pairs = load_or_train_all(recipes, train, seeds, **budget)
trained = {name: [detector for detector, _ in runs] for name, runs in pairs.items()}
vaes = {beta: trained[f"VAE beta {beta}"] for beta in betas}


# %%
def per_subject(values, some):
    """The mean of a number per slice, for each subject."""
    return pd.Series(np.asarray(values)).groupby(some.table["subject"].to_numpy(), sort=False).mean().to_numpy()


where = next(vaes[1][0].parameters()).device
healthy_images = validation.batch(np.arange(len(validation))).to(where)
rate = {b: [per_subject(d.kl_score(healthy_images).cpu(), validation) for d in vaes[b]] for b in betas}
active = {b: np.mean([d.active_units(healthy_images) for d in vaes[b]]) for b in betas}
errors = {
    name: [residual_contrast(predict(d, validation))["rest"].to_numpy() for d in runs] for name, runs in trained.items()
}
levels = train.table["z_mm"].nunique()  # how many heights the slices have
heights = train.table["z_mm"].to_numpy()
mean_slice = {z: train.images[heights == z].mean(0) for z in np.unique(heights)}  # (H, W) each
guess = np.stack([mean_slice[z] for z in validation.table["z_mm"]])  # no network: the mean slice of each height
blank = np.abs(validation.images - guess)[validation.brains].mean()

# %%
x = [np.mean(rate[b]) for b in betas]
y = [np.mean(errors[f"VAE beta {b}"]) for b in betas]
fig, ax = plt.subplots(figsize=(5.6, 3.4))
ax.plot(x, y, color=plots.PALETTE[0], marker=plots.MARKERS[0])
for b, rate_b, error_b in zip(betas, x, y, strict=True):
    note, below = f"beta {b}: {active[b]:.0f} active", b == 1
    ax.annotate(note, (rate_b, error_b), xytext=(6, -14 if below else 6), textcoords="offset points", fontsize=8)
ax.axhline(np.mean(errors["AE dense 16"]), color=plots.PALETTE[1], ls="--", label="AE dense 16")
ax.axhline(blank, color=plots.PALETTE[2], ls=":", label="mean slice of the height (no network)")
ax.set(xlabel="rate: KL of a healthy slice (nats)", ylabel="distortion: healthy\nmean absolute residual", xscale="log")
ax.margins(y=0.2)
ax.set_xlim(right=x[0] * 6)
ax.legend(fontsize=8)
lesson.figure(
    "Healthy error against KL: from {r1:.0f} nats and {e1:.3f} at beta 1 to {r4:.1f} nats and {e4:.3f} at beta 1000; "
    "the mean slice errs by {blank:.3f}.",
    r1=x[0],
    e1=y[0],
    r4=x[-1],
    e4=y[-1],
    blank=blank,
)

# %%
lesson.reveal("rate", active[1000])
lesson.say(
    "Beta trades nats for accuracy: {r1:.0f} nats at beta 1, {r2:.0f} at 10, {r3:.0f} at 100, {r4:.1f} at 1000. A code "
    "number that costs more than it saves is switched off: its $\\mu$ is 0 and its $\\sigma$ is 1 for every slice.",
    r1=x[0],
    r2=x[1],
    r3=x[2],
    r4=x[3],
)

# %% [markdown]
# When nearly all are off, the VAE has *collapsed*: whoever comes, it paints nearly the same head. Look at the last
# row.

# %%
rows = [test.example(family) for family in families]  # a lesion of middling size of each
rows += [int(np.flatnonzero(test.table["subject"] == test.table["subject"].iloc[row])[0]) for row in rows]
titles = families + [f"{family}, another height" for family in families]
shown = test.batch(rows)
rebuilt = {
    name: trained[name][0].pseudo_healthy(shown.to(where)).cpu()[:, 0].numpy()
    for name in ("AE dense 16", "VAE beta 1", "VAE beta 1000")
}
plots.show_reconstructions(shown[:, 0].numpy(), test.masks[rows], rebuilt, titles=titles)
lesson.figure("Slices and their reconstructions by the plain auto-encoder and by VAEs with beta 1 and beta 1000.")


# %% [markdown]
# A published trap: on *bright* lesions a collapsed model can have the best pixel AP of all, since an average head
# has no lesions. Does it here? All maps below have their rim silenced and a 3 × 3 median, as in 2.1.


# %%
def run_all(detectors, some, *post):
    """Scores of each detector and seed."""
    return {name: [predict(d, some, list(post), name=name) for d in runs] for name, runs in detectors.items()}


clean = [("rim", 2), ("median", 3)]
scores = run_all(trained, test, *clean)
baselines = {"brightness": IntensityThreshold(), "positional Gaussian": PositionalGaussian(slices.image_shape, levels)}
for detector in baselines.values():
    fit(detector, train, progress=False)
scores |= run_all({name: [detector] for name, detector in baselines.items()}, test, *clean)
first = evaluate(scores, resamples=200, seed=seed)
results_table(first[first["family"].isin(families)])


# %%
def compare(a, b, family, name, statement, because="", given=None):
    """Claim that a has the higher pixel AP than b in a family."""
    if family in families:
        given = given or scores
        gap = paired_difference(given[a], given[b], family=family, resamples=400, seed=seed)
        lesson.claim_interval(name, f"{statement} (difference of pixel AP).", gap, above=0, because=because)


def smallest_step(runs):
    """One statistic a seed: the smallest rise from one beta to the next of the subjects' mean."""
    return [
        lambda w, k=k: np.min(
            [(w @ (runs[b][k] - runs[a][k])) / w.sum(1) for a, b in zip(betas[:-1], betas[1:], strict=True)], 0
        )
        for k in range(len(seeds))
    ]


people = len(rate[1][0])
falls = bootstrap(smallest_step({b: [-values for values in rate[b]] for b in betas}), people, seed=seed)
rises = bootstrap(smallest_step({b: errors[f"VAE beta {b}"] for b in betas}), people, seed=seed)
lesson.claim_interval("rate falls", "With each step of beta the KL falls (smallest fall, nats).", falls, above=0)
lesson.claim_interval(
    "distortion rises",
    "With each step of beta the healthy error rises (smallest rise of the mean absolute residual).",
    rises,
    above=0,
    because="between the lightest two betas the rate is not what limits a training this short",
)
compare(
    "VAE beta 1000",
    "VAE beta 1",
    "ms",
    "trap",
    "On `ms`, the collapsed VAE (beta 1000) beats beta 1",
    because="its healthy error is the highest of all, and AP ranks lesions against that error",
)

# %% [markdown]
# So print the active units beside every VAE, and never choose $\beta$ on AP: the dial shows itself on healthy people.

# %% [markdown]
# ### Walk through the code
#
# What does such a code hold? Walk: from one healthy slice to another, or along the direction in which the training
# codes vary most. At each place the decoder paints a slice. Beside it stands the nearest healthy training slice, and
# how far that is, measured in codes and in pictures. Between two slices a *cross-fade* of the two pictures is shown as
# well: the humble rival of every interpolation.
#
# 1. Half way between two people: which looks more like a head, the decoded picture or the cross-fade?
# 2. Walk four s.d. along the first direction. What does this number mean, in words of anatomy?
# 3. Leave the path at its end. When would a distance tell you that no healthy head lies here?

# %%
walk = LatentState(vaes[1][0], train)
LatentExplorer(walk)

# %%
point = walk.point()
latent_figure(walk)
lesson.figure(
    "Half way between two healthy people: the codes of the training slices with the path, and the decoded picture "
    "beside the cross-fade. The decoded picture lies {decoded:.2f} s.d. from the nearest slice of a third person, the "
    "cross-fade {faded:.2f}.",
    decoded=point.in_picture.other_distance,
    faded=point.in_faded.other_distance,
)

# %% [markdown]
# ## Five maps of one VAE
#
# From here on the VAE has $\beta = 1$. It offers more than its residual $|x - \text{decode}(\mu)|$:
#
# - **KL gradient** $|\partial\,\text{KL}/\partial x|$: the pixels whose change would make the code cheaper;
# - **ELBO gradient** $|\partial\,\text{ELBO}/\partial x|$: the pixels whose change would make the image likelier;
# - **restoration**: follow such gradients. From $x_0 = y$, the input, take $T$ steps of size $a$,
#
# $$x \leftarrow x - a\,\frac{\partial}{\partial x}\Big[\,\lVert x - \text{decode}(\mu(x))\rVert_1 + b\,\text{KL}(x)
# + \lambda\,\text{TV}(y - x)\Big],$$
#
# and map $|y - x_T|$. TV, the *total variation*, sums the differences between neighbouring pixels: it ties the change
# $y - x$ to be flat. ($b = \sqrt{v/2}$ turns nats into the units of the first term.)
#
# The fifth map is the **control**. Keep $R = \text{decode}(\mu(y))$ fixed and run the same loop on
# $\lVert x - R\rVert_1 + \lambda\,\text{TV}(y - x)$: no KL, no gradient through the network. It smooths the plain
# residual and nothing else. What restoration has beyond this, the VAE's gradients have brought. (The fine
# grid in the gradient maps is the encoder's stride.)

# %%
lesson.predict(
    "restoration",
    "At lambda = 1, how does restoration compare with its control, in pixel AP on `ms`?",
    kind="choice",
    choices=["clearly above", "about equal", "clearly below"],
)

# %% [markdown]
# No pixel moves by much more than $T a$. We take $T a = 0.5$, four robust standard deviations. The papers' `0.15` would
# cut the residuals of this young VAE short; the table shows what a cut at `0.2` costs (last control).
#
# Restoration runs the network forward and back $T$ times for each slice. So we restore only the two slices with
# the largest lesion of each test subject. All maps of this section are measured on these, without
# post-processing, as smoothing is what is in question. AP here does not compare with AP elsewhere: lesions fill more
# of these slices.

# %%
order = test.table["lesion_px"].rank(method="first", ascending=False).groupby(test.table["subject"]).rank()
few = test.select((order <= 2).to_numpy())
tvs = (0.0, 0.3, 1.0)
walk = {"quick": 50, "standard": 100, "full": 200}[profile]  # T
pace = {"steps": walk, "step_size": 0.5 / walk}
kinds = {"restoration": True, "control": False}
loops = {
    (kind, tv): [Restoration(vae, tv=tv, through_network=through, **pace) for vae in vaes[1]]
    for kind, through in kinds.items()
    for tv in tvs
}
restored = {f"{kind} {tv:g}": run_all({f"{kind} {tv:g}": runs}, few) for (kind, tv), runs in loops.items()}
maps = {name: found[name] for name, found in restored.items()}
short = [Restoration(vae, tv=0, through_network=False, steps=40, step_size=5e-3) for vae in vaes[1]]
maps |= run_all({"control 0, at most 0.2": short}, few)
maps["residual"] = [predict(vae, few, name="residual") for vae in vaes[1]]
maps["residual, median 3"] = [predict(vae, few, [("median", 3)], name="residual, median 3") for vae in vaes[1]]
maps["brightness"] = [predict(baselines["brightness"], few, name="brightness")]

# %%
for of in ("kl", "elbo"):
    name = f"{of.upper()} gradient"
    maps[name] = []
    for vae in vaes[1]:
        plain = predict(vae, few, name=name)
        gradient = vae.gradient_map(few.batch(np.arange(len(few))).to(where), of).cpu().numpy()
        plain.maps[:] = np.where(few.brains, gradient, 0)  # the same slices and truth, another map
        maps[name].append(plain)
ap = {name: evaluate({name: runs}, resamples=200, seed=seed) for name, runs in maps.items()}
ap = pd.concat(ap.values())
ap = ap[(ap["level"] == "pixel") & (ap["metric"] == "AP")].drop_duplicates(["detector", "family"], keep="last")

# %%
picks = [few.example(family, place) for family in families for place in (0.4, 0.8)]
rows_of = ["residual", "KL gradient", "ELBO gradient", "restoration 1", "control 1"]
units = {name: "nats / unit" if "gradient" in name else "intensity" for name in rows_of}
plots.show_maps(
    few.images[picks],
    few.masks[picks],
    {name: maps[name][0].maps[picks] for name in rows_of},
    titles=few.table["family"].iloc[picks].tolist(),
    label=units,
)
lesson.figure("Maps of one VAE: its residual, two gradient maps, the restoration at lambda 1, and the control.")

# %%
card = ap.pivot(index="detector", columns="family", values="value").loc[list(maps), families]
card.style.format("{:.3f}").set_caption("pixel AP on two slices a subject, mean over seeds; no threshold chosen")

# %%
fig, axes = plt.subplots(1, len(families), figsize=(8.6, 3.2), squeeze=False)
for ax, family in zip(axes[0], families, strict=True):
    for k, kind in enumerate(kinds):
        part = ap[(ap["family"] == family)].set_index("detector").loc[[f"{kind} {tv:g}" for tv in tvs]]
        place = np.arange(len(tvs)) + 0.08 * (2 * k - 1)
        bars = np.abs(part[["low", "high"]].T.to_numpy() - part["value"].to_numpy())
        style = {"color": plots.PALETTE[k], "marker": plots.MARKERS[k], "capsize": 3}
        ax.errorbar(place, part["value"], bars, label=kind, **style)
    for k, (name, line) in enumerate({"residual": "--", "residual, median 3": "-.", "brightness": ":"}.items(), 2):
        ax.axhline(card.loc[name, family], color=plots.PALETTE[k], ls=line, label=name)
    ax.set_xticks(range(len(tvs)), [f"{tv:g}" for tv in tvs])
    ax.set(title=family, xlabel="weight lambda of the total variation", ylabel="pixel AP, 95 % interval")
    ax.set_ylim(bottom=0)
handles, labels = axes[0, 0].get_legend_handles_labels()
fig.tight_layout()
fig.legend(handles, labels, fontsize=8, ncol=5, loc="upper center", bbox_to_anchor=(0.5, 0.02))
lesson.figure("Pixel AP of restoration and of its control against the weight of the total variation, for each family.")
if "ms" in families:
    gap = paired_difference(maps["restoration 1"], maps["control 1"], family="ms", resamples=400, seed=seed)
    reached = "clearly above" if gap.low > 0 else "clearly below" if gap.high < 0 else "about equal"
    lesson.reveal("restoration", reached)

# %% [markdown]
# ### What the run claims
#
# The published claim is that restoration beats the plain residual of the same VAE. The claims against the control ask
# whether the gradients through the network earned it.

# %%
for family in families:
    compare(
        "restoration 1",
        "residual",
        family,
        f"{family}: restoration above residual",
        f"On `{family}`, restoration (lambda 1) beats the plain residual of the same VAE",
        because="the interval does not clear zero: subjects differ more than the maps do",
        given=maps,
    )
    for tv in ("0", "1"):
        compare(
            f"restoration {tv}",
            f"control {tv}",
            family,
            f"{family}: restoration {tv} above control",
            f"On `{family}`, restoration at lambda {tv} beats the control without gradients through the network",
            because="the interval does not clear zero: smoothing the plain residual does about as well",
            given=maps,
        )

# %%
gains = {f: card.loc["restoration 1", f] - card.loc["residual", f] for f in families}
smooth = {f: card.loc["control 1", f] - card.loc["residual", f] for f in families}
beyond = {
    f: ", ".join(f"{card.loc[f'restoration {tv:g}', f] - card.loc[f'control {tv:g}', f]:+.3f}" for tv in tvs)
    for f in families
}
lesson.say(
    "At lambda = 1 restoration changes the residual's AP by {gains}. The control, which knows no gradient of the "
    "network, changes it by {smooth}. Restoration less control at lambda = 0, 0.3 and 1: {beyond}. And the best of all "
    "six loops is {best}. **Whenever a map is smoother than the one that it beats, smooth the other one, too, before "
    "you explain.**",
    gains=", ".join(f"{gain:+.3f} on `{f}`" for f, gain in gains.items()),
    smooth=", ".join(f"{gain:+.3f} on `{f}`" for f, gain in smooth.items()),
    beyond="; ".join(f"{text} on `{f}`" for f, text in beyond.items()),
    best=" and ".join(f"{card.loc[list(restored), f].idxmax()} on `{f}`" for f in families),
)

# %% [markdown]
# Why smoothing treats the families so differently: total variation charges a patch of change its *outline*, the first
# term credits it its *area*. A disc of radius $r$ pixels pays off only if $\pi r^2 > \lambda\, 2 \pi r$, that is
# $r > 2\lambda$. At $\lambda = 1$ a lesion less than about four pixels across is flattened with the noise; a
# territory stays. The weight is a choice of lesion size, and an honest one is made before the test.

# %% [markdown]
# ## No bottleneck, but noise
#
# A *denoising* auto-encoder is a U-Net: its skip connections hand every fold from the way down to the way up. Alone,
# it would copy. So the *input* is corrupted inside the brain, $x + n$, and the target is the clean $x$:
#
# $$\mathcal{L} = \text{mean}_p\; m_p \big(U(x + n)_p - x_p\big)^2, \qquad m = \text{brain}.$$
#
# At test time nothing is added. The paper's point is the *grain* of $n$: numbers on a coarse grid, made smooth, so that
# noise looks like a lesion. We train three: no noise, one number for each pixel, and 12 × 12 numbers on the 96 × 96
# pixels. At the grid's places the noise has a standard deviation of `0.2`, or `1.6` robust ones.

# %%
lesson.predict(
    "noise",
    "Rank the three by pixel AP on `stroke`, the dark lesions. Highest first.",
    kind="ranking",
    choices=["no noise", "pixel noise", "coarse noise"],
)

# %%
size = slices.image_shape[0]
grains = {"no noise": None, "pixel noise": size, "coarse noise": size // 8}
denoisers = {f"DAE {name}": DenoisingAE(slices.image_shape, noise_cells=cells) for name, cells in grains.items()}
noise_steps = {"quick": 40, "standard": 200, "full": 4000}[profile]
noise_budget = budget | {"steps": noise_steps, "fast": False}  # group normalisation gains nothing from bfloat16
pairs = load_or_train_all(denoisers, train, seeds, **noise_budget)
daes = {name: [detector for detector, _ in runs] for name, runs in pairs.items()}
scores |= run_all(daes, test, *clean)

# %%
picture = test.batch([rows[0]] * len(denoisers))
torch.manual_seed(seed)
noisy = torch.cat([recipe.corrupt(picture[:1]) for recipe in denoisers.values()])
fig, axes = plt.subplots(3, len(daes), figsize=(6.6, 6.4), constrained_layout=True)
for column, (name, runs) in enumerate(daes.items()):
    pair = torch.stack([noisy[column], picture[column]]).to(where)
    of_noisy, of_clean = runs[0].pseudo_healthy(pair).cpu()[:, 0].numpy()
    for row, image in enumerate((noisy[column, 0], of_noisy, of_clean)):
        plots.show_slice(np.asarray(image), test.masks[rows[0]], ax=axes[row, column])
    axes[0, column].set_title(name)
for row, text in enumerate(("corrupted input", "its output", "output for\nthe clean input")):
    axes[row, 0].set_ylabel(text, fontsize=9)
lesson.figure("A slice with a lesion under each kind of noise, what each network makes of it, and of the clean slice.")

# %% [markdown]
# ### Why: two residuals
#
# Outside lesions a residual should be low; the skips see to that. Inside it should be high; there the corruption
# decides.

# %%
contrast = {name: [residual_contrast(run.raw) for run in runs] for name, runs in scores.items() if name in daes}
contrast["AE dense 16"] = [residual_contrast(run.raw) for run in scores["AE dense 16"]]
fig, ax = plt.subplots(figsize=(6, 3.6))
for k, (name, runs) in enumerate(contrast.items()):
    table = pd.concat(runs).groupby("family")[["rest", "lesion"]].mean()
    for family, filled in zip(families, (True, False)[: len(families)], strict=True):
        face = plots.PALETTE[k] if filled else "white"
        point = (table.loc[family, "rest"], table.loc[family, "lesion"])
        label = f"{name}, {family}"
        ax.plot(*point, plots.MARKERS[k], color=plots.PALETTE[k], mfc=face, ms=8, ls="", label=label)
edge = [0, max(ax.get_xlim()[1], 0.1)]
ax.plot(edge, edge, color="0.6", lw=1, label="equal: nothing to see")
ax.set(xlabel="mean absolute residual outside lesions", ylabel="mean absolute residual\ninside lesions", xlim=(0, None))
ax.set_ylim(bottom=0)
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
fig.tight_layout()
means = {name: pd.concat(runs)[["rest", "lesion"]].mean() for name, runs in contrast.items()}
lesson.figure(
    "Residual inside against outside lesions: coarse noise has {inside:.3f} inside and {outside:.3f} outside, no noise "
    "{copy:.3f} and {copy_out:.3f}.",
    inside=means["DAE coarse noise"]["lesion"],
    outside=means["DAE coarse noise"]["rest"],
    copy=means["DAE no noise"]["lesion"],
    copy_out=means["DAE no noise"]["rest"],
)

# %%
lesson.say(
    "Without noise the U-Net copies, lesion and all: {a:.3f} inside, {b:.3f} outside. Coarse noise errs {c:.1f} times "
    "as much inside as outside, pixel noise {d:.1f} times, AE dense 16 {e:.1f} times. The skips pay: outside lesions "
    "the coarse one errs by {f:.3f}, AE dense 16 by {g:.3f}.",
    a=means["DAE no noise"]["lesion"],
    b=means["DAE no noise"]["rest"],
    c=means["DAE coarse noise"]["lesion"] / means["DAE coarse noise"]["rest"],
    d=means["DAE pixel noise"]["lesion"] / means["DAE pixel noise"]["rest"],
    e=means["AE dense 16"]["lesion"] / means["AE dense 16"]["rest"],
    f=means["DAE coarse noise"]["rest"],
    g=means["AE dense 16"]["rest"],
)

# %% [markdown]
# ## All side by side

# %%
contest = ["brightness", "positional Gaussian", "AE dense 16", "VAE beta 1", *daes]
final = evaluate({name: scores[name] for name in contest}, resamples=400, seed=seed)
lesson.results(final)
final = final[(final["level"] == "pixel") & (final["metric"] == "AP") & final["family"].isin(families)]
plots.plot_results(final[final["postprocess"] != "none"], ylabel="pixel AP, 95 % interval")
lesson.figure("Pixel AP of baselines, auto-encoders and denoisers on each family, with intervals and chance.")

# %%
display(results_table(final), results_table(final, postprocess="none"))  # post-processed, then raw
value = final[final["postprocess"] != "none"].pivot(index="detector", columns="family", values="value")
if "stroke" in families:
    ranking = value.loc[list(daes), "stroke"].sort_values(ascending=False).index
    lesson.reveal("noise", [name.removeprefix("DAE ") for name in ranking])

# %%
for family in families:
    for other in ("no noise", "pixel noise"):
        compare(
            "DAE coarse noise",
            f"DAE {other}",
            family,
            f"{family}: coarse above {other}",
            f"On `{family}`, coarse noise beats {other}",
            because="so few subjects and steps do not tell them apart",
        )
    compare(
        "DAE coarse noise",
        "AE dense 16",
        family,
        f"{family}: coarse noise above AE",
        f"On `{family}`, the DAE with coarse noise beats AE dense 16",
        because="so few subjects and steps do not tell them apart",
    )
    for baseline in baselines:
        compare(
            "DAE coarse noise",
            baseline,
            family,
            f"{family}: coarse noise above {baseline}",
            f"On `{family}`, the DAE with coarse noise beats {baseline}",
            because="the baseline needs no training to know bright from dark, or a place's healthy spread",
        )

# %% [markdown]
# Read the denoiser with care. Its noise is a guess at what lesions look like: blobs of about 8 pixels, brighter or
# darker. On blobs it is at home. A lesion larger than its blobs, or one that changes texture alone, is outside that
# guess. Lesson 5.2 takes up guesses of this kind.

# %% [markdown]
# ## Real strokes
#
# The same denoiser, trained on lesion-free slices of real persons (FLAIR, where an acute stroke is *bright*).

# %%
try:
    real = open_slices("stroke", profile, progress=False)
except BadInput as error:
    real = None
    print(error.cause, error.remedy)
if real is not None:
    calm = real.select("split == 'train' and family == 'healthy'")
    ill = real.select("split == 'test' and (family == 'healthy' or (family == 'stroke' and lesion_px >= 50))")
    cells = real.image_shape[0] // 8
    real_recipes = {"DAE coarse noise": DenoisingAE(real.image_shape, noise_cells=cells)}
    pairs = load_or_train_all(real_recipes, calm, seeds, **noise_budget)
    pairs |= load_or_train_all({"AE dense 16": DenseAE(real.image_shape, latent=16)}, calm, seeds, **budget)
    networks = {name: [detector for detector, _ in runs] for name, runs in pairs.items()}
    measured = run_all(networks, ill, *clean)
    measured["brightness"] = [predict(IntensityThreshold(), ill, [("smooth", 1)], name="brightness")]
    reality = evaluate(measured, resamples=400, seed=seed)
    lesson.results(reality)
    some = reality[(reality["level"] == "pixel") & (reality["metric"] == "AP")]
    display(some[["detector", "family", "postprocess", "value", "low", "high", "subjects", "chance"]].round(3))

# %%
if real is not None:
    sick = np.random.default_rng(seed).permutation(np.flatnonzero(ill.table["family"] == "stroke"))[:5]  # no choosing
    real_maps = {name: runs[0].maps[sick] for name, runs in measured.items()}
    plots.show_maps(ill.images[sick], ill.masks[sick], real_maps, label="anomaly")
    lesson.figure("Five real strokes, chosen at random, and the maps of denoiser, auto-encoder and brightness.")
    for rival in ("AE dense 16", "brightness"):
        gap = paired_difference(
            measured["DAE coarse noise"], measured[rival], family="stroke", resamples=400, seed=seed
        )
        lesson.claim_interval(
            f"real stroke: coarse noise above {rival}",
            f"On real strokes the DAE with coarse noise beats {rival} (difference of pixel AP).",
            gap,
            above=0,
            over="persons",
            because="an acute stroke is bright in FLAIR, and these networks were trained for minutes",
        )

# %% [markdown]
# ## Exercises


# %%
def check_kl(answer):
    """A function of mu and log sigma^2, both (B, J), to the KL of each image, (B,)."""
    mu = torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.5, 0.0]])
    logvar = torch.tensor([[0.0, 0.0], [0.0, 0.0], [-1.0, 0.7]])
    terms = 0.5 * (mu.square() + logvar.exp() - logvar - 1)
    found = torch.as_tensor(answer(mu.clone(), logvar.clone()), dtype=torch.float32)

    def same(other):
        return found.shape == other.shape and torch.allclose(found, other, atol=1e-4)

    if same(terms.sum(1)):
        return None
    if found.shape == mu.shape:
        return "One number for each code number: add them up over the code."
    if found.ndim == 0:
        return "One number for the batch: return one for each image."
    if same(terms.mean(1)):
        return "You took the mean over the code. KL of independent numbers is a sum; the mean changes beta."
    if same(-terms.sum(1)):
        return "The sign is flipped: a KL is never negative."
    if same(2 * terms.sum(1)):
        return "The half is missing."
    if same(0.5 * (mu.square() + (2 * logvar).exp() - 2 * logvar - 1).sum(1)):
        return "You took log sigma^2 for log sigma. Papers differ; read which one the encoder gives."
    return "At mu = 0 and sigma = 1 it is 0, and every other code costs something. Compare with the formula above."


lesson.card(
    "2.3.1",
    "The price of a code",
    difficulty=1,
    minutes=10,
    task="Write the KL yourself: a function of `mu` and `logvar` (that is $\\log \\sigma^2$), both `(B, J)`, that "
    "returns the nats of each image, `(B,)`. Put the function into `answer`.",
    hints=["$\\sigma^2$ is `logvar.exp()`.", "Which axis is the code?"],
    solution="`lambda mu, logvar: 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(1)`",
    check=check_kl,
)

# %%
answer = ...
lesson.check("2.3.1", answer)


# %%
def check_weight(answer):
    """The weight w in mean squared error + w KL that is beta = 1, for 96 x 96 pixels and v = 0.005."""
    answer, pixels, variance = float(answer), 96 * 96, 0.005
    if np.isclose(answer, 2 * variance / pixels, rtol=0.02):
        return None
    named = {
        1.0: "That is the bug itself: beside a mean, a weight of 1 is a beta of HW / 2v.",
        pixels / (2 * variance): "Upside down: this is the beta that a weight of 1 would mean.",
        1 / pixels: "You turned the sum into a mean, but the squares were also divided by 2v.",
        2 * variance: "You took 2v along, but the mean also divides by the number of pixels.",
        variance / pixels: "The 2 of 2v is missing.",
        1
        / (2 * variance): "That is the weight of the squares. Multiply the whole loss so that the *mean* has weight 1.",
    }
    for wrong, message in named.items():
        if np.isclose(answer, wrong, rtol=0.02):
            return message
    return "Multiply the whole loss by one number so that the squares become their mean. What has become of the KL?"


lesson.card(
    "2.3.2",
    "Sum and mean",
    difficulty=2,
    minutes=15,
    task="A colleague writes `loss = mse + w * kl`, with `mse` the *mean* over the 96 × 96 pixels of the squared "
    "error, and `kl` in nats. Which `w` is the bound, that is $\\beta = 1$, at $v = 0.005$? Put the number into "
    "`answer`.",
    hints=["The bound's first term is `mse * 96 * 96 / (2 * v)`.", "A loss times a constant has the same minimum."],
    solution="`2 * 0.005 / (96 * 96)`, about one millionth. With `w = 1` beta is about 920 000, and the code is empty.",
    check=check_weight,
)

# %%
answer = ...
lesson.check("2.3.2", answer)


# %%
def check_tie(answer):
    """A function of x, y, R (B, 1, H, W) and lambda: the control's objective for each image, (B,)."""

    def tv(images):
        return images.diff(dim=-1).abs().sum((1, 2, 3)) + images.diff(dim=-2).abs().sum((1, 2, 3))

    generator = torch.Generator().manual_seed(0)
    x, y, fixed = (torch.rand(2, 1, 5, 6, generator=generator) for _ in range(3))
    found = torch.as_tensor(answer(x.clone(), y.clone(), fixed.clone(), 0.3), dtype=torch.float32)
    l1 = (x - fixed).abs().sum((1, 2, 3))

    def same(other):
        return found.shape == other.shape and torch.allclose(found, other, rtol=1e-4)

    if same(l1 + 0.3 * tv(y - x)):
        return None
    if found.ndim == 0:
        return "One number for the batch: return one for each image."
    if same(l1 + 0.3 * tv(x - fixed)):
        return (
            "Nothing ties x to the input: TV(x - R) is a bug of a well-known implementation. Which image did you get?"
        )
    if same(l1 + 0.3 * tv(x)):
        return "TV(x) smooths the image itself, folds and all. Here the *change* y - x shall be smooth."
    if same((y - fixed).abs().sum((1, 2, 3)) + 0.3 * tv(y - x)):
        return "The first term compares y with R: it does not depend on x, so nothing would pull x towards R."
    if same((x - fixed).square().sum((1, 2, 3)) + 0.3 * tv(y - x)):
        return "Absolute differences, not squares: the L1 norm."
    if same(l1 + tv(y - x)):
        return "Lambda is not used."
    return "L1 of x - R, plus lambda times the absolute differences between neighbours of y - x, down and to the right."


lesson.card(
    "2.3.3",
    "The tie",
    difficulty=2,
    minutes=20,
    task="Write the objective of the control, $\\lVert x - R\\rVert_1 + \\lambda\\,\\text{TV}(y - x)$: a function of "
    "`x`, `y`, `R`, all `(B, 1, H, W)`, and of the number `lam`, that returns `(B,)`. Sum over pixels. Put the "
    "function into `answer`.",
    hints=["`t.diff(dim=-1)` are the differences between neighbours to the right.", "`.sum((1, 2, 3))`"],
    solution="```python\ndef answer(x, y, R, lam):\n    d = y - x\n    tv = d.diff(dim=-1).abs().sum((1, 2, 3)) + "
    "d.diff(dim=-2).abs().sum((1, 2, 3))\n    return (x - R).abs().sum((1, 2, 3)) + lam * tv\n```",
    check=check_tie,
)

# %%
answer = ...
lesson.check("2.3.3", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "Beta is a dial between nats and accuracy, and sum against mean turns it unseen. Print the active units.",
    "Restoration makes smoother maps. Its rival is the control, smoothed in the same loop, not the raw residual.",
    "Coarse noise in place of a bottleneck keeps folds and removes blobs: a good guess at lesions is worth a network.",
)

# %% [markdown]
# ## References
#
# - Kingma DP, Welling M. Auto-encoding variational Bayes. *ICLR* (2014).
# - Higgins I, et al. beta-VAE: learning basic visual concepts with a constrained variational framework. *ICLR* (2017).
# - Baur C, Denner S, Wiestler B, Navab N, Albarqouni S. Autoencoders for unsupervised anomaly segmentation in brain MR
#   images: a comparative study. *Medical Image Analysis* 69 (2021).
# - Chen X, You S, Tezcan KC, Konukoglu E. Unsupervised lesion detection via image restoration with a normative prior.
#   *Medical Image Analysis* 64 (2020).
# - Zimmerer D, et al. Unsupervised anomaly localization using variational auto-encoders. *MICCAI* (2019).
# - Kascenas A, Pugeault N, O'Neil AQ. Denoising autoencoders for unsupervised anomaly detection in brain MRI. *MIDL*
#   (2022).
