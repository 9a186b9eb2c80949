# %% [markdown]
# # Assignment 2: When auto-encoders fail
#
# **Show, with an interval, that a network may rebuild an anomaly better than the healthy tissue it replaced.**
#
# Lesson 2.2 claims it. Here you build the whole chain on small people: who may train, the training loop, the residual,
# the post-processing, the contrast, and the experiment that compares one and the same place with and without a lesion.
#
# | | | |
# |---|---|---|
# | time | 120 minutes of yours, seconds of the computer's | |
# | needs | lessons 2.1 and 2.2 | |
#
# | part | task | points |
# |---|---|---|
# | 1 | who may train | 2 |
# | 2 | the training loop | 4 |
# | 3 | the residual | 3 |
# | 4 | post-processing | 2 |
# | 5 | contrast of lesion and rest | 3 |
# | 6 | is it copied better? | 3 |
# | 7 | a paired interval, and the finding | 6 |
# | 8 | two answers in words | 7 |
# | | together | 30 |
#
# Replace each `raise NotImplementedError("your turn: ...")` by your code and leave the names as they are. The cell
# after it checks you, and says what it misses. Some checks come with the marks only. Whatever gives the right numbers
# is right.
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# ## The people and two networks
#
# Small simulated people, three slices each. **dense** squeezes a slice into one vector of 8 numbers. **copying** keeps
# 8 numbers at each of 16 × 16 places, twice as many as there are pixels. Both have batch normalisation: in training it
# uses the batch's own mean and spread, in evaluation mode those that it has collected.

# %% nbgrader={"schema_version": 3, "grade_id": "a2-data", "grade": false, "solution": false, "locked": true, "task": false}
import matplotlib.pyplot as plt
import numpy as np
import torch
from course_lib.images.small_people import small_people
from course_lib.metrics.curves import rank_metrics
from scipy import ndimage
from torch import nn

train_people = small_people({"healthy": 40}, split="train", seed=2)
test_people = small_people({"bright": 10, "dark": 10, "flat": 10}, split="test", seed=2)
well = small_people({"healthy": 16}, split="test", seed=3)  # a lesion will be painted into these


