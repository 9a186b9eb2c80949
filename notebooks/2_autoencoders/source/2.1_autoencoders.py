# %% [markdown]
# # 2.1 Auto-encoders
#
# **If a network may only rebuild what it has learned from healthy scans, does it leave the disease out?**
#
# This is one of the oldest ideas for networks in this field, and many papers still start from it. An *auto-encoder*
# squeezes a slice
# $x$ through a narrow *code* $z$ and rebuilds it:
#
# $$z = \text{encode}(x), \qquad \hat{x} = \text{decode}(z), \qquad
# \mathcal{L} = \frac{1}{HW}\sum_p (x_p - \hat{x}_p)^2 .$$
#
# It trains on healthy slices alone. At a lesion, so goes the hope, the code has no words for what it sees, the decoder
# paints healthy tissue instead, and the *residual* $|x - \hat{x}|$ lights up. The hope hangs on one thing: how narrow
# the code is, and of which kind.
#
# After this lesson you can
#
# 1. train an auto-encoder on healthy slices and turn its residual into an anomaly map;
# 2. say what a spatial and a dense bottleneck keep, and show it with numbers;
# 3. compare detectors fairly: same slices, same brain pixels, intervals, and baselines that need no network.
#
# | time | memory | needs |
# |---|---|---|
# | 5 minutes to run at first (later the networks come from the store), 40 to read | under 3.5 GiB | lesson 1.1 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>Why may no subject be in the training and in the test slices?</summary>
# Slices of one head resemble each other. A detector that has seen a neighbouring slice has seen the answer.
# </details>
#
# <details><summary>In the course's intensity convention, what are 0, 0.5 and 0.625?</summary>
# Background; the brain's median; one robust standard deviation (1/8) above the median.
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
import numpy as np
import pandas as pd
import torch
from course_lib import plots
from course_lib.detectors.autoencoder import DenseAE, SpatialAE
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.pca import PCA
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.detectors.zscore import PixelZScore
from course_lib.errors import BadInput
from course_lib.evaluation import evaluate, paired_difference, predict, residual_contrast, results_table
from course_lib.metrics.intervals import bootstrap
from course_lib.metrics.statistics import Mean
from course_lib.store import load_or_train_all
from course_lib.teaching import Lesson
from course_lib.training import fit
from course_lib.widgets.threshold import ThresholdExplorer, ThresholdState, threshold_figure
from course_lib.widgets.volume import VolumeExplorer, VolumeState, volume_figure
from data_scripts import open_slices
from IPython.display import display

plots.use_style()
lesson = Lesson("2.1", profile=profile, seed=seed)

# %% [markdown]
# ## The slices
#
# Training sees healthy subjects only. Validation holds other healthy subjects; thresholds come from there. The test
# split holds healthy people and four families of disease: a bright one (`ms`), two that a brightness
# threshold cannot find (`stroke`, dark; `texture`, as bright as its surroundings), and a large one (`tumour`).

# %%
slices = open_slices(data, profile, progress=False)
train = slices.select("split == 'train' and family == 'healthy'")
validation = slices.select("split == 'val' and family == 'healthy'")
wanted = ["healthy", "ms", "stroke", "tumour", "texture"]
test = slices.select((slices.table["split"] == "test").to_numpy() & slices.table["family"].isin(wanted).to_numpy())
families = [family for family in test.families if family != "healthy"]
lesson.say(
    "{train} healthy slices of {people} people to train on; {test} test slices of {others} other people.",
    train=len(train),
    people=len(train.subjects),
    test=len(test),
    others=len(test.subjects),
)

# %% [markdown]
# ## Four bottlenecks
#
# The encoder halves the picture a few times. What differs is what is left in the middle.
#
# - **shallow**: after two halvings, 16 numbers at each of 24 × 24 places. The code has as many numbers as the picture
#   has pixels: nothing forces it to forget.
# - **spatial**: after four halvings, 16 numbers at each of 6 × 6 places: a small picture, still tied to places.
# - **dense**: one vector of 128 or of 16 numbers, each of which has seen the whole slice.

# %%
recipes = {
    "AE shallow": SpatialAE(slices.image_shape, depth=2),
    "AE spatial": SpatialAE(slices.image_shape, depth=4),
    "AE dense 128": DenseAE(slices.image_shape, latent=128),
    "AE dense 16": DenseAE(slices.image_shape, latent=16),
}
code = {name: recipe.encode(train.batch([0])).numel() for name, recipe in recipes.items()}
weights = {name: sum(p.numel() for p in recipe.parameters()) for name, recipe in recipes.items()}
pd.DataFrame(
    {"numbers in the code": code, "share of the pixels": pd.Series(code) / train.images[0].size, "weights": weights}
)

