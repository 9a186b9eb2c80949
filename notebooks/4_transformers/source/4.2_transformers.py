# %% [markdown]
# # 4.2 Transformers: likelihood, healing, and eight ways to read
#
# **How probable is every piece of a slice, given the rest, and what would a healthy slice have there?**
#
# Lesson 4.1 turned a slice into a small grid of integers, its *tokens*. That alone finds little: a decoder paints what
# the tokens say. But integers can be *predicted*. A transformer that has read many healthy grids tells how probable
# each token is, and can draw a better one. So this lesson asks two things of each place: how surprised are you, and
# what did you expect instead?
#
# After this lesson you can
#
# 1. prove that a model which reads token by token never looks ahead, and that its probabilities sum to one;
# 2. heal a grid: set one threshold on healthy people, mark, draw anew, decode, and weigh the residual;
# 3. say what each rung of that ladder adds, which it takes away, and where brightness still wins.
#
# | time | memory | needs |
# |---|---|---|
# | 5 minutes to run from the store (an hour at first), 50 to read | under 3 GiB | lesson 4.1 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>A grid has 144 tokens out of 128 codes. How many nats does it take to name it, for one who knows
# nothing?</summary>
# As many as there are tokens, times the logarithm of the number of codes: about 700. Whoever knows heads needs fewer.
# </details>
#
# <details><summary>Why must the masked layers of lesson 3.4 keep place j from seeing the input j?</summary>
# It would read the answer off its own input. A likelihood falls to nothing without anything learned.
# </details>

# %% tags=["parameters"]
data: str = "atlas"  # data set: "atlas", "stroke", or the path of a folder made by prepare_folder
profile: str = "standard"  # how much to compute: "quick", "standard" or "full"
seed: int = 0  # seed of everything random; the trainings use seed, seed + 1, ...
device: str = "cpu"  # "cpu", "cuda" or "auto"
share: float = 0.02  # of healthy validation tokens that the threshold marks

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
from course_lib import plots
from course_lib.contenders import contenders, train_contenders
from course_lib.detectors.causal_tokens import CausalTokens
from course_lib.detectors.ensemble import Ensemble
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.orders import inverse, order
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.detectors.vq_vae import VQVAE
from course_lib.diagrams import data_flow
from course_lib.errors import BadInput
from course_lib.evaluation import as_scores, evaluate, paired_difference, predict, results_table
from course_lib.images.artefacts import ARTEFACTS
from course_lib.metrics.intervals import bootstrap
from course_lib.teaching import Lesson
from course_lib.token_recipes import train_token_models, train_vqvaes
from course_lib.training import fit
from course_lib.widgets.tokens import TokenExplorer, TokenState, tokens_figure
from data_scripts import open_slices
from IPython.display import display

plots.use_style()
lesson = Lesson("4.2", profile=profile, seed=seed)

# %% [markdown]
# ## The slices
#
# All training slices; of the test people every fourth height (all in `full`), since much is scored here: nine
# transformers for each seed.

# %%
slices = open_slices(data, profile, progress=False)
train = slices.select("split == 'train' and family == 'healthy'")
validation = slices.select("split == 'val' and family == 'healthy'")
table = slices.table
some_heights = np.unique(table["z_mm"])[:: 1 if profile == "full" else 4]
wanted = (table["split"] == "test") & ~table["family"].isin(ARTEFACTS) & table["z_mm"].isin(some_heights)
test = slices.select(wanted.to_numpy())
families = [family for family in test.families if family != "healthy"]
lesson.say(
    "{train} healthy slices to train on, {validation} to set thresholds on; {test} test slices of {people} people.",
    train=len(train),
    validation=len(validation),
    test=len(test),
    people=len(test.subjects),
)

# %% [markdown]
# ## The idea
#
# Read the grid in some order, say from left to right and down, as you read a page. Call the sequence
# $s_1, \dots, s_L$. Its probability is a chain of questions, as for the codes of lesson 3.4:
#
# $$p(s) = \prod_{t=1}^{L} p(s_t | s_{<t}), \qquad
# L_{ar} = -\frac{1}{L} \sum_t \log p_\theta(s_t | s_{<t}) .$$
#
# A *transformer* answers all of them in one pass. Each place gathers from the places before it, by *attention*:
# $\text{softmax}(Q K^\top / \sqrt{d})\, V$, with the future masked out. Input is a start symbol and $s_1, \dots,
# s_{L-1}$; target are $s_1, \dots, s_L$. The VQ-VAE is frozen, in evaluation mode.
#
# At test time, in this order:
#
# - **surprise** $-\log p(s_t | s_{<t})$ of each token of the *original* grid, in nats;
# - **mark** $M_t = 1$ where $p < \tau$. One $\tau$ for all images, set on healthy *validation* people. A quantile of
#   each image would always mark something, in healthy people too;
# - **heal**: walk along the order; where $M_t = 1$, draw $s'_t$ from $p(\cdot | s'_{<t})$, the prefix *already healed*;
# - **decode** $x' = \text{Dec}(s')$, and take the residual to the input, weighted by the marks:
#
# $$A = |x - x'| \odot \text{blur}(M) .$$
#
# One order sees only what came before. So eight transformers read in eight orders, the symmetries of the square, and
# the maps are averaged. In the code: `CausalTokens`, `TokenModel.rungs`, `orders.order`, `Ensemble`. What the course
# does differently from the paper: grids of `144` tokens for thousands, exact attention for an approximation, `3` layers
# of width `64`, and healing by the most probable token unless we say that we draw.

