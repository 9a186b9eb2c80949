# %% [markdown]
# # 1.4 A unifying view
#
# **Dozens of detectors, three questions: which one does yours ask, and when does it mislead you?**
#
# Detectors look like a zoo. Ruff and colleagues (2021) put them into one table. Its columns are three questions about
# an image $x$:
#
# - **density**: how rare is $x$ among healthy images?
# - **one-class**: does $x$ lie outside a boundary around them?
# - **reconstruction**: what of $x$ is left over after a projection that is made for healthy images?
#
# Its rows are the *feature map* in which the question is asked: the pixels as they are (*plain*), the infinitely many
# features of a *kernel*, or those of a *deep* network.
#
# After this lesson you can
#
# 1. place a detector in the table, and write down its score;
# 2. say where its assumption breaks, and show it on points in the plane and on scans;
# 3. tell a detector that sees the disease from one that sees the scanner.
#
# | time | memory | needs |
# |---|---|---|
# | 5 minutes to run at first (later the networks come from the store), 45 to read | under 3 GiB | lesson 1.2 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>What does an AUROC of 0.5 mean, and what does it not depend on?</summary>
# Ill and healthy images are ranked as by a coin. It does not depend on how rare the disease is, so that a high AUROC
# can go with few true alarms.
# </details>
#
# <details><summary>Why is the threshold taken from healthy validation people?</summary>
# On training images a detector is too sure of itself; on test images the threshold has seen the answers.
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
from course_lib.detectors.base import Detector
from course_lib.detectors.deep_svdd import DeepSVDD
from course_lib.detectors.gaussian import Gaussian
from course_lib.detectors.gmm import GaussianMixture
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.kde import KernelDensity
from course_lib.detectors.kernel_pca import KernelPCA
from course_lib.detectors.one_class_svm import OneClassSVM
from course_lib.detectors.pca import PCA
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.errors import BadInput
from course_lib.evaluation import evaluate, paired_difference, predict, results_table
from course_lib.images.slices import SliceSet
from course_lib.images.toys import SQUARE, as_images, moons_density, moons_level, plane, sample_moons
from course_lib.metrics.intervals import bootstrap
from course_lib.metrics.statistics import Mean
from course_lib.store import load_or_train_all
from course_lib.teaching import Lesson
from course_lib.training import fit
from data_scripts import open_slices
from IPython.display import display
from scipy.ndimage import binary_erosion
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import nn

plots.use_style()
lesson = Lesson("1.4", profile=profile, seed=seed)

# %% [markdown]
# ## A world where you know the truth
#
# On scans nobody knows the density $p^+$ of healthy images. So start in the plane. Four in five healthy points lie on
# a big moon, the others on a small one. As $p^+$ is known, so is the smallest region that holds `97 %` of it: the
# *level set* $\{x : p^+(x) > \tau\}$. A perfect detector, told to raise `3 %` false alarms, draws exactly this region.

# %%
healthy = sample_moons(800, seed=seed)
cells = plane(120)  # (14400, 2), the centres of a grid over the square
inside = moons_density(cells) > moons_level(0.97)  # the true level set
fig, ax = plt.subplots(figsize=(4.4, 3.9))
extent = (-SQUARE, SQUARE, -SQUARE, SQUARE)
picture = ax.imshow(moons_density(cells).reshape(120, 120), origin="lower", extent=extent, cmap="magma")
ax.contour(inside.reshape(120, 120), [0.5], extent=extent, colors=plots.OUTLINE)
ax.grid(False)
ax.scatter(*healthy[:200].T, s=4, color="white", alpha=0.6)
ax.set(xlabel="x", ylabel="y", title="density, 97 % level set, 200 points")
fig.colorbar(picture, label="density")
lesson.figure(
    "The density of the big and the small moon; the level set of 97 % covers {share:.0%} of the square.",
    share=inside.mean(),
)

# %% [markdown]
# ## Nine cells
#
# All scores grow with abnormality; $k(x,y)=e^{-\gamma\|x-y\|^2}$ is the Gaussian kernel.
#
# | | density | one-class | reconstruction |
# |---|---|---|---|
# | plain | Gaussian: $(x-\mu)^\top\Sigma^{-1}(x-\mu)$ | sphere: $\|x-\mu\|^2$ | PCA: $\lVert x-\hat x\rVert^2$ |
# | kernel | KDE: $-\log\frac1n\sum_i k(x,x_i)$ | OC-SVM: $\rho-\sum_i\alpha_i k(x,x_i)$ | kernel PCA |
# | deep | (a mixture of Gaussians) | Deep SVDD: $\lVert\phi(x)-c\rVert^2$ | auto-encoder: $\lVert x-\hat x\rVert^2$ |
#
# *KDE* is kernel density estimation, *OC-SVM* the one-class support vector machine. PCA's $\hat x$ is the nearest point
# on a line; *kernel PCA* asks for what is left over in the kernel's feature space. *Deep SVDD* trains a network $\phi$
# that draws healthy images towards a fixed point $c$. The mixture, $-\log\sum_k\pi_k N(x;\mu_k,\Sigma_k)$, stands in
# for a deep density: lesson 3.5 builds a real one. The sphere is the trivial baseline: the distance from the mean.
#
# An auto-encoder for points is no part of the course's library. The next cell is all it takes to make one: the
# *contract* of a detector is a handful of methods.