# %%
lesson.predict(
    "rebuild",
    "Which rebuilds *healthy* slices best? Rank from best to worst.",
    kind="ranking",
    choices=list(recipes),
)

# %% [markdown]
# Training is one call. `load_or_train_all` looks into the store first: the same class, settings, slices, seed and
# budget are trained once. Each recipe is trained with several seeds, because one training proves nothing. The loop
# itself is `course_lib.training.fit`, one file that you can read in ten minutes.

# %%
steps = {"quick": 150, "standard": 800, "full": 5000}[profile]
seeds = range(seed, seed + {"quick": 2, "standard": 3, "full": 5}[profile])
budget = {"steps": steps, "batch_size": 16, "fast": True, "device": device, "progress": False}
pairs = load_or_train_all(recipes, train, seeds, **budget)
trained = {name: [detector for detector, _ in runs] for name, runs in pairs.items()}
histories = {name: runs[0][1] for name, runs in pairs.items()}

# %%
plots.plot_history(histories, "reconstruction", ylabel="mean squared error")
lesson.figure(
    "Training losses over the steps, all falling; at the end {losses}.",
    losses=", ".join(f"{name} {history['reconstruction'].iloc[-1]:.4f}" for name, history in histories.items()),
)

# %% [markdown]
# The loss falls for all of them. Nothing in this figure says which of them detects anything.

# %% [markdown]
# ## What comes out

# %%
rows = [test.example(family) for family in families]  # a lesion of middling size of each
shown = test.batch(rows)  # (B, 1, H, W)
rebuilt = {
    name: detectors[0].pseudo_healthy(shown.to(next(detectors[0].parameters()).device)).cpu()[:, 0].numpy()
    for name, detectors in trained.items()
}
pictures, truths = shown[:, 0].numpy(), test.masks[rows]
plots.show_reconstructions(pictures, truths, rebuilt, titles=families)
lesson.figure("A slice of each family with its outline, and below what each of the four auto-encoders rebuilds.")

# %% [markdown]
# Compare the rows. The shallow code gives the slice back almost as it was, lesion and all. The code of 16 numbers gives
# back a person who does not exist: smooth, without the lesion, and without this person's own folds either. Both halves
# of that sentence matter, so measure both: the error outside lesions, and the error inside.

# %%
error = {name: [residual_contrast(predict(d, test)) for d in detectors] for name, detectors in trained.items()}
pooled = pd.concat({name: pd.concat(runs) for name, runs in error.items()}, names=["detector"])
summary = pooled.groupby(["detector", "family"], sort=False)["lesion"].mean().unstack()[families].add_prefix("in ")
summary.insert(0, "outside lesions", pooled.groupby("detector")["rest"].mean())
summary.style.format("{:.3f}").set_caption(
    "mean absolute residual (0.125 = 1 robust s.d.), mean over subjects and seeds"
)

# %%
lesson.reveal("rebuild", list(summary["outside lesions"].sort_values().index))
ratio = summary.drop(columns="outside lesions").mean(axis=1) / summary["outside lesions"]
lesson.say(
    "Inside lesions the shallow auto-encoder errs {shallow:.1f} times as much as outside, the one with 16 numbers "
    "{dense:.1f} times. This *contrast*, not the error itself, is what a map needs.",
    shallow=ratio["AE shallow"],
    dense=ratio["AE dense 16"],
)

# %%
last = pd.Series({name: history["reconstruction"].tail(20).mean() for name, history in histories.items()})
lesson.say(
    "And the training loss? It ended lowest for {best}, whose code has {size} numbers, and highest for {worst}. Keep "
    "that in mind when you see who detects: **the training loss ranks copying machines highest.**",
    best=last.idxmin(),
    size=code[last.idxmin()],
    worst=last.idxmax(),
)

# %% [markdown]
# ## From residuals to maps
#
# The residual of a network is bright along the brain's rim and at every fold that the decoder blurred. The usual remedy
# is *post-processing*: silence two pixels of rim, then take a 3 × 3 median. It can move results a good deal, so the
# course records it with every number; the table below shows the maps with it and without.
#
# Beside the networks stand baselines without gradient descent. Brightness you know. The **z-score** asks at each pixel
# how many healthy standard deviations it lies from the healthy mean there. **PCA** is the linear auto-encoder: the 64
# patterns in which the training slices vary most. The **positional Gaussian** is the detector of lesson 1.0.

