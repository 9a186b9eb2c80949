# %% [markdown]
# # Assignment 5: A detector of your own
#
# **Write a detector that others can train, save, trust and rank, and report on it as if it were somebody else's.**
#
# The leaderboard of lesson 5.4 takes any class that keeps the course's contract (`course_lib/detectors/base.py`). Half
# of this assignment is the contract: the mistakes that it forbids are those that make a detector look good at home and
# fail elsewhere. The other half is the comparison with detectors that need no idea at all.
#
# | | | |
# |---|---|---|
# | time | 150 minutes of yours, seconds of the computer's | |
# | needs | lessons 1.2, 2.1 and 5.4 | |
#
# | part | task | points |
# |---|---|---|
# | 1 | the detector: shape, rows, brain, settings, training | 13 |
# | 2 | a threshold from validation | 3 |
# | 3 | the comparison | 4 |
# | 4 | better than the positional Gaussian | 5 |
# | 5 | an honest report | 5 |
# | | together | 30 |
#
# Replace each `raise NotImplementedError("your turn: ...")` by your code and leave the names as they are. The cells
# after it check you, and say what is missing. Some checks come with the marks only.
#
# *For research and teaching only, not for diagnosis.*

# %% nbgrader={"schema_version": 3, "grade_id": "a5-data", "grade": false, "solution": false, "locked": true, "task": false}
import matplotlib.pyplot as plt
import numpy as np
import torch
from course_lib.detectors.base import Detector
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.images.small_people import small_people
from course_lib.metrics.curves import rank_metrics
from course_lib.training import fit
from torch import nn  # noqa: F401 (for those who train by steps)
from torch.nn import functional as F

train_people = small_people({"healthy": 40}, split="train", seed=8)
validation_people = small_people({"healthy": 20}, split="val", seed=8)
tuning_people = small_people({"bright": 8, "dark": 8}, split="val", seed=9)
test_people = small_people({"bright": 12, "dark": 12}, split="test", seed=8)


