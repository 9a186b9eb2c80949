# %% [markdown]
# # 4.1 Discrete latents: a slice in a small alphabet
#
# **What can a slice still say when it may only use a small alphabet?**
#
# So far a code was a list of real numbers, and a real number can hold any amount of detail. Here the code is a small
# grid of *integers*. Each names an entry of a *codebook* that the network has learned on healthy slices. What no entry
# stands for cannot be said. Does that remove lesions all by itself, and which ones?
#
# After this lesson you can
#
# 1. write the quantiser with its straight-through gradient, and say what teaches the encoder, the decoder, the codes;
# 2. find dead codes by their perplexity, and name the two habits that prevent them;
# 3. measure what a bottleneck removes before any score is made, and tell the effect of its grid from that of its codes.
#
# | time | memory | needs |
# |---|---|---|
# | 5 minutes to run (networks from the store), 45 to read | under 3 GiB | lesson 2.2 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>What is the dilemma of an auto-encoder's bottleneck?</summary>
# A narrow one forgets the lesion, and the patient's own folds with it. A wide one keeps both.
# </details>
#
# <details><summary>Why is brightness so strong a baseline on small bright lesions?</summary>
# In FLAIR images little healthy tissue is as bright, so the image itself is nearly the map. A residual starts from the
# same brightness, and adds the network's mistakes on healthy tissue.
# </details>

# %% tags=["parameters"]
data: str = "atlas"  # data set: "atlas", or the path of a folder made by prepare_folder
profile: str = "standard"  # how much to compute: "quick", "standard" or "full"
seed: int = 0  # seed of everything random; the trainings use seed, seed + 1, ...
device: str = "cpu"  # "cpu", "cuda" or "auto"
toy_codes: int = 32  # codes, and clusters, of the toy in the plane

# %%
import course_lib.doctor

course_lib.doctor.check()  # importing the course first also makes torch fast on small machines

# %%
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from course_lib import plots
from course_lib.contenders import BATCH, contenders, train_contenders
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.detectors.quantiser import Quantiser, perplexity
from course_lib.detectors.vq_vae import VQVAE
from course_lib.diagrams import data_flow
from course_lib.evaluation import as_scores, evaluate, paired_difference, predict, residual_contrast, results_table
from course_lib.images.pathology import FAMILIES
from course_lib.metrics.intervals import Interval, bootstrap, difference
from course_lib.metrics.statistics import Mean, Ratio
from course_lib.store import load_or_train_all
from course_lib.teaching import Lesson
from course_lib.token_recipes import train_vqvaes
from course_lib.training import batch_indices, fit
from data_scripts import open_slices
from IPython.display import display
from scipy import ndimage

plots.use_style()
lesson = Lesson("4.1", profile=profile, seed=seed)

# %% [markdown]
# ## The slices
#
# Healthy people to train on, others for validation, and seven families of pathology beside healthy test people. No
# real strokes here: lesson 4.2 scores them, with this network and with the transformers on top of it.

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
# ## The idea
#
# An *encoder* $E$ turns a slice into a grid of $h \times w$ vectors, $z = E(x)$ with $D$ numbers at each place $u$. A
# *codebook* holds $K$ vectors $e_1, \dots, e_K$ of the same length, the *codes*. At each place the nearest code steps
# in,
#
# $$k(u) = \arg\min_j |z(u) - e_j|^2, \qquad z_q(u) = e_{k(u)} ,$$
#
# and the decoder sees $z_q$ alone. The integers $k$ are the *tokens*. So all that can pass are $h\,w \log_2 K$ bits.
# This is the *vector-quantised* auto-encoder, or VQ-VAE.
#
# Choosing the nearest has no derivative. The *straight-through* trick writes $\hat z = z + \text{sg}[z_q - z]$, where
# sg, stop-gradient, makes a constant of what it holds. Its value is $z_q$; its derivative by $z$ is one. The decoder's
# wish "this vector should move that way" goes to the encoder unchanged. The loss is
#
# $$L = \text{mean}\,|x - \hat x| \; + \; \beta\,\text{mean}\,(z - \text{sg}[e_k])^2 .$$
#
# The second term, the *commitment*, keeps the vectors near their codes, for the trick is only honest if $z_q$ is close
# to $z$. No gradient reaches the codes.
#
# **The codes follow by averages.** With $n_k$ the vectors of a batch that are nearest to code $k$, and $S_k$ their sum,
#
# $$N_k \leftarrow \gamma N_k + (1 - \gamma)\,n_k, \quad m_k \leftarrow \gamma m_k + (1 - \gamma)\,S_k, \quad
# e_k \leftarrow m_k / N'_k, \quad N'_k = \frac{N_k + \varepsilon}{\sum_j N_j + K \varepsilon} \sum_j N_j .$$

# %% [markdown]
# **Update order** of a step: encode; find the nearest codes; move the codes by the averages, outside the graph and only
# in training mode; decode $\hat z$, which still holds the codes as they were; back-propagate $L$ to encoder and
# decoder; Adam. In evaluation mode nothing of the codebook moves.
#
# In the code: `VQVAE.training_losses`, then `Quantiser.forward`, `nearest`, `_follow`. What the course does differently
# from Pinaya and colleagues: slices for volumes, a far smaller network, no term beside the absolute error, $\gamma$ =
# `0.95` because hundreds of steps are too few for a slower average, codes that begin as encoder vectors, and *restarts*
# of dead codes. The transformers that the paper puts on top of the tokens are lesson 4.2.

# %%
data_flow(
    {
        "x": (0, 1.0, "data", "$x$"),
        "E": (1, 1.0, "network", "$E$"),
        "z": (2, 1.0, "data", "$z$"),
        "near": (3.3, 1.0, "data", "nearest: $z_q$"),
        "st": (4.9, 1.0, "data", r"$\hat{z} = z + \mathrm{sg}[z_q - z]$"),
        "D": (6.4, 1.0, "network", "decoder"),
        "back": (7.5, 1.0, "data", r"$\hat{x}$"),
        "rec": (7.5, 0.0, "loss", r"$|x - \hat{x}|$"),
        "book": (3.3, 0.0, "data", "codes $e_1, ..., e_K$"),
        "commit": (2, -0.9, "loss", r"$\beta (z - \mathrm{sg}[e_k])^2$"),
    },
    [
        ("x", "E"),
        ("E", "z"),
        ("z", "near", "", {"constant": True}),
        ("near", "st", "", {"constant": True}),
        ("z", "st", "straight through", {"bend": -0.22}),
        ("st", "D"),
        ("D", "back"),
        ("back", "rec"),
        ("book", "near", "", {"constant": True}),
        ("z", "book", "averages", {"constant": True, "bend": 0.15}),
        ("z", "commit"),
        ("book", "commit", "", {"constant": True}),
    ],
)
lesson.figure(
    "Data flow of the VQ-VAE: the gradient goes from the decoder straight to the encoder; the codes are constants that "
    "follow by averages."
)