# %%
levels = train.table["z_mm"].nunique()  # how many heights the slices have
baselines = {
    "brightness": IntensityThreshold(),
    "z-score": PixelZScore(slices.image_shape, levels),
    "PCA": PCA(slices.image_shape, components=64),
    "positional Gaussian": PositionalGaussian(slices.image_shape, levels),
}
for detector in baselines.values():
    fit(detector, train, progress=False)
everyone = {name: [detector] for name, detector in baselines.items()} | trained
clean = [("rim", 2), ("median", 3)]

# %%
scores = {name: [predict(d, test, clean, name=name) for d in detectors] for name, detectors in everyone.items()}
healthy = {name: [predict(d, validation, clean, name=name) for d in detectors] for name, detectors in everyone.items()}
some = ["positional Gaussian", "AE dense 16", "AE spatial", "AE shallow"]
units = {name: "residual" for name in some} | {"positional Gaussian": "distance (s.d.)"}
plots.show_maps(pictures, truths, {name: scores[name][0].maps[rows] for name in some}, titles=families, label=units)
lesson.figure("The same slices, and below them the anomaly maps of the positional Gaussian and three auto-encoders.")

# %% [markdown]
# ## Who detects?

# %%
contest = ["AE shallow", "AE dense 16", "positional Gaussian", "brightness"]
if "ms" in families:
    lesson.predict("ms-order", "Rank by pixel AP on `ms`, the small bright lesions. Highest first.", "ranking", contest)
if "stroke" in families:
    lesson.predict("stroke-order", "And on `stroke`, the dark territory?", "ranking", contest)

# %%
table = evaluate(scores, healthy, resamples=400, seed=seed)
lesson.results(table)
ap = table[(table["level"] == "pixel") & (table["metric"] == "AP") & table["family"].isin(families)]
cleaned = ap["postprocess"] != "none"
plots.plot_results(ap[cleaned], ylabel="pixel AP, 95 % interval")
lesson.figure("Pixel AP of each detector on each family, with intervals and the level of chance.")

# %%
display(results_table(ap), results_table(ap, postprocess="none"))  # post-processed, then raw

# %%
level = ap[cleaned].pivot(index="detector", columns="family", values="value")
for family in ("ms", "stroke"):
    if family in families:
        lesson.reveal(f"{family}-order", list(level.loc[contest, family].sort_values(ascending=False).index))

# %% [markdown]
# Read the table by columns. On bright lesions, brightness needs no help. On the dark stroke it is worse than a map of
# random numbers: dark pixels are the *last* that it looks at. And the networks do not lead anywhere: detectors
# that store healthy means and variances for each place, without a single layer, are the bar to clear.

# %%
networks = level.loc[list(trained), families].max()
humble = level.loc[list(baselines), families].max()
lesson.say(
    "The best network against the best baseline: {pairs}. To be fair: in this profile a network saw each slice about "
    "{times:.0f} times. What longer training changes is a question for `full`, and for lesson 2.2.",
    times=steps * budget["batch_size"] / len(train),
    pairs=", ".join(f"`{f}` {networks[f]:.2f} against {humble[f]:.2f}" for f in families),
)

# %% [markdown]
# ### What the run claims
#
# Each difference below is *paired*: both detectors meet the same resampled subjects and, for the networks, resampled
# seeds. All use the post-processed maps.


# %%
def claim_better(a, b, family):
    """Claim that detector a has the higher pixel AP than b in a family."""
    if family not in families:
        return
    gap = paired_difference(scores[a], scores[b], family=family, resamples=400, seed=seed)
    lesson.claim_interval(
        f"{family}: {a} above {b}", f"On `{family}`, {a} has a higher pixel AP than {b} (difference).", gap, above=0
    )


for family in ("ms", "stroke"):
    claim_better("AE dense 16", "AE shallow", family)
    claim_better("positional Gaussian", "AE dense 16", family)
claim_better("brightness", "z-score", "ms")
claim_better("brightness", "positional Gaussian", "ms")
claim_better("positional Gaussian", "brightness", "stroke")