# %%
class PointAE(Detector):
    """An auto-encoder of points in the plane, images (B, 1, 1, 2), through a code of one number."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.width = width
        self.net = nn.Sequential(
            *[nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)],
            *[nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)],
        )

    def anomaly_score(self, images):
        x = images.flatten(1)  # (B, 2)
        return (x - self.net(x)).square().sum(1)

    def training_losses(self, images):
        return {"reconstruction": self.anomaly_score(images).mean()}


# %%
toy_steps = {"quick": 700, "standard": 2000, "full": 4000}[profile]
plane_shape = (1, 2)  # a point is an image of one row and two pixels


def nine():
    """The detectors of the table, row by row, not yet fitted."""
    return {
        "Gaussian": Gaussian(plane_shape),
        "sphere": Gaussian(plane_shape, covariance="spherical"),
        "PCA": PCA(plane_shape, components=1),
        "KDE": KernelDensity(plane_shape, gamma=1 / (2 * 0.15**2)),  # bandwidth 0.15
        "OC-SVM": OneClassSVM(plane_shape, gamma=10.0, nu=0.05),
        "kernel PCA": KernelPCA(plane_shape, gamma=10.0, components=20),
        "mixture": GaussianMixture(plane_shape, mixtures=8, features=None, covariance="full"),
        "Deep SVDD": DeepSVDD(plane_shape),
        "auto-encoder": PointAE(),
    }


rows_of_table = {"plain": list(nine())[:3], "kernel": list(nine())[3:6], "deep": list(nine())[6:]}

# %% [markdown]
# Two numbers judge each cell. **AUROC**: healthy test points against points spread evenly outside the true level set.
# **IoU** (intersection over union): the area that the detector accepts and should, over the area that it accepts
# *or* should. The detector's threshold accepts `97 %` of healthy *validation* points.

# %%
lesson.predict(
    "region",
    "Which of these draws the region best, by IoU?",
    kind="choice",
    choices=["Gaussian", "KDE", "OC-SVM", "kernel PCA", "Deep SVDD", "auto-encoder"],
)


# %%
@torch.inference_mode()
def point_scores(detector, points):
    """Scores (N,) of points (N, 2); for PCA the squared residual, as in the table."""
    images = as_images(points)
    if isinstance(detector, PCA):
        return (images - detector.reconstruct(images)).square().sum((1, 2, 3)).numpy()
    return detector.anomaly_score(images).numpy()


def toy_run(data_seed):
    """Fit the nine on one sample; their detectors, thresholds, and a table with AUROC and IoU."""
    fitted, limits, rows = {}, {}, []
    test_points = np.concatenate([sample_moons(1000, seed=2000 + data_seed), cells[~inside]])
    outside = np.arange(len(test_points)) >= 1000
    for name, detector in nine().items():
        torch.manual_seed(data_seed)
        fit(detector, as_images(sample_moons(800, data_seed)), steps=toy_steps, batch_size=128, progress=False)
        limits[name] = np.quantile(point_scores(detector, sample_moons(400, seed=1000 + data_seed)), 0.97)
        accepted = point_scores(detector, cells) <= limits[name]
        iou = (accepted & inside).sum() / (accepted | inside).sum()
        rows.append((data_seed, name, roc_auc_score(outside, point_scores(detector, test_points)), iou))
        fitted[name] = detector
    return fitted, limits, pd.DataFrame(rows, columns=["seed", "detector", "AUROC", "IoU"])


toy_seeds = range(seed, seed + {"quick": 2, "standard": 5, "full": 8}[profile])
runs = [toy_run(s) for s in toy_seeds]
toys = pd.concat([run[2] for run in runs])

# %%
fitted, limits, first = runs[0]
first = first.set_index("detector")
fig, axes = plt.subplots(3, 3, figsize=(8.6, 9.2), sharex=True, sharey=True, layout="constrained")
for ax, (name, detector) in zip(axes.flat, fitted.items(), strict=True):
    accepted = (point_scores(detector, cells) <= limits[name]).reshape(120, 120)
    ax.imshow(np.where(accepted, 1.0, np.nan), origin="lower", extent=extent, cmap="Blues", vmin=0, vmax=2)
    ax.contour(inside.reshape(120, 120), [0.5], extent=extent, colors="black", linewidths=1.2)
    ax.scatter(*sample_moons(800, seed)[:150].T, s=3, color=plots.PALETTE[1])
    ax.set(title=f"{name}\nAUROC {first.loc[name, 'AUROC']:.2f}, IoU {first.loc[name, 'IoU']:.2f}", aspect="equal")
fig.supxlabel("x")
fig.supylabel("y")
lesson.figure(
    "What each of nine detectors accepts (blue) against the true level set (black line): rows plain, kernel, deep; "
    "columns density, one-class, reconstruction. IoU from {low:.2f} ({worst}) to {high:.2f} ({best}).",
    low=first["IoU"].min(),
    worst=first["IoU"].idxmin(),
    high=first["IoU"].max(),
    best=first["IoU"].idxmax(),
)

# %%
per_seed = {
    metric: toys.pivot(index="seed", columns="detector", values=metric)[list(nine())] for metric in ("AUROC", "IoU")
}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for ax, (metric, values) in zip(axes, per_seed.items(), strict=True):
    for place, name in enumerate(nine()):
        row = place // 3
        ax.plot(values[name], [place] * len(values), plots.MARKERS[row], color=plots.PALETTE[row], alpha=0.7)
    ax.axvline(values["sphere"].mean(), color="0.35", ls=":")
    ax.set(xlabel=f"{metric} (dotted: the sphere, the baseline)", yticks=range(9), yticklabels=list(nine()))
axes[0].invert_yaxis()
lesson.figure(
    "AUROC and IoU of the nine detectors, one marker for each of {seeds} samples; circles plain, diamonds kernel, "
    "squares deep.",
    seeds=len(toy_seeds),
)
iou = per_seed["IoU"].mean()
asked = ["Gaussian", "KDE", "OC-SVM", "kernel PCA", "Deep SVDD", "auto-encoder"]
lesson.reveal("region", iou[asked].idxmax())

# %% [markdown]
# Go along a row: the three questions give similar answers. Go down a column: the same question, asked in a richer
# feature map, fits the moons far better. **The feature map matters more than the family.** That is the review's
# message, and it deserves to be a claim. The numbers are one difference per sample; the interval is over samples.
#
# The second claim is a warning. A ranking can be nearly perfect while the region is not: AUROC does not care *where*
# the threshold lies.


# %%
def over_samples(values):
    """The interval of a mean of one number for each sample of points (each with its own training)."""
    return bootstrap(Mean(values), len(values), method="percentile", seed=seed, minimum=2)


auroc, region = per_seed["AUROC"], per_seed["IoU"]
lesson.claim_interval(
    "kernels fit the moons",
    "On the moons the worst kernel detector beats the best plain one by more than 0.10 AUROC (difference).",
    over_samples(auroc[rows_of_table["kernel"]].min(axis=1) - auroc[rows_of_table["plain"]].max(axis=1)),
    above=0.10,
    over="samples",
)
lesson.claim_interval(
    "a good ranking, a poor region",
    "Deep SVDD reaches an AUROC above 0.9 on the moons.",
    over_samples(auroc["Deep SVDD"]),
    above=0.9,
    over="samples",
)
lesson.claim_interval(
    "the region of Deep SVDD",
    "Its region is worse than that of the one-class SVM, the same question in a kernel's features (difference of IoU).",
    over_samples(region["OC-SVM"] - region["Deep SVDD"]),
    above=0,
    over="samples",
)

# %% [markdown]
# ## Where each assumption breaks
#
# Each family takes something for granted *far from the data*, where no training point can correct it. Walk away from
# the moons in 72 directions and ask: which share of the directions leads to points that are still accepted?

# %%
lesson.predict(
    "far",
    "At distance 3 no healthy point ever was. Which of these detectors accepts most directions there?",
    kind="choice",
    choices=["KDE", "OC-SVM", "kernel PCA", "PCA"],
)

# %%
angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
circle = np.stack([np.cos(angle), np.sin(angle)], 1)  # (72, 2)
distances = np.array([1.2, 1.5, 2, 3, 5, 8, 12])
far = {
    name: np.array(
        [[(point_scores(run[0][name], d * circle) <= run[1][name]).mean() for d in distances] for run in runs]
    )
    for name in nine()
}  # name -> (samples, distances)
fig, ax = plt.subplots(figsize=(8.4, 3.6), layout="constrained")
for k, (name, share) in enumerate(far.items()):
    ax.plot(distances, share.mean(0), plots.MARKERS[k] + "-", color=plots.PALETTE[k], label=name, alpha=0.85)
ax.set(xlabel="distance from the centre (the big moon's radius is 1)", ylabel="share of directions accepted")
ax.legend(bbox_to_anchor=(1.01, 1), loc="upper left", frameon=True, fontsize=8)
at_three = {name: share.mean(0)[3] for name, share in far.items()}
lesson.figure(
    "The share of directions in which a point is accepted, against its distance. At distance 3: {shares}.",
    shares=", ".join(f"{name} {value:.0%}" for name, value in at_three.items()),
)

# %%
lesson.reveal("far", max(["KDE", "OC-SVM", "kernel PCA", "PCA"], key=at_three.get))
lesson.say(
    "PCA accepts {pca:.0%} of the directions at distance 3: everything along its line is *reconstructed*, however far. "
    "The auto-encoder bends its line, and accepts {ae:.0%}; Deep SVDD {svdd:.0%}. Kernels know a distance, and "
    "forget nothing: KDE accepts {kde:.0%}, the one-class SVM {svm:.0%}.",
    pca=at_three["PCA"],
    ae=at_three["auto-encoder"],
    svdd=at_three["Deep SVDD"],
    kde=at_three["KDE"],
    svm=at_three["OC-SVM"],
)
lesson.claim_interval(
    "projections accept the far",
    "At distance 3, PCA accepts a larger share of directions than KDE (difference).",
    over_samples(far["PCA"][:, 3] - far["KDE"][:, 3]),
    above=0,
    over="samples",
)

# %% [markdown]
# Each family has its price:
#
# - **reconstruction** judges what a projection cannot express. What it *can* express is healthy by definition,
#   wherever it lies. Lesson 2.2 meets this again, with lesions.
# - **density** needs to know $p^+$ everywhere. In a thousand dimensions it knows distances only, and a distance
#   between two heads is mostly their shape and their brightness.
# - **one-class** learns the boundary alone. Far outside, the OC-SVM's score is flat at $\rho$: it cannot say which of
#   two abnormal images is *more* abnormal.

# %% [markdown]
# ## Two columns that touch
#
# Different names can be one thing. Let $\nu$, the share of training points that the one-class SVM may leave outside,
# go to 1: all $\alpha_i$ become equal, and $\rho-\sum_i\alpha_i k(x,x_i)$ ranks exactly like KDE. And a *linear*
# auto-encoder with squared loss finds the subspace of PCA. Both are checked here, not believed.
# (The points to rank lie on and near the moons. Far away, the SVM's score has no digits left to rank by.)

# %%
probe = as_images(1.3 * sample_moons(1000, seed=4000 + seed))  # on the moons and around them
points = as_images(healthy[:300])
density = KernelDensity(plane_shape, gamma=10.0).fit(points).anomaly_score(probe)
nus = [0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.99, 0.9999]
machines = [OneClassSVM(plane_shape, gamma=10.0, nu=nu).fit(points).anomaly_score(probe) for nu in nus]
agreement = [spearmanr(density, machine).statistic for machine in machines]

slices = open_slices(data, profile, progress=False)
train = slices.select("split == 'train' and family == 'healthy'")
small = nn.functional.avg_pool2d(train.batch(range(min(len(train), 400))), 8).flatten(1).double()  # (n, 144)
small = (small - small.mean(0)) / small.std()
torch.manual_seed(seed)
squeeze = nn.Sequential(nn.Linear(144, 4, bias=False), nn.Linear(4, 144, bias=False)).double()
options = {"max_iter": 3000, "max_eval": 10000, "line_search_fn": "strong_wolfe"}
solver = torch.optim.LBFGS(squeeze.parameters(), tolerance_grad=1e-12, tolerance_change=0, **options)


def linear_loss():
    """Mean squared error of the linear auto-encoder, with its gradient."""
    solver.zero_grad()
    loss = (small - squeeze(small)).square().mean()
    loss.backward()
    return loss


solver.step(linear_loss)
axes_of_pca = torch.linalg.svd(small, full_matrices=False)[2][:4]  # (4, 144)
unlike = (squeeze(small) - small @ axes_of_pca.T @ axes_of_pca).abs().max().item()

# %%
fig, ax = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
ax.plot(nus, agreement, "o-", color=plots.PALETTE[0])
ax.axhline(1, color="0.35", ls=":")
ax.set(xlabel=r"$\nu$ of the one-class SVM", ylabel="rank correlation with KDE")
lesson.figure(
    "The rank correlation of the one-class SVM with KDE against nu: {first:.3f} at nu = {low}, {last:.6f} at {high}.",
    first=agreement[0],
    low=nus[0],
    last=agreement[-1],
    high=nus[-1],
)
lesson.claim(
    "one-class meets density",
    "As nu goes to 1 the one-class SVM ranks like KDE (rank correlation at nu = 0.9999 above 0.99999).",
    holds=agreement[-1] > 0.99999,
    value=agreement[-1],
)
lesson.claim(
    "a linear auto-encoder is PCA",
    "A trained linear auto-encoder rebuilds slices like PCA (largest difference in a pixel below 0.05 standard "
    "deviations of all pixels).",
    holds=unlike < 0.05,
    value=unlike,
)

# %% [markdown]
# ## A perfect solution that detects nothing
#
# Deep SVDD minimises $\frac1n\sum_i\|\phi(x_i)-c\|^2$. A network that sends *everything* to $c$ does so perfectly, and
# sees nothing: it has *collapsed*. Three conditions keep this solution out of reach: no layer has a bias, no activation
# is bounded, and $c\neq0$. Break them. Slices of 48 × 48 pixels; four variants of one network:
#
# - **as published**: no biases, $c$ the mean of $\phi$ after a short training as an auto-encoder, batch normalisation;
# - **c = mean**: the same without batch normalisation, and with a strong weight decay that pulls all weights to 0;
# - **c = 0** and **biases**: like that, but one condition broken.
#
# Can the trained networks tell healthy validation heads from the same heads *upside down*?

# %%
lesson.predict(
    "collapse",
    "A collapsed network's distances are a millionth of what they were. Which AUROC (upside-down heads) does it still "
    "have, in the best of the trainings with c = 0?",
    kind="number",
    bounds=(0, 1),
)

# %%
half = nn.AvgPool2d(2)
others = slices.select("split == 'val' and family == 'healthy'")
upright, pool48 = half(others.batch(range(len(others)))), half(train.batch(range(len(train))))  # (B, 1, 48, 48)
pair = {"upright": upright, "upside down": upright.flip(2)}
decay = {"batch_norm": False, "weight_decay": 3.0}
variants = {
    "as published": {},
    "c = mean": decay,
    "c = 0": decay | {"zero_centre": True},
    "biases": decay | {"bias": True},
}
rows, curves = [], {}
for run_seed in range(seed, seed + {"quick": 2, "standard": 5, "full": 8}[profile]):
    for name, settings in variants.items():
        torch.manual_seed(run_seed)
        network = DeepSVDD(tuple(upright.shape[2:]), pretraining=100, **settings)
        history = fit(network, pool48, steps=400, seed=run_seed, progress=False)
        distance = {way: network.anomaly_score(images).numpy() for way, images in pair.items()}
        truth = np.repeat([0, 1], len(upright))
        found = roc_auc_score(truth, np.concatenate(list(distance.values())))
        rows.append((run_seed, name, np.log10(distance["upright"].mean()), found))
        curves.setdefault(name, history["loss"].to_numpy()[108:])  # the first seed's, after c was found
collapse = pd.DataFrame(rows, columns=["seed", "variant", "log10 score", "AUROC"])
size, ranks = (collapse.pivot(index="seed", columns="variant", values=v) for v in ("log10 score", "AUROC"))

# %%
sphere = Gaussian(tuple(upright.shape[2:]), covariance="spherical").fit(pool48)
simple = roc_auc_score(truth, np.concatenate([sphere.anomaly_score(images).numpy() for images in pair.values()]))
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for k, name in enumerate(variants):
    left.plot(np.arange(109, 109 + len(curves[name])), curves[name], color=plots.PALETTE[k], label=name)
    right.plot(ranks[name], [k] * len(ranks), plots.MARKERS[k], color=plots.PALETTE[k], alpha=0.8)
left.set(yscale="log", xlabel="step", ylabel="training loss")
left.legend(fontsize=8)
right.axvline(0.5, color="0.35", ls=":")
right.axvline(simple, color="0.35", ls="--")
right.set(xlabel="AUROC (dotted: chance; dashed: the sphere)", xlim=(0.2, 1.02), yticks=range(4), yticklabels=variants)
right.invert_yaxis()
lesson.figure(
    "Left, the loss of four variants of Deep SVDD, on a logarithmic scale; with c = 0 it ends {orders:.0f} orders of "
    "magnitude below c = mean. Right, the AUROC of each training on upside-down heads; the sphere has {simple:.2f}.",
    orders=(size["c = mean"] - size["c = 0"]).mean(),
    simple=simple,
)

# %%
lesson.reveal("collapse", ranks["c = 0"].max())
for name, limit, times in (("c = 0", -3, "a thousandth"), ("biases", -1, "a tenth")):
    lesson.claim_interval(
        f"collapse: {name}",
        f"With {name} the mean distance of healthy heads ends below {times} of that of c = mean (log10 of ratio).",
        over_samples(size[name] - size["c = mean"]),
        below=limit,
        over="trainings",
    )
lesson.claim_interval(
    "AUROC reveals the collapse",
    "On upside-down heads the published network has a higher AUROC than every collapsed one (difference to the better "
    "of c = 0 and biases).",
    over_samples(ranks["as published"] - ranks[["c = 0", "biases"]].max(axis=1)),
    above=0,
    over="trainings",
    because="a ranking does not know how small the numbers are that it ranks",
)
lesson.say(
    "A collapsed network can still rank: with c = 0 the AUROC lies anywhere from {low:.2f} to {high:.2f}, on scores "
    "around {score:.0e}. And not to collapse is not enough: c = mean keeps its distances, and reaches an AUROC of "
    "{mean:.2f} on average. **Look at the spread of the scores, not at the AUROC alone.**",
    low=ranks["c = 0"].min(),
    high=ranks["c = 0"].max(),
    score=10 ** size["c = 0"].mean(),
    mean=ranks["c = mean"].mean(),
)

# %% [markdown]
# ## The same models on scans
#
# Now 96 × 96 pixels, healthy training people, and other people to test. Pixels mean too many dimensions for kernels:
# they see the slice averaged over 4 × 4 pixels, 24 × 24 numbers. Their $\gamma$ is one over the median squared
# distance of a slice from its nearest neighbour. There is no abnormal image to tune it on, and there must not be.
#
# A map comes from *taking the score apart*. The Gaussian's score is a sum over pixels as it stands. A kernel score
# is a soft minimum over distances: it passes its relevance to the nearest training slices, and a squared distance
# passes it on to the pixels. (Kernel PCA weighs the slices of its projection instead.)

# %%
wanted = ["healthy", "ms", "stroke", "tumour", "texture"]
test = slices.select((slices.table["split"] == "test").to_numpy() & slices.table["family"].isin(wanted).to_numpy())
test = test.select((test.table["slice"] % 2 == 0).to_numpy())  # every second height: two gigabytes less of maps
families = [family for family in test.families if family != "healthy"]
shape, levels = slices.image_shape, train.table["z_mm"].nunique()
closed = {
    "brightness": IntensityThreshold(),
    "positional Gaussian": PositionalGaussian(shape, levels),
    "sphere": Gaussian(shape, pool=4, covariance="spherical"),
    "Gaussian": Gaussian(shape, pool=4),
    "mixture": GaussianMixture(shape, pool=4),
    "KDE": KernelDensity(shape, pool=4),
    "OC-SVM": OneClassSVM(shape, pool=4),
    "kernel PCA": KernelPCA(shape, pool=4, components=64),
    "PCA 16": PCA(shape, components=16),
    "PCA 256": PCA(shape, components=256),
}
for detector in closed.values():
    fit(detector, train, progress=False)

# %%
seeds = range(seed, seed + {"quick": 2, "standard": 3, "full": 5}[profile])
budget = {"batch_size": 16, "fast": True, "device": device, "progress": False}
networks = {"AE dense 16": DenseAE(shape, latent=16), "Deep SVDD": DeepSVDD(shape)}
steps = {"quick": 150, "standard": 800, "full": 5000}[profile]
pairs = load_or_train_all(networks, train, seeds, steps=steps, **budget)
everyone = {name: [detector] for name, detector in closed.items()}
everyone |= {name: [detector for detector, _ in trained] for name, trained in pairs.items()}
clean = [("rim", 2), ("median", 3)]
scores = {name: [predict(d, test, clean, name=name) for d in detectors] for name, detectors in everyone.items()}

# %%
contest = ["sphere", "Gaussian", "KDE", "PCA 16", "AE dense 16", "positional Gaussian"]
lesson.predict(
    "sees", "Rank by *image AUROC*: is the slice ill? (Mean over families, highest first.)", "ranking", contest
)
lesson.predict("points", "Rank by *pixel AP*: where is it ill? (Mean over families.)", "ranking", contest)

# %%
table = evaluate(scores, resamples=400, seed=seed)
lesson.results(table)
display(results_table(table, "AUROC", level="image").style.set_caption("image AUROC [95 % interval over subjects]"))
display(results_table(table, "AP").style.set_caption("pixel AP (rim, median) [95 % interval over subjects]"))

# %%
raw = table["postprocess"] == "none"
detect = table[(table["level"] == "image") & (table["metric"] == "AUROC")]
locate = table[(table["level"] == "pixel") & (table["metric"] == "AP") & ~raw]
detect, locate = (
    t.pivot(index="detector", columns="family", values="value").loc[list(everyone)] for t in (detect, locate)
)
fig, axes = plt.subplots(1, len(families), figsize=(9.4, 3.9), sharex=True, squeeze=False, layout="constrained")
for ax, family in zip(axes[0], families, strict=True):
    for k, name in enumerate(everyone):
        style = {"color": plots.PALETTE[k % 10], "marker": plots.MARKERS[k], "label": name, "s": 34}
        ax.scatter(detect.loc[name, family], locate.loc[name, family], **style)
    ax.axvline(0.5, color="0.35", ls=":")
    ax.set(title=family, xlabel="image AUROC", ylim=(0, None))
axes[0, 0].set_ylabel("pixel AP (rim, median)")
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
agree = spearmanr(detect[families].mean(axis=1), locate[families].mean(axis=1)).statistic
lesson.figure(
    "Pixel AP against image AUROC, one panel a family, one marker a detector; dotted: chance. The rank correlation "
    "of the two, averaged over families, is {agree:.2f}.",
    agree=agree,
)

# %%
mean_detect, mean_locate = detect[families].mean(axis=1), locate[families].mean(axis=1)
lesson.reveal("sees", list(mean_detect[contest].sort_values(ascending=False).index))
lesson.reveal("points", list(mean_locate[contest].sort_values(ascending=False).index))
lesson.say(
    "The best detector of ill slices is {a} (mean AUROC {ad:.2f}; its maps have a mean AP of {al:.2f}). The best maps "
    "are those of {b} (AP {bl:.2f}; AUROC {bd:.2f}). Two questions, two winners: "
    "**say which one you ask before you rank.**",
    a=mean_detect.idxmax(),
    ad=mean_detect.max(),
    al=mean_locate[mean_detect.idxmax()],
    b=mean_locate.idxmax(),
    bl=mean_locate.max(),
    bd=mean_detect[mean_locate.idxmax()],
)

# %% [markdown]
# Two pairs make it a claim. The first was fixed before anything was run. It comes from a small study of the review's
# idea: more components detect better and localise worse (its maps were raw, so these are, too). The second sets a
# whole-image model against a place-by-place one; it was chosen after a look at the quick profile's smaller cohort.
# Each pair needs both halves to hold.


# %%
def claim_trade(name, seer, pointer, family, raw_maps=False):
    """Claim that `seer` has the higher image AUROC and `pointer` the higher pixel AP, each with its interval."""
    if family not in families:
        return
    options = {"family": family, "resamples": 400, "seed": seed}
    sees = paired_difference(scores[seer], scores[pointer], "AUROC", level="image", **options)
    sides = ([run.raw if raw_maps else run for run in scores[name]] for name in (pointer, seer))
    points_at = paired_difference(*sides, **options)
    statement = f"On `{family}`, {seer} has a higher image AUROC than {pointer} (difference)."
    lesson.claim_interval(f"{name}: detects", statement, sees, above=0)
    maps_are = "raw" if raw_maps else "post-processed"
    statement = f"On `{family}`, {pointer} has a higher pixel AP than {seer} ({maps_are} maps, difference)."
    lesson.claim_interval(f"{name}: localises", statement, points_at, above=0)


claim_trade("components", "PCA 256", "PCA 16", "ms", raw_maps=True)
claim_trade("whole or place", "Gaussian", "positional Gaussian", "ms")

# %%
pixel_ap = table[(table["level"] == "pixel") & (table["metric"] == "AP") & (table["family"] == "ms")]
pixel_ap = pixel_ap.assign(maps=np.where(pixel_ap["postprocess"] == "none", "raw", "post-processed"))
pixel_ap = pixel_ap.pivot(index="detector", columns="maps", values="value")
if len(pixel_ap):
    lesson.say(
        "Even the order of maps hangs on what is done to them. On `ms`, PCA 16 has AP {a:.2f} and PCA 256 {b:.2f} as "
        "raw maps; after rim and median it is {c:.2f} and {d:.2f}.",
        a=pixel_ap.loc["PCA 16", "raw"],
        b=pixel_ap.loc["PCA 256", "raw"],
        c=pixel_ap.loc["PCA 16", "post-processed"],
        d=pixel_ap.loc["PCA 256", "post-processed"],
    )

# %% [markdown]
# ## Real strokes
#
# The same question on real patients: FLAIR slices at one height, trained on lesion-free slices of the training persons.
# Healthy test slices are those of test persons without a lesion there. An acute stroke is bright in FLAIR, so the
# positional Gaussian looks at the bright side alone.

# %%
try:
    real = open_slices("stroke", profile, progress=False)
except BadInput as error:
    real = None
    print(error.cause, error.remedy)

# %%
if real is not None:
    calm = real.select("split == 'train' and family == 'healthy'")
    sick = real.select("split == 'test' and (family == 'healthy' or (family == 'stroke' and lesion_px >= 50))")
    real_models = {
        "brightness": IntensityThreshold(),
        "positional Gaussian": PositionalGaussian(real.image_shape, levels=1, side="bright"),
        "sphere": Gaussian(real.image_shape, pool=4, covariance="spherical"),
        "Gaussian": Gaussian(real.image_shape, pool=4),
        "KDE": KernelDensity(real.image_shape, pool=4),
        "OC-SVM": OneClassSVM(real.image_shape, pool=4),
        "kernel PCA": KernelPCA(real.image_shape, pool=4, components=64),
        "PCA 16": PCA(real.image_shape, components=16),
    }
    for detector in real_models.values():
        fit(detector, calm, progress=False)
    real_scores = {name: predict(d, sick, [("smooth", 1)], name=name) for name, d in real_models.items()}
    real_table = evaluate(real_scores, resamples=400, seed=seed)
    lesson.results(real_table)
    display(results_table(real_table, "AUROC", level="image"), results_table(real_table, "AP"))

# %%
if real is not None:
    options = {"family": "stroke", "resamples": 400, "seed": seed}
    a, b = real_scores["Gaussian"], real_scores["positional Gaussian"]
    lesson.claim_interval(
        "real whole or place: detects",
        "On real strokes the Gaussian has a higher image AUROC than the positional Gaussian (difference).",
        paired_difference(a, b, "AUROC", level="image", **options),
        above=0,
        over="persons",
    )
    lesson.claim_interval(
        "real whole or place: localises",
        "On real strokes the positional Gaussian has a higher pixel AP than the Gaussian (difference).",
        paired_difference(b, a, **options),
        above=0,
        over="persons",
    )

# %% [markdown]
# ## A clever horse
#
# Around 1905 the horse Hans solved sums by tapping his hoof, until someone saw that he watched his questioner's face.
# Kauffmann and colleagues (2020) found *Clever Hans* detectors everywhere: right, for the wrong reason.
#
# Build one. Suppose the patients come from the stroke unit's scanner and the healthy volunteers from the research
# scanner, and that the unit's skull stripping leaves a thin bright rim: two pixels at the brain's border, brighter by
# two robust standard deviations. The rim is not disease. We add it to copies of the test images. The detectors stay
# as they are, trained on healthy people without a rim.


# %%
def bright_rim(images, brains, people):
    """Copies of images (N, H, W): for `people` (N,) bool, the brain's outer two pixels are brighter by 0.25."""
    marked = np.array(images)
    for n in np.flatnonzero(people):
        marked[n][rim_of(brains[n])] += 0.25
    return marked


