# %% [markdown]
# # 3.4 Latent autoregression: remember, and be surprised
#
# **Does an image give itself away by what a network cannot rebuild, or by a code that it did not expect?**
#
# An auto-encoder asks one question: can I rebuild this? It never asks whether the *code* in the middle is a usual
# one. A head that lies askew may be rebuilt well enough, and still have a code that no healthy slice had. *Latent
# space autoregression* (LSA) learns how likely a code is, one number after the other, and adds the two questions up.
#
# After this lesson you can
#
# 1. write the density of a code as a chain of small questions, and prove by a Jacobian that a mask keeps the order;
# 2. say through which inputs the likelihood teaches the encoder, with hard and with soft bins;
# 3. decide with intervals whether a second score helps the first one, or only dilutes it.
#
# | time | memory | needs |
# |---|---|---|
# | 5 minutes to run (networks from the store), 45 to read | under 3 GiB | lesson 2.3 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>A code number is uniform over 50 equal bins. How many nats does it take to name its bin?</summary>
# The logarithm of 50, a little under 4. Nobody can do better who knows nothing about the number.
# </details>
#
# <details><summary>Which two mistakes can a small residual in a lesion come from?</summary>
# The network copied the lesion, or the lesion looks as healthy tissue would. The contrast with the rest tells more.
# </details>

# %% tags=["parameters"]
data: str = "atlas"  # data set: "atlas", "stroke", or the path of a folder made by prepare_folder
profile: str = "standard"  # how much to compute: "quick", "standard" or "full"
seed: int = 0  # seed of everything random; the trainings use seed, seed + 1, ...
device: str = "cpu"  # "cpu", "cuda" or "auto"
angle: float = 20.0  # degrees by which healthy heads are turned

# %%
import course_lib.doctor

course_lib.doctor.check()  # importing the course first also makes torch fast on small machines

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from course_lib import plots
from course_lib.contenders import contenders, train_contenders
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.lsa import LSA, probability
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.diagrams import data_flow
from course_lib.evaluation import evaluate, paired_difference, predict, results_table
from course_lib.images.pathology import FAMILIES
from course_lib.images.slices import SliceSet
from course_lib.metrics.intervals import bootstrap
from course_lib.teaching import Lesson
from course_lib.training import fit
from course_lib.widgets.latent import LatentExplorer, LatentState, latent_figure
from data_scripts import open_slices
from IPython.display import display
from matplotlib.colors import LogNorm
from scipy import ndimage

plots.use_style()
lesson = Lesson("3.4", profile=profile, seed=seed)

# %% [markdown]
# ## The slices
#
# Healthy people to train on, others for validation, and all seven families of pathology beside healthy test people
# (artefacts are left out in part 3). No real scans here: lesson 3.7 compares all methods of this part, also on real
# strokes.

# %%
slices = open_slices(data, profile, progress=False)
train = slices.select("split == 'train' and family == 'healthy'")
validation = slices.select("split == 'val' and family == 'healthy'")
wanted = slices.table["family"].isin(["healthy", *FAMILIES]).to_numpy()
test = slices.select((slices.table["split"] == "test").to_numpy() & wanted)
families = [family for family in FAMILIES if family in test.families]
lesson.say(
    "{train} healthy slices to train on, {validation} to validate, {test} test slices of {people} people.",
    train=len(train),
    validation=len(validation),
    test=len(test),
    people=len(test.subjects),
)

# %% [markdown]
# The idea of a *surprising code* calls for another kind of test: something rare that is made of normal tissue. The
# family `atrophy` is one: wide ventricles are as dark as ventricles are. We add a second one here, **rotated** heads:
# each healthy test slice, turned about its centre. (The same slices moved by half a pixel will tell what
# interpolation alone does.) Each turned head is compared with upright ones, its own among them; the intervals treat
# the two as different people.


# %%
def moved(some, family, move):
    """Slices after a move of their pixels, as a family of their own."""
    brains = move(some.brains.astype(np.float32), order=1) > 0.5  # (N, H, W)
    images = np.where(brains, move(some.images, order=3).clip(1e-3), 0).astype(np.float32)
    table = some.table.assign(family=family, subject=some.table["subject"] + f"-{family}")
    if "person" in table:
        table["person"] = table["subject"]
    return SliceSet(images, brains, brains, table, name=some.name)


def turn(images, order):
    """Rotate each about its centre."""
    return ndimage.rotate(images, angle, axes=(1, 2), reshape=False, order=order)


well = test.select("family == 'healthy'")
rotated = moved(well, "rotated", turn)
shifted = moved(well, "shifted", lambda images, order: ndimage.shift(images, (0, 0.5, 0.5), order=order))
picks = np.linspace(0, len(rotated) - 1, 6).astype(int)
plots.show_slices(list(rotated.images[picks]))
lesson.figure("Six healthy test slices, rotated by {angle:.0f} degrees.", angle=angle)

# %% [markdown]
# ## The idea
#
# Keep an auto-encoder. Let its code end in a sigmoid, so that $z \in (0, 1)^d$. Now ask how likely the code is. Any
# density can be written as a chain:
#
# $$p(z) = p(z_1)\; p(z_2 | z_1)\; p(z_3 | z_1, z_2) \cdots = \prod_{j=1}^{d} p(z_j | z_{<j}) .$$
#
# Each factor is a small question: *given the numbers before it, where do you expect this one?* Cut $(0, 1)$ into $B$
# equal bins, and the question becomes one of classification. A network $h$, the *estimator*, answers all $d$
# questions in one pass: for each place $j$ a softmax over bins. With the squared error summed over pixels,
#
# $$\text{REC} = \sum_p (x_p - \hat{x}_p)^2, \qquad
# \text{NLL} = -\sum_j \log p(z_j | z_{<j}), \qquad L = \text{REC} + \lambda\,\text{NLL} .$$
#
# NLL is the *surprise*, in nats. An estimator that knows nothing pays $d \log B$. In the paper both terms are trained
# together, with one optimiser and one backward pass, so that the code becomes easy to predict: its entropy falls.
#
# **The score** is the sum of both, each brought to 0 to 1 on healthy *validation* images (`calibrate`):
# $\text{norm}(v) = (v - \min) / (\max - \min)$. It is a score of images. The map is the residual: a likelihood has no
# pixels.
#
# In the code: `LSA.training_losses`, then `surprise`, `Estimator`, `probability`. What the course does differently from
# the paper: smaller networks without residual blocks, $d$ = `16` and $B$ = `50` for `64` and `100`, the optimiser's
# settings (the authors published no training), and the *soft* bins below, which are ours.

