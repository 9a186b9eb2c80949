# %% [markdown]
# # 2.2 When auto-encoders fail
#
# **When does a network that knows healthy scans alone miss the disease, or call the healthy ill?**
#
# The hope of lesson 2.1 was: what the network has never seen, it cannot rebuild. Bercea and colleagues (2022) and
# Meissen and colleagues (2022) have shown how often the hope fails. This lesson takes it apart, one failure at a time,
# and measures each. Everything in parts 3 and 4 of the course is an answer to one of them.
#
# After this lesson you can
#
# 1. draw the dilemma of capacity and copying, and find your own network in it;
# 2. predict which lesions a residual cannot see, and test it;
# 3. tell a model of healthy heads from a network that is merely young, or merely good at copying.
#
# | time | memory | needs |
# |---|---|---|
# | 5 minutes to run at first (later the networks come from the store), 50 to read | under 3.5 GiB | lessons 1.2, 2.1 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>What is the contrast of a residual map, and why is it not the training loss?</summary>
# The error inside lesions against the error outside. The loss knows the outside alone.
# </details>
#
# <details><summary>What is the chance level of pixel AP?</summary>
# The share of lesion pixels in the brain. A map of random numbers reaches it.
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
from scipy.ndimage import binary_erosion, gaussian_filter
from sklearn.metrics import roc_auc_score

from course_lib import plots
from course_lib.detectors.autoencoder import DenseAE, SpatialAE
from course_lib.detectors.dae import DenoisingAE
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.detectors.vae import VAE
from course_lib.errors import BadInput
from course_lib.evaluation import evaluate, predict, residual_contrast
from course_lib.images import probes
from course_lib.images.pathology import place
from course_lib.images.slices import SliceSet
from course_lib.metrics.curves import rank_metrics
from course_lib.metrics.intervals import bootstrap
from course_lib.metrics.statistics import Mean
from course_lib.store import load_or_train_all
from course_lib.teaching import Lesson
from course_lib.training import fit
from course_lib.widgets.painter import PainterExplorer, PainterState, painter_figure
from data_scripts import open_slices

plots.use_style()
lesson = Lesson("2.2", profile=profile, seed=seed)

# %%
slices = open_slices(data, profile, progress=False)
train = slices.select("split == 'train' and family == 'healthy'")
validation = slices.select("split == 'val' and family == 'healthy'")
test = slices.select("split == 'test' and family in ['ms', 'stroke', 'texture', 'tumour']")
healthy = slices.select("split == 'test' and family == 'healthy'")
families, shape = test.families, slices.image_shape
clean = [("rim", 2), ("median", 3)]
lesson.say(
    "{train} healthy slices to train on. {test} test slices of {people} ill people, {healthy} of {others} healthy "
    "ones.",
    train=len(train),
    test=len(test),
    people=len(test.subjects),
    healthy=len(healthy),
    others=len(healthy.subjects),
)

# %% [markdown]
# ## Failure 1: the dilemma
#
# A small code forgets the lesion, and the patient's own folds with it. A large code keeps both. Sweep the *size* of the
# code over three orders of magnitude, and its *kind*: **dense**, one vector that has seen the whole slice, or
# **spatial**, a small picture of numbers, each tied to a place. Larger spatial codes halve the slice less often; the
# layers are otherwise alike, and so are the steps and the healthy slices.

# %%
sizes = (4, 16, 128, 512)
recipes = {f"dense {n}": DenseAE(shape, latent=n) for n in sizes}
recipes["spatial 6 × 6 × 3"] = SpatialAE(shape, depth=4, code_channels=3)
recipes["spatial 6 × 6 × 16"] = SpatialAE(shape, depth=4)
recipes["spatial 12 × 12 × 16"] = SpatialAE(shape, depth=3)
recipes["spatial 24 × 24 × 16"] = SpatialAE(shape, depth=2)
numbers = {name: recipe.encode(train.batch([0])).numel() for name, recipe in recipes.items()}
lesson.predict(
    "dilemma",
    "Which code leads to the highest pixel AP on `ms`, the small bright lesions?",
    kind="choice",
    choices=list(recipes),
)

# %%
steps = {"quick": 150, "standard": 800, "full": 5000}[profile]
seeds = range(seed, seed + {"quick": 2, "standard": 3, "full": 5}[profile])
budget = {"steps": steps, "batch_size": 16, "fast": True, "device": device, "progress": False}
pairs = load_or_train_all(recipes, train, seeds, **budget)
trained = {name: [detector for detector, _ in runs] for name, runs in pairs.items()}
levels = train.table["z_mm"].nunique()  # how many heights the slices have
baselines = {"brightness": IntensityThreshold(), "positional Gaussian": PositionalGaussian(shape, levels)}
for detector in baselines.values():
    fit(detector, train, progress=False)

# %%
everyone = trained | {name: [detector] for name, detector in baselines.items()}
scores = {name: [predict(d, test, clean, name=name) for d in runs] for name, runs in everyone.items()}
table = evaluate(scores, resamples=200, seed=seed)
lesson.results(table)
ap = table[(table["level"] == "pixel") & (table["metric"] == "AP") & (table["postprocess"] != "none")]
ap = ap.pivot(index="detector", columns="family", values="value")
contrast = {name: [residual_contrast(run.raw) for run in scores[name]] for name in trained}  # not post-processed
healthy_error = {
    name: [residual_contrast(predict(d, validation))["rest"].to_numpy() for d in runs] for name, runs in trained.items()
}
del scores  # two gigabytes