def rim_of(brain):
    """The outer two pixels (H, W) of a brain."""
    return brain & ~binary_erosion(brain, iterations=2)


def with_images(slices, images):
    """The same slices, masks and table with other images."""
    return SliceSet(images, slices.masks, slices.brains, slices.table, name=slices.name)


patient = (test.table["family"] != "healthy").to_numpy()
everybody = np.ones(len(test), bool)
worlds = {
    "as scanned": test,
    "rim on patients": with_images(test, bright_rim(test.images, test.brains, patient)),
    "rim on everybody": with_images(test, bright_rim(test.images, test.brains, everybody)),
}

# %%
weak = "texture" if "texture" in families else families[0]
kde_before = detect.loc["KDE", weak]
lesson.say("As scanned, KDE reaches an image AUROC of {before:.2f} on `{weak}`.", before=kde_before, weak=weak)
lesson.predict("rim", f"And on `{weak}` when only the patients have the rim?", kind="number", bounds=(0, 1))

# %%
horses = ["brightness", "Gaussian", "KDE", "OC-SVM", "kernel PCA", "PCA 16", "PCA 256", "positional Gaussian"]
seen = {w: {h: predict(closed[h], images, name=h) for h in horses} for w, images in worlds.items()}
tables = [evaluate(runs_of, resamples=400, seed=seed).assign(world=world) for world, runs_of in seen.items()]
hans = pd.concat(tables)
hans = hans[(hans["level"] == "image") & (hans["metric"] == "AUROC")]
fig, ax = plt.subplots(figsize=(8.6, 3.8), layout="constrained")
for k, world in enumerate(worlds):
    rows = hans[(hans["world"] == world) & (hans["family"] == weak)].set_index("detector").loc[horses]
    place = np.arange(len(horses)) + 0.2 * (k - 1)
    bars = np.abs(rows[["low", "high"]].sub(rows["value"], axis=0)).to_numpy().T
    ax.errorbar(place, rows["value"], bars, fmt=plots.MARKERS[k], color=plots.PALETTE[k], label=world)