# %%
dark = ap[(ap["family"] == "stroke") & (ap["detector"] == "brightness") & (ap["postprocess"] == "none")]
if data == "atlas" and len(dark):
    row = dark.iloc[0]
    lesson.claim(
        "brightness is blind to the dark",
        "On `stroke`, brightness (raw map) ranks lesion pixels worse than chance (AP divided by the chance "
        "level, below 1).",
        holds=row["high"] < row["chance"],
        value=row["value"] / row["chance"],
        low=row["low"] / row["chance"],
        high=row["high"] / row["chance"],
        over=f"{row['subjects']} subjects",
    )

# %%
gaps = [
    dense["rest"] - shallow["rest"] for dense, shallow in zip(error["AE dense 16"], error["AE shallow"], strict=True)
]
gap = bootstrap([Mean(g) for g in gaps], len(gaps[0]), seed=seed)
lesson.claim_interval(
    "copying",
    "The shallow auto-encoder rebuilds the brain outside lesions better than AE dense 16 (difference of the mean "
    "absolute residuals).",
    gap,
    above=0,
)

# %% [markdown]
# ## A threshold that you could really use
#
# AP tries all thresholds. A clinic needs one, chosen before the patient comes. The honest way uses healthy validation
# people: allow 1 % of their brain pixels to be marked. The *oracle* threshold is the best one in hindsight, chosen on
# the test lesions. Papers often report it; here it is called by its name. Both are judged by *Dice*: twice the
# overlap of marked and lesion pixels, divided by the sum of their numbers.

# %%
dice = table[(table["level"] == "pixel") & (table["postprocess"] != "none") & table["family"].isin(families)]
honest = dice[(dice["metric"] == "Dice") & (dice["protocol"] == "healthy FPR 1 %")].pivot(
    index="detector", columns="family", values="value"
)
oracle = dice[dice["metric"] == "best Dice"].pivot(index="detector", columns="family", values="value")
names = [name for name in everyone if name in honest.index]
both = pd.concat(
    {"Dice, healthy FPR 1 %": honest.loc[names, families], "best Dice (oracle)": oracle.loc[names, families]}, axis=1
)
both.style.format("{:.2f}")

# %%
share = ap[cleaned].groupby("family")["chance"].first()
cap = 2 * share / (2 * share + 0.01 * (1 - share))  # every lesion pixel, and 1 % of the others
rarest = share.idxmin()
lesson.say(
    "Averaged over detectors and families, the oracle reports {oracle:.2f} and the honest threshold {honest:.2f}. Part "
    "of the gap is knowledge of the answers. Part is the 1 % itself: lesions fill {share:.1%} of the brain in "
    "`{rarest}`, so a detector that finds all of them, and marks 1 % of the rest, has a Dice of {cap:.2f}.",
    oracle=oracle.loc[names, families].to_numpy().mean(),
    honest=honest.loc[names, families].to_numpy().mean(),
    share=share.min(),
    rarest=rarest,
    cap=cap[rarest],
)

# %% [markdown]
# ### Move it yourself
#
# An auto-encoder and the positional Gaussian, always at the same healthy FPR. Slide it down until the Gaussian's false
# alarms are gone: what has become of the lesions, on `ms` and on `stroke`? Then let the auto-encoder be the first one,
# and press *oracle*.

# %%
pair = ("AE dense 16", "positional Gaussian")
state = ThresholdState(
    {name: scores[name][0] for name in pair}, {name: healthy[name][0] for name in pair}, test.images, unit=units
)
state.choose_beside("positional Gaussian")
ThresholdExplorer(state)

# %%
threshold_figure(state)
lesson.figure(
    "A slice, the curves and the histograms at a healthy FPR of 1 %. Dice: {dice}.",
    dice=", ".join(f"{name} {state.reading(name).dice.value:.2f}" for name in pair),
)

# %% [markdown]
# And the whole head: three planes through one place, with the map above a threshold. The map was made slice by slice,
# 4 mm apart. Follow a false alarm up and down: does it belong to one slice, or to an edge that all of them share?

# %%
subject = test.table.loc[test.example(families[0]), "subject"]
head = VolumeState.from_scores(test, scores["AE dense 16"][0], subject, threshold=state.threshold())
VolumeExplorer(head)

# %%
volume_figure(head)
seen = head.reading()
lesson.figure(
    "Three planes of one subject with the map of AE dense 16 above its threshold and the truth: {found} lesion pieces "
    "found, {missed} missed, {false} false ones.",
    found=seen.found,
    missed=seen.missed,
    false=seen.false,
)