def batch(images: np.ndarray) -> torch.Tensor:
    """Slices (N, H, W) as a tensor (N, 1, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None]


# %% [markdown]
# ## 1. The detector
#
# `MyDetector(image_shape, ...)` is a `Detector`. Either it has a closed form and defines `fit(images)`; or it is
# trained by gradient steps and defines `training_losses(images)`. Both define `anomaly_map(images)`, `(B, 1, H, W)` to
# `(B, H, W)`:
#
# - higher is more anomalous; finite; the same at each call; 0 outside the brain, that is where the image is 0;
# - the map of an image does not depend on the others of its batch, nor on what was scored before;
# - each argument of the constructor has a default, except `image_shape`, and is stored under its own name;
# - all it knows of healthy people comes from training.
#
# It has 200 steps of 32 images, if it takes steps. Ideas: the smoothed distance from what is healthy *at this place*;
# from the most similar healthy heads; from what a narrow network rebuilds, in units of its usual error there.
#
# `course_lib.contract.broken_promises(detector, images)`, of lesson 5.4, tells you early about most of these.
#
# Choose between variants on `tuning_people`, as often as you like, and count the variants: the report asks for it.
# `test_people` are for parts 2 and 3, once.


# %% nbgrader={"schema_version": 3, "grade_id": "a5-detector", "grade": false, "solution": true, "locked": false, "task": false}
class MyDetector(Detector):
    """Your detector; say in one sentence what its map means."""

    ### BEGIN SOLUTION
    def __init__(self, image_shape: tuple[int, int], neighbours: int = 40, window: int = 3, floor: float = 0.05):
        super().__init__()
        self.image_shape, self.neighbours, self.window, self.floor = image_shape, neighbours, window, floor
        self.register_buffer("healthy", torch.zeros(0, 1, *image_shape))

    def smooth(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean over a window's brain pixels, and the brain; all (B, 1, H, W)."""
        brain = (images > 0).float()
        weight = F.avg_pool2d(brain, self.window, 1, self.window // 2)
        return F.avg_pool2d(images, self.window, 1, self.window // 2) / weight.clamp(min=1e-6) * brain, brain

    def fit(self, images: torch.Tensor) -> "MyDetector":
        """Keep the healthy slices."""
        self.healthy = images.clone()
        return self

    @torch.no_grad()
    def anomaly_map(self, images: torch.Tensor) -> torch.Tensor:
        """The distance from the most similar healthy slices, in their standard deviations at each place."""
        (x, brain), (h, healthy_brain) = self.smooth(images), self.smooth(self.healthy)
        distances = torch.cdist(F.avg_pool2d(x, 2).flatten(1), F.avg_pool2d(h, 2).flatten(1))
        near = distances.topk(min(self.neighbours, len(h)), largest=False).indices  # (B, k)
        values, weights = h[near], healthy_brain[near]  # (B, k, 1, H, W)
        count = weights.sum(1).clamp(min=1)
        mean = (values * weights).sum(1) / count
        sd = (((values - mean[:, None]).square() * weights).sum(1) / count).sqrt()
        return ((x - mean).abs() / (sd + self.floor) * brain)[:, 0]

    ### END SOLUTION


# %% [markdown]
# Three helpers are given. `train` is the course's own loop, `course_lib.training.fit`.


# %% nbgrader={"schema_version": 3, "grade_id": "a5-helpers", "grade": false, "solution": false, "locked": true, "task": false}
def new_detector(seed: int = 0, image_shape: tuple[int, int] = (32, 32)):
    """An untrained detector of yours; initial weights are drawn by the seed."""
    torch.manual_seed(seed)
    return MyDetector(tuple(image_shape))


def train(detector, images: torch.Tensor, seed: int = 0):
    """Train on healthy images (N, 1, H, W), in place; returns the detector."""
    fit(detector, images, steps=200, batch_size=32, seed=seed, progress=False)
    return detector


def rebuild(detector, seed: int = 0):
    """An untrained detector with the same settings, as the store makes it."""
    torch.manual_seed(seed)
    return type(detector)(**detector.hyperparameters())


# %% nbgrader={"schema_version": 3, "grade_id": "a5-shape-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
import torch
from course_lib.images.small_people import small_people

calm, ill = (
    torch.from_numpy(small_people(counts, split=split, seed=31).images)[:, None]
    for counts, split in (({"healthy": 20}, "train"), ({"bright": 3, "dark": 3}, "val"))
)
detector = train(new_detector(1), calm)
maps = detector.anomaly_map(ill)
assert isinstance(maps, torch.Tensor) and tuple(maps.shape) == (18, 32, 32), (
    "Maps are a tensor (B, H, W), without channel."
)
assert maps.is_floating_point() and not maps.requires_grad, "Maps are floats, and carry no gradient (torch.no_grad)."
assert torch.isfinite(maps).all(), "A map is not finite: look for a division by 0, at the rim or outside the brain."
again = detector.anomaly_map(ill)
assert torch.allclose(maps, again, atol=1e-5), (
    "Two calls, two maps: your map is random and cannot be reproduced. Fix what is drawn, or use the mean."
)
### BEGIN HIDDEN TESTS
assert all(m.std() > 0 for m in maps), "A map is the same number everywhere: it ranks no pixel above another."
one_person = detector.anomaly_map(ill[:1])
assert tuple(one_person.shape) == (1, 32, 32), "One image gives (1, 32, 32): do not squeeze the batch away."
small = torch.from_numpy(small_people({"healthy": 20}, side=24, seed=31).images)[:, None]
other = train(new_detector(1, (24, 24)), small).anomaly_map(small[:3])
assert tuple(other.shape) == (3, 24, 24), (
    "With image_shape (24, 24) the maps are not 24 x 24: a size is written into the code."
)
### END HIDDEN TESTS

# %% nbgrader={"schema_version": 3, "grade_id": "a5-rows-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
import torch
from course_lib.images.small_people import small_people

calm, ill = (
    torch.from_numpy(small_people(counts, split=split, seed=32).images)[:, None]
    for counts, split in (({"healthy": 20}, "train"), ({"bright": 3, "dark": 3}, "val"))
)
detector = train(new_detector(2), calm)
first = detector.anomaly_map(ill[:1])
maps = detector.anomaly_map(ill)
scale = float(maps.abs().max())
assert torch.allclose(detector.anomaly_map(ill[:1]), first, atol=1e-3 * scale), (
    "What was scored before changes the map: your detector goes on learning from the people it tests."
)
single = torch.cat([detector.anomaly_map(ill[k : k + 1]) for k in (0, 7, 12)])
assert torch.allclose(single, maps[[0, 7, 12]], atol=1e-3 * scale), (
    "The map of an image depends on the others of its batch: statistics of the batch, or of the test set, are in it."
)
### BEGIN HIDDEN TESTS
order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
assert torch.allclose(detector.anomaly_map(ill[order]), maps[order], atol=1e-3 * scale), "The order of a batch matters."
for _ in range(3):
    detector.anomaly_map(1.5 * ill)
assert torch.allclose(detector.anomaly_map(ill), maps, atol=1e-3 * scale), "Odd images change the maps of those after."
tops = detector.anomaly_map(torch.cat([calm[:9], ill])).amax((1, 2))
assert not torch.allclose(tops, tops[:1].expand(27), rtol=1e-4), (
    "Every map has the same maximum: stretched to 0 .. 1 by min-max, healthy people get red spots too."
)
### END HIDDEN TESTS

# %% nbgrader={"schema_version": 3, "grade_id": "a5-brain-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
import torch
from course_lib.images.small_people import small_people

calm, new = (
    torch.from_numpy(small_people({"healthy": 16}, split=s, seed=33).images)[:, None] for s in ("train", "val")
)
detector = train(new_detector(3), calm)
maps = detector.anomaly_map(new)
assert not maps[new[:, 0] == 0].any(), "There is anomaly outside the brain: multiply by the brain, images > 0."
### BEGIN HIDDEN TESTS
cut = new.clone()
cut[:, :, :12] = 0
assert not detector.anomaly_map(cut)[cut[:, 0] == 0].any(), (
    "The brain of *this* image counts, not that of the training people."
)
assert detector.anomaly_map(cut)[cut[:, 0] > 0].any(), "The map is 0 in the brain, too."
### END HIDDEN TESTS

# %% nbgrader={"schema_version": 3, "grade_id": "a5-settings-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
import torch
from course_lib.images.small_people import small_people

detector = MyDetector((24, 24))
try:
    settings = dict(detector.hyperparameters())
except AttributeError as error:
    raise AssertionError(f"The store could not save it: keep each argument under its own name. {error}") from None
assert tuple(settings.get("image_shape", ())) == (24, 24), "image_shape has to be read back as it was given."
### BEGIN HIDDEN TESTS
once, twice = dict(rebuild(detector).hyperparameters()), dict(rebuild(rebuild(detector)).hyperparameters())
assert repr(once) == repr(settings) == repr(twice), (
    "A setting is not read back as it was given: the constructor changes it, and a rebuilt one differs."
)
images = torch.from_numpy(small_people({"healthy": 16}, side=24, seed=34).images)[:, None]
pair = [train(each, images).anomaly_map(images[:4]) for each in (new_detector(4, (24, 24)), rebuild(detector, 4))]
assert torch.allclose(*pair, rtol=1e-3, atol=1e-4), "Rebuilt from its settings and trained alike, it gives other maps."
### END HIDDEN TESTS

# %% nbgrader={"schema_version": 3, "grade_id": "a5-training-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
import torch
from course_lib.images.small_people import small_people

people = {site: small_people({"healthy": 20}, split="train", seed=35 + k) for k, site in enumerate("ab")}
first, second = (torch.from_numpy(p.images)[:, None] for p in people.values())
new = torch.from_numpy(small_people({"bright": 4}, split="val", seed=35).images)[:, None]
maps = train(new_detector(5), first).anomaly_map(new)
elsewhere = train(new_detector(5), 0.5 * second).anomaly_map(new)
assert not torch.allclose(maps, elsewhere, rtol=1e-3), (
    "Trained on other people it gives the same maps: it learns nothing of healthy people from training."
)
### BEGIN HIDDEN TESTS
again = train(new_detector(5), first).anomaly_map(new)
assert torch.allclose(maps, again, rtol=1e-2, atol=1e-3 * float(maps.max())), (
    "The same seed and the same people give another detector: seed nothing by the clock, and keep no state between two."
)
given = first.clone()
trained = train(new_detector(5), given)
assert trained.training is False or not list(trained.parameters()), "It is left in training mode."
### END HIDDEN TESTS

# %% [markdown]
# How far you are, on the people for tuning. Come back to this cell with each variant.

# %% nbgrader={"schema_version": 3, "grade_id": "a5-tuning", "grade": false, "solution": false, "locked": true, "task": false}
for each in (new_detector(0), PositionalGaussian((32, 32), levels=1)):
    found = train(each, batch(train_people.images)).anomaly_map(batch(tuning_people.images)).numpy()
    tuned = rank_metrics(found, tuning_people.masks, tuning_people.brains).ap
    print(f"{type(each).__name__}: AP {tuned:.3f} on the people for tuning")

# %% [markdown]
# The detector for the rest of the assignment:

# %% nbgrader={"schema_version": 3, "grade_id": "a5-trained", "grade": false, "solution": false, "locked": true, "task": false}
mine = train(new_detector(0), batch(train_people.images))
test_images, validation_images = batch(test_people.images), batch(validation_people.images)
rows = np.flatnonzero(test_people.table["lesion_px"] > 0)[[0, 3, 6, 24, 27, 30]]
fig, axes = plt.subplots(2, len(rows), figsize=(8, 2.8), layout="constrained")
axes[0, 0].set_title("slice, lesion outlined", loc="left", fontsize=9)
axes[1, 0].set_title("my map, each from 0 to its maximum", loc="left", fontsize=9)
for (above, below), row in zip(axes.T, rows, strict=True):
    above.imshow(test_people.images[row], cmap="gray", vmin=0, vmax=1.2)
    above.contour(test_people.masks[row], [0.5], colors="#56B4E9", linewidths=0.8)
    below.imshow(mine.anomaly_map(test_images[row : row + 1])[0].numpy(), cmap="magma", vmin=0)
    above.axis("off"), below.axis("off")

# %% [markdown]
# ## 2. A threshold from validation
#
# Set `threshold` on raw maps of `mine`, such that 1 % of the brain pixels of healthy validation people are marked
# (scores at or above it). Then fill `rates`: `"validation"` and `"test_healthy_tissue"`, the shares marked of the
# validation people's brain, and of the test people's brain *outside* their lesions.

# %% nbgrader={"schema_version": 3, "grade_id": "a5-threshold", "grade": false, "solution": true, "locked": false, "task": false}
### BEGIN SOLUTION
validation_maps, test_maps = (mine.anomaly_map(x).numpy() for x in (validation_images, test_images))
threshold = float(np.quantile(validation_maps[validation_people.brains], 0.99))
spared = test_people.brains & ~test_people.masks
rates = {
    "validation": float((validation_maps >= threshold)[validation_people.brains].mean()),
    "test_healthy_tissue": float((test_maps >= threshold)[spared].mean()),
}
### END SOLUTION
print(threshold, rates)

# %% nbgrader={"schema_version": 3, "grade_id": "a5-threshold-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
### BEGIN HIDDEN TESTS
import torch
from course_lib.images.small_people import small_people

calm = small_people({"healthy": 20}, split="val", seed=8)
new = small_people({"bright": 12, "dark": 12}, split="test", seed=8)
known = small_people({"healthy": 40}, split="train", seed=8)
scores = {}
for name, people in (("val", calm), ("test", new), ("train", known)):
    scores[name] = mine.anomaly_map(torch.from_numpy(people.images)[:, None]).numpy(), people
inside = {name: maps[people.brains] for name, (maps, people) in scores.items()}
t = float(threshold)
share = {name: float((values >= t).mean()) for name, values in inside.items()}
exact = {name: abs(value - 0.01) < 2e-4 for name, value in share.items()}
assert exact["val"] or not exact["test"], "You chose the threshold on the people you test: it is an oracle."
assert exact["val"] or not exact["train"], (
    "You set it on training people, whom the detector knows: it is too low for others."
)
everywhere = scores["val"][0]
assert exact["val"] or abs((everywhere >= t).mean() - 0.01) > 2e-4, "You counted the background, which always scores 0."
assert exact["val"], f"At your threshold {share['val']:.4f} of the healthy validation brain is marked, not 0.01."
maps, people = scores["test"]
spared = (maps >= t)[people.brains & ~people.masks].mean()
assert abs(float(rates["validation"]) - share["val"]) < 1e-4, "rates['validation'] is the share of marked brain pixels."
assert abs(float(rates["test_healthy_tissue"]) - spared) < 1e-4, "Of the test people's brain *outside* their lesions."

### END HIDDEN TESTS
assert 0 < float(rates["validation"]) < 0.05, "rates['validation'] is a share of pixels; 0.01 is what you aim at."
assert 0 < float(rates["test_healthy_tissue"]) < 0.2, "rates['test_healthy_tissue'] is a share of pixels."

# %% [markdown]
# ## 3. The comparison
#
# How far is one detector ahead of another, on the same people? `first` and `second` are the maps of two detectors of
# the same slices, `people` names the person of each slice, in any order. Return the pixel AP of `first` less that of
# `second`, all brain pixels pooled, and the ends of its 95 % bootstrap interval over people: three numbers. Both
# detectors meet the same resampled people. 200 draws are enough; the same call gives the same interval twice.


# %% nbgrader={"schema_version": 3, "grade_id": "a5-paired", "grade": false, "solution": true, "locked": false, "task": false}
def paired_gap(
    first: np.ndarray, second: np.ndarray, masks: np.ndarray, brains: np.ndarray, people: list[str]
) -> tuple[float, float, float]:
    """AP of the first maps less AP of the second, and the low and high end; maps, masks, brains are (N, H, W)."""
    ### BEGIN SOLUTION
    names, rng = np.asarray(people), np.random.default_rng(0)
    rows_of = [np.flatnonzero(names == name) for name in sorted(set(people))]

    def lead(rows: np.ndarray) -> float:
        """The gap on some slices together."""
        values = [rank_metrics(maps[rows], masks[rows], brains[rows]).ap for maps in (first, second)]
        return values[0] - values[1]

    draws = (rng.integers(0, len(rows_of), len(rows_of)) for _ in range(200))
    gaps = [lead(np.concatenate([rows_of[k] for k in drawn])) for drawn in draws]
    low, high = np.quantile(gaps, [0.025, 0.975])
    return float(lead(np.arange(len(names)))), float(low), float(high)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a5-paired-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
### BEGIN HIDDEN TESTS
import numpy as np
from course_lib.metrics.curves import rank_metrics

rng = np.random.default_rng(14)
owner = rng.permutation(np.repeat(np.arange(12), 6))  # six slices of each of twelve people, in any order
people = [f"sub-{k:02d}" for k in owner]
masks = rng.random((72, 10, 10)) < rng.uniform(0.05, 0.3, 12)[owner, None, None]
brains = rng.random(masks.shape) < 0.7
plain = masks * rng.uniform(0.3, 2.5, 12)[owner, None, None] + 0.5 * rng.standard_normal(masks.shape)
better = plain + masks * rng.uniform(0.0, 0.4, 12)[owner, None, None]
first, second = (np.where(brains, maps, 9.0).astype(np.float32) for maps in (better, plain))


def ap(maps, rows):
    """Pixel AP of some slices together."""
    return rank_metrics(maps[rows], masks[rows], brains[rows]).ap


def spread(sides):
    """The standard deviation of the gap over draws of rows for either side."""
    return np.std([ap(first, a) - ap(second, b) for a, b in sides])


rows_of = [np.flatnonzero(owner == k) for k in range(12)]
draws = [np.concatenate([rows_of[k] for k in rng.integers(0, 12, 12)]) for _ in range(200)]
paired, apart = spread(zip(draws, draws, strict=True)), spread(zip(draws, draws[1:] + draws[:1], strict=True))
right = ap(first, np.arange(72)) - ap(second, np.arange(72))
value, low, high = (float(number) for number in paired_gap(first, second, masks, brains, people))
assert not np.isclose(value, -right, atol=1e-4), "The sign is flipped: the first less the second."
everywhere = rank_metrics(first, masks).ap - rank_metrics(second, masks).ap
assert not np.isclose(value, everywhere, atol=1e-4), "You counted the background: only brain pixels count."
assert np.isclose(value, right, atol=1e-4), "The first number is the gap on all slices: each side's pooled pixel AP."
width = (high - low) / (2 * 1.96)
assert width < np.sqrt(paired * apart), (
    "You resampled the two sides apart: the same resampled people have to meet both detectors (paired)."
)
assert width > 0.62 * paired, "Far too narrow: slices or pixels of one person are not independent. Resample people."
assert 0.75 * paired < width < 1.5 * paired, (
    "Not a 95 % interval: its ends leave out 2.5 % of the draws on either side."
)
assert low < value < high, "The interval does not contain the gap itself."
again = [float(number) for number in paired_gap(first, second, masks, brains, people)]
assert np.allclose(again, (value, low, high)), "Another interval at each call: seed the draws."
itself = np.array([float(number) for number in paired_gap(first, first, masks, brains, people)])
assert np.allclose(np.nan_to_num(itself), 0, atol=1e-9), (
    "You resampled the two sides apart: against itself a detector is ahead by 0 in each draw."
)

### END HIDDEN TESTS
import numpy as np

rng, names = np.random.default_rng(15), [f"sub-{k // 3}" for k in range(24)]
masks = rng.random((24, 6, 6)) < 0.2
maps, brains = masks + 0.5 * rng.standard_normal(masks.shape), np.ones_like(masks)
value, low, high = (float(number) for number in paired_gap(maps, -maps, masks, brains, names))
assert low <= value <= high, "Three numbers: the gap, then the low and the high end of its interval."
assert value > 0, "Lesions score higher in the first maps than in the second: its lead is above 0."

# %% [markdown]
# Now yours. Pixel AP over all brain pixels of the test people, raw maps, on the same slices, for `"mine"`, for
# `"positional Gaussian"` (`PositionalGaussian((32, 32), levels=1)`, trained by `train` on the same people) and for
# `"brightness"` (`IntensityThreshold`): three numbers in `comparison`. And `gap`, what `paired_gap` says of yours
# against the Gaussian.

# %% nbgrader={"schema_version": 3, "grade_id": "a5-comparison", "grade": false, "solution": true, "locked": false, "task": false}
### BEGIN SOLUTION
rivals = {"positional Gaussian": PositionalGaussian((32, 32), levels=1), "brightness": IntensityThreshold()}
maps = {"mine": mine.anomaly_map(test_images).numpy()}
maps |= {name: train(d, batch(train_people.images)).anomaly_map(test_images).numpy() for name, d in rivals.items()}
comparison = {name: rank_metrics(m, test_people.masks, test_people.brains).ap for name, m in maps.items()}
names = test_people.table["subject"].tolist()
gap = paired_gap(maps["mine"], maps["positional Gaussian"], test_people.masks, test_people.brains, names)
### END SOLUTION
print(comparison, gap)

# %% nbgrader={"schema_version": 3, "grade_id": "a5-comparison-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
### BEGIN HIDDEN TESTS
import numpy as np
import torch
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.images.small_people import small_people
from course_lib.metrics.curves import rank_metrics

calm, new = (
    small_people(counts, split=split, seed=8)
    for counts, split in (({"healthy": 40}, "train"), ({"bright": 12, "dark": 12}, "test"))
)
images = torch.from_numpy(new.images)[:, None]
rivals = {"positional Gaussian": PositionalGaussian((32, 32), levels=1), "brightness": IntensityThreshold()}
maps = {name: d.fit(torch.from_numpy(calm.images)[:, None]).anomaly_map(images).numpy() for name, d in rivals.items()}
maps["mine"] = mine.anomaly_map(images).numpy()
names = {str(name) for name in comparison}
assert set(rivals) <= names, (
    f"The humble baselines are missing: {sorted(set(rivals) - names)}. What is yours worth beside them?"
)
for name, scores in maps.items():
    right, got = rank_metrics(scores, new.masks, new.brains).ap, float(comparison[name])
    low, high = scores.min((1, 2), keepdims=True), scores.max((1, 2), keepdims=True)
    stretched = rank_metrics((scores - low) / (high - low), new.masks, new.brains).ap
    assert abs(got - stretched) > 2e-3 or abs(got - right) < 1e-3, (
        f"{name}: you stretched each map to 0 .. 1 (min-max)."
    )
    everywhere = rank_metrics(scores, new.masks).ap
    assert abs(got - everywhere) > 2e-3 or abs(got - right) < 2e-3, f"{name}: only brain pixels count."
    assert abs(got - right) < 2e-3, f"{name}: AP over all brain pixels of the test people is {right:.3f}, raw maps."
rng, people = np.random.default_rng(1), list(new.table.groupby("subject", sort=False).indices.values())


def lead(rows):
    """AP of mine less that of the Gaussian, on some slices."""
    pair = (maps["mine"], maps["positional Gaussian"])
    values = [rank_metrics(m[rows], new.masks[rows], new.brains[rows]).ap for m in pair]
    return values[0] - values[1]


draws = [np.concatenate([people[k] for k in rng.integers(0, len(people), len(people))]) for _ in range(80)]
paired = np.std([lead(rows) for rows in draws])
value, low, high = (float(number) for number in gap)
right = float(comparison["mine"]) - float(comparison["positional Gaussian"])
assert not np.isclose(value, -right, atol=1e-6) or np.isclose(right, 0), (
    "The sign is flipped: yours less the Gaussian's."
)
assert np.isclose(value, right, atol=1e-4), "gap begins with the difference of the two numbers in your comparison."
width = (high - low) / (2 * 1.96)
assert low <= value <= high, "The interval does not contain the gap itself."
assert 0.62 * paired < width < 1.5 * paired, "This is not the interval of paired_gap over the test people."

### END HIDDEN TESTS
names = {str(name) for name in comparison}
missing = sorted({"positional Gaussian", "brightness"} - names)
assert not missing, f"The humble baselines are missing: {missing}. What is yours worth beside them?"
assert all(0 <= float(comparison[name]) <= 1 for name in names), "A pixel AP lies between 0 and 1."
value, low, high = (float(number) for number in gap)
assert low <= value <= high, "The interval does not contain the gap itself."

# %% [markdown]
# ## 4. Better than the positional Gaussian
#
# Nothing to write. `MyDetector` is trained and tested on people that you have not seen, and has to beat
# `PositionalGaussian((32, 32), levels=1)` in pixel AP on bright and dark lesions. The cell looks at `tuning_people`
# only; the marks come from others. The leaderboard asks for more, on the atlas cohort and on people who are kept from
# you: `python -m course_lib.leaderboard enter NOTEBOOK`.

# %% nbgrader={"schema_version": 3, "grade_id": "a5-quality-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 5}
import torch
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.images.small_people import small_people
from course_lib.metrics.curves import rank_metrics


def lead(calm, ill):
    """Pixel AP of the student's detector less that of the Gaussian: trained on `calm`, tested on `ill`."""
    calm, images = (torch.from_numpy(people.images)[:, None] for people in (calm, ill))
    humble = PositionalGaussian((32, 32), levels=1).fit(calm)
    theirs = rank_metrics(humble.anomaly_map(images).numpy(), ill.masks, ill.brains).ap
    return rank_metrics(train(new_detector(0), calm).anomaly_map(images).numpy(), ill.masks, ill.brains).ap - theirs


known = small_people({"healthy": 40}, split="train", seed=8)
found = lead(known, small_people({"bright": 8, "dark": 8}, split="val", seed=9))
assert found > -0.15, f"Your detector is {-found:.2f} of AP behind the positional Gaussian. Is a high map anomalous?"
### BEGIN HIDDEN TESTS
exam = [
    lead(
        small_people({"healthy": 40}, split="train", seed=seed),
        small_people({"bright": 12, "dark": 12}, split="val", seed=seed),
    )
    for seed in (2741, 6089)
]
found = sum(exam) / len(exam)
assert found > 0, f"On two cohorts that you do not know the positional Gaussian is {-found:.3f} of AP ahead of yours."
### END HIDDEN TESTS

# %% [markdown]
# ## 5. An honest report
#
# Half a page, as for the leaderboard: the idea and what it must fail at; data, threshold, numbers with intervals,
# baselines; what you tried that did not work, and how many variants you compared on which people; one sentence that you
# would not let a press office write.

# %% [markdown] nbgrader={"schema_version": 3, "grade_id": "a5-words-report", "grade": true, "solution": true, "locked": false, "task": false, "points": 5}
# The detector compares each slice with the forty most similar healthy ones, pixel by pixel, in their standard
# deviations, after a 3 × 3 mean. It cannot see what is as bright as healthy tissue there, and small lesions are
# averaged away. It was trained on 40 simulated healthy people and tested once on 24 others, 12 with bright and 12 with
# dark lesions. The threshold marks 1 % of the brain of 20 healthy validation people; of the test people's healthy
# tissue it marks about 1.9 %. Pixel AP is about 0.65, beside 0.34 of the positional Gaussian and 0.03 of brightness;
# the gap to the Gaussian is about 0.31, 95 % interval over people 0.19 to 0.39. Five variants (windows of 1 or 3
# pixels, 20 or 40 neighbours, floors of 0.05 or 0.1) were compared on the 16 people for tuning: AP 0.46 to 0.55. A
# smoothed z-score (0.46) and a residual after twelve principal components (0.11) were behind there, too. Not to be
# written: "finds lesions without ever having seen one, better than experts". The people are cartoons.
#
# === BEGIN MARK SCHEME ===
#
# Half a point for each part of a line, where it has two.
#
# - 1 point: the idea; what it must fail at because of it.
# - 1 point: on whom it was trained, tuned and tested; where the threshold comes from.
# - 1 point: the AP, with an interval of the gap over people; both baselines beside it.
# - 1 point: how many variants were compared, on whom; what did not work.
# - 1 point: no claim beyond the data: simulated people, two kinds of lesion, no clinic.
#
# === END MARK SCHEME ===