ax.axhline(0.5, color="0.35", ls=":")
ax.set(ylabel=f"image AUROC on {weak}", xticks=range(len(horses)), ylim=(0, 1.03))
ax.set_xticklabels([h.replace(" ", "\n") for h in horses])
ax.legend(frameon=True, fontsize=8, loc="lower right")
by_world = hans[hans["family"] == weak].pivot(index="detector", columns="world", values="value")
lesson.figure(
    "Image AUROC of eight detectors in three worlds, with 95 % intervals over subjects; dotted: chance. KDE: {a:.2f} "
    "as scanned, {b:.2f} with the rim on patients, {c:.2f} with the rim on everybody.",
    a=by_world.loc["KDE", "as scanned"],
    b=by_world.loc["KDE", "rim on patients"],
    c=by_world.loc["KDE", "rim on everybody"],
)
lesson.reveal("rim", by_world.loc["KDE", "rim on patients"])

# %% [markdown]
# Nothing about the disease has changed, and no detector has learned anything. Given the diamonds alone, you would
# have written a paper. The number cannot tell you, but the *relevance* can: where does the score come from?

# %%
marked = worlds["rim on patients"]
ill = np.flatnonzero((test.table["family"] == weak) & (test.table["lesion_px"] > 0))
zones = {"lesion": test.masks[ill] & test.brains[ill], "rim": np.stack([rim_of(b) for b in test.brains[ill]])}
zones["rim"] &= ~zones["lesion"]