# %%
data_flow(
    {
        "x": (0, 1.0, "data", "$x$"),
        "E": (1, 1.0, "network", "frozen $E$, nearest code"),
        "s": (2.3, 1.0, "data", "tokens $s$"),
        "T": (3.7, 1.0, "network", r"transformer in order $\pi$"),
        "p": (5.3, 1.0, "data", r"$p(s_t | s_{<t})$"),
        "M": (5.3, 0.0, "data", r"$M$: $p < \tau$"),
        "h": (3.7, 0.0, "data", "healed $s'$"),
        "D": (2.3, 0.0, "network", "frozen Dec"),
        "r": (1, 0.0, "data", "$x'$"),
        "A": (0, 0.0, "loss", r"$|x - x'|$ blur$(M)$"),
    },
    [("x", "E"), ("E", "s"), ("s", "T"), ("T", "p"), ("p", "M"), ("M", "h"), ("h", "D"), ("D", "r"), ("r", "A")],
    size=(9.4, 2.6),
)
lesson.figure("Data flow: encode, judge each token, mark, heal, decode, weigh the residual. The VQ-VAE is frozen.")

# %% [markdown]
# The **masked** transformer is the other way to ask. It sees both sides: some tokens are hidden behind a symbol [M],
# and it names them from those in view. A token must be *hidden* while it is judged, else it is no surprise; here a
# quarter of the grid at a time, in blocks. It heals in six rounds, the most certain first. Its numbers are no
# factors of a chain, so nobody may sum them up to a $\log p(x)$. In the code: `MaskedTokens`.

# %%
lesson.predict(
    "best",
    "Which rung has the highest pixel AP on `stroke` (dark, large)?",
    kind="choice",
    choices=["residual", "healed", "healed x likelihood", "8 orders"],
)
lesson.predict(
    "masked",
    "On `stroke`, which map is better: that of one causal order, or that of the masked transformer?",
    kind="choice",
    choices=["causal", "masked"],
)

# %%
steps = {"quick": 100, "standard": 800, "full": 5000}[profile]
seeds = range(seed, seed + {"quick": 2, "standard": 3, "full": 5}[profile])
reading = (0, 3, 4, 7, 1, 2, 5, 6) if profile != "quick" else (0, 3)  # each order beside its reverse
vqvaes = train_vqvaes(train, seeds, steps=steps, device=device)
models = train_token_models(vqvaes, train, seeds, steps=steps, orders=reading, device=device)
where = next(vqvaes[0].parameters()).device
healthy_images = validation.batch(np.arange(len(validation))).to(where)  # (N, 1, H, W)
for runs in models.values():
    for model in runs:
        model.calibrate(healthy_images, share)
first = models["causal 0"][0]
h, w = first.vqvae.grid
K = first.vqvae.codes

# %% [markdown]
# ## Does it only look back?
#
# A shift that is wrong by one, and the model copies its own target. The loss is then wonderful, and the maps are empty.
# It has happened in published code. So change one token, and see whose surprise moves.