def batch(images: np.ndarray) -> torch.Tensor:
    """Slices (N, H, W) as a tensor (N, 1, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None]


def new_network(kind: str, seed: int = 0) -> nn.Module:
    """An untrained network, "dense" or "copying": (N, 1, 32, 32) to the same."""
    torch.manual_seed(seed)
    if kind == "dense":
        squeeze = [nn.Flatten(), nn.Linear(1024, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 8)]
        expand = [nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1024), nn.Unflatten(1, (1, 32, 32))]
    else:
        squeeze = [nn.Conv2d(1, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1)]
        expand = [nn.Conv2d(8, 16, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1)]
    return nn.Sequential(*squeeze, *expand)


# %% [markdown]
# ## 1. Who may train
#
# `split`, `family` and `lesion_px` describe the slices of a cohort, one entry each. Return the numbers of the rows
# (from 0) that a detector of the unhealthy may be trained on.


# %% nbgrader={"schema_version": 3, "grade_id": "a2-rows", "grade": false, "solution": true, "locked": false, "task": false}
def training_rows(split: list[str], family: list[str], lesion_px: list[int]) -> list[int]:
    """The rows to train on."""
    ### BEGIN SOLUTION
    return [k for k, (s, f) in enumerate(zip(split, family, strict=True)) if s == "train" and f == "healthy"]
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a2-rows-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
import numpy as np

rng = np.random.default_rng(1)
split = [str(name) for name in rng.choice(["train", "val", "test"], 60)]
family = [str(name) for name in rng.choice(["healthy", "bright", "dark"], 60)]
lesion_px = [0 if name == "healthy" or k % 3 == 0 else 9 for k, name in enumerate(family)]
found = {int(row) for row in training_rows(split, family, lesion_px)}
assert not any(split[row] == "test" for row in found), "There are test people among those you train on."
assert not any(split[row] == "val" for row in found), "You train on validation people: thresholds are set on them."
assert not any(lesion_px[row] for row in found), "There are lesions in your training slices."
### BEGIN HIDDEN TESTS
assert all(family[row] == "healthy" for row in found), (
    "A slice without a lesion of an ill person is not a healthy slice: the disease may show elsewhere in it."
)
right = {k for k in range(60) if split[k] == "train" and family[k] == "healthy"}
assert found == right, "Some healthy training slices are missing."
### END HIDDEN TESTS

# %% [markdown]
# ## 2. The training loop
#
# Train `network` in place: `steps` updates by Adam with a learning rate of 3e-3, on batches of 32 different slices
# drawn at random by `seed`, loss: the mean over all pixels of $(x - \hat{x})^2$. Return the list of the losses as
# floats, and leave the network in evaluation mode. The same seed gives the same training.


# %% nbgrader={"schema_version": 3, "grade_id": "a2-train", "grade": false, "solution": true, "locked": false, "task": false}
def train(network: nn.Module, images: torch.Tensor, steps: int, seed: int) -> list[float]:
    """Train on healthy images (N, 1, H, W); the loss of each step."""
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    losses = []
    for _ in range(steps):
        x = images[torch.randperm(len(images), generator=generator)[:32]]
        loss = nn.functional.mse_loss(network(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    network.eval()
    return losses
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a2-train-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 4}
import numpy as np
import torch
from course_lib.images.small_people import small_people

images = torch.from_numpy(small_people({"healthy": 40}, seed=9).images)[:, None]
network = new_network("dense", 4)
losses = [float(loss) for loss in train(network, images, 40, 0)]
assert len(losses) == 40 and np.isfinite(losses).all(), "Return one loss for each step."
assert int(network[2].num_batches_tracked) > 0, "You trained in evaluation mode: batch normalisation has seen nothing."
assert network.training is False, "You left the network in training mode: its maps would depend on the batch."
assert np.mean(losses[-10:]) < 0.04, (
    f"After 40 steps the loss is still {np.mean(losses[-10:]):.3f}. Has each turn a backward pass and a step? And "
    "a zero_grad? Else old gradients pile up."
)
### BEGIN HIDDEN TESTS
assert 0.02 < losses[0] < 0.4, "The first loss is not a mean over all pixels of the squared error."
assert int(network[2].num_batches_tracked) == 40, "Each step is one pass through the network, no more and no fewer."
twin = new_network("dense", 4)
again = [float(loss) for loss in train(twin, images, 40, 0)]
assert np.allclose(losses, again, rtol=1e-3), "The same seed gives another training: draw the batches from it."
other = [float(loss) for loss in train(new_network("dense", 4), images, 40, 1)]
assert not np.allclose(losses, other, rtol=1e-3), "Another seed gives the same batches: are they drawn at random?"


def first_loss(x, seed):
    """The loss of the first step on these slices."""
    return float(train(new_network("dense", 4), x, 1, seed)[0])


def whole_loss(x):
    """The loss of an untrained network on all of these slices together, in training mode."""
    untrained = new_network("dense", 4)
    untrained.train()
    return float((untrained(x).detach() - x).square().mean())


few = images[:32]
firsts, whole = [first_loss(few, seed) for seed in (0, 1)], whole_loss(few)
assert np.allclose(firsts, whole, rtol=1e-3), (
    "Given 32 slices, a batch has each of them once: it is 32 *different* slices, drawn without replacement."
)
assert not np.isclose(first_loss(images[:40], 0), whole_loss(images[:40]), rtol=1e-5), (
    "Batches are of 32 slices, not more."
)
stepped = new_network("dense", 4)
before_step = stepped[7].weight.detach().clone()
train(stepped, few, 1, 0)
moved = float((stepped[7].weight.detach() - before_step).abs().max())
assert abs(moved - 3e-3) < 2e-4, (
    f"Adam's first step moves weights by the learning rate, 3e-3; yours moves them by {moved:.1e}. Rate or optimizer?"
)
### END HIDDEN TESTS

# %% nbgrader={"schema_version": 3, "grade_id": "a2-networks", "grade": false, "solution": false, "locked": true, "task": false}
rows = training_rows(*(train_people.table[name].tolist() for name in ("split", "family", "lesion_px")))
networks = {kind: new_network(kind) for kind in ("dense", "copying")}
for kind, network in networks.items():
    losses = train(network, batch(train_people.images[rows]), 100, seed=0)
    print(f"{kind}: loss {losses[0]:.4f} at first, {np.mean(losses[-10:]):.4f} at last")

# %% [markdown]
# ## 3. The residual
#
# $|x - \hat{x}|$ in the brain (where the image is above 0), 0 outside. The map of a slice may not depend on the others
# of its batch.


# %% nbgrader={"schema_version": 3, "grade_id": "a2-residual", "grade": false, "solution": true, "locked": false, "task": false}
def residual_map(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The residual: (N, 1, H, W) to (N, H, W)."""
    ### BEGIN SOLUTION
    network.eval()
    with torch.no_grad():
        return ((images - network(images)).abs() * (images > 0))[:, 0]
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a2-residual-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
import numpy as np
import torch
from course_lib.images.small_people import small_people