def lesion_error(name, family):
    """The mean residual in the lesion of each subject of a family: one array (subjects,) for each seed."""
    return [run.loc[run["family"] == family, "lesion"].to_numpy() for run in contrast[name]]


# %%
two = [family for family in ("ms", "stroke") if family in families] or families[:2]
fig, axes = plt.subplots(2, len(two), figsize=(9, 6.6), squeeze=False, layout="constrained")
for column, family in enumerate(two):
    for k, name in enumerate(recipes):
        colour, marker = plots.PALETTE[k], plots.MARKERS[k]
        x, y = np.mean(healthy_error[name]), np.mean(lesion_error(name, family))
        axes[0, column].scatter(x, y, color=colour, marker=marker, s=55, label=name)
        axes[1, column].scatter(numbers[name], ap.loc[name, family], color=colour, marker=marker, s=55)
    ends = np.array([0, 1.1 * max(np.mean(e) for e in healthy_error.values())])
    axes[0, column].plot(ends, ends, color="0.4", lw=1)
    for name, style in zip(baselines, (":", "--"), strict=True):
        axes[1, column].axhline(ap.loc[name, family], color="0.3", ls=style, label=name)
    axes[0, column].set(
        title=family, xlabel="error on healthy heads (mean abs. residual)", xlim=(0, None), ylim=(0, None)
    )
    axes[1, column].set(xlabel="numbers in the code", xscale="log", ylim=(0, None))
axes[0, 0].set_ylabel("error in lesions\n(line: equal)")
axes[1, 0].set_ylabel("pixel AP (rim, median)")
axes[1, 0].legend(fontsize=8)
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
small, large = "dense 4", "spatial 24 × 24 × 16"
lesson.figure(
    "Above, error in lesions against error on healthy heads for eight codes; on the line they are equal. Below, AP "
    "against the code's size. From {small} to {large} the healthy error falls from {h1:.3f} to {h2:.3f}, and the error "
    "in {family} lesions from {l1:.3f} to {l2:.3f}.",
    small=small,
    large=large,
    family=two[0],
    h1=np.mean(healthy_error[small]),
    h2=np.mean(healthy_error[large]),
    l1=np.mean(lesion_error(small, two[0])),
    l2=np.mean(lesion_error(large, two[0])),
)

# %%
best = ap.loc[list(recipes), two].idxmax()
if "ms" in families:
    lesson.reveal("dilemma", best["ms"])
lesson.say(
    "Down and to the left is a copying machine, up and to the right a network that has forgotten the patient. A "
    "detector should be up and to the *left*. The best code is {bests}; the best baseline has {humble}.",
    bests=", ".join(f"{name} on `{family}` (AP {ap.loc[name, family]:.2f})" for family, name in best.items()),
    humble=", ".join(f"{ap.loc[list(baselines), family].max():.2f} on `{family}`" for family in two),
)


# %%
def over_people(per_seed, **limits):
    """The interval of a mean over subjects (S,) and seeds."""
    return bootstrap([Mean(np.asarray(values)) for values in per_seed], len(per_seed[0]), seed=seed, **limits)


def gap(a, b):
    """a - b, seed by seed."""
    return [x - y for x, y in zip(a, b, strict=True)]


lesson.claim_interval(
    "dilemma: healthy error",
    f"Healthy heads are rebuilt better by {large} than by {small} (difference of the errors).",
    over_people(gap(healthy_error[small], healthy_error[large])),
    above=0,
)
for family in two:
    lesson.claim_interval(
        f"dilemma: {family} error",
        f"And so are `{family}` lesions (difference of the errors in the lesion).",
        over_people(gap(lesion_error(small, family), lesion_error(large, family))),
        above=0,
    )
lesson.claim_interval(
    "kind or size",
    f"At nearly equal size, a dense code of 128 keeps less of `{two[0]}` lesions than a spatial one of 108 (difference "
    "of the errors in the lesion).",
    over_people(gap(lesion_error("dense 128", two[0]), lesion_error("spatial 6 × 6 × 3", two[0]))),
    above=0,
    because="at this size and budget the kind of the code matters less than its size",
)

# %% [markdown]
# ## Failure 2: the anomaly is rebuilt better than the healthy brain
#
# Nothing forces a network to fail where you want it to. A lesion may be *easier* to draw than a healthy cortex: smooth,
# dark, without folds. Compare, person by person, the error inside the lesion with the error in the rest of the brain.
# Below 1 the lesion is rebuilt better, and a threshold on the residual finds everything but the disease.

# %%
lesson.predict(
    "better",
    "For how many of the families `ms`, `stroke`, `texture` and `tumour` does the *shallow* code (24 × 24 × 16) "
    "rebuild the lesion better than the rest of the brain, on average?",
    bounds=(0, 4),
)

# %%
some = ["dense 16", "spatial 6 × 6 × 16", "spatial 24 × 24 × 16"]
fig, axes = plt.subplots(1, len(some), figsize=(9, 2.9), sharey=True, sharex=True, layout="constrained")
easier = {}
for ax, name in zip(axes, some, strict=True):
    for row, family in enumerate(families):
        runs = [run[run["family"] == family] for run in contrast[name]]
        easier[name, family] = [np.log2(run["lesion"] / run["rest"]).to_numpy() for run in runs]
        values = np.mean(easier[name, family], axis=0)  # one for each subject, mean over the seeds
        ax.plot(2**values, np.full(len(values), row), plots.MARKERS[row], color=plots.PALETTE[row], alpha=0.6)
    ax.axvline(1, color="0.3", ls=":")
    ax.set(title=name, xscale="log", yticks=range(len(families)), yticklabels=families)
    ax.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"], minor=False)
    ax.minorticks_off()