# %%
data_flow(
    {
        "x": (0, 1.0, "data", "$x$"),
        "E": (1, 1.0, "network", "$E$, sigmoid"),
        "z": (2.1, 1.0, "data", "$z$"),
        "D": (3.2, 1.0, "network", "$D$"),
        "back": (4.3, 1.0, "data", r"$\hat{x}$"),
        "rec": (5.6, 1.0, "loss", "REC"),
        "h": (3.2, 0.0, "network", "$h$ (masked)"),
        "p": (4.5, 0.0, "data", r"$p(\mathrm{bin}\ |\ z_{<j})$"),
        "bins": (2.1, -0.9, "data", "bin of each $z_j$"),
        "nll": (5.9, 0.0, "loss", r"$\lambda$ NLL"),
    },
    [
        ("x", "E"),
        ("E", "z"),
        ("z", "D"),
        ("D", "back"),
        ("back", "rec"),
        ("z", "h", "$z_{<j}$"),
        ("h", "p"),
        ("p", "nll"),
        ("z", "bins", "", {"constant": True}),
        ("bins", "nll", "", {"constant": True, "bend": 0.12}),
    ],
    size=(8.4, 3.2),
)
lesson.figure("Data flow of LSA: the code goes to the decoder and to the masked estimator; the bins are constants.")

# %% [markdown]
# ## Train three
#
# - **LSA**: the authors' way, $\lambda = 1$, hard bins.
# - **LSA post-hoc**: $\lambda = 0$. The estimator learns the density of codes that it cannot change. This is the
#   control: whatever it can do needs no joint training.
# - **LSA soft**: $\lambda$ = `0.1`, soft bins. See below.
#
# Beside them the plain auto-encoder `AE` of lesson 2.1, with as many numbers in its code.

# %%
lesson.predict(
    "nll",
    "An estimator that knows nothing pays 62.6 nats for 16 numbers in 50 bins. How many nats does the post-hoc one "
    "pay for the code of a held-out healthy slice?",
    kind="number",
    bounds=(0, 70),
)
lesson.predict(
    "order",
    "Post-hoc, on pooled lesions: rank the scores by AUROC. Highest first.",
    kind="ranking",
    choices=["REC", "NLL", "their sum"],
)

# %%
steps = {"quick": 100, "standard": 800, "full": 5000}[profile]
seeds = range(seed, seed + {"quick": 2, "standard": 3, "full": 5}[profile])
known = contenders(slices.image_shape, steps)
recipes = {name: known[name] for name in ("AE", "LSA")}
recipes["LSA post-hoc"] = LSA(slices.image_shape, lam=0.0)
recipes["LSA soft"] = LSA(slices.image_shape, lam=0.1, soft=True)
pairs = train_contenders(recipes, train, seeds, steps=steps, device=device)
trained = {name: [detector for detector, _ in runs] for name, runs in pairs.items()}
histories = {name: [history for _, history in runs] for name, runs in pairs.items()}
variants = ("LSA", "LSA post-hoc", "LSA soft")
where = next(trained["AE"][0].parameters()).device
healthy_images = validation.batch(np.arange(len(validation)))  # (N, 1, H, W)
for name in variants:
    for detector in trained[name]:
        detector.calibrate(healthy_images.to(where))
d, bins = recipes["LSA"].latent, recipes["LSA"].bins
blind = d * np.log(bins)  # nats of an estimator that knows nothing

# %%
pixels = np.prod(slices.image_shape)
fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.2))
for k, name in enumerate(variants):
    weight = recipes[name].lam or 1.0
    for number, history in enumerate(histories[name]):
        for ax, loss, factor in zip(axes, ("reconstruction", "autoregression"), (pixels, pixels / weight), strict=True):
            values = factor * history[loss].rolling(15, min_periods=1, center=True).median()
            style = {"color": plots.PALETTE[k], "ls": ("-", "--", ":")[k], "lw": 1.2}
            ax.plot(history["step"], values, label=name if number == 0 else None, **style)
axes[1].axhline(blind, color="0.4", lw=1)
axes[1].text(steps, blind, "knows nothing ", ha="right", va="bottom", fontsize=8)
axes[0].set(xlabel="training step", ylabel="REC (sum of squares)", yscale="log")
axes[1].set(xlabel="training step", ylabel="NLL of the code (nats)", ylim=(0, 1.12 * blind))
axes[0].legend(fontsize=8)
fig.tight_layout()
last = {name: np.mean([h["autoregression"].tail(20).mean() for h in histories[name]]) * pixels for name in variants}
lesson.figure(
    "REC and NLL over the steps, each seed. At the end of training NLL is {nll} nats.",
    nll=", ".join(f"{name} {value / (recipes[name].lam or 1.0):.0f}" for name, value in last.items()),
)