def shares(run):
    """The share of the positive relevance in the lesion and in the rim, one row a subject of the weak family."""
    relevance = np.where(run.brains[ill], np.maximum(run.maps[ill], 0), 0)
    sums = {zone: (relevance * where).sum((1, 2)) for zone, where in zones.items()}
    frame = pd.DataFrame({**sums, "all": relevance.sum((1, 2)), "subject": test.table["subject"].to_numpy()[ill]})
    total = frame.groupby("subject").sum()
    return total[list(zones)].div(total["all"], axis=0)


relevance = {world: {h: shares(seen[world][h]) for h in horses} for world in list(worlds)[:2]}
area = pd.Series({zone: where.sum() / test.brains[ill].sum() for zone, where in zones.items()})
parts = {(w, z): {h: relevance[w][h][z].mean() for h in horses} for w in relevance for z in zones}
summary = pd.DataFrame(parts)
summary.loc["(share of the area)"] = [area[z] for _, z in summary.columns]
summary.style.format("{:.1%}").set_caption(f"share of the relevance on {weak}, mean over subjects")

# %%
rows = [test.example(weak, place) for place in (0.3, 0.7)]
both = [("as scanned", rows[0]), ("rim on patients", rows[0]), ("as scanned", rows[1]), ("rim on patients", rows[1])]
pictures = np.stack([worlds[world].images[row] for world, row in both])
maps = {h: np.stack([seen[world][h].maps[row] for world, row in both]) for h in ("KDE", "Gaussian", "PCA 16")}
plots.show_maps(
    pictures,
    np.stack([test.masks[row] for _, row in both]),
    maps,
    titles=[world for world, _ in both],
    label={"KDE": "relevance", "Gaussian": "relevance", "PCA 16": "residual"},
)
lesson.figure(
    "Two slices of `{weak}` without and with the rim, and three maps; the lesion is outlined. With the rim, KDE puts "
    "{rim:.0%} of its relevance there and {lesion:.1%} into the lesion.",
    weak=weak,
    rim=summary.loc["KDE", ("rim on patients", "rim")],
    lesion=summary.loc["KDE", ("rim on patients", "lesion")],
)