# %% [markdown]
# ## A toy in the plane
#
# Take the quantiser alone, with $D$ = 2, so that you can see it. The vectors come from clusters, as many as there are
# codes. They start in a small heap and spread out, as the vectors of an encoder do once it learns. A *dead* code is one
# that is nearest to nothing: no average moves it any more. The *perplexity* $\exp(-\sum_k p_k \log p_k)$, with $p_k$
# the share of vectors at code $k$, counts the codes in use: $K$ if all work equally, 1 if one does it all.
#
# - **data start, restarts**: the first batch's vectors become the codes; a code with $N_k$ below `0.5` becomes a
#   random vector of the batch. This is what the networks do.
# - **data start**: no restarts.
# - **random start**: codes drawn from a normal distribution, no restarts.
# - **random start, N = 0**: the same, with counts that begin at nothing, while $m_k = e_k$.


# %%
def toy(start, restart, count, draw, steps=300):
    """The quantiser on spreading clusters: perplexity at each step, the codes' largest distance, and their end."""
    generator = torch.Generator().manual_seed(1000 * seed + draw)
    centres = 4 * torch.randn(toy_codes, 2, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(1000 * seed + draw)
        quantiser = Quantiser(toy_codes, 2, decay=0.95, restart=restart)
        quantiser.started.fill_(not start)  # "started" skips the data start
        quantiser.sizes.fill_(count)
        found, farthest = [], []
        for step in range(steps):
            which = torch.randint(toy_codes, (256,), generator=generator)
            z = min(1, 0.1 + step / 100) * (centres[which] + 0.15 * torch.randn(256, 2, generator=generator))
            tokens = quantiser(z.T[None, :, :, None])[1]  # (1, 2, 256, 1)
            found.append(float(perplexity(tokens, toy_codes)))
            farthest.append(float(quantiser.codebook.norm(dim=1).max()))
    return np.array(found), np.array(farthest), quantiser.codebook.clone(), z


starts = {
    "data start, restarts": (True, 0.5, 1.0),
    "data start": (True, 0.0, 1.0),
    "random start": (False, 0.0, 1.0),
    "random start, N = 0": (False, 0.0, 0.0),
}
draws = {"quick": 6, "standard": 12, "full": 50}[profile]
toys = {name: [toy(*how, draw) for draw in range(draws)] for name, how in starts.items()}

# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for ax, name in zip(axes, ("data start, restarts", "data start"), strict=False):
    _, _, codes, z = toys[name][0]
    ax.plot(*z.T, ".", color="0.7", ms=4, label="vectors")
    ax.plot(*codes.T, "X", color=plots.PALETTE[0], mec="white", ms=8, label="codes")
    ax.set(title=name, xlabel="first number", ylabel="second number")
    ax.set_aspect("equal", "datalim")
axes[0].legend(fontsize=8, loc="upper left")
for k, (name, runs) in enumerate(toys.items()):
    style = {"color": plots.PALETTE[k], "marker": plots.MARKERS[k], "markevery": 50, "ms": 5}
    axes[2].plot(np.mean([run[0] for run in runs], 0), label=name, **style)
axes[2].set(xlabel="step", ylabel="perplexity (codes in use)", ylim=(0, toy_codes))
axes[2].legend(fontsize=7, loc="lower right")
last = {name: [run[0][-20:].mean() for run in runs] for name, runs in toys.items()}
lesson.figure(
    "Codes among the vectors of the toy after training, with and without restarts, and the mean perplexity over the "
    "steps. At the end it is {ends}, of {k} codes.",
    ends=", ".join(f"{name} {np.mean(values):.1f}" for name, values in last.items()),
    k=toy_codes,
)

# %%
lesson.claim_interval(
    "start and restart keep codes alive",
    "In the toy, data start with restarts ends with a higher perplexity than a random start without (difference).",
    bootstrap(Mean(np.subtract(last["data start, restarts"], last["random start"])), draws, seed=seed),
    above=0,
    over="draws of the toy",
)
thrown = [run[1].max() for run in toys["random start, N = 0"]]
lesson.say(
    "Which of the two habits does the work? Both together end at {both:.1f}, the data start alone at {alone:.1f}, a "
    "random start at {random:.1f}. Codes that begin in one small heap are overtaken when the heap spreads: where the "
    "vectors move, as an encoder's do, the first batch is soon out of date, and only restarts look for work "
    "again.\n\nWith N = 0 an unused code is divided by $\\varepsilon$ at the first step and thrown as far as "
    "{far:,.0f} away, where nothing is near it. Its $m_k$ fades by $\\gamma$ a step, so it comes back after some "
    "{back:.0f} steps here; with $\\gamma$ = `0.99` it takes some {longer:.0f}.",
    both=np.mean(last["data start, restarts"]),
    alone=np.mean(last["data start"]),
    random=np.mean(last["random start"]),
    far=np.median(thrown),
    back=np.log(np.median(thrown) / 4) / -np.log(0.95),
    longer=np.log(np.median(thrown) / 4) / -np.log(0.99),
)

# %% [markdown]
# ## Train the dial
#
# Two numbers set how much may pass: the grid and the codebook. Four settings, each with all seeds:
#
# - **VQ-VAE**: $12 \times 12$ tokens, each a square of `8` by `8` pixels, and $K$ = `128` codes.
# - **VQ-VAE 16 codes** and **VQ-VAE 512 codes**: the same grid.
# - **VQ-VAE 24 × 24**: `128` codes, squares of `4` by `4` pixels, one level of the network less.
#
# The `AE` of lesson 2.1 stands beside them. Guess before you look.

# %%
settings = {
    "VQ-VAE": {},
    "VQ-VAE 16 codes": {"codes": 16},
    "VQ-VAE 512 codes": {"codes": 512},
    "VQ-VAE 24 × 24": {"halvings": 2},
}
lesson.predict(
    "perplexity",
    "How many of the 128 codes of the 12 × 12 VQ-VAE are in use on held-out healthy slices, counted by perplexity?",
    kind="number",
    bounds=(1, 128),
)
lesson.predict(
    "dial",
    "Which setting's residual finds the small bright lesions of `ms` best, by pixel AP?",
    kind="choice",
    choices=list(settings),
)
lesson.predict(
    "colour",
    "The same small lesions, once bright and once mirrored into dark ones: of which does the VQ-VAE's reconstruction "
    "keep the larger share?",
    kind="choice",
    choices=["bright", "dark"],
)

# %%
steps = {"quick": 100, "standard": 800, "full": 5000}[profile]
seeds = range(seed, seed + {"quick": 2, "standard": 3, "full": 5}[profile])
budget = {"steps": steps, "device": device}
trained = {name: train_vqvaes(train, seeds, **budget, **chosen) for name, chosen in settings.items()}
recipes = {name: VQVAE(slices.image_shape, **chosen) for name, chosen in settings.items()}
stored = load_or_train_all(recipes, train, seeds, batch_size=BATCH, fast=True, progress=False, **budget)
histories = {name: [history for _, history in runs] for name, runs in stored.items()}  # of the same trainings
recipes["AE"] = contenders(slices.image_shape, steps)["AE"]
auto = train_contenders({"AE": recipes["AE"]}, train, seeds, **budget)["AE"]
where = next(auto[0][0].parameters()).device
grids = {name: trained[name][0].grid for name in settings}
bits = {name: np.prod(grids[name]) * np.log2(trained[name][0].codes) for name in settings}
lesson.say(
    "Bits that may pass: {bits}. As a raw image of 8-bit greys a slice has {raw:,}.",
    bits="; ".join(f"{name} {value:,.0f}" for name, value in bits.items()),
    raw=8 * int(np.prod(slices.image_shape)),
)

# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
labels = {
    "reconstruction": "mean |x − x̂| (intensity)",
    "commitment": "β × commitment",
    "perplexity": "perplexity of a batch",
}
for k, name in enumerate(settings):
    for number, history in enumerate(histories[name]):
        for ax, (column, label) in zip(axes, labels.items(), strict=True):
            smooth = history[column].rolling(15, min_periods=1, center=True).median()
            style = {"color": plots.PALETTE[k], "ls": ("-", "--", ":", "-.")[k], "lw": 1.2}
            ax.plot(history["step"], smooth, label=name if number == 0 else None, **style)
            ax.set(xlabel="training step", ylabel=label, yscale="log")
axes[0].legend(fontsize=7)
lesson.figure(
    "Reconstruction error, commitment and perplexity over the training steps, each setting and seed. At the end the "
    "perplexity of a batch is {ends}.",
    ends=", ".join(f"{n} {np.mean([h['perplexity'].tail(20).mean() for h in histories[n]]):.0f}" for n in settings),
)

# %% [markdown]
# The commitment may rise while the reconstruction falls. That is no failure: vectors and codes spread out together, so
# all distances grow. Judge it beside the reconstruction, never by itself.
#
# ## The guard, and the census of codes
#
# Each run's error on held-out healthy slices, over that of *one mean picture* of all training slices: above `0.9` a run
# would have learned nothing. The *mean slice of the height* is the harder yardstick. Beside them the census on the same
# slices: codes that occur at all, and their perplexity.


# %%
def in_parts(function, images):
    """A function of images, applied to a few at a time: `(N, ...)` on the CPU."""
    with torch.no_grad():
        return torch.cat([function(part.to(where)).cpu() for part in images.split(64)])


healthy_images = validation.batch(np.arange(len(validation)))  # (N, 1, H, W)
heights = train.table["z_mm"].to_numpy()
mean_slice = {z: train.images[heights == z].mean(0) for z in np.unique(heights)}  # (H, W) each
guess = np.stack([mean_slice[z] for z in validation.table["z_mm"]])
yardsticks = {"one mean picture's": train.images.mean(0), "mean slice's of the height": guess}
blanks = {k: np.abs(validation.images - v)[validation.brains].mean() for k, v in yardsticks.items()}
errors, census = {}, []
for name in settings:
    errors[name] = [residual_contrast(predict(run, validation))["rest"].to_numpy() for run in trained[name]]
    for number, run in zip(seeds, trained[name], strict=True):
        tokens, error = in_parts(run.encode, healthy_images), errors[name][number - seed].mean()
        row = {"run": f"{name}, seed {number}", "error": error}
        row |= {f"error / {what}": error / blank for what, blank in blanks.items()}
        census.append(
            row | {"codes that occur": len(tokens.unique()), "perplexity": float(perplexity(tokens, run.codes))}
        )
census = pd.DataFrame(census).set_index("run")
census.style.format("{:.2f}").format("{:.4f}", subset=["error"]).format("{:.0f}", subset=["codes that occur"])

# %%
of_run = {name: census[[row.startswith(f"{name}, ") for row in census.index]] for name in settings}
lesson.reveal("perplexity", of_run["VQ-VAE"]["perplexity"].mean())
first, second = (census[f"error / {what}"] for what in blanks)
lesson.say(
    "{sound} of {all} runs have less than `0.9` of the error of one mean picture (the highest ratio is {worst:.2f}), "
    "and {strict} beat the mean slice of the height. The share of codes that never occur on held-out slices: {dead}.",
    sound=int((first < 0.9).sum()),
    all=len(census),
    worst=first.max(),
    strict=int((second < 1).sum()),
    dead="; ".join(f"{n} {1 - of_run[n]['codes that occur'].mean() / trained[n][0].codes:.1%}" for n in settings),
)
lesson.claim_interval(
    "healthy error falls with bits",
    "The healthy error with the fewest bits (12 × 12, 16 codes) is above that with the most (24 × 24, 128 codes).",
    bootstrap(
        difference([Mean(e) for e in errors["VQ-VAE 16 codes"]], [Mean(e) for e in errors["VQ-VAE 24 × 24"]]),
        len(validation.subjects),
        seed=seed,
    ),
    above=0,
)

# %%
fig, ax = plt.subplots(figsize=(5.4, 3.2), layout="constrained")
for k, name in enumerate(settings):
    found = bootstrap([Mean(error) for error in errors[name]], len(validation.subjects), seed=seed)
    bars = [[found.value - found.low], [found.high - found.value]]
    style = {"fmt": plots.MARKERS[k], "color": plots.PALETTE[k], "ms": 7}
    ax.errorbar(bits[name], found.value, yerr=bars, label=name, **style)
ax.axhline(blanks["mean slice's of the height"], color="0.4", ls=":", label="mean slice of the height")
ax.set(xscale="log", xlabel="bits that may pass (log scale)", ylabel="healthy error, mean |x − x̂|", ylim=(0, None))
ax.set_xticks([500, 1000, 2000, 4000], ["500", "1000", "2000", "4000"], minor=False)
ax.minorticks_off()
ax.legend(fontsize=8)
averages = {name: np.mean(error) for name, error in errors.items()}
lesson.figure(
    "Healthy error over bits. {all}. From 16 to 512 codes it falls by {codes:.0%}; from the coarse to the fine grid, "
    "with 128 codes, by {grid:.0%}.",
    all=", ".join(f"{name} {value:.4f}" for name, value in averages.items()),
    codes=1 - averages["VQ-VAE 512 codes"] / averages["VQ-VAE 16 codes"],
    grid=1 - averages["VQ-VAE 24 × 24"] / averages["VQ-VAE"],
)

# %% [markdown]
# Mind the logarithm. More codes are an expensive way to buy bits: $K$ enters as $\log_2 K$, so
# doubling the codebook adds one bit to each token. Halving the squares makes four tokens of each.
#
# ## What a token stands for
#
# A slice, its tokens, and what the decoder makes of them. A token's number means nothing: code 17 is no neighbour of
# code 18. So the picture shows the codes in the order of the mean brightness of their squares in the training slices.

# %%
model = trained["VQ-VAE"][0]
factor, codes = model.factor, model.codes
some = train.batch(np.arange(0, len(train), 2))
tokens = in_parts(model.encode, some)  # (N, h, w)
squares = F.unfold(some, factor, stride=factor).movedim(1, -1).reshape(-1, factor**2)  # (N h w, f f)
flat = tokens.flatten()
counts = torch.bincount(flat, minlength=codes)  # (K,)
mean_patch = torch.zeros(codes, factor**2).index_add_(0, flat, squares) / counts.clamp(min=1)[:, None]
level = mean_patch.mean(1)  # (K,): the brightness of a code
rank = level.argsort().argsort()
row = len(validation) // 2
own = in_parts(model.encode, healthy_images[[row]])
pictures = {"slice": validation.images[row], "decoded": in_parts(model.pseudo_healthy, healthy_images[[row]])[0, 0]}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for ax, (title, picture) in zip((axes[0], axes[2]), pictures.items(), strict=True):
    plots.show_slice(picture, title=title, ax=ax)
for edge in range(factor, slices.image_shape[0], factor):
    axes[0].axhline(edge - 0.5, color="0.55", lw=0.4)
    axes[0].axvline(edge - 0.5, color="0.55", lw=0.4)
drawn = axes[1].imshow(rank[own[0]], cmap="viridis", vmin=0, vmax=codes - 1)
axes[1].set(title="tokens", xticks=[], yticks=[])
fig.colorbar(drawn, ax=axes[1], shrink=0.8, label="code, dark to bright")
lesson.figure(
    "A healthy slice with the squares of its tokens, the tokens, and the decoded slice. It uses {used} different "
    "codes.",
    used=len(own.unique()),
)

# %%
busy = level.argsort()
busy = busy[(level[busy] > 0.05) & (counts[busy] > 0)]  # not those of the background
busy = busy[np.linspace(0, len(busy) - 1, 12).astype(int)]
painted = in_parts(model.decode, busy[:, None, None].expand(-1, *model.grid))[:, 0]  # (12, H, W)
middle = slice(slices.image_shape[0] // 2 - factor, slices.image_shape[0] // 2 + factor)
fig, axes = plt.subplots(2, len(busy), figsize=(9, 2.1), layout="constrained")
for column, k in enumerate(busy):
    plots.show_slice(mean_patch[k].view(factor, factor), ax=axes[0, column], title=f"{counts[k] / counts.sum():.1%}")
    plots.show_slice(painted[column][middle, middle], ax=axes[1, column])
axes[0, 0].set_ylabel("mean square", fontsize=8)
axes[1, 0].set_ylabel("painted", fontsize=8)
lesson.figure(
    "Twelve codes, evenly from dark to bright: above the mean of the squares that they stand for, with their share of "
    "all tokens; below what the decoder paints if a whole grid holds this code (its middle). Of the {k} codes, {empty} "
    "stand for squares that are almost empty, with {share:.0%} of all tokens.",
    k=codes,
    empty=int((level[counts > 0] < 0.05).sum()),
    share=counts[level < 0.05].sum() / counts.sum(),
)

# %% [markdown]
# The mean squares are blurred, though the decoded slice is not quite: a code stands for squares *and* for what lies
# around them. Encoder and decoder look beyond the square, so the look of a token depends on its neighbours. That is why
# a constant grid does not simply repeat the square above it.
#
# Are neighbours in the codebook alike? Below, the codes on the two main directions of their $D$ numbers.

# %%
used = (counts > 0).nonzero()[:, 0]
book = model.quantiser.codebook.cpu()[used]  # (used, D)
_, stretch, axes_of = torch.linalg.svd(book - book.mean(0), full_matrices=False)
plane = (book - book.mean(0)) @ axes_of[:2].T
gaps = torch.cdist(book, book).fill_diagonal_(torch.inf)
apart = (level[used][:, None] - level[used]).abs()  # differences of brightness
near = apart.gather(1, gaps.argmin(1, keepdim=True)).mean()
fig, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
size = 8 + 3000 * counts[used] / counts.sum()
drawn = ax.scatter(*plane.T, s=size.clamp(max=200), c=level[used], cmap="viridis", edgecolor="0.3", lw=0.4)
fig.colorbar(drawn, ax=ax, label="mean brightness of its squares")
ax.set(xlabel="first direction of the codebook", ylabel="second direction")
lesson.figure(
    "The codes in use, on the two main directions of the codebook ({share:.0%} of its variance), coloured by the "
    "brightness of their squares; the area is how often they occur. A code and its nearest differ by {near:.3f} in "
    "brightness, two codes at random by {any:.3f}.",
    share=stretch[:2].square().sum() / stretch.square().sum(),
    near=near,
    any=apart.sum() / (len(used) * (len(used) - 1)),
)

# %% [markdown]
# ### Not every grid is a head
#
# The decoder turns *any* grid into a picture. Draw tokens with equal chances; or as often as they occur; or at each
# place as often as they occur *there*. None of these knows which tokens stand beside each other.

# %%
generator = torch.Generator().manual_seed(seed)
shape = (3, *model.grid)
at_place = F.one_hot(tokens, codes).sum(0).flatten(0, 1).float()  # (h w, K)
random_grids = {
    "real, held out": in_parts(model.encode, healthy_images[row - 1 : row + 2]),
    "equal chances": torch.randint(codes, shape, generator=generator),
    "by frequency": torch.multinomial(counts.float(), int(np.prod(shape)), True, generator=generator).view(shape),
    "by place": torch.multinomial(at_place, 3, True, generator=generator).T.reshape(shape),
}
seen = torch.zeros(codes, codes, dtype=torch.bool)  # code, its right neighbour: met in training?
seen[tokens[:, :, :-1].flatten(), tokens[:, :, 1:].flatten()] = True
random_grids_seen = {n: seen[g[:, :, :-1], g[:, :, 1:]].float().mean() for n, g in random_grids.items()}
fig, axes = plt.subplots(3, 4, figsize=(6.4, 4.9), layout="constrained")
for column, (name, grid) in enumerate(random_grids.items()):
    for ax, picture in zip(axes[:, column], in_parts(model.decode, grid)[:, 0], strict=True):
        plots.show_slice(picture, ax=ax)
    axes[0, column].set_title(name)
lesson.figure(
    "Decoded grids: real ones and random ones, three each. The share of side-by-side pairs of tokens that training "
    "slices had: {pairs}.",
    pairs=", ".join(f"{name} {value:.0%}" for name, value in random_grids_seen.items()),
)

# %% [markdown]
# So the alphabet alone is no model of healthy heads: it has no grammar. A word can be spelt right and still make no
# sense where it stands. Lesson 4.2 learns how likely a token is, given the others.
#
# ## What the bottleneck already removes
#
# Now lesions. One pass of all test slices gives reconstructions, and of these we take two measures. The first is the
# map, the residual $|x - \hat x|$. The second keeps the sign: the **share of a lesion's contrast that survives**. The
# contrast $c(x)$ is the mean of the lesion's pixels less the mean of a ring around it, `2` to `4` pixels away, in the
# brain. Over all lesion slices $s$ with $n_s$ lesion pixels,
#
# $$\text{share} = \frac{\sum_s n_s\, c(\hat x_s)}{\sum_s n_s\, c(x_s)} .$$
#
# At 1 the lesion was copied, at 0 it is gone. A family without contrast, such as `texture`, has no such share. Nor do
# `atrophy` and `midlineshift`, whose masks mark a region that has moved and no foreign tissue.


# %%
def lesions_and_rings(masks, brains):
    """For each slice that has both: its number, its lesion and the ring around it, `(H, W)` bool."""
    for k in np.flatnonzero((masks & brains).any((1, 2))):
        wide, narrow = (ndimage.binary_dilation(masks[k], np.ones((3, 3)), iterations=n) for n in (4, 1))
        ring = wide & ~narrow & brains[k]
        if ring.any():
            yield k, masks[k] & brains[k], ring


def contrasts(images, masks, brains):
    """n c(x) of each slice `(N,)`: its lesion's pixels, times their mean less that of a ring around them."""
    found = np.zeros(len(images))
    for k, lesion, ring in lesions_and_rings(masks, brains):
        found[k] = lesion.sum() * (images[k][lesion].mean() - images[k][ring].mean())
    return found


def of_subjects(values, table, family):
    """The sum of a number per slice, for each subject of a family."""
    mine = (table["family"] == family).to_numpy()
    return pd.Series(values[mine]).groupby(table["subject"].to_numpy()[mine], sort=False).sum().to_numpy()


def share(kept, given, table, family):
    """The statistic sum of kept contrasts over sum of given ones; dark ones change sign on both sides."""
    sign = np.sign(of_subjects(given, table, family).sum())
    return Ratio(*(sign * of_subjects(part, table, family) for part in (kept, given)))


# %%
toned = [family for family in ("ms", "stroke", "tumour", "resection") if family in families]
clean = [("rim", 2), ("median", 3)]
test_images = test.batch(np.arange(len(test)))
whole = contrasts(test.images, test.masks, test.brains)  # (N,)
before = {name: [[t.clone() for t in run.state_dict().values()] for run in trained[name]] for name in settings}
scores, shares = {}, {}
for name in settings:
    for run in trained[name]:
        rebuilt = in_parts(run.pseudo_healthy, test_images)[:, 0].numpy()  # (N, H, W)
        mapped = as_scores(np.abs(test.images - rebuilt), test, clean, name=name)
        scores.setdefault(name, []).append(replace(mapped, raw=None))  # raw maps would double the memory
        kept = contrasts(rebuilt, test.masks, test.brains)
        for family in toned:
            shares.setdefault((name, family), []).append(share(kept, whole, test.table, family))

# %%
untouched = [
    all(torch.equal(now, then) for now, then in zip(run.state_dict().values(), kept, strict=True))
    for name in settings
    for run, kept in zip(trained[name], before[name], strict=True)
]
lesson.claim(
    "scoring leaves the codebook alone",
    "After scoring all test slices every weight, code and count of every network has the same bits as before (share of "
    "the networks).",
    holds=all(untouched),
    value=float(np.mean(untouched)),
    because="a quantiser in training mode learns from what it scores",
)
people = {family: test.table.loc[test.table["family"] == family, "subject"].nunique() for family in families}
survive = []
for (name, family), ratios in shares.items():
    found = bootstrap(ratios, people[family], seed=seed)
    survive.append({"detector": name, "family": family, "value": found.value, "low": found.low, "high": found.high})
survive = pd.DataFrame(survive)
share_of = survive.pivot(index="detector", columns="family", values="value")
ax = plots.plot_results(survive, ylabel="share of contrast that survives")
ax.axhline(1, color="0.4", lw=1)
tone = {family: of_subjects(whole, test.table, family).sum() for family in toned}
lesson.figure(
    "The share of the contrast of lesions that survives in the reconstruction, with 95 % intervals; 1 is a copy. "
    "{tones}. With 12 × 12 tokens and 128 codes: {shares}.",
    tones="; ".join(f"{family} is {'bright' if value > 0 else 'dark'}" for family, value in tone.items()),
    shares=", ".join(f"{family} {share_of.loc['VQ-VAE', family]:.2f}" for family in toned),
)

# %%
if "ms" in families:
    lesson.claim_interval(
        "coarse and few remove more of ms",
        "Of the contrast of `ms` less survives with 12 × 12 tokens and 16 codes than with 24 × 24 tokens and 128 codes "
        "(share of the second less that of the first, above 0).",
        bootstrap(difference(shares["VQ-VAE 24 × 24", "ms"], shares["VQ-VAE 16 codes", "ms"]), people["ms"], seed=seed),
        above=0,
        because="a finer grid copies shapes better, but its codebook has no bright square to copy them with",
    )

# %% [markdown]
# ### Bright or dark?
#
# The families differ in size as well as in tone. To see tone alone, mirror each `ms` lesion about its surroundings:
# where it was brighter than its ring by some amount, make it darker by the same amount. Shape and place are the same.
# As the tissue beneath need not be as bright as the ring, a third version has the lesion *erased*, painted with the
# mean of its ring. What the erased one's reconstruction shows is no trace of the lesion, so it is subtracted:
#
# $$\text{share} = \frac{\sum_s n_s \big(c(\hat x_s) - c(\hat x_s^{\,\text{erased}})\big)}{\sum_s n_s\, c(x_s)} .$$
#
# Healthy slices have dark squares, at the ventricles and in the folds, and few bright ones.


# %%
def with_tone(some, sign):
    """Slices whose lesions differ from their ring's mean `sign` times as much: 1 as they are, -1 mirrored, 0 erased."""
    images = some.images.copy()
    for k, lesion, ring in lesions_and_rings(some.masks, some.brains):
        level_of_ring = images[k][ring].mean()
        images[k][lesion] = np.clip(level_of_ring + sign * (images[k][lesion] - level_of_ring), 0.02, None)
    return images


tones = {}
if "ms" in families:
    spots = test.select("family == 'ms' and lesion_px > 0")
    versions = {"bright": spots.images, "dark": with_tone(spots, -1), "erased": with_tone(spots, 0)}
    given = {tone: contrasts(pictures, spots.masks, spots.brains) for tone, pictures in versions.items()}
    for name in settings:
        for run in trained[name]:
            kept = {}
            for tone, pictures in versions.items():
                rebuilt = in_parts(run.pseudo_healthy, torch.from_numpy(pictures.copy())[:, None])[:, 0].numpy()
                kept[tone] = contrasts(rebuilt, spots.masks, spots.brains)
            for tone in ("bright", "dark"):
                ratio = share(kept[tone] - kept["erased"], given[tone], spots.table, "ms")
                tones.setdefault((name, tone), []).append(ratio)

# %%
if "ms" in families:
    values = {key: bootstrap(ratios, len(spots.subjects), seed=seed) for key, ratios in tones.items()}
    inside = spots.masks & spots.brains
    ms_rebuilt = in_parts(model.pseudo_healthy, spots.batch(np.arange(len(spots))))[:, 0].numpy()[inside]
    decoded = in_parts(model.pseudo_healthy, healthy_images)[:, 0].numpy()[validation.brains]
    greys = {
        "healthy": validation.images[validation.brains],
        "healthy, decoded": decoded,
        "ms lesions": spots.images[inside],
        "ms lesions, decoded": ms_rebuilt,
    }

# %%
if "ms" in families:
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for k, tone in enumerate(("bright", "dark")):
        found = [values[name, tone] for name in settings]
        heights_of = np.array([f.value for f in found])
        bars = np.abs(np.array([[f.low for f in found], [f.high for f in found]]) - heights_of)
        style = {"fmt": plots.MARKERS[k], "color": plots.PALETTE[k], "ms": 6, "label": tone}
        axes[0].errorbar(np.arange(len(found)) + 0.12 * (2 * k - 1), heights_of, yerr=bars, **style)
    axes[0].set_xticks(range(len(settings)), ["12 × 12\n128 codes", "16 codes", "512 codes", "24 × 24\n128 codes"])
    axes[0].axhline(0, color="0.4", lw=1)
    axes[0].set(ylabel="share of contrast that survives", title="ms lesions and their dark twins")
    axes[0].legend(fontsize=8)
    plots.plot_histograms(greys, xlabel="intensity of a pixel", range_=(0, 1.3), ax=axes[1])
    lesson.figure(
        "Left: the share of contrast that survives, of bright ms lesions and of their dark twins, with intervals. "
        "Right: intensities of healthy brain and of ms lesions, as they are and decoded by the VQ-VAE.",
    )

# %%
if "ms" in families:
    lead = bootstrap(difference(tones["VQ-VAE", "dark"], tones["VQ-VAE", "bright"]), len(spots.subjects), seed=seed)
    lesson.reveal("colour", "dark" if lead.value > 0 else "bright")
    lesson.say(
        "With 12 × 12 tokens and 128 codes {dark:.2f} of the contrast of a dark twin survives, and {bright:.2f} of "
        "that of the bright lesion (difference {lead:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}); with 24 × 24 it "
        "is {fine_dark:.2f} and {fine_bright:.2f}. The lesions have {inside:.2f} on average and come out with "
        "{out:.2f}. Of the decoded healthy pixels only {rare:.2%} are as bright as the lesions' mean. This experiment "
        "is our own, so it is no claim.",
        dark=values["VQ-VAE", "dark"].value,
        bright=values["VQ-VAE", "bright"].value,
        lead=lead.value,
        low=lead.low,
        high=lead.high,
        fine_dark=values["VQ-VAE 24 × 24", "dark"].value,
        fine_bright=values["VQ-VAE 24 × 24", "bright"].value,
        inside=greys["ms lesions"].mean(),
        out=greys["ms lesions, decoded"].mean(),
        rare=(decoded > greys["ms lesions"].mean()).mean(),
    )

# %% [markdown]
# ## Look at reconstructions

# %%
rows = [test.example(family) for family in families]  # a lesion of middling size of each
shown = test.batch(rows)
rebuilt_rows = {name: in_parts(trained[name][0].pseudo_healthy, shown)[:, 0].numpy() for name in settings}
plots.show_reconstructions(test.images[rows], test.masks[rows], rebuilt_rows, titles=families)
lesson.figure("A slice of each family with the truth outlined, and what each setting of the VQ-VAE makes of it.")

# %% [markdown]
# ## All families, with humble baselines
#
# Brightness and the positional Gaussian need no training by gradients; `AE` has a dense code of sixteen numbers. Rims
# of `2` pixels are silenced and maps are median-filtered, for all alike.

# %%
levels = train.table["z_mm"].nunique()  # how many heights the slices have
baselines = {"brightness": IntensityThreshold(), "positional Gaussian": PositionalGaussian(slices.image_shape, levels)}
for detector in baselines.values():
    fit(detector, train, progress=False)
others = {"AE": [run for run, _ in auto]} | {name: [detector] for name, detector in baselines.items()}
for name, runs in others.items():
    scores[name] = [replace(predict(run, test, clean, name=name), raw=None) for run in runs]
picks = {name: scores[name][0].maps[rows] for name in ("VQ-VAE", "VQ-VAE 24 × 24", "positional Gaussian")}
units = {name: "residual" for name in picks} | {"positional Gaussian": "distance (s.d.)"}
plots.show_maps(test.images[rows], test.masks[rows], picks, titles=families, label=units)
lesson.figure("The same slices and the anomaly maps of two settings and of the positional Gaussian.")

# %%
del test_images, before, squares  # room for the evaluation
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
if "ms" in families:
    ranked = ap_of.loc[list(settings), "ms"]
    lesson.reveal("dial", ranked.idxmax())
    lesson.say(
        "Pixel AP on `ms`: {each}. Share of its contrast that survives: {kept}. Healthy error: {error}. The map needs "
        "both: little left of the lesion, and little error elsewhere.",
        each=", ".join(f"{name} {value:.2f}" for name, value in ranked.items()),
        kept=", ".join(f"{share_of.loc[name, 'ms']:.2f}" for name in ranked.index),
        error=", ".join(f"{averages[name]:.4f}" for name in ranked.index),
    )


# %% [markdown]
# The next claims come from the method's card: a residual loses to brightness on bright lesions, and iso-intense changes
# stay at chance. Dark strokes at chance, and `ms` better on the finer grid, were seen in a trial of the course: those
# two are not blind. "At chance" means: less than `0.02` above the share of lesion pixels, which is what a random map
# reaches.


# %%
def gap(first, second, family):
    """Pixel AP of one detector less that of another."""
    return paired_difference(scores[first], scores[second], "AP", family=family, resamples=400, seed=seed)


if "ms" in families:
    lesson.claim_interval(
        "ms: brightness beats the residual",
        "On `ms`, brightness has a higher pixel AP than the residual of the VQ-VAE (difference).",
        gap("brightness", "VQ-VAE", "ms"),
        above=0,
    )
    lesson.claim_interval(
        "ms: the finer grid finds more",
        "On `ms`, 24 × 24 tokens have a higher pixel AP than 12 × 12 tokens, both with 128 codes (difference).",
        gap("VQ-VAE 24 × 24", "VQ-VAE", "ms"),
        above=0,
        because="which grid copies more and which rebuilds the rest better changes with the training's length",
    )
for family in [family for family in ("stroke", "texture") if family in families]:
    cell = ap[(ap["detector"] == "VQ-VAE") & (ap["family"] == family)].iloc[0]
    bounds = [cell[key] - cell["chance"] for key in ("value", "low", "high")]
    over_chance = Interval(*bounds, int(cell["subjects"]), int(cell["seeds"]))
    lesson.claim_interval(
        f"{family}: the residual is at chance",
        f"On `{family}`, the pixel AP of the VQ-VAE's residual is less than 0.02 above chance.",
        over_chance,
        below=0.02,
        because="some of its contrast is not rebuilt",
    )

# %% [markdown]
# Now whole images: does a slice with a lesion score higher than slices of healthy people? The score is the mean
# residual in the brain, the same rule for all networks here.

# %%
auroc = final[(final["level"] == "image") & (final["metric"] == "AUROC") & final["family"].isin(families)]
display(results_table(auroc, "AUROC", level="image"))
best = auroc.pivot(index="detector", columns="family", values="value")
lesson.say(
    "Highest image AUROC: {best}.",
    best="; ".join(f"{family}: {best[family].idxmax()} {best[family].max():.2f}" for family in families),
)

# %% [markdown]
# ## Where the claims do not show, and what it costs
#
# The rule of thumb says: small codebooks and large squares remove lesions, large codebooks and small squares pass them
# through. As a statement about what *survives* it was measured above. But a map is not made of what is removed from a
# lesion. It is made of that, against what is removed from everybody's healthy tissue: a coarse grid loses the folds
# too, and its residual is bright along each of them. So the setting that removes the most of a lesion need not be the
# one that finds it. Compare the three rows of numbers under the table of pixel AP. It is the dilemma of lesson 2.2
# again, with two dials in place of one.
#
# Why strokes and textures stay at chance: a codebook made on healthy slices has dark squares and grey ones, so a dark
# lesion is rebuilt from borrowed words, and the twins tell how much better than a bright one of the same shape. A
# texture is finer than a square: it is lost inside the lesion, and so is all fine texture elsewhere, just as much.
#
# All this rests on training slices in which little is bright. In another sequence, or with older people, bright spots
# of healthy age would enter the codebook, and with them words for lesions. The number of steps matters as well. And the
# paper does not rely on this residual: it uses tokens as a place to put a likelihood, and that is lesson 4.2.


# %%
def quickest(function, times=3):
    """Processor milliseconds of the quickest of some calls."""
    taken = []
    for _ in range(times):
        started = time.process_time()
        function()
        taken.append(1000 * (time.process_time() - started))
    return min(taken)


threads = torch.get_num_threads()
torch.set_num_threads(1)
few, costs = train.batch(batch_indices(len(train), BATCH, 0, 0)), {}
for name in ("AE", "VQ-VAE", "VQ-VAE 24 × 24"):
    probe = type(recipes[name])(**recipes[name].hyperparameters())
    optimizers = probe.configure_optimizers()
    step_ms = quickest(lambda probe=probe, o=optimizers: probe.training_step(few, o))
    probe.eval()
    map_ms = quickest(lambda probe=probe: probe.anomaly_map(few)) / BATCH
    costs[name] = {
        "weights": sum(p.numel() for p in probe.parameters()),
        "step (ms)": step_ms,
        "map of a slice (ms)": map_ms,
    }
torch.set_num_threads(threads)
costs = pd.DataFrame(costs).T
display(costs.style.format({"weights": "{:,.0f}", "step (ms)": "{:.0f}", "map of a slice (ms)": "{:.1f}"}))
lesson.say(
    "Processor time on one thread, in plain float32: a training step of the VQ-VAE takes {ratio:.1f} times that of "
    "AE. The codebook holds {book:,} numbers more, which are no weights. Larger codebooks hardly cost: the "
    "convolutions do.",
    ratio=costs.loc["VQ-VAE", "step (ms)"] / costs.loc["AE", "step (ms)"],
    book=model.quantiser.codebook.numel(),
)

# %% [markdown]
# ## Exercises


# %%
def check_bits(answer):
    """A function of height, width, factor and codes: the bits that a grid of tokens can hold."""
    cases = [(96, 96, 8, 128), (64, 96, 4, 16), (32, 32, 16, 2)]
    found = np.array([float(answer(*case)) for case in cases])

    def same(rule):
        return np.allclose(found, [rule(h / f, w / f, k, h, w, f) for h, w, f, k in cases])

    if same(lambda h, w, k, *_: h * w * np.log2(k)):
        return None
    if same(lambda h, w, k, *_: h * w * k):
        return "A token is one of K: it takes log2(K) bits to name it, not K."
    if same(lambda h, w, k, *_: h * w * np.log(k)):
        return "That is in nats. For bits the logarithm has base 2."
    if same(lambda h, w, k, *_: h * w):
        return "That is the number of tokens. How many bits does each of them hold?"
    if same(lambda _h, _w, k, height, width, f: height * width / f * np.log2(k)):
        return "Each side is divided by the factor, so the number of pixels is by its square."
    if same(lambda _h, _w, k, height, width, f: height * width * np.log2(k)):
        return "Not each pixel has a token: a token stands for a square of factor by factor pixels."
    if same(lambda _h, _w, k, *_: np.log2(k)):
        return "Those are the bits of one token. How many tokens are there?"
    return "Number of tokens, (height / factor) (width / factor), times log2 of the number of codes."


lesson.card(
    "4.1.1",
    "How much may pass?",
    difficulty=1,
    minutes=8,
    task="Write a function of `height`, `width`, `factor` (pixels along a side of a token's square) and `codes` that "
    "returns the number of bits which a grid of tokens can hold. Put it into `answer`.",
    hints=["How many different grids are there?", "The logarithm of a product is a sum."],
    solution="```python\ndef answer(height, width, factor, codes):\n"
    "    return (height // factor) * (width // factor) * np.log2(codes)\n```",
    check=check_bits,
)

# %%
answer = ...
lesson.check("4.1.1", answer)


# %%
def check_nearest(answer):
    """A function of z (B, D, h, w) and a codebook (K, D): the tokens (B, h, w)."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 3, 4, 5, generator=generator)
    book = torch.randn(7, 3, generator=generator) * torch.linspace(0.3, 2, 7)[:, None]
    found = answer(z.clone(), book.clone())
    found = torch.as_tensor(found)
    vectors = z.movedim(1, -1).reshape(-1, 3)  # (B h w, D)
    distances = torch.cdist(vectors, book)
    right = distances.argmin(1)
    if found.shape == (2, 4, 5) and torch.equal(found.long(), right.view(2, 4, 5)):
        return None
    if found.shape == (2, 3, 4, 5):
        return "You return the codes. Asked for are their numbers, (B, h, w)."
    if found.numel() != right.numel():
        return "Return one integer for each place of each image, (B, h, w)."
    flat = found.reshape(-1).long()
    if torch.equal(flat, right):
        return "The numbers are right, but not their shape: give them back the grid, (B, h, w)."
    if torch.equal(flat, (vectors @ book.T).argmax(1)):
        return "The largest inner product favours long codes. The nearest has the smallest |e|^2 - 2 z e."
    if torch.equal(flat, distances.argmax(1)):
        return "That is the farthest code."
    if torch.equal(flat, torch.cdist(z.reshape(-1, 3), book).argmin(1)):
        return "z.reshape(-1, D) cuts through the channels: move them to the end first, z.movedim(1, -1)."
    if torch.equal(flat, (vectors[:, None] - book).abs().amax(-1).argmin(1)) or torch.equal(
        flat, (vectors[:, None] - book).abs().sum(-1).argmin(1)
    ):
        return "Near is meant in squared distances: sum (z - e)^2 over the D numbers."
    return "For each place the k with the smallest sum of (z - e_k)^2 over the D numbers."


lesson.card(
    "4.1.2",
    "The nearest code",
    difficulty=2,
    minutes=15,
    task="Write the quantiser's search without a loop: a function of `z`, `(B, D, h, w)`, and `codebook`, `(K, D)`, "
    "both tensors. Return the tokens, `(B, h, w)`. Put it into `answer`.",
    hints=["Where do the D numbers of one place lie in `z`?", "`torch.cdist`, or expand the square", "`argmin(-1)`"],
    solution="```python\ndef answer(z, codebook):\n    vectors = z.movedim(1, -1)  # (B, h, w, D)\n"
    "    return (codebook.square().sum(1) - 2 * vectors @ codebook.T).argmin(-1)\n```",
    check=check_nearest,
)

# %%
answer = ...
lesson.check("4.1.2", answer)


# %%
def check_straight(answer):
    """A function of z and z_q (same shapes, both may ask for gradients): the straight-through vectors."""
    generator = torch.Generator().manual_seed(0)
    z, z_q, weights = (torch.randn(2, 3, 4, generator=generator) for _ in range(3))
    z, z_q = z.requires_grad_(), z_q.requires_grad_()
    found = answer(z, z_q)
    to_z = to_q = None
    if found.requires_grad:
        to_z, to_q = torch.autograd.grad((found * weights).sum(), (z, z_q), allow_unused=True)
    none = torch.zeros_like(weights)
    to_z, to_q = (none if grad is None else grad for grad in (to_z, to_q))
    if not torch.allclose(found, z_q, atol=1e-5):
        if torch.allclose(found, z, atol=1e-5):
            return "Its value is z: the decoder sees the vectors themselves, and there is no bottleneck at all."
        return "In value it has to be z_q, to the last digit but one."
    if torch.allclose(to_z, weights, atol=1e-5) and torch.equal(to_q, none):
        return None
    if torch.equal(to_z, none) and torch.equal(to_q, none):
        return "No gradient reaches anything: the encoder would learn from the commitment alone."
    if torch.equal(to_z, none):
        return "The gradient goes to the codes, and none to the encoder. Which part has to be a constant?"
    if torch.allclose(to_z, weights, atol=1e-5):
        return "The encoder is taught, and so are the codes, which follow by averages: detach them as well."
    return "The derivative by z has to be one: z + (a constant)."


lesson.card(
    "4.1.3",
    "Straight through",
    difficulty=2,
    minutes=10,
    task="Write the straight-through trick: a function of the vectors `z` and their codes `z_q`, tensors of one shape. "
    "The result has the value of `z_q`; its derivative by `z` is one, by `z_q` zero. Put it into `answer`.",
    hints=["`detach()` makes a constant.", "What has to be added to z so that the sum is z_q?"],
    solution="`lambda z, z_q: z + (z_q - z).detach()`",
    check=check_straight,
)

# %%
answer = ...
lesson.check("4.1.3", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "Tokens hold h w log2 K bits. Data start and restarts keep the codes alive; perplexity counts them.",
    "A coarse grid and few codes remove more of a lesion, and more of healthy folds: print both, the map needs the "
    "gap.",
    "Any grid decodes to something. The alphabet has no grammar: which tokens belong together is lesson 4.2.",
)

# %% [markdown]
# ## References
#
# - van den Oord A, Vinyals O, Kavukcuoglu K. Neural discrete representation learning. *NeurIPS* (2017).
# - Pinaya WHL, Tudosiu P-D, Gray R, Rees G, Nachev P, Ourselin S, Cardoso MJ. Unsupervised brain imaging 3D anomaly
#   detection and segmentation with transformers. *Medical Image Analysis* (2022).
# - Dhariwal P, Jun H, Payne C, Kim JW, Radford A, Sutskever I. Jukebox: a generative model for music. *arXiv* (2020).