# %% [markdown]
# ## The mask
#
# The chain stands or falls with one thing: the answer about $z_j$ must not depend on $z_j$ itself, nor on later
# numbers. Else $h$ would read the answer off its own input, and NLL would fall to nothing without anything learned.
# The layers of $h$ work on places × channels. In the first one (*mask A*) place $j$ sees the inputs $i < j$; in all
# others (*mask B*) it sees $i \le j$. A mistake in a mask is silent, so prove it: the *Jacobian*, the derivative of
# each answer by each input, has to be zero on and above the diagonal.
#
# The same picture, taken of the *loss*, answers a question about training: **through which code numbers does NLL teach
# the encoder?** The bin of $z_j$ is an index, and an index has no derivative. So with the authors' hard bins the
# encoder feels NLL only through the conditions $z_{<j}$: it may make a number a better hint for later ones, but it is
# never told to move a number to where it was expected. The last number of the code feels nothing at all. *Soft* bins
# interpolate $p$ between the centres of the two nearest bins. Now the predicted number has a derivative of its own.


# %%
def jacobian(function, codes):
    """|d output_j / d z_i|, mean over some codes, `(d, d)`; of several outputs for each j the largest."""
    found = [torch.func.jacrev(lambda z: function(z[None])[0])(code).abs() for code in codes]
    return torch.stack([one.amax(1) if one.ndim == 3 else one for one in found]).mean(0).detach().cpu().numpy()