# %% [markdown]
# ## Real strokes
#
# The same detectors on real patients: FLAIR slices at z = +18 mm, trained on the lesion-free slices of the training
# persons, tested on lesions of at least 50 mm² (1 mm pixels). In FLAIR an acute stroke is *bright*, so the positional
# Gaussian looks at the bright side alone. The brightness map is smoothed a little, or its noise would decide; the table
# names each detector's post-processing.

# %%
try:
    real = open_slices("stroke", profile, progress=False)
except BadInput as error:
    real = None
    print(error.cause, error.remedy)

# %%
if real is not None:
    calm = real.select("split == 'train' and family == 'healthy'")
    ill = real.select("split == 'test' and (family == 'healthy' or (family == 'stroke' and lesion_px >= 50))")
    gaussian = PositionalGaussian(real.image_shape, levels=1, side="bright")
    fit(gaussian, calm, progress=False)
    pairs = load_or_train_all({"AE dense 16": recipes["AE dense 16"]}, calm, seeds, **budget)
    trained_on_real = [network for network, _ in pairs["AE dense 16"]]
    measured = {
        "brightness": predict(IntensityThreshold(), ill, [("smooth", 1)], name="brightness"),
        "positional Gaussian (bright)": predict(gaussian, ill, name="positional Gaussian (bright)"),
        "AE dense 16": [
            predict(network, ill, [("rim", 2), ("median", 3)], name="AE dense 16") for network in trained_on_real
        ],
    }
    reality = evaluate(measured, resamples=400, seed=seed)
    lesson.results(reality)

# %%
if real is not None:
    stroke_ap = reality[(reality["level"] == "pixel") & reality["metric"].isin(["AP", "best Dice"])]
    display(stroke_ap[["detector", "metric", "postprocess", "value", "low", "high", "subjects", "chance"]].round(3))
    sick = np.random.default_rng(seed).permutation(np.flatnonzero(ill.table["family"] == "stroke"))[:5]  # no choosing
    real_maps = {name: (run[0] if isinstance(run, list) else run).maps[sick] for name, run in measured.items()}
    plots.show_maps(ill.images[sick], ill.masks[sick], real_maps, label="anomaly")
    lesson.figure("Five real strokes, chosen at random, with outlines; below, the maps of three detectors.")

# %%
if real is not None:
    gap = paired_difference(
        measured["positional Gaussian (bright)"], measured["brightness"], family="stroke", resamples=400, seed=seed
    )
    lesson.claim_interval(
        "real stroke: Gaussian above brightness",
        "On real strokes the positional Gaussian (bright side) has a higher pixel AP than smoothed brightness "
        "(difference).",
        gap,
        above=0,
        over="persons",
    )
    gap = paired_difference(measured["brightness"], measured["AE dense 16"], family="stroke", resamples=400, seed=seed)
    lesson.claim_interval(
        "real stroke: brightness above AE",
        "On real strokes smoothed brightness has a higher pixel AP than AE dense 16 (difference).",
        gap,
        above=0,
        over="persons",
    )

# %% [markdown]
# ## Exercises


# %%
def check_residual(answer):
    """A function from images (B, 1, H, W) and reconstructions to signed maps that show dark lesions as bright."""
    image, rebuilt_image = torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 4, 4), 0.5)
    image[0, 0, 1, 1], image[0, 0, 2, 2] = 0.2, 0.9  # one dark and one bright lesion
    found = answer(image, rebuilt_image)
    if tuple(found.shape) != (1, 4, 4):
        return "Return maps (B, H, W): the channel goes."
    if found[0, 2, 2] > 0 and found[0, 1, 1] > 0:
        return "This is the absolute residual: it shows bright lesions, too."
    if found[0, 2, 2] > 0:
        return "The sign is flipped: x - x_hat is positive where the lesion is *bright*."
    if not found[0, 1, 1] > 0:
        return "The dark lesion is not found."
    if found[0, 0, 0] > 0:
        return "Where image and reconstruction agree, the map is 0."
    return None if found.min() >= 0 else "Negative anomaly has no meaning: clip at 0."


lesson.card(
    "2.1.1",
    "One side of the residual",
    difficulty=1,
    minutes=10,
    task="If you know that the lesions you seek are dark, half of the residual is noise. Write a function of "
    "images and "
    "reconstructions `(B, 1, H, W)` whose maps `(B, H, W)` are positive only where the image is *darker* than its "
    "reconstruction. Put the function into `answer`.",
    hints=["What sign does x - x_hat have in a dark lesion?", "`clamp(min=0)` removes the other half."],
    solution="`lambda x, x_hat: (x_hat - x).clamp(min=0)[:, 0]`. It is honest only if you knew the sign *before* "
    "you saw the "
    "test set.",
    check=check_residual,
)