def array(values):
    """A NumPy array, whatever came back."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


images = torch.from_numpy(small_people({"bright": 4}, split="test", seed=8).images)[:, None]
network = new_network("dense", 2)
network.train()
maps = array(residual_map(network, images))
assert maps.shape == (12, 32, 32), f"A map for each slice, (12, 32, 32), and yours is {maps.shape}."
pair = array(residual_map(network, images[3:5]))
assert np.allclose(pair, maps[3:5], atol=1e-5), (
    "The map of a slice depends on the others of its batch: at test time batch normalisation must not use the batch."
)
assert (maps >= 0).all(), "A residual map is absolute: else darker and brighter than expected would cancel."
### BEGIN HIDDEN TESTS
network.eval()
rebuilt = array(network(images))
brain, x = images.numpy()[:, 0] > 0, images.numpy()[:, 0]
right = np.abs(x - rebuilt[:, 0]) * brain
assert not (maps[~brain] > 0).any(), "There is residual outside the brain: the background is no anomaly."
assert not np.allclose(maps, right**2, atol=1e-5), "That is the square. The course's residual is absolute."
assert not np.allclose(maps, np.abs(rebuilt[:, 0] - rebuilt[:, 0].mean()) * brain, atol=1e-5), "Compare with the image."
scaled = right / np.maximum(right.max((1, 2), keepdims=True), 1e-9)
assert not np.allclose(maps, scaled, atol=1e-5), "You stretched each map to 0 .. 1: healthy people get red spots too."
assert np.allclose(maps, right, atol=1e-5), "Not |image - reconstruction| in the brain."
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Post-processing
#
# First silence the rim: brain pixels that 2 erosions with 8 neighbours take away, and the background, get the *lowest*
# value of their slice's brain. Then the median of 3 × 3 pixels, slice by slice.


# %% nbgrader={"schema_version": 3, "grade_id": "a2-clean", "grade": false, "solution": true, "locked": false, "task": false}
def clean(maps: np.ndarray, brains: np.ndarray) -> np.ndarray:
    """Rim 2, median 3: (N, H, W) to (N, H, W)."""
    ### BEGIN SOLUTION
    out = np.empty(maps.shape)
    for k, (m, b) in enumerate(zip(maps, brains, strict=True)):
        inner = ndimage.binary_erosion(b, np.ones((3, 3)), iterations=2)
        out[k] = ndimage.median_filter(np.where(inner, m, m[b].min()), size=3)
    return out
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a2-clean-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
### BEGIN HIDDEN TESTS
import numpy as np
from course_lib.maps import erode_rim, median_filter
from scipy import ndimage

rng = np.random.default_rng(4)
brains = np.zeros((3, 24, 24), bool)
brains[:, 4:20, 5:19] = True
maps = rng.gamma(2, 0.1, brains.shape) + 0.05
got = np.asarray(clean(maps, brains))
assert got.shape == maps.shape, "A map for each slice."
quiet = erode_rim(maps, brains, 2)
right = median_filter(quiet, 3)


def same(other):
    """Whether the result is this one, in the brain."""
    return np.allclose(got[brains], other[brains], atol=1e-4)


assert not same(quiet), "The median is missing."
assert not same(ndimage.maximum_filter(quiet, (1, 3, 3))), (
    "A maximum instead of the median spreads each lone hot pixel."
)
assert not same(ndimage.uniform_filter(quiet, (1, 3, 3))), "A mean instead of the median: one hot pixel moves it."
assert not same(ndimage.median_filter(quiet, 3)), "Your median looks into neighbouring slices: (1, 3, 3)."
assert not same(erode_rim(median_filter(maps, 3), brains, 2)), "Median first, rim second: the rim leaks into the brain."
assert not same(median_filter(erode_rim(maps, brains, 1), 3)), "The rim is two pixels wide, not one."
assert not same(median_filter(maps, 3)), "The rim is not silenced."
zeros = np.where(quiet == quiet.min((1, 2), keepdims=True), 0, maps)
assert not same(median_filter(zeros, 3)), "Silent is the lowest value of the slice's brain, not 0."
assert same(right), "Not: rim of 2 pixels to the lowest value of the slice's brain, then 3 x 3 median."
for seed in range(3):
    away = np.hypot(*(np.indices((26, 26)) - 12.5))
    round_ = np.stack([away < radius for radius in (7.2, 8.5, 6.1)])
    noise = np.random.default_rng(seed).normal(-0.2, 0.3, round_.shape)
    got, brains = np.asarray(clean(noise, round_)), round_
    assert same(median_filter(erode_rim(noise, brains, 2), 3)), (
        "Wrong on a round brain: erode with 8 neighbours, twice."
    )

### END HIDDEN TESTS
import numpy as np

brains = np.zeros((1, 14, 14), bool)
brains[0, 2:12, 2:12] = True
maps = np.where(brains, 0.2, 0.0)
maps[0, 2, 2:12], maps[0, 7, 7] = 0.9, 1.0  # a bright rim, and a lone hot pixel
got = np.asarray(clean(maps, brains))
assert got.shape == maps.shape, "A map for each slice."
assert got[0, 2:4, 2:12].max() < 0.5, "The rim is not silenced."
assert got[0, 6:9, 6:9].max() < 0.25, (
    "A lone hot pixel vanishes in a median; it stays in a mean, and grows in a maximum."
)

# %% [markdown]
# ## 5. Contrast
#
# How much brighter is a map in the lesion than in the rest of the brain? For each person who has a lesion, in the order
# in which `people` first names them: the mean over the person's lesion pixels, divided by the mean over the person's
# *other brain pixels*, all slices of the person taken together.


# %% nbgrader={"schema_version": 3, "grade_id": "a2-contrast", "grade": false, "solution": true, "locked": false, "task": false}
def contrast(maps: np.ndarray, masks: np.ndarray, brains: np.ndarray, people: list[str]) -> list[float]:
    """Lesion over rest, one number for each person with a lesion."""
    ### BEGIN SOLUTION
    names, ratios = np.asarray(people), []
    for name in dict.fromkeys(people):
        own = names == name
        inside, rest = masks[own] & brains[own], brains[own] & ~masks[own]
        if inside.any():
            ratios.append(float(maps[own][inside].mean() / maps[own][rest].mean()))
    return ratios
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a2-contrast-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
### BEGIN HIDDEN TESTS
import numpy as np

rng = np.random.default_rng(6)


def case():
    """Five people, interleaved; the fourth has no lesion."""
    people = [f"sub-{'caebd'[k % 5]}" for k in range(15)]
    brains = rng.random((15, 14, 14)) < 0.7
    masks = (rng.random(brains.shape) < rng.uniform(0.01, 0.5, 15)[:, None, None]) & brains
    masks[[name == "sub-b" for name in people]] = False
    maps = rng.gamma(2, 0.1, brains.shape) * (1 + masks * rng.uniform(0, 3, 15)[:, None, None])
    return maps * (brains + 0.3 * ~brains), masks, brains, people


def by_hand(maps, masks, brains, people, rest=lambda mask, brain: brain & ~mask, power=1):
    """The ratios, pixel by pixel."""
    ratios = []
    for name in ("sub-c", "sub-a", "sub-e", "sub-d"):
        rows = [k for k in range(len(people)) if people[k] == name]
        inside = [v**power for k in rows for v in maps[k][masks[k]]]
        other = [v**power for k in rows for v in maps[k][rest(masks[k], brains[k])]]
        ratios.append(sum(inside) / len(inside) / (sum(other) / len(other)))
    return np.array(ratios)


given = case()
got = np.array([float(value) for value in contrast(*given)])
assert got.shape == (4,), f"Four of five people have a lesion, and you return {len(got)} numbers."
right = by_hand(*given)
assert not np.allclose(got, 1 / right), "Upside down: the lesion goes above the line."
assert not np.allclose(np.sort(got), np.sort(right)) or np.allclose(got, right), "People in order of first appearance."
for given in (case(), case()):
    got, right = np.array([float(value) for value in contrast(*given)]), by_hand(*given)
    whole = by_hand(*given, rest=lambda mask, brain: brain)
    outside = by_hand(*given, rest=lambda mask, brain: ~mask)
    assert not np.allclose(got, whole), "The *rest* is the brain without the lesion; yours has the lesion in it."
    assert not np.allclose(got, outside), "You counted the background in the rest: the rest of the *brain*."
    assert not np.allclose(got, by_hand(*given, power=2)), "You squared. Residuals are absolute here."
    assert np.allclose(got, right, rtol=1e-4), (
        "Not the pooled ratio: take all slices of a person together, also those without a lesion."
    )
### END HIDDEN TESTS
import numpy as np

brains, masks = np.zeros((2, 3, 4, 4), bool)
brains[:, :3], masks[0, 0, :2] = True, True
maps = np.where(masks, 0.6, np.where(brains, 0.2, 9.0))
got = [float(value) for value in contrast(maps, masks, brains, ["sub-b", "sub-a", "sub-b"])]
assert len(got) == 1, f"One of two people has a lesion, and you return {len(got)} numbers."
assert not np.isclose(got[0], 1 / 3), "Upside down: the lesion goes above the line."
assert np.isclose(got[0], 3), "0.6 in the lesion, 0.2 in the rest of the brain, 9 in the background: a contrast of 3."

# %%
maps = {kind: np.asarray(residual_map(network, batch(test_people.images))) for kind, network in networks.items()}
fig, axes = plt.subplots(3, 6, figsize=(9, 4.6), layout="constrained")
for k, row in enumerate(np.flatnonzero(test_people.masks.any((1, 2)))[[0, 3, 21, 24, 41, 44]]):
    shown = [test_people.images[row], *(clean(maps[kind], test_people.brains)[row] for kind in networks)]
    for ax, picture, title in zip(axes[:, k], shown, ("image", "dense", "copying"), strict=True):
        ax.imshow(picture * test_people.brains[row], cmap="magma" if title != "image" else "gray", vmin=0)
        ax.contour(test_people.masks[row], [0.5], colors="#56B4E9", linewidths=0.8)
        ax.set(xticks=[], yticks=[], ylabel=title if k == 0 else "")
for kind in networks:
    ratios = contrast(maps[kind], test_people.masks, test_people.brains, test_people.table["subject"].tolist())
    medians = np.median(np.reshape(ratios, (3, 10)), axis=1).round(2)
    print(kind, "contrast", dict(zip(test_people.families, medians.tolist(), strict=True)))
    quiet, truth, brains = clean(maps[kind], test_people.brains), test_people.masks, test_people.brains
    own = {family: (test_people.table["family"] == family).to_numpy() for family in test_people.families}
    ap = {family: rank_metrics(quiet[rows], truth[rows], brains[rows]).ap for family, rows in own.items()}
    print(kind, "AP after post-processing", {family: round(value, 2) for family, value in ap.items()})

# %% [markdown]
# ## 6. Is it copied better?
#
# The rest of the brain holds rim and folds, where every network errs most. A fairer control is the same place in the
# same head *before* there was a lesion. Below, a spot of each healthy cortex is filled with its own mean, as the inside
# of a cyst is: only the folds are gone.

# %% nbgrader={"schema_version": 3, "grade_id": "a2-painted", "grade": false, "solution": false, "locked": true, "task": false}
rng = np.random.default_rng(5)
before, spots = well.images, np.zeros(well.images.shape, bool)
for k, brain in enumerate(well.brains):
    depth = ndimage.distance_transform_edt(brain)
    cortex = np.argwhere((depth > 1.5) & (depth < 3.5) & (before[k] > 0.2))
    centre = rng.permutation(cortex)[0]
    spots[k] = brain & (np.hypot(*(np.indices(brain.shape) - centre[:, None, None])) < 2.6)
levels = np.array([image[spot].mean() for image, spot in zip(before, spots, strict=True)], np.float32)
after = np.where(spots, levels[:, None, None], before)  # (N, H, W)

# %% [markdown]
# For each slice: the mean absolute error within its spot when the network sees the slice *with* the lesion, over the
# mean absolute error within the same spot when it sees the slice *without*; of that the logarithm to base 2. Below 0
# the lesion is rebuilt better than what was there. An error is always measured against the image that the network was
# given.


# %% nbgrader={"schema_version": 3, "grade_id": "a2-copied", "grade": false, "solution": true, "locked": false, "task": false}
def log_ratio(network: nn.Module, before: torch.Tensor, after: torch.Tensor, spots: np.ndarray) -> np.ndarray:
    """log2 (error with the lesion / error without), (N,); before and after (N, 1, H, W), spots (N, H, W) bool."""
    ### BEGIN SOLUTION
    errors = [np.asarray(residual_map(network, images)) for images in (after, before)]
    means = [np.array([residual[spot].mean() for residual, spot in zip(maps, spots, strict=True)]) for maps in errors]
    return np.log2(means[0] / means[1])
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a2-copied-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
### BEGIN HIDDEN TESTS
import numpy as np
import torch
from course_lib.images.small_people import small_people

rng = np.random.default_rng(12)
healthy = small_people({"healthy": 5}, split="test", seed=21)
where = np.zeros(healthy.images.shape, bool)
where[:, 14:18, 18:22] = True
painted = np.where(where, rng.uniform(0.2, 1.0, 15)[:, None, None], healthy.images).astype(np.float32)
first, second = (torch.from_numpy(images)[:, None] for images in (healthy.images, painted))
network = new_network("copying", 6)
network.eval()
from_first, from_second = (np.asarray(network(images).detach())[:, 0] for images in (first, second))


def errors(image, rebuilt):
    """The mean absolute difference in each spot."""
    return np.array([np.abs(a - b)[spot].mean() for a, b, spot in zip(image, rebuilt, where, strict=True)])


right = np.log2(errors(painted, from_second) / errors(healthy.images, from_first))
got = np.asarray(log_ratio(network, first, second, where), float)
assert got.shape == (15,), "One number for each slice."
assert not np.allclose(got, -right, atol=1e-3), "Upside down: the error *with* the lesion goes above the line."
assert not np.allclose(got, right * np.log(2), atol=1e-3), "That is the natural logarithm; take the one to base 2."
pairs = {
    "what it made of the slice after with the slice before": errors(healthy.images, from_second),
    "what it made of the slice before with the slice after": errors(painted, from_first),
}
for name, above in pairs.items():
    assert not np.allclose(got, np.log2(above / errors(healthy.images, from_first)), atol=1e-3), (
        f"The residual of the wrong pair: you compare {name}. A network's error is against what it was given."
    )
assert np.allclose(got, right, atol=1e-3), "Not log2 of the mean absolute errors within the spot, with over without."

### END HIDDEN TESTS
import numpy as np
import torch

images, where = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)), np.zeros((3, 32, 32), bool)
where[:, 14:18, 18:22] = True
got = np.asarray(log_ratio(new_network("copying", 6), images, images, where), float)
assert got.shape == (3,), "One number for each slice."
assert np.allclose(got, 0, atol=1e-5), "The same slice before and after: equal errors, and the logarithm of 1 is 0."

# %% [markdown]
# ## 7. A paired interval, and the finding
#
# `a` and `b` hold a number for each slice, `people` whose slice it is. Return the 95 % bootstrap interval `(low, high)`
# of the mean over people of the difference a - b (each person's mean first). Both sides belong to the same people, so
# they are resampled together. The same call gives the same interval.


# %% nbgrader={"schema_version": 3, "grade_id": "a2-interval", "grade": false, "solution": true, "locked": false, "task": false}
def paired_interval(a: np.ndarray, b: np.ndarray, people: list[str]) -> tuple[float, float]:
    """The 95 % interval of the mean over people of a - b."""
    ### BEGIN SOLUTION
    names, gap = np.asarray(people), np.asarray(a) - np.asarray(b)
    means = np.array([gap[names == name].mean() for name in sorted(set(people))])
    drawn = np.random.default_rng(0).integers(0, len(means), (2000, len(means)))
    low, high = np.quantile(means[drawn].mean(1), [0.025, 0.975])
    return float(low), float(high)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a2-interval-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
import numpy as np

for seed in (0, 1):
    rng = np.random.default_rng(seed)
    person = np.repeat(rng.normal(0, 1, 20), 6)  # what is hard for both
    lead = np.repeat(rng.normal(0.3, 0.2, 20), 6)
    a, b = person + lead + rng.normal(0, 0.02, 120), person + rng.normal(0, 0.02, 120)
    people = [f"sub-{k:02d}" for k in np.repeat(np.arange(20), 6)]
    low, high = (float(end) for end in paired_interval(a, b, people))
    gaps = (a - b).reshape(20, 6).mean(1)
    right = 2 * 1.96 * gaps.std(ddof=1) / np.sqrt(20)
    assert not low < -gaps.mean() < high, "The sign is flipped: a - b."
    assert low < gaps.mean() < high, "The interval does not contain the mean difference itself."
    assert high - low < 1.8 * right, "Far too wide: you resampled the two sides apart. The same people are on both."
    assert high - low > 0.6 * right, "Far too narrow: you resampled slices. Slices of one person are not independent."
    assert 0.8 * right < high - low < 1.3 * right, "Not a 95 % interval: its ends leave out 2.5 % on either side."
### BEGIN HIDDEN TESTS
again = tuple(float(end) for end in paired_interval(a, b, people))
assert np.allclose((low, high), again), "Another interval at each call: seed the draws."
order = rng.permutation(120)
mixed = [float(end) for end in paired_interval(a[order], b[order], [people[k] for k in order])]
assert np.allclose(mixed, (low, high), atol=0.2 * right), "The order of the slices matters to you: look at the names."
### END HIDDEN TESTS

# %% [markdown]
# `low` and `high` are the ends of the interval of a mean log2 ratio of part 6. Does it say *beyond doubt*, that is with
# its whole interval, that the network rebuilds the lesion better than the tissue that it replaced? `True` or `False`.


# %% nbgrader={"schema_version": 3, "grade_id": "a2-doubt", "grade": false, "solution": true, "locked": false, "task": false}
def beyond_doubt(low: float, high: float) -> bool:
    """Whether the lesion is rebuilt better, with the whole interval."""
    ### BEGIN SOLUTION
    return high < 0
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a2-doubt-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 1}
### BEGIN HIDDEN TESTS
says = {ends: beyond_doubt(*ends) for ends in ((-0.5, 0.1), (-0.1, 0.5), (0.1, 0.5), (-0.9, -0.01))}
assert not says[-0.5, 0.1], (
    "[-0.5, 0.1] has 0 in it, wherever its middle lies: the claim may not rest on the value alone."
)
assert not says[-0.1, 0.5], "[-0.1, 0.5] has 0 in it: one end below 0 is not enough."
assert not says[0.1, 0.5], "[0.1, 0.5] lies above 0: beyond doubt, the lesion is rebuilt *worse*."
assert says[-0.9, -0.01], (
    "[-0.9, -0.01] lies below 0: the lesion is rebuilt better, beyond doubt, by little or by much."
)

### END HIDDEN TESTS
got = beyond_doubt(-0.5, -0.1)
assert got in (True, False), "Return True or False."
assert got, "All of [-0.5, -0.1] lies below 0, where the lesion is rebuilt better."

# %% [markdown]
# Now the finding: over the people of `well`, `before` and `after`, with the trained `networks`. For each kind of
# network `finding[kind]` is a dictionary of `"value"`, the mean over people of their mean log2 ratio, and of `"low"`
# and `"high"`, its interval; and `finding["claim"]` is what `beyond_doubt` says of the *copying* network.

# %% nbgrader={"schema_version": 3, "grade_id": "a2-finding", "grade": false, "solution": true, "locked": false, "task": false}
### BEGIN SOLUTION
people, finding = well.table["subject"].tolist(), {}
for kind, network in networks.items():
    values = log_ratio(network, batch(before), batch(after), spots)
    low, high = paired_interval(values, np.zeros_like(values), people)
    finding[kind] = {"value": float(values.reshape(-1, 3).mean(1).mean()), "low": low, "high": high}
finding["claim"] = beyond_doubt(finding["copying"]["low"], finding["copying"]["high"])
### END SOLUTION
print(finding)

# %% nbgrader={"schema_version": 3, "grade_id": "a2-finding-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
### BEGIN HIDDEN TESTS
import numpy as np
import torch
from course_lib.images.small_people import small_people

names = small_people({"healthy": 16}, split="test", seed=3).table["subject"].to_numpy()
images = [torch.from_numpy(np.asarray(part, np.float32))[:, None] for part in (before, after)]
inside = np.asarray(spots)
for kind in ("dense", "copying"):
    network = networks[kind]
    network.eval()
    residuals = [(x - network(x).detach()).abs().numpy()[:, 0] for x in images]
    first, second = (np.array([r[s].mean() for r, s in zip(residual, inside, strict=True)]) for residual in residuals)
    ratios = np.log2(second / first)
    people = np.array([ratios[names == name].mean() for name in sorted(set(names))])
    half = 1.96 * people.std(ddof=1) / np.sqrt(len(people))
    value, low, high = (float(finding[kind][key]) for key in ("value", "low", "high"))
    assert np.isclose(value, people.mean(), atol=1e-3), f"{kind}: the mean over people is {people.mean():.3f}."
    assert low < value < high and 0.75 < (high - low) / (2 * half) < 1.4, (
        f"{kind}: [{low:.3f}, {high:.3f}] is not the 95 % interval over people."
    )
claim = finding["claim"]
assert claim in (True, False), "finding['claim'] is True or False."
assert bool(claim) == (high < 0), "Your claim does not follow from your interval: it holds if all of it lies below 0."
assert high < 0, "The copying network should rebuild these lesions better; was it trained on the healthy slices?"

### END HIDDEN TESTS
for kind in ("dense", "copying"):
    value, low, high = (float(finding[kind][key]) for key in ("value", "low", "high"))
    assert low <= value <= high, f"{kind}: the interval does not contain the value."
assert finding["claim"] in (True, False), "finding['claim'] is True or False."

# %% [markdown]
# ## 8. In words
#
# **a.** Why is the flat lesion rebuilt better than healthy tissue? Say what each of the two networks can and cannot
# draw, and what your numbers say about it.

# %% [markdown] nbgrader={"schema_version": 3, "grade_id": "a2-words-why", "grade": true, "solution": true, "locked": false, "task": false, "points": 4}
# A residual is what a network cannot draw. Both draw smooth things well and folds badly: the dense one has 8 numbers
# for a whole head, and the copying one, with 8 numbers for four pixels, could copy everything but has learned in few
# steps only what lowers the mean error. The flat spot has no folds, so there is less left to miss. Its level is that of
# the cortex before, so the level gives nothing away either. In the run the mean log2 ratio is about -0.60 (-0.71 to
# -0.49) for the dense network and -0.47 (-0.59 to -0.36) for the copying one: both lie below 0 with their whole
# intervals, the lesion is rebuilt with about two thirds and three quarters of the error before.
#
# === BEGIN MARK SCHEME ===
#
# Half a point for each part of a line, where it has two.
#
# - 1 point: the error at a place depends on how simple it is (grain, folds), not on whether it is healthy.
# - 1 point: says why the level of the lesion does not help (iso-intense), or that a bright one would.
# - 1 point: tells the two networks apart by their codes.
# - 1 point: uses the own numbers; with their intervals.
#
# === END MARK SCHEME ===

# %% [markdown]
# **b.** Someone proposes to train twice as long, after which the copying network's loss on healthy slices is about half
# of what it was, and the dense one's a little lower. What happens to the contrast on *bright* lesions of each network,
# and to AP (part 5 prints both)? Name one change of the method that would help, and what it costs.

# %% [markdown] nbgrader={"schema_version": 3, "grade_id": "a2-words-remedy", "grade": true, "solution": true, "locked": false, "task": false, "points": 3}
# A lower loss on healthy slices says that the rest of the brain is rebuilt better; it says nothing about lesions. The
# copying network copies bright lesions as well as the rest, so both errors fall together: its contrast stays near 1
# (about 1.04 before, 1.05 after), and AP stays low (0.18 and 0.21). The dense network has no code for a bright lesion,
# before or after: its contrast is high already and changes little (3.1 to 3.3; AP 0.89 to 0.91). Help for the copying
# one comes from a constraint or a different question: a narrower code (costs healthy detail), coarse noise in training
# (costs a guess at what lesions look like), or a likelihood in place of a residual (costs a second model).
#
# === BEGIN MARK SCHEME ===
#
# Half a point for each part of a line, where it has two.
#
# - 1 point: the copying network copies lesions as well, so its contrast stays near 1; the dense network's changes
#   little (a small rise or fall is right, too).
# - 1 point: AP need not follow the loss, for either network; it may stay, or even fall.
# - 1 point: one remedy; its price.
#
# === END MARK SCHEME ===