fig.supxlabel("error in the lesion / error in the rest of the brain, one point a person", fontsize=9)
ratio = pd.Series({pair: 2 ** np.mean(values) for pair, values in easier.items()}).unstack()
lesson.figure(
    "Error in the lesion over the error in the rest of the brain, one point a person, three codes; dotted: equal. For "
    "the shallow code: {ratios}.",
    ratios=", ".join(f"{family} {ratio.loc[some[-1], family]:.2f}" for family in families),
)

# %%
lesson.reveal("better", int((ratio.loc[some[-1]] < 1).sum()))
for family in [family for family in ("texture", "stroke") if family in families]:
    for name in ("dense 16", "spatial 24 × 24 × 16"):
        lesson.claim_interval(
            f"better than healthy: {family}, {name}",
            f"{name} rebuilds `{family}` lesions better than the rest of the brain (log2 of the ratio of the errors).",
            over_people(easier[name, family]),
            below=0,
            because="these lesions are still harder for this code than the folds around them",
        )

# %% [markdown]
# The *rest* of the brain holds the rim and every fold, where a blurry decoder errs most, and a lesion lies elsewhere. A
# fairer control is the same place in the same head, *before* there was a lesion. So paint one and the same lesion into
# healthy heads, from four robust standard deviations darker than the tissue to six brighter. It is homogeneous, as the
# inside of a cyst is: at 0 it has the tissue's own mean, and only the grain is gone.

# %%
brightness_of = (-4, -3, -2, -1, 0, 1, 2, 3, 4, 6)  # robust s.d.
middle = healthy.table.index[healthy.table["z_mm"].isin([6, 18, 30])]
ground = healthy.select(healthy.table.index.isin(middle)) if len(middle) else healthy

spots = np.stack(
    [
        place(
            image, "ms", np.random.default_rng([seed, k]), count=1, radius_mm=10, where=binary_erosion(b, iterations=8)
        ).mask
        for k, (image, b) in enumerate(zip(ground.images, ground.brains, strict=True))
    ]
)  # (N, H, W): where the lesion will be


def painted(level):
    """The healthy slices with a lesion each, `level` s.d. from its tissue's mean, and without the tissue's grain."""
    soft = gaussian_filter(spots.astype(np.float32), (0, 0.7, 0.7)) * ground.brains  # a soft edge
    tissue = np.array([image[spot].mean() for image, spot in zip(ground.images, spots, strict=True)], np.float32)
    filled = np.maximum(tissue[:, None, None] + level / 8, 0.02)
    images = (1 - soft) * ground.images + soft * filled
    return SliceSet(images, spots, ground.brains, ground.table.drop(columns="digest"), name="painted")


swept = {level: painted(level) for level in brightness_of}


# %%
def error_in(detector, some):
    """The mean residual where the lesion is, or will be, of each person: (people,)."""
    run, where = predict(detector, some), spots
    values = [residual[place_].mean() for residual, place_ in zip(run.maps, where, strict=True)]
    return pd.Series(values).groupby(ground.table["subject"].to_numpy(), sort=False).mean().to_numpy()


before = {name: [error_in(d, ground) for d in trained[name]] for name in some}
after = {name: {at: [error_in(d, one) for d in trained[name]] for at, one in swept.items()} for name in some}
fig, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
for k, name in enumerate(some):
    times = [np.mean(after[name][level]) / np.mean(before[name]) for level in brightness_of]
    ax.plot(brightness_of, times, color=plots.PALETTE[k], marker=plots.MARKERS[k], label=name)
ax.axhline(1, color="0.3", ls=":")
ax.set(
    xlabel="brightness of the lesion against its tissue (robust s.d.)", ylabel="error with the lesion\n/ error without"
)
ax.set(yscale="log", yticks=[0.5, 1, 2, 4, 8])
ax.set_yticklabels(["½", "1", "2", "4", "8"])
ax.minorticks_off()
ax.legend(fontsize=8)
lesson.figure(
    "Error at the lesion's place, with the lesion over without, against its brightness; dotted: equal. At 0: {zero}.",
    zero=", ".join(f"{name} {np.mean(after[name][0]) / np.mean(before[name]):.2f}" for name in some),
)

# %%
for name in ("dense 16", "spatial 24 × 24 × 16"):
    lesson.claim_interval(
        f"better than what was there: {name}",
        f"{name} rebuilds an iso-intense lesion better than the healthy tissue that it replaced (log2 of the ratio).",
        over_people([np.log2(x / y) for x, y in zip(after[name][0], before[name], strict=True)]),
        below=0,
        because="what the code gains by the missing grain it loses by the unusual edge",
    )

# %% [markdown]
# Bercea and colleagues saw this on real scans: auto-encoders may rebuild the pathology and miss the healthy detail.
# What is simple is rebuilt well, ill or not. (In a first version of this lesson the painted lesion kept the tissue's
# grain. Then no code rebuilt it better than what had been there: the missing grain is what makes it easy.)