# %%
answer = ...
lesson.check("2.1.1", answer)


# %%
def check_bottleneck(answer):
    """A SpatialAE whose code is smaller than 128 numbers."""
    if isinstance(answer, type):
        return "Make an object of the class, with its settings."
    size = answer.encode(train.batch([0])).numel()
    if size == code["AE spatial"]:
        return "That is the spatial auto-encoder from above: count its numbers again."
    if size > 128:
        return f"Its code has {size} numbers. Depth divides both sides of the code; code_channels multiplies."
    return (
        None if isinstance(answer, SpatialAE) else "It has to be a SpatialAE: the comparison is of kinds at equal size."
    )


lesson.card(
    "2.1.2",
    "As small as the dense code",
    difficulty=2,
    minutes=30,
    task="Is it the *kind* of bottleneck or its *size* that makes the difference? Make a `SpatialAE` whose code "
    "has at most 128 numbers and put it into `answer`. If it passes, train it and compare its AP:\n\n```python\n"
    'mine = [d for d, _ in load_or_train_all({"mine": answer}, train, seeds, **budget)["mine"]]\n'
    'results_table(evaluate({"mine": [predict(d, test, clean, name="mine") for d in mine]}))\n```',
    hints=["The spatial code has `code_channels` × (96 / 2^depth)² numbers.", "Depth 4 leaves 36 places."],
    solution="`SpatialAE(slices.image_shape, depth=4, code_channels=3)` has 108 numbers. Judge both by their contrast, "
    "the residual in lesions over that in healthy brain, and not by AP alone.",
    check=check_bottleneck,
)

# %%
answer = ...
lesson.check("2.1.2", answer)


# %%
def check_threshold(answer):
    """The threshold of the dense auto-encoder at 1 % healthy false positives."""
    honest_scores = healthy["AE dense 16"][0]
    pixels = honest_scores.maps[honest_scores.brains]
    right = np.quantile(pixels, 0.99)
    own = scores["AE dense 16"][0]
    if np.isclose(answer, np.quantile(own.maps[own.brains], 0.99), rtol=1e-3):
        return "You chose the threshold on the test set. It has seen the answers."
    if np.isclose(answer, np.quantile(honest_scores.maps, 0.99), rtol=1e-3):
        return "You counted the background: it is easy to be right about pixels that are never ill."
    return (
        None
        if np.isclose(answer, right, rtol=1e-2)
        else "Which quantile of the healthy validation pixels leaves 1 % above it?"
    )


lesson.card(
    "2.1.3",
    "Your own honest threshold",
    difficulty=2,
    minutes=15,
    task="Compute the threshold at which 1 % of the healthy *validation* brain pixels count as anomalous, for the "
    'first seed of the dense auto-encoder with 16 numbers: `healthy["AE dense 16"][0]` has `maps` and `brains`. Put '
    "it into `answer`.",
    hints=["`maps[brains]` are the brain's pixels.", "`np.quantile`"],
    solution='`np.quantile(healthy["AE dense 16"][0].maps[healthy["AE dense 16"][0].brains], 0.99)`',
    check=check_threshold,
)

# %%
answer = ...
lesson.check("2.1.3", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "A residual is only as good as what the code forgets. The largest codes kept the lesions; see exercise 2.1.2.",
    "The training loss ranks copying machines highest. Compare errors inside lesions with errors on healthy brain.",
    "Healthy means and covariances for each place are the bar that a network has to clear. Next: 2.2 asks why it "
    "fails.",
)

# %% [markdown]
# ## References
#
# - Baur C, Denner S, Wiestler B, Navab N, Albarqouni S. Autoencoders for unsupervised anomaly segmentation in brain MR
#   images: a comparative study. *Medical Image Analysis* 69 (2021).
# - Defard T, et al. PaDiM: a patch distribution modeling framework for anomaly detection. *ICPR Workshops* (2021): a
#   Gaussian for each position.
# - Meissen F, Kaissis G, Rueckert D. Challenging current semi-supervised anomaly segmentation methods for brain MRI
#   (2021).
# - Absher J, et al. The stroke outcome optimization project. *Scientific Data* 11:839 (2024): the real scans.