with torch.no_grad():
    some_codes = {
        name: trained[name][0].encode(healthy_images[:: max(1, len(validation) // 12)].to(where)) for name in variants
    }
panels = {
    "answers of $h$": jacobian(trained["LSA"][0].estimator, some_codes["LSA"]),
    "surprise, hard bins": jacobian(trained["LSA"][0].surprise, some_codes["LSA"]),
    "surprise, soft bins": jacobian(trained["LSA soft"][0].surprise, some_codes["LSA soft"]),
}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
for ax, (title, matrix) in zip(axes, panels.items(), strict=True):
    top = matrix.max()
    picture = ax.imshow(np.where(matrix > 0, matrix, np.nan), cmap="magma", norm=LogNorm(top / 1e4, top))
    ax.set_facecolor("0.85")
    ax.set(title=title, xlabel="by the code number $i$", xticks=range(0, d, 5), yticks=range(0, d, 5))
    ax.set_xticklabels(range(1, d + 1, 5))
    ax.set_yticklabels(range(1, d + 1, 5))
    ax.grid(False)
    fig.colorbar(picture, ax=ax, shrink=0.75, label="mean |derivative|" if ax is axes[-1] else "")
axes[0].set_ylabel("derivative of the term $j$")
lesson.figure(
    "Jacobians: the estimator's answers and the hard surprise have nothing on or above the diagonal (grey is exactly "
    "zero), the soft surprise has a diagonal."
)

# %%
future = max(np.triu(jacobian(run.estimator, some_codes[name][:2])).max() for name in variants for run in trained[name])
lesson.claim(
    "causal",
    "In each trained estimator the answer about a code number depends on earlier numbers alone: the largest derivative "
    "on or above the diagonal is 0.",
    holds=future == 0,
    value=float(future),
)
diagonal = np.diag(panels["surprise, soft bins"]).mean()
others = np.tril(panels["surprise, soft bins"], -1).sum() / (d * (d - 1) / 2)
lesson.say(
    "With soft bins a term's derivative by its own number is {times:.0f} times the average derivative by an earlier "
    "one. With hard bins it is 0: the larger part of the lesson is not passed on.",
    times=diagonal / others,
)

# %% [markdown]
# ## The guard
#
# Low NLL is easy to have: write the same code for everybody. So before a likelihood is praised, look at what it cost.
# A collapsed decoder paints one picture for everybody. Its REC is that of the *one mean slice* of all training
# slices, and a run above `0.9` of that fails. The *mean slice of the height* is a harder yardstick: who does not beat
# it knows how high a slice lies, and hardly whose it is. Beside these, for each seed: the spread of the code numbers
# over held-out healthy slices; how many codes are *saturated*, that is within `0.01` of 0 or 1, where the sigmoid
# hardly moves any more; and NLL. NLL is measured with hard bins for all three, or the comparison would not be fair.
#
# The limit of `10` nats in the claims below is from the course's trial with smaller slices, and stood before this
# lesson ran. That soft bins save any nats at all joined the claims after the first run had missed the `10`: it is not
# blind.


# %%
def in_parts(function, images):
    """A function of images, applied to a few at a time: `(N, ...)` on the CPU."""
    with torch.no_grad():
        return torch.cat([function(part.to(where)).cpu() for part in images.split(128)])


def per_subject(values, some):
    """The mean of a number per slice, for each subject."""
    return pd.Series(np.asarray(values)).groupby(some.table["subject"].to_numpy(), sort=False).mean().to_numpy()


def hard_nll(detector, images):
    """NLL with hard bins, whatever the detector was trained with, `(B,)`."""
    codes = detector.encode(images)
    return -probability(codes, detector.estimator(codes), soft=False).clamp(min=1e-16).log().sum(1)


heights = train.table["z_mm"].to_numpy()
mean_slice = {z: train.images[heights == z].mean(0) for z in np.unique(heights)}  # (H, W) each
guess = np.stack([mean_slice[z] for z in validation.table["z_mm"]])
yardsticks = {"one mean slice's": train.images.mean(0), "mean slice's of the height": guess}
blanks = {k: np.square(validation.images - v).sum((1, 2)).mean() for k, v in yardsticks.items()}
codes = {name: [in_parts(run.encode, healthy_images).numpy() for run in trained[name]] for name in variants}
nlls = {
    name: [in_parts(lambda images, run=run: hard_nll(run, images), healthy_images).numpy() for run in trained[name]]
    for name in variants
}
recs = {
    name: [in_parts(run.reconstruction_error, healthy_images).numpy() for run in trained[name]] for name in variants
}

# %%
guard = []
for name in variants:
    for k in range(len(seeds)):
        z = codes[name][k]
        guard.append(
            {
                "run": f"{name}, seed {seeds[k]}",
                "REC": recs[name][k].mean(),
                **{f"REC / {what}": recs[name][k].mean() / blank for what, blank in blanks.items()},
                "s.d. of a code number, median": np.median(z.std(0)),
                "smallest": z.std(0).min(),
                "saturated": ((z < 0.01) | (z > 0.99)).mean(),
                "NLL (nats)": nlls[name][k].mean(),
            }
        )
guard = pd.DataFrame(guard).set_index("run")
first, second = (guard[f"REC / {what}"] for what in blanks)
guard.style.format("{:.2f}").format("{:.1f}", subset=["REC", "NLL (nats)"]).format("{:.0%}", subset=["saturated"])

# %%
average = {name: guard[[row.startswith(f"{name}, ") for row in guard.index]].mean() for name in variants}
lesson.reveal("nll", average["LSA post-hoc"]["NLL (nats)"])
lesson.say(
    "{sound} of {all} runs have less than `0.9` of the REC of one mean slice (highest ratio: {worst:.2f}). Of the mean "
    "slice of the height the same holds for {strict}; the highest ratio is {near:.2f}, of {who}. {more}",
    sound=int((first < 0.9).sum()),
    all=len(guard),
    worst=first.max(),
    strict=int((second < 0.9).sum()),
    near=second.max(),
    who=second.idxmax(),
    more="So read their REC as a distance to a typical head, not to this person's." if second.max() > 0.9 else "",
)
volume = {name: np.mean([np.log(z.std(0)).sum() for z in codes[name]]) for name in variants}  # nats
lesson.say(
    "NLL is {a:.1f} nats post-hoc, {b:.1f} for the authors' LSA, {c:.1f} with soft bins, against {blind:.1f} for an "
    "estimator that knows nothing. REC went from {d:.0f} post-hoc to {e:.0f} with soft bins: the price.",
    a=average["LSA post-hoc"]["NLL (nats)"],
    b=average["LSA"]["NLL (nats)"],
    c=average["LSA soft"]["NLL (nats)"],
    blind=blind,
    d=average["LSA post-hoc"]["REC"],
    e=average["LSA soft"]["REC"],
)
lesson.say(
    "There is a cheap way to a low NLL: write *smaller*. If each number's spread shrinks by a factor, its surprise "
    "falls by the factor's logarithm, and nothing has become more lawful. The spreads of LSA soft are narrower than "
    "the post-hoc ones by {f:.1f} nats in all, of the {g:.1f} that it saves; those of LSA by {h:.1f}, of {i:.1f}.",
    f=volume["LSA post-hoc"] - volume["LSA soft"],
    g=average["LSA post-hoc"]["NLL (nats)"] - average["LSA soft"]["NLL (nats)"],
    h=volume["LSA post-hoc"] - volume["LSA"],
    i=average["LSA post-hoc"]["NLL (nats)"] - average["LSA"]["NLL (nats)"],
)


# %%
def fewer_nats(a, b):
    """NLL(b) - NLL(a) on held-out healthy slices, one statistic a seed, over subjects."""
    gaps = [per_subject(y - x, validation) for x, y in zip(nlls[a], nlls[b], strict=True)]
    return bootstrap([lambda w, gap=gap: (w @ gap) / w.sum(1) for gap in gaps], len(validation.subjects), seed=seed)


saved = fewer_nats("LSA soft", "LSA post-hoc")
lesson.claim_interval(
    "soft bins lower the entropy",
    "Joint training with soft bins saves nats of NLL on held-out healthy slices, against post-hoc (more than 0).",
    saved,
    above=0,
)
lesson.claim_interval(
    "soft bins save ten nats",
    "It saves more than 10 nats, as in the course's trial.",
    saved,
    above=10,
    because="one reason may be the pixels: REC is their sum, and more of them make the same lambda weigh less",
)
lesson.claim_interval(
    "joint training lowers the entropy",
    "Joint training in the authors' way, with hard bins, saves nats of NLL, against post-hoc (more than 0).",
    fewer_nats("LSA", "LSA post-hoc"),
    above=0,
    because="with hard bins the encoder is taught through the conditions alone, and the paper trains far longer",
)

# %% [markdown]
# ## What a surprise looks like
#
# One healthy test slice, upright and turned. In each panel: the codes of held-out healthy slices (grey), and for each
# of the two slices what $h$ expects of this number, given the ones before, with a mark where the number really lies.
# The *surprise* of a number is minus the logarithm of the curve's height in its bin, plus $\log B$.

# %%
model = trained["LSA post-hoc"][0]
row = len(rotated) // 2
pair = torch.cat([well.batch([row]), rotated.batch([row])]).to(where)
with torch.no_grad():
    z = model.encode(pair)  # (2, d)
    expected = bins * model.estimator(z).exp().cpu().numpy()  # (2, d, B), as densities
    surprise, z = model.surprise(z).cpu().numpy(), z.cpu().numpy()
centres = (np.arange(bins) + 0.5) / bins
fig, axes = plt.subplots(4, 4, figsize=(8.4, 5.8), sharex=True, layout="constrained")
for j, ax in enumerate(axes.flat[:d]):
    sns.histplot(codes["LSA post-hoc"][0][:, j], bins=25, binrange=(0, 1), stat="density", color="0.75", ax=ax)
    for k, name in enumerate(("upright", "turned")):
        ax.plot(centres, expected[k, j], color=plots.PALETTE[k], ls=("-", "--")[k], lw=1.3, label=name)
        ax.plot(z[k, j], 0, plots.MARKERS[k], color=plots.PALETTE[k], ms=7, mec="white", clip_on=False, zorder=5)
    ax.set_title(f"{j + 1}: {surprise[0, j]:.1f} and {surprise[1, j]:.1f} nats", fontsize=8)
    ax.set(ylabel="", yticks=[], xlim=(0, 1))
axes[0, 0].legend(fontsize=7)
fig.supxlabel("code number $z_j$ (its surprise, upright and turned, above)", fontsize=9)
fig.supylabel("density", fontsize=9)
lesson.figure(
    "Each code number's histogram over healthy slices and what the post-hoc estimator expects of it for one slice, "
    "upright and turned. Summed, the upright slice surprises by {a:.0f} nats, the turned one by {b:.0f}.",
    a=surprise[0].sum(),
    b=surprise[1].sum(),
)

# %% [markdown]
# The first panel has no conditions: its curve is the plain distribution of the first number, the same for both
# slices. Later curves are narrower than the grey histogram where earlier numbers give a hint. A code can so be
# surprising though each of its numbers is usual: only the *combination* is not. That is what a histogram of each
# number would miss.

# %% [markdown]
# ## Draws
#
# A chain can be drawn from: a bin for $z_1$, a place within it, then $z_2$ given that, and so on. It takes $d$ passes
# of $h$, one number each. Look at it as a test of the density: if $h$ knows which codes are usual, decoded draws look
# like slices.


# %%
def draw(detector, count, generator):
    """Codes from h, one number after the other, `(count, d)`."""
    codes = torch.zeros(count, d)
    for j in range(d):
        chances = detector.estimator(codes.to(where))[:, j].exp().cpu()  # (count, B), from the numbers before j
        bin_ = torch.multinomial(chances, 1, generator=generator)[:, 0]
        codes[:, j] = (bin_ + torch.rand(count, generator=generator)) / bins
    return codes


with torch.no_grad():
    drawn = {name: draw(trained[name][0], 256, torch.Generator().manual_seed(seed)) for name in variants}
    painted = {name: in_parts(trained[name][0].decode, drawn[name])[:, 0].numpy() for name in variants}
fig, axes = plt.subplots(len(variants), 6, figsize=(7.2, 3.8), layout="constrained")
for axes_row, name in zip(axes, variants, strict=True):
    for k, ax in enumerate(axes_row):
        plots.show_slice(painted[name][k], ax=ax)
    axes_row[0].set_ylabel(name, fontsize=9)
brain = train.brains.any(0)
variety = {name: painted[name][:, brain].std(0).mean() / validation.images[:, brain].std(0).mean() for name in variants}
lesson.figure(
    "Six decoded draws of each variant. Their variety, over that of real slices, is {variety} (0: all alike).",
    variety=", ".join(f"{name} {value:.2f}" for name, value in variety.items()),
)

# %% [markdown]
# ## The latent space
#
# No prior is imposed: the estimator follows whatever shape the codes take. Does it? The two code numbers that vary
# most, over held-out healthy slices, and the same two of the draws.

# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for k, (ax, name) in enumerate(zip(axes, variants, strict=True)):
    two = np.sort(np.argsort(codes[name][0].std(0))[-2:])
    real, own = codes[name][0][:, two], drawn[name].numpy()[:, two]
    sns.kdeplot(x=real[:, 0], y=real[:, 1], fill=True, color="0.55", levels=6, ax=ax)
    ax.plot(*own.T, "x", color=plots.PALETTE[k], ms=3.5, alpha=0.7, label="draws")
    ax.plot([], [], "s", color="0.6", label="healthy slices")
    ax.set(title=name, xlabel=f"code number {two[0] + 1}", ylabel=f"code number {two[1] + 1}", xlim=(0, 1), ylim=(0, 1))
    ax.set_aspect("equal")
axes[0].legend(fontsize=7, loc="best")
lesson.figure(
    "Density of held-out codes in the two liveliest code numbers, and draws of the estimator, for each variant."
)

# %% [markdown]
# ### Walk through the code
#
# 1. Walk along the first direction until the picture is no head any more. Has a number reached 0 or 1 by then?
# 2. Interpolate between people at different heights. Half way, is the decoded head a head?
# 3. The order of the numbers is arbitrary, yet the estimator needs one. What would change if you reversed it?

# %%
walk = LatentState(trained["LSA"][0], train)
LatentExplorer(walk)

# %%
point = walk.point()
latent_figure(walk)
lesson.figure(
    "Half way between two healthy people in the code of LSA: the decoded picture lies {decoded:.2f} s.d. from the "
    "nearest slice of a third person, the cross-fade {faded:.2f}.",
    decoded=point.in_picture.other_distance,
    faded=point.in_faded.other_distance,
)

# %% [markdown]
# ## Remember, or be surprised?
#
# Now score images: REC alone, NLL alone, and the sum. AUROC compares slices with a lesion, or turned ones, with all
# slices of healthy test people. `lesions` pools the five families that add something: ms, stroke, tumour, texture and
# resection. Beside them AE and two baselines that need no gradient descent.

# %%
clean = [("rim", 2), ("median", 3)]
levels = train.table["z_mm"].nunique()  # how many heights the slices have
baselines = {"brightness": IntensityThreshold(), "positional Gaussian": PositionalGaussian(slices.image_shape, levels)}
for detector in baselines.values():
    fit(detector, train, progress=False)
everyone = trained | {name: [detector] for name, detector in baselines.items()}
scores = {  # the raw maps are dropped: they would double the memory
    name: [replace(predict(run, test, clean, name=name), raw=None) for run in runs] for name, runs in everyone.items()
}
test_images, turned_images = test.batch(np.arange(len(test))), rotated.batch(np.arange(len(rotated)))
own = {}  # scores of test slices and of turned ones, behind one another
for name in variants:
    for run in trained[name]:
        rec, nll = (
            np.concatenate([in_parts(term, test_images), in_parts(term, turned_images)])
            for term in (run.reconstruction_error, run.negative_log_likelihood)
        )
        spans = [np.ptp(limits.cpu().numpy()) for limits in (run.rec_range, run.nll_range)]
        for part, values in {"REC": rec, "NLL": nll, "sum": rec / spans[0] + nll / spans[1]}.items():
            own.setdefault((name, part), []).append(values)
for name in ("AE", *baselines):
    for run, before in zip(everyone[name], scores[name], strict=True):
        own.setdefault((name, ""), []).append(np.r_[before.image_scores, predict(run, rotated).image_scores])

# %%
added = [family for family in families if family not in ("atrophy", "midlineshift")]
table = pd.concat([test.table, rotated.table], ignore_index=True)
pooled = table.assign(family=table["family"].where(~table["family"].isin(added), "lesions"))
abnormal = np.r_[(test.masks & test.brains).any((1, 2)), np.ones(len(rotated), bool)]
masks = np.stack([abnormal, np.zeros_like(abnormal)], 1)[:, None]  # (N, 1, 2): two pixels are quick to evaluate
tiny = {"maps": 0.0 * masks, "masks": masks, "brains": np.ones_like(masks)}
parts, in_pool = {}, {}
for (name, part), runs in own.items():
    options = {**tiny, "detector": f"{name} {part}".strip()}
    parts[name, part] = [replace(scores[name][0], **options, image_scores=v, table=table) for v in runs]
    in_pool[name, part] = [replace(scores[name][0], **options, image_scores=v, table=pooled) for v in runs]
kinds = [*families, "rotated"] + (["lesions"] if added else [])
found = evaluate({" ".join(key).strip(): runs for key, runs in parts.items()}, resamples=400, seed=seed)
more = evaluate({" ".join(key).strip(): runs for key, runs in in_pool.items()}, resamples=400, seed=seed)
found = pd.concat([found, more[more["family"] == "lesions"]], ignore_index=True)
found = found[(found["level"] == "image") & (found["metric"] == "AUROC") & found["family"].isin(kinds)]
lesson.results(found[found["family"] != "lesions"])
results_table(found, "AUROC", level="image")

# %%
fig, axes = plt.subplots(1, 3, figsize=(9.4, 3.6), sharey=True)
for ax, name in zip(axes, variants, strict=True):
    shown = found[found["detector"].str.fullmatch(f"{name} (REC|NLL|sum)")]
    shown = shown.assign(detector=shown["detector"].str.removeprefix(f"{name} "))
    plots.plot_results(shown.set_index("family").loc[kinds].reset_index(), ylabel="image AUROC, 95 % interval", ax=ax)
    ax.set(title=name, ylabel="" if ax is not axes[0] else "image AUROC, 95 % interval", ylim=(0, 1))
    ax.tick_params(axis="x", labelrotation=60)
    if ax is not axes[-1]:
        ax.get_legend().remove()
fig.tight_layout()
value = found.pivot(index="detector", columns="family", values="value")
pool = "lesions" if added else families[0]
lesson.figure(
    "Image AUROC of REC, NLL and their sum for each variant on each family, on rotated heads and on pooled lesions. "
    "Post-hoc on rotated heads: REC {a:.2f}, NLL {b:.2f}, sum {c:.2f}.",
    **{
        key: value.loc[f"LSA post-hoc {part}", "rotated"]
        for key, part in zip("abc", ("REC", "NLL", "sum"), strict=True)
    },
)


# %%
def gap(first, second, family):
    """AUROC of one score less that of another; a score is (detector, part)."""
    given = in_pool if family == "lesions" else parts
    return paired_difference(
        given[first], given[second], "AUROC", family=family, level="image", resamples=400, seed=seed
    )


def better(name, family):
    """The better of the two terms of a variant."""
    return max(("REC", "NLL"), key=lambda part: value.loc[f"{name} {part}", family])


ranked = {part: value.loc[f"LSA post-hoc {part}", pool] for part in ("REC", "NLL", "sum")}
words = {"sum": "their sum"}
lesson.reveal("order", [words.get(part, part) for part in sorted(ranked, key=ranked.get, reverse=True)])
if "atrophy" in families:
    lesson.claim_interval(
        "atrophy: low entropy helps REC",
        "On `atrophy`, REC of LSA soft separates better than REC of LSA post-hoc (difference of image AUROC).",
        gap(("LSA soft", "REC"), ("LSA post-hoc", "REC"), "atrophy"),
        above=0,
        because="in the course's trial the gain was a few hundredths, on simpler slices than these",
    )
if added:
    lesson.claim_interval(
        "lesions: the sum dilutes",
        "On pooled lesions, post-hoc: the sum separates *worse* than REC alone (difference of image AUROC, below 0).",
        gap(("LSA post-hoc", "sum"), ("LSA post-hoc", "REC"), "lesions"),
        below=0,
        because="REC by itself is not strong on whole images, so there is little to dilute",
    )

# %%
for family in ("rotated", *(["lesions"] if added else [])):
    best = better("LSA", family)
    lesson.claim_interval(
        f"{family}: the sum beats both terms",
        f"The paper's claim, for LSA as the authors train it, on {family}: the sum separates better than the better of "
        "its two terms (difference of image AUROC).",
        gap(("LSA", "sum"), ("LSA", best), family),
        above=0,
        because="the two terms are not about equally good here, and the weaker one adds its noise",
    )
model = trained["LSA post-hoc"][0]
three = {"as they are": well, "moved by half a pixel": shifted, "turned": rotated}
images = {what: some.batch(np.arange(len(some))) for what, some in three.items()}
terms = (model.reconstruction_error, model.negative_log_likelihood)
control = {what: [in_parts(term, images[what]).mean() for term in terms] for what in three}
lesson.say(
    "A control: is it the turn, or the interpolation? Mean REC and NLL of healthy test slices, post-hoc: {means}.",
    means="; ".join(f"{what} {rec:.0f} and {nll:.1f} nats" for what, (rec, nll) in control.items()),
)
lead = gap(("LSA post-hoc", "NLL"), ("LSA post-hoc", "REC"), "rotated")
lesson.say(
    "Not stated in advance, so no claim: on turned heads the post-hoc NLL has an AUROC of {nll:.2f}, REC of {rec:.2f} "
    "(difference {lead:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}).",
    nll=value.loc["LSA post-hoc NLL", "rotated"],
    rec=value.loc["LSA post-hoc REC", "rotated"],
    lead=lead.value,
    low=lead.low,
    high=lead.high,
)
strong = {f: value[f].idxmax() for f in kinds}
lesson.say(
    "The highest AUROC in each column: {best}.",
    best="; ".join(f"{family}: {name} {value.loc[name, family]:.2f}" for family, name in strong.items()),
)

# %% [markdown]
# Why does a sum not always help? Think of two scores with independent noise. Added, they help each other if they are
# about equally good. If one is weak, its noise drags the other one down. Min-max normalisation makes their *ranges*
# equal, not their worth, and the two ends of a range are two single healthy slices. How much to trust each term is a
# question about the anomalies, and healthy validation slices cannot answer it. So read each column of the table by
# itself: where REC and NLL are alike, look for a sum above both; where they differ, for a sum between them.


# %% [markdown]
# ## Where: the residual map

# %%
rows = [test.example(family) for family in families]  # a lesion of middling size of each
images = torch.cat([test.batch(rows), rotated.batch([row])])
truths = np.concatenate([test.masks[rows], np.zeros((1, *slices.image_shape), bool)])
rebuilt = {name: trained[name][0].pseudo_healthy(images.to(where)).cpu()[:, 0].numpy() for name in ("AE", "LSA")}
plots.show_reconstructions(images[:, 0].numpy(), truths, rebuilt, titles=[*families, "rotated"])
lesson.figure("A slice of each family and a rotated head, and the reconstructions by AE and LSA.")

# %%
names = ["LSA", "positional Gaussian"]
units = {name: "residual" for name in names} | {"positional Gaussian": "distance (s.d.)"}
maps = {name: scores[name][0].maps[rows] for name in names}
plots.show_maps(test.images[rows], test.masks[rows], maps, titles=families, label=units)
lesson.figure("The slices of the families and the anomaly maps of LSA and the positional Gaussian.")

# %%
final = evaluate(scores, resamples=400, seed=seed)
lesson.results(final)
ap = final[(final["level"] == "pixel") & (final["metric"] == "AP") & final["family"].isin(families)]
plots.plot_results(ap, ylabel="pixel AP, 95 % interval")
ap_of = ap.pivot(index="detector", columns="family", values="value")
lesson.figure(
    "Pixel AP of each detector on each family, with intervals and chance. Highest on {best}.",
    best=", ".join(f"{f}: {ap_of[f].idxmax()} {ap_of[f].max():.2f}" for f in families),
)

# %%
display(results_table(ap))

# %% [markdown]
# ## Where the claim does not show, and what it costs
#
# The paper sees its gains on whole images of another class, after hundreds of epochs. It published no training code;
# readers who followed its supplement reached less than its numbers. Here a lesion is a small part of a healthy head,
# and a code of sixteen numbers hardly notices it: what sees lesions is REC, and REC was there before. A turned head is
# another matter. There every number of the code is touched, and the table says which term saw it best. That is the kind
# of anomaly that a likelihood of codes is for; but look at the positional Gaussian in the same column before you train
# one.
#
# The entropy falls most when the encoder may feel the whole likelihood, with soft bins; then it pays in REC. Between
# a code that says nothing and a code that says all there is one weight, and it depends on the number of pixels, as
# REC is a sum over them.


# %%
sizes = {name: sum(p.numel() for p in recipes[name].parameters()) for name in recipes}
chain = sum(p.numel() for p in recipes["LSA"].estimator.parameters())
speed = {name: min(1000 * h["seconds"].iloc[-1] / steps for h in histories[name]) for name in recipes}
lesson.say(
    "LSA has {all:,} weights, {chain:,} of them in the estimator (half of those are masked); AE has {auto:,}. A "
    "training step took {a:.0f} ms, one of AE {b:.0f} ms (the quickest seed of each, on a busy computer). To "
    "score a slice takes what an AE takes and one pass of a small estimator; only drawing needs {d} of them.",
    all=sizes["LSA"],
    chain=chain,
    auto=sizes["AE"],
    a=speed["LSA"],
    b=speed["AE"],
    d=d,
)

# %% [markdown]
# ## Exercises


# %%
def check_masks(answer):
    """The masks of a three-layer estimator, each 'A' (j < i) or 'B' (j <= i): the order and all hints are kept."""
    letters = [str(letter).strip().upper() for letter in answer]
    if len(letters) != 3 or set(letters) - {"A", "B"}:
        return "Give three letters, each A or B, such as ['A', 'A', 'A']."
    strict = letters.count("A")
    if strict == 1:
        return None
    if strict == 0:
        return "With B alone the answer about z_j sees z_j: the estimator reads it off, and NLL falls to nothing."
    return f"{strict} strict layers push each input {strict} places on: the answer about z_j does not see z_(j-1)."


lesson.card(
    "3.4.1",
    "A or B",
    difficulty=1,
    minutes=10,
    task="An estimator has three masked layers. Mask A lets place $j$ see inputs $i < j$, mask B inputs $i \\le j$. "
    "Choose the three so that the answer about $z_j$ depends on *all* numbers before it, and on no other. Put a list "
    "of three letters into `answer`.",
    hints=[
        "Follow z_1: to which places can it get in each layer?",
        "How often may an input be pushed on by one place?",
    ],
    solution="`['A', 'B', 'B']`, as the paper; A may as well stand in another layer, but exactly once.",
    check=check_masks,
)

# %%
answer = ...
lesson.check("3.4.1", answer)


# %%
def check_nll(answer):
    """A function of codes (N, d) in [0, 1] and log_p (N, d, B): the NLL of each code with hard bins, (N,)."""
    generator = torch.Generator().manual_seed(0)
    z = torch.tensor([[0.07, 0.49, 1.0], [0.0, 0.93, 0.38]])
    log_p = torch.randn(2, 3, 5, generator=generator).log_softmax(-1)

    def reference(index, values=log_p):
        return -values.gather(-1, index.clamp(0, 4)[..., None])[..., 0]

    index = (z * 5).long()
    try:
        found = torch.as_tensor(answer(z.clone(), log_p.clone()), dtype=torch.float32)
    except (IndexError, RuntimeError) as error:
        return f"It fails ({str(error)[:60]}). A code of exactly 1 belongs to the last bin: clip the index to B - 1."

    def same(other):
        return found.shape == other.shape and torch.allclose(found, other, atol=1e-4)

    each = reference(index)  # (N, d)
    if same(each.sum(1)):
        return None
    if same(each):
        return "That is the surprise of each number: add them up over the code."
    if found.ndim == 0:
        return "One number for the batch: return one for each image."
    if same(each.mean(1)):
        return "The logarithm of a product is a sum over the code, not a mean."
    if same(-each.sum(1)):
        return "The sign is flipped: a surprise is never negative."
    if same(reference((z * 5).round().long()).sum(1)):
        return "You rounded to the nearest edge. The bin of z is floor(B z)."
    if same(reference((z * 4).long()).sum(1)):
        return "With B bins the index is floor(B z), not floor((B - 1) z): only the end is clipped."
    if same(reference(index, log_p.exp()).sum(1)):
        return "You added probabilities. Add their logarithms."
    return "Bin floor(B z), at most B - 1; take log_p of that bin at each place; add up; change the sign."


lesson.card(
    "3.4.2",
    "The surprise",
    difficulty=2,
    minutes=15,
    task="Write NLL with hard bins: a function of `codes`, `(N, d)` in $[0, 1]$, and `log_p`, `(N, d, B)`, the "
    "logarithm of each bin's probability. Return the nats of each code, `(N,)`. Put the function into `answer`.",
    hints=["`(codes * B).long()` is the index of the bin.", "`log_p.gather(-1, index[..., None])`", "And at code 1?"],
    solution="```python\ndef answer(codes, log_p):\n    bins = log_p.shape[-1]\n"
    "    index = (codes * bins).long().clamp(max=bins - 1)\n"
    "    return -log_p.gather(-1, index[..., None])[..., 0].sum(1)\n```",
    check=check_nll,
)

# %%
answer = ...
lesson.check("3.4.2", answer)


# %%
def check_sum(answer):
    """A function of rec, nll (of new images) and rec_healthy, nll_healthy (validation): the normalised sum."""
    rec, nll = np.array([10.0, 22.0, 60.0]), np.array([48.0, 30.0, 55.0])
    rec_healthy, nll_healthy = np.array([8.0, 14.0, 28.0, 18.0]), np.array([40.0, 52.0, 44.0, 41.0])
    found = np.asarray(answer(rec.copy(), nll.copy(), rec_healthy.copy(), nll_healthy.copy()), float)

    def norm(v, w):
        return (v - w.min()) / (w.max() - w.min())

    def same(other):
        return found.shape == np.shape(other) and np.allclose(found, other)

    if same(norm(rec, rec_healthy) + norm(nll, nll_healthy)):
        return None
    if same(norm(rec, rec) + norm(nll, nll)):
        return (
            "The ranges come from the images that are scored: one more image would change all scores. Use validation."
        )
    if same(rec + nll):
        return "Squares of intensities and nats have no common unit: the one with the larger numbers decides alone."
    if same(np.clip(norm(rec, rec_healthy), 0, 1) + np.clip(norm(nll, nll_healthy), 0, 1)):
        return "Clipping throws away what lies beyond the healthy range, and that is what you look for."
    if same(2 - norm(rec, rec_healthy) - norm(nll, nll_healthy)) or same(
        -norm(rec, rec_healthy) - norm(nll, nll_healthy)
    ):
        return "That is high for normal, as in the authors' code. Here, as in the course, high is anomalous."
    if same((rec - rec_healthy.mean()) / rec_healthy.std() + (nll - nll_healthy.mean()) / nll_healthy.std()):
        return "z-scores: steadier than two extreme slices, and a good idea. The paper's are from min and max."
    if same(norm(rec, rec_healthy) * norm(nll, nll_healthy)):
        return "Add the two: a product is 0 as soon as one of them is."
    return "(v - min) / (max - min), with min and max of the healthy validation values of the same term; then the sum."


lesson.card(
    "3.4.3",
    "One score of two",
    difficulty=2,
    minutes=15,
    task="Write the image score: a function of `rec` and `nll` of new images, and of `rec_healthy` and `nll_healthy` "
    "of healthy validation images, all NumPy arrays. Return the normalised sum of each new image, high for anomalous. "
    "Put the function into `answer`.",
    hints=["Whose min and max may a score use?", "Values beyond the healthy range stay beyond it."],
    solution="```python\ndef answer(rec, nll, rec_healthy, nll_healthy):\n    norm = lambda v, w: (v - w.min()) / "
    "(w.max() - w.min())\n    return norm(rec, rec_healthy) + norm(nll, nll_healthy)\n```",
    check=check_sum,
)

# %%
answer = ...
lesson.check("3.4.3", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "A density of codes is a chain of questions. A mask keeps the order, and a Jacobian proves it.",
    "Hard bins teach the encoder through the conditions alone. With soft bins the entropy falls, and REC pays.",
    "A sum helps where both terms are about equally good, and dilutes where one is weak: print both, and a baseline.",
)

# %% [markdown]
# ## References
#
# - Abati D, Porrello A, Calderara S, Cucchiara R. Latent space autoregression for novelty detection. *CVPR* (2019).
# - Germain M, Gregor K, Murray I, Larochelle H. MADE: masked autoencoder for distribution estimation. *ICML* (2015).
# - van den Oord A, Kalchbrenner N, Kavukcuoglu K. Pixel recurrent neural networks. *ICML* (2016).