# %% [markdown]
# ## Failure 3: the residual is blind
#
# A residual measures brightness. Ask each detector to find the painted lesions, from dark to bright. The *denoising*
# auto-encoder (DAE) and the *variational* one (VAE) are the next lesson's; here they are only more networks with a
# residual.

# %%
lesson.predict(
    "blind",
    "At which brightness (robust s.d., from -4 to 6) will the AP of `dense 16` be lowest?",
    bounds=(-4, 6),
)

# %%
cells = shape[0] // 8
extra = load_or_train_all({"VAE": VAE(shape, beta=1.0)}, train, seeds, **budget)
noise_budget = budget | {"steps": {"quick": 40, "standard": 200, "full": 4000}[profile], "fast": False}
extra |= load_or_train_all({"DAE": DenoisingAE(shape, noise_cells=cells)}, train, seeds, **noise_budget)
contest = {"dense 16": trained["dense 16"], "spatial 24 × 24 × 16": trained["spatial 24 × 24 × 16"]}
contest |= {name: [detector for detector, _ in runs] for name, runs in extra.items()}
contest |= {name: [detector] for name, detector in baselines.items()}


def aps_by_person(detector, some):
    """Pixel AP on each person's slices, mean over the person's slices: (people,)."""
    run = predict(detector, some, clean)
    values = [rank_metrics(m, t, b).ap for m, t, b in zip(run.maps, run.masks, run.brains, strict=True)]
    return pd.Series(values).groupby(some.table["subject"].to_numpy(), sort=False).mean().to_numpy()


curve = {
    name: np.array([[aps_by_person(detector, some) for some in swept.values()] for detector in runs])
    for name, runs in contest.items()
}  # name -> (seeds, levels, people)
chance = spots.sum() / ground.brains.sum()