# %%
options = {"family": weak, "level": "image", "resamples": 400, "seed": seed}
patients, nobody, all_have = (seen[world]["KDE"] for world in ("rim on patients", "as scanned", "rim on everybody"))
lesson.claim_interval(
    "Hans: the rim inflates",
    f"A bright rim on the patients raises KDE's image AUROC on `{weak}` (difference).",
    paired_difference(patients, nobody, "AUROC", **options),
    above=0,
)
lesson.claim_interval(
    "Hans: the control unmasks",
    "With the rim on everybody KDE's image AUROC is lower than with the rim on patients alone (difference).",
    paired_difference(patients, all_have, "AUROC", **options),
    above=0,
)
own = relevance["rim on patients"]["KDE"]
lesson.claim_interval(
    "Hans: relevance in the rim",
    "KDE then puts more of its relevance into the rim than into the lesion (difference of shares).",
    bootstrap(Mean(own["rim"] - own["lesion"]), len(own), seed=seed),
    above=0,
)

# %% [markdown]
# ## Exercises


# %%
def check_nu(answer):
    """A nu at which the one-class SVM ranks like KDE."""
    try:
        nu = float(answer)
    except (TypeError, ValueError):
        return "Put one number into `answer`: a value of nu."
    if not 0 < nu <= 1:
        return "nu is a share of the training points: above 0 and at most 1."
    if nu == 1:
        return None  # all weights are equal by definition; libsvm cannot be asked
    sample, other = as_images(sample_moons(150, seed=5)), as_images(sample_moons(400, seed=6) * 1.3)
    reference = KernelDensity((1, 2), gamma=10.0).fit(sample).anomaly_score(other)
    found = spearmanr(reference, OneClassSVM((1, 2), gamma=10.0, nu=nu).fit(sample).anomaly_score(other)).statistic
    if found > 0.9999:
        return None
    if nu < 0.1:
        return (
            f"With a small nu few points are support vectors: the rank correlation is {found:.3f}. KDE uses *all* of "
            "them, with equal weights."
        )
    return f"The weights are not equal yet: the rank correlation is {found:.4f}. How many support vectors do you need?"