# %%
@torch.no_grad()
def moved_by(model, place):
    """How much the surprise at each place moves when the token at `place` (raster) is another: (h, w), in nats."""
    tokens = model.vqvae.encode(healthy_images[len(healthy_images) // 2][None])  # (1, h, w)
    changed = tokens.flatten(1).clone()
    changed[0, place] = (changed[0, place] + K // 2) % K
    return (model.surprise(changed.view(1, h, w)) - model.surprise(tokens))[0].abs().cpu().numpy()


middle = (h // 2) * w + w // 2
shown = [name for name in ("causal 0", "causal 3", "causal 4", "masked") if name in models]
fig, axes = plt.subplots(1, len(shown), figsize=(2.5 * len(shown) + 1, 2.9), layout="constrained")
for ax, name in zip(axes, shown, strict=True):
    change = moved_by(models[name][0], middle)
    picture = ax.imshow(np.where(change > 0, change, np.nan), cmap="magma", vmin=0, vmax=1)
    ax.plot(middle % w, middle // w, "s", mfc="none", mec=plots.PALETTE[9], ms=11, mew=2)
    ax.set_facecolor("0.85")
    ax.set(title=name, xticks=[], yticks=[])
fig.colorbar(picture, ax=axes, shrink=0.8, label="change of surprise (nats)", extend="max")
lesson.figure(
    "Which surprises move when the token in the square becomes another one; grey is exactly zero. Order 0 reads to the "
    "right and down, 3 is its reverse, 4 goes down first; the masked model sees all but what is hidden together."
)


# %%
def looks_ahead(model):
    """The largest move of a surprise that lies before the changed token, over some places."""
    found = []
    for t in range(5, h * w, 23):
        moved = moved_by(model, int(model.pi[t])).ravel()
        found.append(moved[model.pi[:t].cpu().numpy()].max())
    return max(found)


causal = [model for name, runs in models.items() if name != "masked" for model in runs]
future = max(looks_ahead(model) for model in causal)
lesson.claim(
    "causal",
    "In no trained transformer does a token move the surprise of a token that is read before it (largest move, nats).",
    holds=future < 1e-4,
    value=float(future),
)
undone = all(torch.equal(order((h, w), k)[inverse(order((h, w), k))], torch.arange(h * w)) for k in range(8))
with torch.no_grad():
    sums = torch.cat([model.logits(model.read(model.vqvae.encode(healthy_images[:2]))) for model in causal])
off = float((sums.softmax(-1).sum(-1) - 1).abs().max())
lesson.claim(
    "probabilities",
    "All eight orders are undone by their inverse, and each token's probabilities sum to 1 (largest deviation).",
    holds=undone and off < 1e-5,
    value=off,
)

# %% [markdown]
# ## What it has learned
#
# Three yardsticks for the surprise of a healthy person's token: knowing nothing; knowing how often each code comes at
# this place (no neighbours); and the transformers, which know the neighbours. And draw some grids: a decoder shows
# what the model believes a head is.


# %%
@torch.no_grad()
def tokens_of(vqvae, some):
    """(N, h, w) tokens of slices or images."""
    images = some if isinstance(some, torch.Tensor) else some.batch(np.arange(len(some))).to(where)
    return torch.cat([vqvae.encode(part) for part in images.split(64)])


surprise_of = {"knowing nothing": [np.log(K)] * len(seeds), "this place alone": []}
for vqvae in vqvaes:
    known = torch.nn.functional.one_hot(tokens_of(vqvae, train).flatten(1), K).sum(0) + 0.5  # (L, K), half a count
    table_of = (known / known.sum(1, keepdim=True)).log()
    held = tokens_of(vqvae, healthy_images).flatten(1)  # (N, L)
    surprise_of["this place alone"].append(float(-table_of.gather(1, held.T).mean()))
for name, runs in models.items():
    surprise_of[name] = [
        float(torch.cat([run.surprise(t) for t in tokens_of(run.vqvae, healthy_images).split(64)]).mean())
        for run in runs
    ]
fig, ax = plt.subplots(figsize=(7, 0.32 * len(surprise_of) + 0.9))
for k, values in enumerate(surprise_of.values()):
    ax.plot(values, [k] * len(values), plots.MARKERS[k], color=plots.PALETTE[k % 10], mec="0.25", ms=6)
ax.set(yticks=range(len(surprise_of)), yticklabels=list(surprise_of), xlabel="mean surprise of a token (nats)")
ax.set_xlim(0, 1.1 * np.log(K))
ax.invert_yaxis()
fig.tight_layout()
mean_surprise = {name: float(np.mean(values)) for name, values in surprise_of.items()}
lesson.figure(
    "Mean surprise of held-out healthy tokens, one mark a training: {nothing:.1f} nats for one who knows nothing, "
    "{place:.2f} with the place's own frequencies, {causal:.2f} for the causal order 0, {masked:.2f} for the masked "
    "one.",
    nothing=mean_surprise["knowing nothing"],
    place=mean_surprise["this place alone"],
    causal=mean_surprise["causal 0"],
    masked=mean_surprise["masked"],
)

# %%
with torch.no_grad():
    drawn = first.sample(5, torch.Generator(where).manual_seed(seed))
    noise = torch.randint(K, (1, h, w), generator=torch.Generator().manual_seed(seed)).to(where)
    pictures = first.vqvae.decode(torch.cat([noise, drawn]))[:, 0].cpu().numpy()
plots.show_slices(list(pictures), titles=["random tokens", *[f"draw {k}" for k in range(1, 6)]])
lesson.figure("Six decoded grids: tokens at random make no head; five grids drawn from the transformer, order 0.")

# %%
gap = np.array(surprise_of["this place alone"]) - np.array(surprise_of["causal 0"])
lesson.claim(
    "neighbours",
    "In every training a causal transformer is less surprised by held-out healthy tokens than the frequencies at each "
    "place are (smallest gain, nats a token).",
    holds=bool((gap > 0).all()),
    value=float(gap.min()),
    seeds=len(seeds),
    because="so few steps teach it no more than where things are",
)

# %% [markdown]
# ## Mark and heal
#
# Below, one slice of each of four families. The surprise lags: in order 0, tokens *after* a lesion, to the right of it
# and below, look odd too, since the lesion is in their prefix. That is no mistake: it is why there are eight orders.

# %%
examples = [family for family in ("ms", "stroke", "tumour", "resection") if family in families]
picks = []
for family in examples:
    rows = np.flatnonzero((test.table["family"] == family).to_numpy())
    picks.append(rows[test.masks[rows].sum((1, 2)).argmax()])
images = test.batch(np.array(picks)).to(where)
found = {name: models[name][0].rungs(images) for name in ("causal 0", "causal 3", "masked") if name in models}
rows = {
    f"surprise, {name}": [values.cpu().numpy() for values in found[name]["likelihood"]]
    for name in ("causal 0", "masked")
}
rows["|x - x'|, causal 0"] = [values.cpu().numpy() for values in found["causal 0"]["healed"]]
rows["x blur(M), causal 0"] = [values.cpu().numpy() for values in found["causal 0"]["healed x likelihood"]]
labels = {name: "nats" if name.startswith("surprise") else "intensity" for name in rows}
plots.show_maps([test.images[k] for k in picks], [test.masks[k] for k in picks], rows, titles=examples, label=labels)
lesson.figure(
    "From the top: slices with the truth outlined; surprise of the causal order 0, and of the masked model; the "
    "residual to the healed image; and that residual weighted by the marks."
)

# %% [markdown]
# Move the threshold yourself. On the left it marks nothing, and the map is empty, as it should be for a healthy slice.
# On the right it marks more and more of healthy tissue, and heals that too.

# %%
explorer_picks = np.array([*picks, int(np.flatnonzero((test.table["family"] == "healthy").to_numpy())[0])])
explored = {name: models[name][0] for name in ("causal 0", "causal 3", "masked") if name in models}
state = TokenState(explored, test.select(explorer_picks), validation)
TokenExplorer(state)

# %%
tokens_figure(state)
lesson.figure(
    "The explorer's picture as it starts: the slice, its surprise with marked tokens, the healed image, the map."
)

# %% [markdown]
# ### Is the threshold right?
#
# It was set to mark `2` % of the tokens of healthy *validation* people. Whether it does so in *other* healthy people is
# a question, and its answer is a number.

# %%
well = test.select("family == 'healthy'")
well_images = well.batch(np.arange(len(well))).to(where)
person = well.table["subject"].to_numpy()


@torch.no_grad()
def marked_share(model):
    """Marked tokens and all tokens with brain of each healthy test person, (P, 2)."""
    counts = []
    for part in well_images.split(64):
        brain = model.with_brain(part)
        marked = (model.surprise(model.vqvae.encode(part)) > -model.log_tau) & brain
        counts.append(torch.stack([marked.sum((1, 2)), brain.sum((1, 2))], 1).cpu())
    return pd.DataFrame(torch.cat(counts).numpy()).groupby(person, sort=False).sum().to_numpy()


shares = {name: [marked_share(run) for run in models[name]] for name in ("causal 0", "masked")}
for name, runs in shares.items():
    interval = bootstrap([lambda q, c=c: (q @ c[:, 0]) / (q @ c[:, 1]) for c in runs], len(runs[0]), seed=seed)
    excess = replace(interval, value=interval.value / share, low=interval.low / share, high=interval.high / share)
    lesson.claim_interval(
        f"calibrated {name}",
        f"On other healthy people the threshold of {name} marks less than twice the share that it was set to "
        "(measured share / asked share).",
        excess,
        below=2,
        because="the validation people are too few, or the test people differ",
    )

# %% [markdown]
# ## The ladder
#
# On one fixed VQ-VAE, step by step. `residual` is lesson 4.1's map. `healed` is the residual to the healed image.
# `healed x likelihood` weighs it by the marks: the paper's *spatial information*, and leaving it out is its ablation.
# Then the same, averaged over two, four and eight orders. `healed change` is the residual to the VQ-VAE's own
# reconstruction, which no slice without marks can have.

# %%
counts = [n for n in (1, 2, 4, 8) if n <= len(reading)]
last = f"{counts[-1]} orders"


def in_parts(function, some):
    """A function of images `(B, 1, H, W)`, for slices: its results one after the other, as an array."""
    parts = [some.batch(np.arange(a, min(a + 64, len(some)))).to(where) for a in range(0, len(some), 64)]
    return torch.cat([function(part) for part in parts]).cpu().numpy()


def rung_maps(model, some):
    """All rungs of slices from one pass: rung -> (N, H, W)."""
    names = ("residual", "likelihood", "healed", "healed change", "healed x likelihood")
    stack = in_parts(lambda part: torch.stack(list(model.rungs(part).values()), 1), some)  # (N, 5, H, W)
    return dict(zip(names, stack.transpose(1, 0, 2, 3), strict=True))


# %%
def climb(number):
    """All maps of one training, rung -> (N, H, W); and the image scores of one order, of all, and of masked."""
    maps, sums, tails = {}, {}, []
    for n, k in enumerate(reading, 1):
        model = models[f"causal {k}"][number]
        rung = rung_maps(model, test)
        maps = maps or dict(rung)  # the rungs of the first order
        sums = {name: sums.get(name, 0) + rung[name] for name in ("healed", "likelihood", "healed x likelihood")}
        if n in counts[1:]:
            maps[f"{n} orders"] = sums["healed x likelihood"] / n
        tails.append(in_parts(model.anomaly_score, test))
    maps |= {f"{name}, {last}": sums[name] / len(reading) for name in ("healed", "likelihood")}
    both = rung_maps(models["masked"][number], test)
    maps |= {f"masked {name}": both[name] for name in ("likelihood", "healed", "healed x likelihood")}
    tail = {"healed x likelihood": tails[0], last: np.mean(tails, 0)}
    return maps, tail | {"masked healed x likelihood": in_parts(models["masked"][number].anomaly_score, test)}


# %%
clean = [("rim", 2), ("median", 3)]
scores: dict[str, list] = {}
for number in range(len(seeds)):
    maps, tails = climb(number)
    for name, values in maps.items():
        made = as_scores(values, test, clean, image_scores=tails.get(name), name=name)
        scores.setdefault(name, []).append(replace(made, raw=None))
del maps
ladder = ["residual", "healed", "healed x likelihood", *[f"{n} orders" for n in counts[1:]]]
resamples = {"quick": 100, "standard": 200, "full": 1000}[profile]
options = {"rankings_only": True, "resamples": resamples, "seed": seed}
results = pd.concat([evaluate({name: runs}, **options) for name, runs in scores.items()])
results = results[results["family"].isin(families)]
lesson.results(results)


# %%
def ap_of(names):
    """The rows of pixel AP of some detectors."""
    rows = results[(results["level"] == "pixel") & (results["metric"] == "AP") & results["detector"].isin(names)]
    return rows.sort_values("detector", key=lambda column: column.map(list(names).index), kind="stable")


plots.plot_results(ap_of(ladder), ylabel="pixel AP, 95 % interval")
ap = results[(results["level"] == "pixel") & (results["metric"] == "AP")]
ap = ap.pivot(index="detector", columns="family", values="value")
lesson.figure(
    "The ladder in each family. From residual to {last}: {steps}.",
    last=last,
    steps="; ".join(f"{f} {ap.loc['residual', f]:.2f} to {ap.loc[last, f]:.2f}" for f in families),
)

# %%
display(results_table(ap_of([*ladder, "healed change", f"healed, {last}", "likelihood", f"likelihood, {last}"])))

# %%
if "stroke" in families:
    main = ["residual", "healed", "healed x likelihood", last]
    top = ap.loc[main, "stroke"].idxmax()
    lesson.reveal("best", "8 orders" if top == last else top)
rungs_up = [("residual", "healed"), ("healed", "healed x likelihood"), ("healed x likelihood", last)]
why = {
    "healed": "healing repaints healthy structure that was only rare, or cannot see this kind of lesion",
    "healed x likelihood": "marks miss part of the lesion, and what is not marked has no weight",
    last: "one order already sees what there is to see",
}
hard = {f: bool(f in ("ms", "stroke", "tumour", "texture")) for f in families}
for family in [f for f in families if hard[f]]:
    for low, high in rungs_up:
        lesson.claim_interval(
            f"{family}: {high} above {low}",
            f"On `{family}`, {high} beats {low} (difference of pixel AP).",
            paired_difference(scores[high], scores[low], family=family, resamples=resamples, seed=seed),
            above=0,
            because=why[high],
        )

# %% [markdown]
# Read the ladder family by family. It is a promise about what *can be healed*: a lesion has to look improbable to
# the transformer, and the drawn tokens have to look different. Where both hold (large dark or bright lesions, a cavity)
# each rung can help. Where the VQ-VAE has already painted a lesion away, as it may do with small ones, no token is
# odd, and nothing is healed.
#
# ## How many orders?

# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
names_of = ["healed x likelihood", *[f"{n} orders" for n in counts[1:]]]
for k, family in enumerate(families):
    ax.plot(
        counts,
        [ap.loc[name, family] for name in names_of],
        marker=plots.MARKERS[k],
        color=plots.PALETTE[k],
        label=family,
    )
ax.set(xlabel="orders in the ensemble (trainings and passes)", ylabel="pixel AP, mean over seeds", xticks=counts)
ax.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.25))
fig.tight_layout()
lesson.figure(
    "Pixel AP of the weighted residual with more orders; mean over the families {one:.3f} with one, {all:.3f} with "
    "{n}.",
    one=ap.loc["healed x likelihood"].mean(),
    all=ap.loc[last].mean(),
    n=counts[-1],
)

# %% [markdown]
# ## From both sides
#
# The masked transformer is one network where the ensemble is eight, and looks four times at each grid, then six times
# to fill it. A trial before this course found it stronger than a causal order on `stroke`, as a map of likelihood.

# %%
sided = {
    "likelihood": ("likelihood", "masked likelihood"),
    "weighted residual": ("healed x likelihood", "masked healed x likelihood"),
}
gaps = {
    (kind, family): paired_difference(scores[b], scores[a], family=family, resamples=resamples, seed=seed)
    for kind, (a, b) in sided.items()
    for family in families
}
fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
for ax, kind in zip(axes, sided, strict=True):
    for k, family in enumerate(families):
        gap = gaps[kind, family]
        bars = [[gap.value - gap.low], [gap.high - gap.value]]
        clear = gap.low > 0 or gap.high < 0
        color = plots.PALETTE[0] if gap.value > 0 else plots.PALETTE[3]
        ax.errorbar(gap.value, k, xerr=bars, fmt="o", color=color, mfc=color if clear else "white", ms=6)
    ax.axvline(0, color="0.35", lw=1)
    ax.set(
        title=f"map: {kind}", yticks=range(len(families)), yticklabels=families, xlabel="masked less causal, pixel AP"
    )
fig.tight_layout()
lesson.figure(
    "Pixel AP of the masked transformer less that of the causal order 0, by family and map, with 95 % intervals; "
    "filled marks exclude zero: {better} of {all} in favour of masked, {worse} of causal.",
    better=sum(gap.low > 0 for gap in gaps.values()),
    worse=sum(gap.high < 0 for gap in gaps.values()),
    all=len(gaps),
)

# %%
if "stroke" in families:
    for kind in sided:
        lesson.claim_interval(
            f"stroke: masked above causal, {kind}",
            f"On `stroke`, the {kind} map of the masked transformer beats that of the causal order 0 (pixel AP).",
            gaps[kind, "stroke"],
            above=0,
            because="the masked one learns more slowly: each step asks for a part of the tokens only",
        )
        against = paired_difference(
            scores[sided[kind][1]],
            scores[last if kind == "weighted residual" else f"likelihood, {last}"],
            family="stroke",
            resamples=resamples,
            seed=seed,
        )
        lesson.claim_interval(
            f"stroke: masked reaches the ensemble, {kind}",
            f"On `stroke`, one masked network is no more than 0.02 below the ensemble of causal orders ({kind}, pixel "
            "AP).",
            against,
            above=-0.02,
            because="the ensemble has more networks, and each of them learned from every token",
        )
    lesson.reveal("masked", "masked" if gaps["likelihood", "stroke"].value > 0 else "causal")

# %% [markdown]
# ## A finer grid
#
# Small lesions are a few pixels; a token here is `8 × 8`. Halve the squares, and the grid has four times as many
# tokens: the VQ-VAE rebuilds more, lesions too, and attention costs sixteen times as much. The transformers on the fine
# grid got half the steps, as a step is dear.

# %%
fine_steps = steps // 2 if profile != "quick" else 20
fine_vqvaes = train_vqvaes(train, seeds, steps=steps, device=device, halvings=2)
fine = train_token_models(fine_vqvaes, train, seeds, steps=fine_steps, device=device)
few_rows = np.flatnonzero(np.isin(test.table["family"], ["ms", "stroke", "tumour"]))
few = test.select(few_rows)
grids: dict[str, list] = {"residual": []}
for number in range(len(seeds)):
    for side in ("causal", "masked"):
        model = fine["causal 0" if side == "causal" else side][number].calibrate(healthy_images, share)
        rung = rung_maps(model, few)
        named = {f"{side} {name}": rung[name] for name in ("likelihood", "healed x likelihood")}
        named |= {"residual": rung["residual"]} if side == "causal" else {}
        for name, values in named.items():
            made = as_scores(values, few, clean, name=name)
            grids.setdefault(name, []).append(replace(made, raw=None))


# %%
rows = []
for name, runs in grids.items():
    for family in [f for f in ("ms", "stroke", "tumour") if f in families]:
        coarse = [run.select(few_rows) for run in scores[name.removeprefix("causal ")]]
        gap = paired_difference(runs, coarse, family=family, resamples=resamples, seed=seed)
        rows.append({"map": name, "family": family, "gap": gap})
        if family == "ms" and name in ("residual", "masked healed x likelihood"):
            lesson.claim_interval(
                f"ms: finer grid, {name}",
                f"On `ms`, the finer grid gives the {name} map a higher pixel AP than the coarser one (difference).",
                gap,
                above=0,
                because="the finer grid also copies the lesions, or its transformer is not ready",
            )

# %%
fig, ax = plt.subplots(figsize=(7.6, 3.4))
maps_of = list(dict.fromkeys(row["map"] for row in rows))
for row in rows:
    k, gap = maps_of.index(row["map"]), row["gap"]
    family = ["ms", "stroke", "tumour"].index(row["family"])
    bars = [[gap.value - gap.low], [gap.high - gap.value]]
    label = row["family"] if k == 0 else None
    style = {"fmt": plots.MARKERS[family], "color": plots.PALETTE[family], "label": label, "ms": 6}
    ax.errorbar(gap.value, k + 0.2 * (family - 1), xerr=bars, **style)
ax.axvline(0, color="0.35", lw=1)
ax.set(yticks=range(len(maps_of)), yticklabels=maps_of, xlabel="pixel AP, finer grid less coarser grid, 95 % interval")
ax.invert_yaxis()
ax.legend(fontsize=8)
fig.tight_layout()
lesson.figure(
    "What four times as many tokens change, by map and family: {largest}.",
    largest="; ".join(
        f"{row['map']} on {row['family']} {row['gap'].value:+.2f}" for row in rows if abs(row["gap"].value) > 0.05
    )
    or "less than 0.05 everywhere",
)

# %% [markdown]
# ## Several healings: uncertainty
#
# Draw the marked tokens, several times, instead of taking the most probable. Where the drawn images disagree, the
# model does not know; dividing by their spread discounts edges and cortex. With mean $\mu$ and standard deviation
# $\sigma$ over the healings, $A = |x - \mu| / (\text{blur}(\sigma) + 0.01)$, the follow-up's map.

# %%
some = few_rows[np.isin(test.table["family"].to_numpy()[few_rows], ["stroke", "tumour"])]
doubt = test.select(some)
uncertain = []
for model in models["causal 0"]:
    values = in_parts(lambda part, model=model: model.uncertainty_map(part, draws=4), doubt)
    uncertain.append(replace(as_scores(values, doubt, clean, name="uncertainty"), raw=None))
certain = [run.select(some) for run in scores["healed"]]
for family in [f for f in ("stroke", "tumour") if f in families]:
    lesson.claim_interval(
        f"{family}: uncertainty above healed",
        f"On `{family}`, four drawn healings with their spread beat the residual to one healing, both without marks' "
        "weights (pixel AP).",
        paired_difference(uncertain, certain, family=family, resamples=resamples, seed=seed),
        above=0,
        because="healings that draw differ inside the lesion too, and the spread discounts just that",
    )

# %% [markdown]
# ## Beside the baselines
#
# Every family, the humble baselines, the plain auto-encoder of lesson 2.1, and the two best of this lesson.

# %%
recipe = {"AE": contenders(slices.image_shape, steps)["AE"]}
[pairs] = train_contenders(recipe, train, seeds, steps=steps, device=device).values()
baselines = {
    "brightness": IntensityThreshold(),
    "positional Gaussian": PositionalGaussian(slices.image_shape, table["z_mm"].nunique()),
}
beside = {"AE": [detector for detector, _ in pairs]}
for name, detector in baselines.items():
    fit(detector, train, progress=False)
    beside[name] = [detector]
others = {
    name: [replace(predict(detector, test, clean, name=name), raw=None) for detector in runs]
    for name, runs in beside.items()
}
base = pd.concat([evaluate({name: runs}, **options) for name, runs in others.items()])
base = base[base["family"].isin(families)]
lesson.results(base)
results = pd.concat([results, base])
final = ["brightness", "positional Gaussian", "AE", "residual", last, "masked healed x likelihood"]
plots.plot_results(ap_of(final), ylabel="pixel AP, 95 % interval")
ap = ap_of([*results["detector"].unique()]).pivot(index="detector", columns="family", values="value")
lesson.figure(
    "Pixel AP beside the baselines. Highest on {best}.",
    best="; ".join(f"{f}: {ap.loc[final, f].idxmax()} {ap.loc[final, f].max():.2f}" for f in families),
)

# %%
pixel = results_table(ap_of(final))
display(pixel.style.set_caption(pixel.attrs["title"]))
imaged = results[results["detector"].isin([*others, "healed x likelihood", last, "masked healed x likelihood"])]
image = results_table(imaged, "AUROC", level="image")
display(image.style.set_caption(image.attrs["title"]))

# %%
won = [f for f in families if ap.loc[last, f] < ap.loc[["brightness", "positional Gaussian"], f].max()]
for family in [f for f in ("ms", "tumour", "stroke") if f in families]:
    humble = ap.loc[list(baselines), family].idxmax()
    lesson.claim_interval(
        f"{family}: humble above the ensemble",
        f"On `{family}`, the better of the two baselines still beats the ensemble of orders (difference of pixel AP).",
        paired_difference(others[humble] * len(seeds), scores[last], family=family, resamples=resamples, seed=seed),
        above=0,
        because="here tokens win",
    )
lesson.say(
    "In {number} of {all} families a baseline that was fitted in seconds lies above the ensemble: {names}.",
    number=len(won),
    all=len(families),
    names=", ".join(won) or "none",
)

# %% [markdown]
# ## What it costs
#
# Processor time on one thread. A causal transformer walks: place after place, each with the healed prefix. What makes
# that bearable is a *cache* of keys and values, so that a place is worked out once; and that a walk starts at the first
# marked place, ends at the last, and leaves out slices without marks. Attention grows with the square of the tokens.


# %%
def milliseconds(work, repeats=3):
    """Processor time of a call, the quickest of some."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return 1000 * min(taken)


@torch.no_grad()
def growth(side):
    """Milliseconds a slice on a grid of side x side: judge, heal along an order, draw a whole grid; untrained."""
    torch.manual_seed(seed)
    vqvae = VQVAE((4 * side, 4 * side), halvings=2, codes=K).eval()
    model = CausalTokens(vqvae).eval()
    tokens = torch.randint(K, (16, side, side))
    marked = torch.rand(tokens.shape) < 0.02
    started = {"tokens": side**2, "judge": milliseconds(lambda: model.surprise(tokens)) / 16}
    started["heal"] = milliseconds(lambda: model.heal(tokens, marked)) / 16
    return started | {"draw a grid": milliseconds(lambda: model.sample(16), 1) / 16}


# %%
threads = torch.get_num_threads()
torch.set_num_threads(1)
grown = pd.DataFrame([growth(side) for side in ((8, 12) if profile == "quick" else (8, 12, 16, 24))])
sixteen = healthy_images[:16].cpu()
members = [models[f"causal {k}"][0].cpu() for k in reading]
ms = {
    "AE": milliseconds(lambda: beside["AE"][0].cpu().anomaly_map(sixteen)) / 16,
    "one order": milliseconds(lambda: members[0].anomaly_map(sixteen)) / 16,
    last: milliseconds(lambda: Ensemble(members).anomaly_map(sixteen), 1) / 16,
    "masked": milliseconds(lambda: models["masked"][0].cpu().anomaly_map(sixteen)) / 16,
}
torch.set_num_threads(threads)
display(grown.style.format(precision=1).hide(axis="index").set_caption("milliseconds a slice, one thread"))
lesson.say(
    "The VQ-VAE has {vq:,} weights, each transformer {tr:,}. A map takes {ae:.1f} ms a slice with the AE, {one:.0f} ms "
    "with one order, {all:.0f} ms with {last}, {masked:.0f} ms with the masked model.",
    vq=sum(p.numel() for p in vqvaes[0].parameters()) + vqvaes[0].quantiser.codebook.numel(),
    tr=sum(p.numel() for p in first.transformer.parameters()),
    ae=ms["AE"],
    one=ms["one order"],
    all=ms[last],
    last=last,
    masked=ms["masked"],
)

# %% [markdown]
# ## Where the claim does not show
#
# The paper's ladder was climbed with far larger networks, on thousands of people. Three things do not carry over by
# themselves. *Small bright lesions*: a token of `8 × 8` pixels hardly knows them, and the residual that is left is not
# a matter of probability. *Textures*: a decoder that never paints texture makes no residual of it, however odd a token
# is. *Bright lesions in general*: a threshold on the intensity was better than eight transformers in two of three data
# sets of independent authors, and it may be so here; the claims above say where.
#
# ## Real strokes
#
# Trained anew on lesion-free FLAIR slices of real persons, one training each; orders `0` and `3`. Acute strokes are
# *bright* there. The positional Gaussian looks at the bright side, and brightness is smoothed, as in 1.4.

# %%
try:
    real = open_slices("stroke", profile, progress=False)
except BadInput as problem:
    real = None
    print(problem.cause, problem.remedy)
if real is not None:
    calm = real.select("split == 'train' and family == 'healthy'")
    ill = real.select("split == 'test' and (family == 'healthy' or (family == 'stroke' and lesion_px >= 50))")
    quiet = real.select("split == 'val' and family == 'healthy'")
    quiet_images = quiet.batch(np.arange(len(quiet))).to(where)
    real_vqvaes = train_vqvaes(calm, [seed], steps=steps, device=device)
    real_models = train_token_models(real_vqvaes, calm, [seed], steps=steps, orders=(0, 3), device=device)
    for runs in real_models.values():
        runs[0].calibrate(quiet_images, share)
    one, two = real_models["causal 0"][0], [real_models[f"causal {k}"][0] for k in (0, 3)]
    [[(plain, _)]] = train_contenders(
        {"AE": contenders(real.image_shape, steps)["AE"]}, calm, [seed], steps=steps, device=device
    ).values()

# %%
if real is not None:
    real_detectors = {"AE": plain, "residual": real_vqvaes[0], "one order": one}
    real_detectors |= {"2 orders": Ensemble(two), "masked": real_models["masked"][0]}
    measured = {name: replace(predict(d, ill, clean, name=name), raw=None) for name, d in real_detectors.items()}
    for name, model in (("likelihood, one order", one), ("likelihood, masked", real_models["masked"][0])):
        values = rung_maps(model, ill)["likelihood"]
        measured[name] = replace(as_scores(values, ill, clean, name=name), raw=None)
    gaussian = PositionalGaussian(real.image_shape, levels=1, side="bright")
    fit(gaussian, calm, progress=False)
    measured["positional Gaussian"] = replace(predict(gaussian, ill, clean, name="positional Gaussian"), raw=None)
    measured["brightness"] = replace(predict(IntensityThreshold(), ill, [("smooth", 1)], name="brightness"), raw=None)
    reality = pd.concat([evaluate({name: run}, **options) for name, run in measured.items()])
    lesson.results(reality)
    display(results_table(reality))
    display(results_table(reality, "AUROC", level="image"))

# %%
if real is not None:
    real_steps = [
        ("residual", "one order"),
        ("one order", "2 orders"),
        ("one order", "masked"),
        ("2 orders", "brightness"),
    ]
    for low, high in real_steps:
        lesson.claim_interval(
            f"real stroke: {high} above {low}",
            f"On real strokes {high} beats {low} (difference of pixel AP, one training).",
            paired_difference(measured[high], measured[low], family="stroke", resamples=resamples, seed=seed),
            above=0,
            over="persons",
            because="what is bright and large needs no transformer, or so few steps do not make one",
        )

# %% [markdown]
# ## Exercises


# %%
def check_shift(answer):
    """A function of tokens (B, L) and the start symbol: input and target of a causal model, both (B, L)."""
    tokens, start = torch.tensor([[3, 1, 4, 1], [2, 7, 1, 8]]), 9
    try:
        inputs, target = (torch.as_tensor(part) for part in answer(tokens.clone(), start))
    except (TypeError, ValueError):
        return "Return two tensors: the input and the target."
    right = torch.cat([torch.full((2, 1), start), tokens[:, :-1]], 1)
    if inputs.shape != tokens.shape or target.shape != tokens.shape:
        return "Input and target both have L places: the start symbol comes in, the last token has no one to tell."
    if torch.equal(inputs, right) and torch.equal(target, tokens):
        return None
    if torch.equal(inputs, tokens) and torch.equal(target, tokens):
        return "Place t sees the token that it is to name: the network copies, and the loss falls to nothing."
    if torch.equal(inputs, right) and torch.equal(target[:, :-1], tokens[:, 1:]):
        return "Shifted twice: both the input and the target. Place t would name the token after the next."
    if torch.equal(target, right) and torch.equal(inputs, tokens):
        return "The shift is on the wrong side: each place would name the token before it."
    if torch.equal(inputs[:, 1:], right[:, 1:]) and torch.equal(target, tokens):
        return "The first place needs the start symbol, not a code: a code would say something about the image."
    return "Input: the start symbol and all tokens but the last. Target: all tokens."


lesson.card(
    "4.2.1",
    "Shift by one",
    difficulty=1,
    minutes=10,
    task="Write what a causal transformer is trained on: a function of `tokens`, `(B, L)` integers, and `start`, the "
    "start symbol. Return the input and the target, both `(B, L)`. Put the function into `answer`.",
    hints=["What may place 1 know?", "`torch.nn.functional.pad(x, (1, 0), value=start)`"],
    solution="```python\nimport torch.nn.functional as F\n"
    "answer = lambda tokens, start: (F.pad(tokens[:, :-1], (1, 0), value=start), tokens)\n```",
    check=check_shift,
)

# %%
answer = ...
lesson.check("4.2.1", answer)


# %%
def check_threshold(answer):
    """A function of healthy validation surprises (N, L), of new ones (M, L) and a share: marks (M, L) bool."""
    generator = np.random.default_rng(0)
    healthy, new = generator.exponential(1, (40, 25)), generator.exponential(1, (6, 25))
    new[:2] *= 6
    found = np.asarray(answer(healthy.copy(), new.copy(), 0.04))
    if found.shape != new.shape or found.dtype != bool:
        return "Return one boolean for each token of the new images."
    limit = np.quantile(healthy, 0.96)
    if (found != (new > limit)).sum() <= 1:
        return None
    if (found == (new > np.quantile(new, 0.96, axis=1, keepdims=True))).all():
        return "A quantile of each new image marks something in everybody, healthy or not."
    if (found == (new > np.quantile(new, 0.96))).all():
        return "The threshold comes from the images that are judged: ill ones move it for the others. Use validation."
    if (found != (new < limit)).sum() <= 1:
        return "You marked the probable tokens: a high surprise is odd."
    if (found != (new > np.quantile(healthy, 0.04))).sum() <= 1:
        return "That is the wrong tail: you mark all but the least surprising tokens."
    if (found == (new > np.quantile(healthy, 0.96, axis=0))).all():
        return "One threshold a place: forty images are few for so many quantiles. Pool all healthy tokens."
    return "One number: the quantile 1 - share of all healthy validation tokens. Mark what lies above."


lesson.card(
    "4.2.2",
    "One threshold for all",
    difficulty=2,
    minutes=15,
    task="Write the marking: a function of `healthy`, surprises of healthy validation tokens `(N, L)`, of `new`, "
    "surprises of images to be judged `(M, L)`, and of `share`. Return `(M, L)` booleans, such that `share` of "
    "all healthy validation tokens would be marked. Put the function into `answer`.",
    hints=["Whose tokens may set a threshold?", "`np.quantile(healthy, 1 - share)`"],
    solution="`lambda healthy, new, share: new > np.quantile(healthy, 1 - share)`",
    check=check_threshold,
)

# %%
answer = ...
lesson.check("4.2.2", answer)


# %%
def check_order(answer):
    """A function of a map along an order (L,), the permutation pi (L,) and the grid: the map on the grid (h, w)."""
    pi = np.array([4, 0, 5, 2, 3, 1])
    values = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
    found = np.asarray(answer(values.copy(), pi.copy(), (2, 3)), float)
    right = np.empty(6)
    right[pi] = values
    if found.shape != (2, 3):
        return "The result is a grid of h rows and w columns."
    if np.allclose(found, right.reshape(2, 3)):
        return None
    if np.allclose(found, values.reshape(2, 3)):
        return "The order is still in it: value t belongs to the place pi[t], not to place t."
    if np.allclose(found, values[pi].reshape(2, 3)):
        return "That applies pi once more. To undo it, index with its inverse, pi.argsort()."
    if np.allclose(found.ravel(), values[::-1]):
        return "That is right for the reverse order alone."
    return "Value t was read at place pi[t] of the raster: put it back there."


lesson.card(
    "4.2.3",
    "Back on the grid",
    difficulty=2,
    minutes=10,
    task="`values[t]` is the surprise of the token that was read at step t, and `pi[t]` the place of the raster where "
    "it was read. Write a function of `values`, `pi` and `grid` (rows, columns) that returns the map on the grid. Put "
    "it into `answer`.",
    hints=["Which place does `values[0]` belong to?", "`pi.argsort()` is the inverse of `pi`."],
    solution="`lambda values, pi, grid: values[pi.argsort()].reshape(grid)`",
    check=check_order,
)

# %%
answer = ...
lesson.check("4.2.3", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "A token is odd given its neighbours: one threshold from healthy people marks it, and the transformer heals it.",
    "Each rung of the ladder is a claim of its own, family by family. The marks are the rung that costs nothing.",
    "Orders see one side each, a masked model both. Print the baselines, the calls and the milliseconds beside them.",
)

# %% [markdown]
# ## References
#
# - Pinaya WHL, Tudosiu PD, Gray R, Rees G, Nachev P, Ourselin S, Cardoso MJ. Unsupervised brain imaging 3D anomaly
#   detection and segmentation with transformers. *Medical Image Analysis* 79 (2022); first at *MIDL* (2021).
# - Vaswani A, Shazeer N, Parmar N, Uszkoreit J, Jones L, Gomez AN, Kaiser L, Polosukhin I. Attention is all you need.
#   *NeurIPS* (2017).
# - Chang H, Zhang H, Jiang L, Liu C, Freeman WT. MaskGIT: masked generative image transformer. *CVPR* (2022).
# - Naval Marimont S, Tarroni G. Anomaly detection through latent space restoration using vector quantized variational
#   autoencoders. *ISBI* (2021).
# - Meissen F, Kaissis G, Rueckert D. Challenging current semi-supervised anomaly segmentation methods for brain MRI.
#   *BrainLes, MICCAI workshops* (2021).