# %%
fig, (top, ax) = plt.subplots(2, 1, figsize=(9, 5.6), height_ratios=(1, 2.6), layout="constrained")
strip = [swept[level].images[len(ground) // 2][16:80, 16:80] for level in brightness_of]
top.imshow(np.concatenate(strip, axis=1), cmap="gray", vmin=0, vmax=1.3, aspect="equal")
top.set(xticks=[32 + 64 * k for k in range(len(strip))], yticks=[])
top.set_xticklabels([f"{level:+d}" for level in brightness_of])
top.grid(False)
for k, (name, values) in enumerate(curve.items()):
    style = {"color": plots.PALETTE[k], "marker": plots.MARKERS[k], "ls": "-" if name in trained | extra else "--"}
    ax.plot(brightness_of, values.mean((0, 2)), label=name, **style)
ax.axhline(chance, color="0.3", ls=":", label="chance")
ax.set(
    xlabel="brightness of the lesion against its tissue (robust s.d.)", ylabel="pixel AP, mean over people", ylim=(0, 1)
)
ax.legend(fontsize=8, ncols=2)
at = {name: dict(zip(brightness_of, values.mean((0, 2)), strict=True)) for name, values in curve.items()}
lesson.figure(
    "Above, one slice with its lesion from dark to bright. Below, AP against the lesion's brightness. At 0: "
    "{zero}. Chance is {chance:.3f}.",
    zero=", ".join(f"{name} {values[0]:.2f}" for name, values in at.items()),
    chance=chance,
)

# %%
lesson.reveal("blind", min(at["dense 16"], key=at["dense 16"].get))
dark, iso, bright = (brightness_of.index(level) for level in (-4, 0, 4))
lesson.say(
    "The residual of `dense 16` has AP {d:.2f} at -4, {i:.2f} at 0 and {b:.2f} at +4. A residual hardly sees an "
    "iso-intense lesion: where image and reconstruction agree in the mean, less is left over than in healthy tissue. "
    "The positional Gaussian, which knows how grainy each place is, has {g:.2f} at 0.",
    d=at["dense 16"][-4],
    i=at["dense 16"][0],
    b=at["dense 16"][4],
    g=at["positional Gaussian"][0],
)
lesson.claim_interval(
    "blind: dense 16",
    "`dense 16` has a lower AP on iso-intense lesions than on the same lesions 4 s.d. brighter (difference).",
    over_people([run[bright] - run[iso] for run in curve["dense 16"]]),
    above=0,
)
lesson.claim_interval(
    "blind: the Gaussian sees more",
    "On iso-intense lesions the positional Gaussian has a higher AP than the residual of every network (difference to "
    "the best of each seed).",
    over_people(
        [
            curve["positional Gaussian"][0][iso]
            - max((curve[name][k][iso] for name in [*extra, *some[::2]]), key=np.mean)
            for k in range(len(seeds))
        ]
    ),
    above=0,
    because="a spot without grain is hidden from local means and spreads, too",
)
lesson.claim_interval(
    "dark is harder than bright",
    "For `dense 16` lesions 4 s.d. darker are harder to find than lesions 4 s.d. brighter (difference of AP).",
    over_people([run[bright] - run[dark] for run in curve["dense 16"]]),
    above=0,
    because="its absolute residual does not know the sign, and few healthy pixels are that far off on either side",
)

# %% [markdown]
# Which lesions do you expect in the clinic? If you can say "bright ones", a threshold is waiting for you, see lesson
# 1.2. If you cannot, the middle of this curve is your problem.

# %% [markdown]
# ### Paint one yourself
#
# Below, a healthy slice is yours to hurt. Put a lesion somewhere, and turn its intensity slowly from dark to bright:
# what does each detector rebuild, and what does it flag at a healthy FPR of 1 %? Three things to try:
#
# 1. Find the intensity at which `dense 16` loses a spot that it flagged before. Is it the same on both sides of 0?
# 2. Make the spot larger, and watch the copier's row. Does its blindness depend on the size?
# 3. Paint a `texture` of the largest spread. Who notices?

# %%
painter = PainterState(
    healthy,
    {
        "spatial 24 × 24 × 16": trained["spatial 24 × 24 × 16"][0],
        "dense 16": trained["dense 16"][0],
        "positional Gaussian": baselines["positional Gaussian"],
    },
    validation,
    steps=clean,
)
PainterExplorer(painter)

# %%
told = {name: painter.reading(name).painted.share for name in painter.judges}
painter_figure(painter)
lesson.figure(
    "A healthy slice with a painted spot, and what each detector rebuilds, scores and flags. Share of the spot that is "
    "flagged: {told}.",
    told=", ".join(f"{name} {share:.0%}" for name, share in told.items()),
)

# %% [markdown]
# ## Failure 4: far-out inputs
#
# A model of healthy heads should be alarmed by what is no head at all. Show it handwritten digits, a checkerboard, an
# outline filled with one grey, and a head upside down. (Chest X-rays, too, if `LEARNING_NORMAL_CHEST` names a file of
# them.) What comes out, and which score does it get? The score is the mean of the map over all pixels above 0.

# %%
lesson.predict(
    "healthiest",
    "Which of these gets the *lowest* mean score from `dense 16`, the one of the healthiest input?",
    kind="choice",
    choices=["healthy", "digit", "checkerboard", "blank", "upside down"],
)

# %%
one_each = healthy.table[healthy.table["z_mm"] == 18].index if (healthy.table["z_mm"] == 18).any() else middle
calm_images, calm_brains = healthy.images[one_each], healthy.brains[one_each]
inputs = {
    "healthy": calm_images,
    "digit": probes.digits(len(one_each), shape, seed=seed),
    "checkerboard": probes.checkerboards(calm_brains),
    "blank": probes.blanks(calm_brains),
    "upside down": probes.upside_down(calm_images),
}
try:
    inputs["chest X-ray"] = probes.chest_xrays(len(one_each), shape, seed=seed)
except BadInput as error:
    print(error.cause, error.remedy)


def ask(detector, images):
    """The detector's score of each image (N, H, W): (N,)."""
    with torch.inference_mode():
        return detector.anomaly_score(torch.from_numpy(np.ascontiguousarray(images))[:, None]).cpu().numpy()


asked = {
    name: {what: np.array([ask(d.cpu(), images) for d in runs]) for what, images in inputs.items()}
    for name, runs in contest.items()
}  # detector -> input -> (seeds, inputs)

# %%
pictures = np.stack([images[0] for images in inputs.values()])
networks = ["dense 16", "spatial 24 × 24 × 16", "VAE", "DAE"]
made = {
    name: contest[name][0].pseudo_healthy(torch.from_numpy(pictures)[:, None]).detach()[:, 0].numpy()
    for name in networks
}
plots.show_reconstructions(pictures, [np.zeros(shape, bool)] * len(pictures), made, titles=list(inputs))
lesson.figure(
    "A healthy slice and far-out inputs above; below, what four networks that know healthy heads alone make of them."
)

# %%
alarm = pd.DataFrame(
    {
        name: {
            what: np.mean(
                [
                    roc_auc_score(np.repeat([0, 1], [len(calm), len(odd)]), np.concatenate([calm, odd]))
                    for calm, odd in zip(of["healthy"], of[what], strict=True)
                ]
            )
            for what in inputs
            if what != "healthy"
        }
        for name, of in asked.items()
    }
)
alarm.style.format("{:.2f}").background_gradient("cividis", vmin=0, vmax=1).set_caption(
    "AUROC of the score, far-out against healthy: 1 is always alarmed, 0.5 cannot tell, 0 finds it healthier than "
    "healthy"
)

# %%
mean_score = {what: scores_of.mean() for what, scores_of in asked["dense 16"].items()}
lesson.reveal("healthiest", min(list(inputs)[:5], key=mean_score.get))
lesson.say(
    "`dense 16` turns whatever comes into something like a head, so that a digit leaves a large residual. The shallow "
    "code copies, and is alarmed by little: an upside-down head scores {flip:.2f} times a healthy one there, "
    "{dense:.2f} times in `dense 16`. And an outline filled with grey, no brain at all, scores {blank:.2f} and "
    "{blank_dense:.2f} times.",
    flip=asked["spatial 24 × 24 × 16"]["upside down"].mean() / asked["spatial 24 × 24 × 16"]["healthy"].mean(),
    dense=asked["dense 16"]["upside down"].mean() / asked["dense 16"]["healthy"].mean(),
    blank=asked["spatial 24 × 24 × 16"]["blank"].mean() / asked["spatial 24 × 24 × 16"]["healthy"].mean(),
    blank_dense=asked["dense 16"]["blank"].mean() / asked["dense 16"]["healthy"].mean(),
)


# %%
def excess(name, what):
    """log2 of the score of an input over that of the healthy slice that it was made from: (people,) for each seed."""
    return [np.log2(odd / calm) for odd, calm in zip(asked[name][what], asked[name]["healthy"], strict=True)]


lesson.claim_interval(
    "the healthiest head is empty",
    "The shallow code gives a blank outline a lower score than the healthy slice it was cut from (log2 of the ratio).",
    over_people(excess("spatial 24 × 24 × 16", "blank")),
    below=0,
)
lesson.claim_interval(
    "upside down: copied",
    "The shallow code's score of a head rises by less than a tenth when it is turned upside down (log2 of the ratio).",
    over_people(excess("spatial 24 × 24 × 16", "upside down")),
    below=float(np.log2(1.1)),
    because="even a copier has learned where the folds of a head usually are",
)
lesson.claim_interval(
    "upside down: noticed",
    "`dense 16` is alarmed by more than a tenth (log2 of the ratio).",
    over_people(excess("dense 16", "upside down")),
    above=float(np.log2(1.1)),
    because="a head upside down is a head of about the same outline, and most of the residual is grain",
)

# %% [markdown]
# Keep the blank in mind when somebody shows you a low error as a proof of understanding. A residual is low where the
# input is *simple*. Lesson 3.5 meets the same illusion in likelihoods.

# %% [markdown]
# ## Failure 5: too young to copy
#
# A network after few steps draws one blurry head, whoever comes. It looks like a *model of healthy anatomy*, and its
# residual finds lesions. Is it that, or is the network just not finished? Train a copier, `spatial 12 × 12 × 16`, for
# several budgets, and draw the curve of failure 3 again. Two baselines stand beside it: the positional Gaussian, and
# brightness, which has not been trained at all.

# %%
lengths = {"quick": (30, 100, 300), "standard": (30, 300, 1000, 3000), "full": (30, 300, 1000, 3000, 30000)}[profile]
lesson.predict(
    "age",
    "After which number of steps does the copier find the painted lesions best (mean AP over all brightnesses)?",
    kind="choice",
    choices=[str(n) for n in lengths],
)
ages = {}
for n in lengths:
    pairs = load_or_train_all(
        {"copier": SpatialAE(shape, depth=3)}, train, seeds, **(budget | {"steps": n, "batch_size": 8})
    )
    ages[n] = [detector for detector, _ in pairs["copier"]]

# %%
young = {n: np.array([[aps_by_person(d, some) for some in swept.values()] for d in runs]) for n, runs in ages.items()}
error_at = {n: [residual_contrast(predict(d, validation))["rest"].to_numpy() for d in runs] for n, runs in ages.items()}
by_age = {n: values.mean() for n, values in young.items()}

# %%
fig, (ax, side) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(2, 1), layout="constrained")
for k, n in enumerate(lengths):
    style = {"color": plots.PALETTE[k], "marker": plots.MARKERS[k]}
    ax.plot(brightness_of, young[n].mean((0, 2)), label=f"{n} steps", **style)
    side.scatter([n] * len(seeds), [np.mean(e) for e in error_at[n]], **style)
for name, style in zip(baselines, (":", "--"), strict=True):
    ax.plot(brightness_of, curve[name].mean((0, 2)), color="0.3", ls=style, label=name)
ax.set(xlabel="brightness of the lesion (robust s.d.)", ylabel="pixel AP, mean over people", ylim=(0, 1))
ax.legend(fontsize=8, loc="upper center")
side.set(xscale="log", xlabel="steps", ylabel="error on healthy heads", ylim=(0, None), xticks=lengths)
side.set_xticklabels(lengths)
side.minorticks_off()
lesson.figure(
    "AP against the lesion's brightness for one network at several ages, and its healthy error. Mean AP: {aps}.",
    aps=", ".join(f"{value:.2f} after {n} steps" for n, value in by_age.items()),
)

# %%
lesson.reveal("age", str(max(by_age, key=by_age.get)))
first, last = lengths[0], lengths[-1]
lesson.claim_interval(
    "age: healthy error",
    f"From {first} to {last} steps the copier rebuilds healthy heads better (difference of the errors).",
    over_people(gap(error_at[first], error_at[last])),
    above=0,
)
lesson.claim_interval(
    "age: detection",
    "And it finds the painted lesions worse (difference of AP, mean over all brightnesses).",
    over_people([a.mean(0) - b.mean(0) for a, b in zip(young[first], young[last], strict=True)]),
    above=0,
    because="this code still learns to draw healthy detail faster than it learns to copy lesions",
)
lesson.say(
    "After {first} steps the mean AP is {young:.2f}; brightness has {simple:.2f}. A network that draws next to nothing "
    "leaves the picture itself as its residual: its curve is that of a threshold, and so is its skill.",
    first=first,
    young=by_age[first],
    simple=curve["brightness"].mean(),
)
lesson.say(
    "So stopping early is a hidden setting, and a strong one: whoever tunes it on test lesions has used the answers. "
    "Report the steps, and show that the result does not hang on them."
)

# %% [markdown]
# ## Failure 6: all of it on real strokes
#
# Simulated lesions do what they are told. Acute strokes do not: some shine, some hardly differ from the tissue around
# them. The same codes, trained on lesion-free slices of real persons; the same questions.

# %%
try:
    real = open_slices("stroke", profile, progress=False)
except BadInput as error:
    real = None
    print(error.cause, error.remedy)
if real is not None:
    calm_real = real.select("split == 'train' and family == 'healthy'")
    ill = real.select("split == 'test' and family == 'stroke' and lesion_px >= 50")
    spared = real.select("split == 'test' and family == 'healthy'")
    codes = {name: recipes[name] for name in ("dense 16", "spatial 24 × 24 × 16")}
    pairs = load_or_train_all(codes, calm_real, seeds, **budget)
    found = {name: [predict(d, ill, name=name) for d, _ in runs] for name, runs in pairs.items()}
    raw_contrast = {name: [residual_contrast(run) for run in runs] for name, runs in found.items()}
    spared_error = {
        name: [residual_contrast(predict(d, spared))["rest"].to_numpy() for d, _ in runs]
        for name, runs in pairs.items()
    }
    lesion_real = {name: [run["lesion"].to_numpy() for run in runs] for name, runs in raw_contrast.items()}
    people_aps = {name: [aps_by_person(d, ill) for d, _ in runs] for name, runs in pairs.items()}
    people_aps["brightness"] = [aps_by_person(IntensityThreshold(), ill)]

# %%
if real is not None:
    inside = np.array(
        [8 * (i[m].mean() - i[b & ~m].mean()) for i, m, b in zip(ill.images, ill.masks, ill.brains, strict=True)]
    )
    shines = pd.Series(inside).groupby(ill.table["subject"].to_numpy(), sort=False).mean().to_numpy()
    fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharey=True, layout="constrained")
    for k, (ax, (name, runs)) in enumerate(zip(axes, people_aps.items(), strict=True)):
        ax.scatter(shines, np.mean(runs, axis=0), s=12, color=plots.PALETTE[k], marker=plots.MARKERS[k], alpha=0.6)
        ax.axvline(0, color="0.3", ls=":")
        ax.set(title=name, xlabel="lesion less rest of brain\n(robust s.d.)")
    axes[0].set_ylabel("pixel AP of one person")
    lesson.figure(
        "Pixel AP of each real stroke against its brightness, for two codes and for brightness itself. Mean AP: {aps}.",
        aps=", ".join(f"{name} {np.mean(runs):.2f}" for name, runs in people_aps.items()),
    )