lesson.card(
    "1.4.1",
    "Where two names meet",
    difficulty=1,
    minutes=5,
    task="The one-class SVM keeps a weight for each training point, at most 1/(nu n) when they sum to 1. For which nu "
    "does it rank like KDE, with a rank correlation above 0.9999? Put such a number into `answer`.",
    hints=["KDE gives every point the weight 1/n.", "The bound 1/(nu n) must force all weights to be equal."],
    solution="Any nu very near 1, such as `0.9999`, or 1 itself. The weights sum to 1 and none may exceed 1/(nu n): at "
    "nu = 1 all are 1/n.",
    check=check_nu,
)

# %%
answer = ...
lesson.check("1.4.1", answer)


# %%
def check_decomposition(answer):
    """A function (x, mean, precision) -> contributions of the pixels to the Mahalanobis distance."""
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    x, mean, precision = root[0], root[1] + 2, root @ root.T + torch.eye(6, dtype=torch.float64)
    found = torch.as_tensor(answer(x.clone(), mean.clone(), precision.clone()), dtype=torch.float64)
    offset = x - mean
    if found.ndim == 0 or found.numel() == 1:
        return "This is the score itself. Return one number for each pixel."
    if found.shape != x.shape:
        return f"Return one number for each pixel, of shape {tuple(x.shape)}, not {tuple(found.shape)}."
    if torch.allclose(found, offset * (precision @ offset)):
        return None
    if torch.allclose(found, x * (precision @ x)):
        return "You forgot the mean: distances are taken from mu."
    if torch.allclose(found, precision @ offset):
        return "This is half the gradient: how the score *would change*, not what each pixel contributes. Weigh it."
    if torch.allclose(found, offset.square() * precision.diagonal()):
        return "You used the diagonal alone: the covariances between pixels are part of the score."
    if torch.isclose(found.sum(), offset @ precision @ offset):
        return "It sums to the score, but pixel p should get exactly the terms that hold (x - mu)_p on the left."
    return "The contributions do not sum to the score (x - mu)^T Sigma^-1 (x - mu)."