# %%
if real is not None:
    pale = shines < np.median(shines)
    order = np.argsort(~pale, kind="stable")  # first the half whose strokes shine less
    halves = [int(pale.sum()), int((~pale).sum())]

    def upper_less_lower(values):
        """Mean over the brighter half less mean over the paler one, as a statistic of weights (R, people)."""
        sorted_values = values[order]
        low, high = np.arange(halves[0]), np.arange(halves[0], sum(halves))
        return lambda w: (
            (w[:, high] @ sorted_values[high]) / w[:, high].sum(1) - (w[:, low] @ sorted_values[low]) / w[:, low].sum(1)
        )

    lesson.claim_interval(
        "real stroke: blind to the pale",
        "On the half of the real strokes that shines less, `dense 16` has a lower AP (difference of the halves).",
        bootstrap([upper_less_lower(values) for values in people_aps["dense 16"]], halves, seed=seed),
        above=0,
        over="persons",
    )

# %%
if real is not None:
    for what, errors in (("healthy slices", spared_error), ("real strokes", lesion_real)):
        lesson.claim_interval(
            f"real stroke: {what} copied",
            f"The code of 24 × 24 × 16 rebuilds {what} better than `dense 16` does (difference of the errors).",
            over_people(gap(errors["dense 16"], errors["spatial 24 × 24 × 16"])),
            above=0,
            over="persons",
        )
    lesson.say(
        "Error in the stroke over error on spared slices: {dense:.2f} for `dense 16`, {shallow:.2f} for the shallow "
        "code. Brightness, which has learned nothing, reaches a mean AP of {b:.2f}; `dense 16` {d:.2f}.",
        dense=np.mean(lesion_real["dense 16"]) / np.mean(spared_error["dense 16"]),
        shallow=np.mean(lesion_real["spatial 24 × 24 × 16"]) / np.mean(spared_error["spatial 24 × 24 × 16"]),
        b=np.mean(people_aps["brightness"]),
        d=np.mean(people_aps["dense 16"]),
    )

# %% [markdown]
# ## Exercises


# %%
def check_ratio(answer):
    """A function (image, x_hat, mask, brain) -> error in the lesion over error in the rest of the brain."""
    image, x_hat = np.zeros((4, 4)), np.zeros((4, 4))
    brain, mask = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    brain[:3], mask[0, :2] = True, True
    image[brain] = 0.5
    x_hat[brain], x_hat[0, 0], x_hat[0, 1] = 0.4, 0.1, 0.7  # rest: 0.1; lesion: 0.4 and 0.2, of opposite signs
    x_hat[3] = 0.9  # outside the brain
    value = float(answer(image, x_hat, mask, brain))

    def same(other):
        return np.isclose(value, other, rtol=1e-3)

    if same(3):
        return None
    if same(1 / 3):
        return "Upside down: the lesion's error goes above the line."
    if same(1):
        return "The errors in this lesion have opposite signs: without the absolute value they cancel."
    if same(0.3 / (np.abs(image - x_hat)[~mask].mean())):
        return "The rest of the *brain*: you counted the background, too."
    if same(0.3 / (np.abs(image - x_hat)[brain].mean())):
        return "The *rest* of the brain is the brain without the lesion."
    if same(10):
        return "You squared. The course's residual is absolute; squares weigh single pixels more."
    return "Mean absolute residual over the lesion's pixels, divided by that over the brain's other pixels."