lesson.card(
    "1.4.2",
    "Take a score apart",
    difficulty=2,
    minutes=15,
    task="Write a function of `x` (D,), `mean` (D,) and `precision` (D, D), the inverse covariance, that returns the "
    "contribution of each pixel to the Gaussian's score: (D,) numbers that sum to it. Put the function into `answer`.",
    hints=["Write the score as a sum over p of (x - mu)_p times something.", "The something is (Sigma^-1 (x - mu))_p."],
    solution="`lambda x, mean, precision: (x - mean) * (precision @ (x - mean))`. Single contributions may be "
    "negative: a pixel can make an image *more* plausible.",
    check=check_decomposition,
)

# %%
answer = ...
lesson.check("1.4.2", answer)


# %%
def check_control(answer):
    """A function (images, brains, patient) -> images in which the rim is there, and tells nothing about the patient."""
    images = np.zeros((40, 16, 16), np.float32)
    images[:, 3:13, 3:13] = 0.5
    brains, ill_people = images > 0, np.arange(40) < 20
    original = images.copy()
    found = np.asarray(answer(images, brains.copy(), ill_people.copy()))
    if not np.array_equal(images, original):
        return "You changed the given images themselves: work on a copy, or the next cell sees the rim twice."
    if found.shape != images.shape:
        return f"Return all the images, {images.shape}, not {found.shape}."
    rim = np.stack([rim_of(brain) for brain in brains])
    if np.abs(found - original)[~rim].max() > 1e-6:
        return "More than the rim has changed: then the comparison is of two things at once."
    has = np.array([(found[n] - original[n])[rim[n]].mean() > 0.1 for n in range(40)])
    if not has.any():
        return "Nobody has the rim. That is the world as scanned: it cannot show that the detector copes with a rim."
    among_ill, among_healthy = has[ill_people].mean(), has[~ill_people].mean()
    if among_ill == 1 and among_healthy == 0:
        return "Only the patients have it: that is the trap itself."
    if among_ill == 0 and among_healthy == 1:
        return "Only the healthy have it: the same trap, turned round."
    if abs(among_ill - among_healthy) > 0.45:
        return "The rim still says something about who is ill."
    return None


lesson.card(
    "1.4.3",
    "The control",
    difficulty=2,
    minutes=15,
    task="Write a function of `images` (N, H, W), `brains` (N, H, W) and `patient` (N,) bool that returns images in "
    "which the bright rim *occurs* but says nothing about who is ill. Use `bright_rim`. Put the function into "
    "`answer`. If it passes, score the KDE on `with_images(test, answer(test.images, test.brains, patient))`.",
    hints=[
        "Who must not decide whether an image gets the rim?",
        "Everybody, or a random half: both are controls. The random half is the harder one for the detector.",
    ],
    solution="`lambda images, brains, patient: bright_rim(images, brains, np.ones(len(images), bool))`, or a random "
    "half: `bright_rim(images, brains, np.random.default_rng(0).random(len(images)) < 0.5)`.",
    check=check_control,
)

# %%
answer = ...
lesson.check("1.4.3", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "Density, one-class, reconstruction: three questions. In the plane the feature map mattered more than which.",
    "To detect and to localise are two contests. A ranking, a region and a map are three things to be good at.",
    "A high AUROC does not say what was seen. Take the score apart, and build the control. Next: part 2, networks that "
    "reconstruct.",
)

# %% [markdown]
# ## References
#
# - Ruff L, Kauffmann JR, Vandermeulen RA, et al. A unifying review of deep and shallow anomaly detection. *Proceedings
#   of the IEEE* 109(5):756-795 (2021).
# - Ruff L, Vandermeulen RA, Görnitz N, et al. Deep one-class classification. *ICML* (2018): Deep SVDD.
# - Kauffmann J, Ruff L, Montavon G, Müller KR. The Clever Hans effect in anomaly detection (2020).
# - Schölkopf B, Platt JC, Shawe-Taylor J, Smola AJ, Williamson RC. Estimating the support of a high-dimensional
#   distribution. *Neural Computation* 13 (2001): the one-class SVM.
# - Hoffmann H. Kernel PCA for novelty detection. *Pattern Recognition* 40 (2007).
# - Tax DMJ, Duin RPW. Support vector data description. *Machine Learning* 54 (2004).