lesson.card(
    "2.2.1",
    "Is the lesion easier?",
    difficulty=1,
    minutes=10,
    task="Write a function of `image`, `x_hat`, `mask` and `brain`, all (H, W), the last two bool, that returns the "
    "mean absolute residual in the lesion divided by that in the rest of the brain. Put the function into `answer`.",
    hints=["`np.abs(image - x_hat)`, then two means.", "The rest is `brain & ~mask`."],
    solution="`lambda x, x_hat, mask, brain: np.abs(x - x_hat)[mask].mean() / np.abs(x - x_hat)[brain & ~mask].mean()`",
    check=check_ratio,
)

# %%
answer = ...
lesson.check("2.2.1", answer)


# %%
def check_blinding(answer):
    """A function images (B, 1, H, W) -> images that any detector of residuals must find healthier: less to rebuild."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(2, 1, 16, 16)
    images[:, :, 3:13, 3:13] = 0.5 + 0.1 * torch.randn(2, 1, 10, 10, generator=generator)
    given = images.clone()
    made = answer(images)
    if not isinstance(made, torch.Tensor) or made.shape != images.shape:
        return "Return images of the same shape, (B, 1, H, W)."
    if not torch.equal(images, given):
        return "You changed the given images themselves: work on a copy."
    brain = given > 0
    if not torch.equal(made > 0, brain):
        return "The outline has changed: the same pixels have to be above 0, or the comparison is of two heads."
    spread, was = (
        torch.stack([one[inside].std() for one, inside in zip(x, brain, strict=True)]) for x in (made, given)
    )
    if (spread > was).any():
        return "There is more contrast than before. What is easy to rebuild?"
    if (spread > 0.5 * was).any():
        return "Most of the detail is still there: at least half of the spread inside the brain has to go."
    means = [one[inside].mean() - old[inside].mean() for one, old, inside in zip(made, given, brain, strict=True)]
    if max(abs(float(m)) for m in means) > 0.05:
        return "The brain's mean brightness has moved: then the score changes for another reason."
    return None


lesson.card(
    "2.2.2",
    "Fool the residual",
    difficulty=2,
    minutes=20,
    task="Write a function from images (B, 1, H, W) to images with the same outline and the same mean brightness that "
    "are no healthier, but *simpler*: at least half of the spread inside each brain is gone. Put it into `answer`. If "
    "it "
    'passes, compare `ask(contest["dense 16"][0], ...)` on healthy slices before and after.',
    hints=["A blur, or a step towards the brain's mean.", "Blur the mask as well and divide, or the rim turns dark."],
    solution="""
    ```python
    def answer(images):
        brain = images > 0
        mean = (images * brain).sum((1, 2, 3), keepdim=True) / brain.sum((1, 2, 3), keepdim=True)
        return torch.where(brain, mean + 0.3 * (images - mean), 0.0)
    ```
    """,
    check=check_blinding,
)

# %%
answer = ...
lesson.check("2.2.2", answer)


# %%
def check_stop(answer):
    """Whether a way to choose the number of steps is honest; `answer` is the set of honest letters."""
    if not isinstance(answer, (str, set, list, tuple, frozenset)):
        return "Give the letters, such as {'a', 'c'}."
    chosen = {str(letter).strip().lower() for letter in answer} - {"", ","}
    if not chosen <= set("abcd"):
        return "The letters are a, b, c and d."
    if "a" in chosen:
        return "a: the test lesions have then chosen the model that they judge."
    if "d" in chosen:
        return "d: seeds of one test set share its lesions. The best of five is still chosen on the answers."
    if "b" not in chosen:
        return "b: fixed beforehand, whatever comes. That is honest, if not optimal."
    if "c" not in chosen:
        return "c: diseased people of another split may be used, if you say so: the detector is then not unsupervised."
    return None


lesson.card(
    "2.2.3",
    "When to stop",
    difficulty=1,
    minutes=5,
    task="You may choose the number of steps (a) by the AP on the test lesions; (b) beforehand, by the time you have; "
    "(c) by the AP on ill people of a validation split, saying so; (d) by the test AP, but with five seeds and the "
    "best seed reported. Which ways are honest? Put a set of letters into `answer`.",
    hints=["Who has seen the answers?", "Two of the four are honest."],
    solution="`{'b', 'c'}`. With (c) the paper has to say that lesions were used, and comparisons must grant the same "
    "to every method.",
    check=check_stop,
)

# %%
answer = ...
lesson.check("2.2.3", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "Capacity buys copying: what rebuilds healthy heads better rebuilds lesions better, too.",
    "A residual sees brightness that the network did not expect. It is blind to what is iso-intense, simple, or "
    "copied.",
    "A low error proves nothing: ask the blank outline. Next: 2.3 changes the loss and the noise, not the size.",
)

# %% [markdown]
# ## References
#
# - Bercea CI, Rueckert D, Schnabel JA. What do AEs learn? Challenging common assumptions in unsupervised anomaly
#   detection (2022).
# - Meissen F, Wiestler B, Kaissis G, Rueckert D. On the pitfalls of using the residual as anomaly score. *MIDL* (2022).
# - Baur C, et al. Autoencoders for unsupervised anomaly segmentation in brain MR images: a comparative study. *Medical
#   Image Analysis* 69 (2021).
# - Schirrmeister R, et al. Understanding anomaly detection with deep invertible networks through hierarchies of
#   distributions and features. *NeurIPS* (2020): simple inputs and high likelihoods.
