# %% [markdown]
# # Assignment 1: Metrics and thresholds
#
# **You are handed anomaly maps of people whom nobody has looked at. What may you say about the detector?**
#
# The detector is the humblest of the course, brightness. It needs no training, so everything that can go wrong here
# goes wrong in the measuring. You write the split, the numbers, the threshold and the interval, and then the report.
#
# | | | |
# |---|---|---|
# | time | 120 minutes of yours, seconds of the computer's | |
# | needs | lessons 1.2 and 1.3 | |
#
# | part | task | points |
# |---|---|---|
# | 1 | split people, not slices | 2 |
# | 2 | Dice, and where there is none | 2 |
# | 3 | pixel AP and AUROC | 3 |
# | 4 | a threshold from healthy people | 3 |
# | 5 | use it on the right people | 4 |
# | 6 | lesions found, and false alarms | 3 |
# | 7 | an interval over people | 3 |
# | 8 | what a finding is worth | 2 |
# | 9 | two answers in words | 8 |
# | | together | 30 |
#
# Replace each `raise NotImplementedError("your turn: ...")` by your code and leave the names as they are. The cell
# after it checks you, and says what it misses. Some checks come with the marks only. Whatever gives the right numbers
# is right: NumPy, scikit-learn, a loop, or `course_lib`.
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# ## The people
#
# Small simulated people, three slices each. Of the ill ones two slices hold a bright lesion. A map is the image with
# two pixels of rim silenced and a 3 × 3 median, as in lesson 2.1.

# %% nbgrader={"schema_version": 3, "grade_id": "a1-data", "grade": false, "solution": false, "locked": true, "task": false}
import matplotlib.pyplot as plt
import numpy as np
from course_lib.images.small_people import small_people
from course_lib.maps import postprocess

train = small_people({"healthy": 20}, split="train", seed=1)
validation = small_people({"healthy": 20, "bright": 6}, split="val", seed=1)
test = small_people({"healthy": 12, "bright": 20}, split="test", seed=1)
steps = [("rim", 2), ("median", 3)]
validation_maps = postprocess(validation.images, validation.brains, steps)  # (N, H, W)
test_maps = postprocess(test.images, test.brains, steps)
test.table.head(4)

# %%
rows = np.flatnonzero(test.table["lesion_px"] > 0)[:5]
fig, axes = plt.subplots(2, len(rows), figsize=(8, 3.4), layout="constrained")
for k, row in enumerate(rows):
    axes[0, k].imshow(test.images[row], cmap="gray", vmin=0, vmax=1.2)
    axes[0, k].contour(test.masks[row], [0.5], colors="#56B4E9", linewidths=1)
    shown = axes[1, k].imshow(test_maps[row] * test.brains[row], cmap="magma", vmin=0, vmax=1.2)
axes[0, 0].set_title("slice, lesion outlined", loc="left", fontsize=9)
axes[1, 0].set_title("anomaly map", loc="left", fontsize=9)
fig.colorbar(shown, ax=axes[1], label="anomaly")
for ax in axes.flat:
    ax.axis("off")

# %% [markdown]
# ## 1. Split people, not slices
#
# `people` names the person of each slice, in any order, and not all people have equally many. Return a list with
# `"train"`, `"val"` or `"test"` for each slice: 60 %, 20 % and 20 % of the *people*, rounded, chosen at random by
# `seed`.


# %% nbgrader={"schema_version": 3, "grade_id": "a1-split", "grade": false, "solution": true, "locked": false, "task": false}
def split_people(people: list[str], seed: int) -> list[str]:
    """The split of each slice."""
    ### BEGIN SOLUTION
    names = np.random.default_rng(seed).permutation(sorted(set(people)))
    first, second = round(0.6 * len(names)), round(0.8 * len(names))
    split_of = {str(name): "train" if k < first else "val" if k < second else "test" for k, name in enumerate(names)}
    return [split_of[person] for person in people]
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a1-split-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
import numpy as np

people = [f"sub-{k:02d}" for k in range(40) for _ in range(1 + k % 5)]
people = [str(name) for name in np.random.default_rng(3).permutation(people)]
found = [str(name) for name in split_people(list(people), 0)]
assert len(found) == len(people), "Return one name of a split for each slice."
assert set(found) == {"train", "val", "test"}, f"The splits are train, val and test; you return {sorted(set(found))}."
homes = {name: {split for person, split in zip(people, found, strict=True) if person == name} for name in people}
assert max(map(len, homes.values())) == 1, "You split slices: a person is in two splits, and is tested on a neighbour."
### BEGIN HIDDEN TESTS
counts = {split: sum(homes[name] == {split} for name in homes) for split in ("train", "val", "test")}
right = {"train": 24, "val": 8, "test": 8}
assert all(abs(counts[split] - right[split]) <= 1 for split in right), (
    f"Of 40 people 24, 8 and 8 belong into the splits, not {counts}: count people, some have more slices than others."
)
again = [str(name) for name in split_people(list(people), 0)]
assert again == found, "The same seed gives another split at the second call: seed your own generator in the function."
others = [[str(name) for name in split_people(list(people), seed)] for seed in (1, 2, 3)]
assert any(other != found for other in others), "Every seed gives the same split: people are not chosen at random."
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Dice, and where there is none
#
# For boolean arrays of any one shape. Pixels outside the brain never count, whether marked or not. Where the brain
# holds no lesion, return `np.nan`.


# %% nbgrader={"schema_version": 3, "grade_id": "a1-dice", "grade": false, "solution": true, "locked": false, "task": false}
def dice(marked: np.ndarray, truth: np.ndarray, brain: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) over brain pixels."""
    ### BEGIN SOLUTION
    marked, truth = marked & brain, truth & brain
    if not truth.any():
        return float("nan")
    return float(2 * (marked & truth).sum() / (marked.sum() + truth.sum()))
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a1-dice-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
import numpy as np

rng = np.random.default_rng(5)
everywhere = np.ones((8, 8), bool)
truth, marked = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
truth[1:5, 1:5], marked[3:7, 2:5] = True, True
a, b, both = int(marked.sum()), int(truth.sum()), int((marked & truth).sum())
got = float(dice(marked, truth, everywhere))
assert not np.isclose(got, both / (a + b - both)), "That is intersection over union (Jaccard). Dice adds the two sizes."
assert not np.isclose(got, both / (a + b)), "The 2 is missing: two equal masks must reach 1."
assert np.isclose(got, 2 * both / (a + b)), f"Dice is twice the overlap over the sum of the sizes, not {got:.3f} here."
### BEGIN HIDDEN TESTS
for _ in range(5):
    truth, marked, brain = rng.random((3, 3, 9, 9)) < np.array([0.3, 0.4, 0.7])[:, None, None, None]
    pairs = [(m, t) for m, t, inside in zip(marked.ravel(), truth.ravel(), brain.ravel(), strict=True) if inside]
    right = 2 * sum(m and t for m, t in pairs) / sum(int(m) + int(t) for m, t in pairs)
    got = float(dice(marked, truth, brain))
    assert np.isclose(got, right), "Pixels outside the brain count in your Dice: apply the brain mask to both."
for guess in (np.zeros((4, 4), bool), np.ones((4, 4), bool)):
    got = float(dice(guess, np.zeros((4, 4), bool), np.ones((4, 4), bool)))
    assert np.isnan(got), f"Without a lesion there is no Dice, and you return {got:g}: healthy people move your mean."
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Pixel AP and AUROC
#
# Pool all brain pixels of all slices: not the mean of each slice's own number. A high score is anomalous. The maps must
# enter as they are: a map that is stretched to 0 .. 1 slice by slice always has a brightest pixel, ill or not.


# %% nbgrader={"schema_version": 3, "grade_id": "a1-rank", "grade": false, "solution": true, "locked": false, "task": false}
def pixel_ap_auroc(maps: np.ndarray, masks: np.ndarray, brains: np.ndarray) -> tuple[float, float]:
    """Average precision and AUROC of brain pixels, pooled over slices (N, H, W)."""
    ### BEGIN SOLUTION
    from sklearn.metrics import average_precision_score, roc_auc_score

    labels, scores = masks[brains], maps[brains]
    return float(average_precision_score(labels, scores)), float(roc_auc_score(labels, scores))
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a1-rank-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
### BEGIN HIDDEN TESTS
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

rng = np.random.default_rng(7)


def draw(noise):
    """Maps whose slices differ in level, with ties; the background scores low."""
    brains = rng.random((6, 20, 20)) < 0.6
    masks = (rng.random(brains.shape) < np.linspace(0.05, 0.3, 6)[:, None, None]) & brains
    maps = 0.8 * masks + noise * rng.standard_normal(masks.shape) + np.linspace(0, 1, 6)[:, None, None]
    return (np.round(maps, 2) * brains).astype(np.float32), masks, brains


maps, masks, brains = draw(0.4)
ap, auroc = (float(value) for value in pixel_ap_auroc(maps, masks, brains))
y, s = masks[brains], maps[brains]
right = average_precision_score(y, s), roc_auc_score(y, s)
assert not np.isclose(auroc, 1 - right[1], atol=1e-4), (
    "The wrong class: this is the AUROC of healthy pixels (or of -s)."
)
assert not np.isclose(auroc, roc_auc_score(masks.ravel(), maps.ravel()), atol=1e-4), (
    "You counted the background: it is easy to score low there. Only brain pixels count."
)
for noise in (0.4, 1.0, 2.0):
    maps, masks, brains = draw(noise)
    ap, auroc = (float(value) for value in pixel_ap_auroc(maps, masks, brains))
    y, s = masks[brains], maps[brains]
    parts = [(m[b], t[b]) for m, t, b in zip(maps, masks, brains, strict=True)]
    low, high = (f(axis=(1, 2), keepdims=True) for f in (maps.min, maps.max))
    stretched = ((maps - low) / (high - low))[brains]
    means = np.mean([average_precision_score(t, m) for m, t in parts])
    assert not np.isclose(ap, means, atol=1e-4), "That is a mean over slices. Pool the pixels of all slices first."
    assert not np.isclose(ap, average_precision_score(y, stretched), atol=1e-4), (
        "You stretched each slice to 0 .. 1 (min-max): the levels that tell ill people from healthy ones are gone."
    )
    assert np.isclose(ap, average_precision_score(y, s), atol=1e-4), "AP is not that of the pooled brain pixels."
    assert np.isclose(auroc, roc_auc_score(y, s), atol=1e-4), "AUROC is not that of the pooled brain pixels' scores."

### END HIDDEN TESTS
import numpy as np

maps = np.array([[[0.9, 0.4, 0.35], [0.8, 0.1, 5.0]]])
masks = np.array([[[True, False, True], [False, False, False]]])
brains = np.array([[[True, True, True], [True, True, False]]])
ap, auroc = (float(value) for value in pixel_ap_auroc(maps, masks, brains))
assert not np.isclose(auroc, 1 / 3), "The wrong class: this is the AUROC of healthy pixels (or of the negative scores)."
assert not np.isclose(ap, 0.45), "You counted the background: its score of 5 is none of the brain's."
assert np.isclose(ap, 0.75) and np.isclose(auroc, 2 / 3), (
    f"Of five brain pixels the best and the fourth are lesion: AP is 3/4 and AUROC 2/3, not {ap:.3f} and {auroc:.3f}."
)

# %% [markdown]
# ## 4. A threshold from healthy people
#
# `maps` and `brains` are of healthy people. Return a threshold at which a share `q` of their brain pixels is marked
# (scores at or above it), all people pooled. Do not assume a Gaussian.


# %% nbgrader={"schema_version": 3, "grade_id": "a1-threshold", "grade": false, "solution": true, "locked": false, "task": false}
def threshold_at(maps: np.ndarray, brains: np.ndarray, q: float) -> float:
    """The threshold at which a share q of healthy brain pixels is marked."""
    ### BEGIN SOLUTION
    return float(np.quantile(maps[brains], 1 - q))
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a1-threshold-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
import numpy as np

rng = np.random.default_rng(11)
brains = rng.random((5, 40, 40)) < 0.4
maps = np.where(brains, rng.gamma(2.0, 0.1, brains.shape) * np.linspace(0.7, 1.3, 5)[:, None, None], 0.0)
for q, z in ((0.05, 1.645), (0.01, 2.326)):
    t = float(threshold_at(maps, brains, q))
    share, distance = (maps[brains] >= t).mean(), (t - maps[brains].mean()) / maps[brains].std()
    assert not np.isclose(distance, (z, 2, 3), atol=0.004).any(), (
        "Mean plus some standard deviations assumes a Gaussian, and scores are skewed: take a quantile."
    )
    assert abs(share - (1 - q)) > 0.005, "The wrong tail: most of the healthy brain is marked. The highest q may pass."
    assert abs((maps >= t).mean() - q) > 0.001, "You counted the background: in the brain the rate is higher than q."
    assert abs(share - q) < 0.003, f"At q = {q} you mark {share:.4f} of the healthy brain."
### BEGIN HIDDEN TESTS
for q in (0.1, 0.02, 0.005):
    brains = rng.random((6, 50, 50)) < 0.5
    maps = np.where(brains, rng.lognormal(0, 0.6, brains.shape) * np.linspace(0.5, 1.5, 6)[:, None, None], -3.0)
    t, inside = float(threshold_at(maps, brains, q)), maps[brains]
    by_slice = np.array([np.quantile(m[b], 1 - q) for m, b in zip(maps, brains, strict=True)])
    assert not np.isclose(t, (by_slice.mean(), np.median(by_slice)), rtol=1e-4).any(), (
        "You averaged the slices' own thresholds. Pool the pixels of all healthy people."
    )
    assert abs((inside >= t).mean() - q) < 0.002, (
        f"At q = {q} you mark {(inside >= t).mean():.4f} of the healthy brain."
    )
### END HIDDEN TESTS

# %% [markdown]
# ## 5. Use it on the right people
#
# Fill `report` at a nominal false-positive rate of 1 %:
#
# - `"threshold"`: from whom may it come? Choose from `validation` and `test` (`.table["family"]` says who is healthy);
# - `"healthy_fpr"`: the share of brain pixels marked in the *healthy test* people, pooled;
# - `"mean_dice"`: the mean over the *ill test people* of each person's own Dice, a person's slices taken together.

# %% nbgrader={"schema_version": 3, "grade_id": "a1-report", "grade": false, "solution": true, "locked": false, "task": false}
### BEGIN SOLUTION
q = 0.01
well = (validation.table["family"] == "healthy").to_numpy()
t = threshold_at(validation_maps[well], validation.brains[well], q)
detections = (test_maps >= t) & test.brains
calm = (test.table["family"] == "healthy").to_numpy()
rows_of = {who: rows.to_numpy() for who, rows in test.table[~calm].groupby("subject").groups.items()}
report = {
    "threshold": t,
    "healthy_fpr": float(detections[calm].sum() / test.brains[calm].sum()),
    "mean_dice": float(np.mean([dice(detections[r], test.masks[r], test.brains[r]) for r in rows_of.values()])),
}
### END SOLUTION
print(report)

# %% nbgrader={"schema_version": 3, "grade_id": "a1-report-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 4}
### BEGIN HIDDEN TESTS
import numpy as np
from course_lib.images.small_people import small_people
from course_lib.maps import postprocess


def brightness(slices):
    """Maps as in the data cell."""
    return postprocess(slices.images, slices.brains, [("rim", 2), ("median", 3)])


calm = small_people({"healthy": 20}, split="val", seed=1)
mixed = small_people({"healthy": 20, "bright": 6}, split="val", seed=1)
new = small_people({"healthy": 12, "bright": 20}, split="test", seed=1)
healthy = (new.table["family"] == "healthy").to_numpy()
maps = brightness(new)
candidates = {
    "": brightness(calm)[calm.brains],
    "you chose the threshold on the people you test; it has to come from healthy validation people": maps[new.brains],
    "you chose the threshold on healthy people of the test split: they are then no test any more": maps[
        new.brains & healthy[:, None, None]
    ],
    "ill people are among those who set your threshold: their lesions raise it": brightness(mixed)[mixed.brains],
    "you chose the threshold on ill test people, with the lesions in hand": maps[new.brains & ~healthy[:, None, None]],
}
t = float(report["threshold"])
shares = {message: abs((scores >= t).mean() - 0.01) for message, scores in candidates.items()}
close = min(shares, key=shares.get)
otherwise = "1 % of the healthy validation people's brain pixels have to lie at or above the threshold"
assert shares[""] < 0.0005, (close if shares[close] < 0.0005 else "") or otherwise
detections = (maps >= t) & new.brains
fpr = detections[healthy].sum() / new.brains[healthy].sum()
assert np.isclose(report["healthy_fpr"], fpr, atol=1e-4), (
    f"healthy_fpr is {fpr:.4f} at your threshold: marked brain pixels over all brain pixels of healthy test people."
)
ill = new.table[~healthy]


def overlap(rows):
    """Dice of some slices together."""
    both = (detections[rows] & new.masks[rows]).sum()
    return 2 * both / (detections[rows].sum() + new.masks[rows].sum())


people = np.mean([overlap(rows.index.to_numpy()) for _, rows in ill.groupby("subject")])
pooled = overlap(ill.index.to_numpy())
by_slice = np.mean([overlap([row]) for row in ill.index if new.masks[row].any()])
got = float(report["mean_dice"])
assert not np.isclose(got, pooled, atol=1e-3), "This Dice is pooled over all pixels: large lesions count most in it."
assert not np.isclose(got, by_slice, atol=1e-3), "This is a mean over slices: take a person's slices together."
assert np.isclose(got, people, atol=1e-3), f"mean_dice is {people:.3f} at your threshold, over ill test people only."

### END HIDDEN TESTS
names = {str(name) for name in report}
assert names >= {"threshold", "healthy_fpr", "mean_dice"}, f"The report needs three entries; it has {sorted(names)}."
assert 0 < float(report["healthy_fpr"]) < 0.1, "healthy_fpr is a share of pixels; one in a hundred is what you aim at."
assert 0 < float(report["mean_dice"]) < 1, "mean_dice is a mean over ill people, between 0 and 1."

# %% [markdown]
# ## 6. Lesions found, and false alarms
#
# Connected components with 8 neighbours, slice by slice, in the brain. A lesion is found if one of its pixels is
# marked; a marked component that shares no pixel with a lesion is a false alarm.


# %% nbgrader={"schema_version": 3, "grade_id": "a1-hits", "grade": false, "solution": true, "locked": false, "task": false}
def lesion_hits(marked: np.ndarray, truth: np.ndarray, brain: np.ndarray) -> tuple[int, int, int]:
    """Lesions found, all lesions, false alarms; the arrays are (N, H, W) bool."""
    ### BEGIN SOLUTION
    from scipy import ndimage

    square, found, lesions, alarms = np.ones((3, 3)), 0, 0, 0
    for m, t in zip(marked & brain, truth & brain, strict=True):
        pieces, count = ndimage.label(t, square)
        found, lesions = found + len(set(pieces[m]) - {0}), lesions + count
        marks, count = ndimage.label(m, square)
        alarms += count - len(set(marks[t]) - {0})
    return found, lesions, alarms
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a1-hits-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
import numpy as np

truth, marked = np.zeros((2, 10, 10), bool), np.zeros((2, 10, 10), bool)
truth[0, 1:3, 1:3], truth[0, 6:9, 6:9], truth[1, 1:3, 1:3] = True, True, True
marked[0, 2, 2:5], marked[0, 8, 1], marked[1, 7, 7] = True, True, True
everywhere = np.ones_like(truth)
got = [int(value) for value in lesion_hits(marked, truth, everywhere)]
assert got != [1, 17, 4], "You counted pixels. Count lesions: connected components."
assert got[1] != 2, "There are three lesions: what touches from slice to slice (4 mm apart) is still two here."
assert got == [1, 3, 2], f"Found 1 of 3 lesions, with 2 false alarms; you say {got}."
beside = np.zeros_like(truth)
beside[0, 3, 3] = True  # touches the corner of the lesion at (2, 2), and has no pixel of it
got = [int(value) for value in lesion_hits(beside, truth, everywhere)]
assert got == [0, 3, 1], "A component beside a lesion, without a common pixel, is a false alarm."
### BEGIN HIDDEN TESTS
rng = np.random.default_rng(13)


def pieces(picture):
    """The components of one slice as sets of pixels, by a flood over 8 neighbours."""
    left, found = {(int(i), int(j)) for i, j in np.argwhere(picture)}, []
    while left:
        piece = front = {left.pop()}
        while front:
            front = {(i + a, j + b) for i, j in front for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            piece, left = piece | front, left - front
        found.append(piece)
    return found


for density in (0.1, 0.2, 0.3):
    brain = rng.random((4, 12, 12)) < 0.8
    truth, marked = rng.random((4, 12, 12)) < density, rng.random((4, 12, 12)) < density
    right = np.zeros(3, int)
    for m, t in zip(marked & brain, truth & brain, strict=True):
        lesions, marks = pieces(t), pieces(m)
        on = {(int(i), int(j)) for i, j in np.argwhere(m)}, {(int(i), int(j)) for i, j in np.argwhere(t)}
        right += [sum(bool(p & on[0]) for p in lesions), len(lesions), sum(not p & on[1] for p in marks)]
    got = [int(value) for value in lesion_hits(marked, truth, brain)]
    assert got[1] <= right[1], "You see too many lesions: corners touch too (8 neighbours)."
    assert got == right.tolist(), (
        f"{right.tolist()} is right and you say {got}: 8 neighbours, brain pixels, each slice."
    )
### END HIDDEN TESTS

# %% [markdown]
# ## 7. An interval over people
#
# `values` holds one number for each slice, `people` whose slice it is; some have more slices than others. The statistic
# is the mean over people of each person's mean. Return the ends of its 95 % bootstrap interval. Resample what is
# independent, and let the same call give the same interval twice.


# %% nbgrader={"schema_version": 3, "grade_id": "a1-interval", "grade": false, "solution": true, "locked": false, "task": false}
def interval(values: np.ndarray, people: list[str]) -> tuple[float, float]:
    """The low and the high end of the 95 % interval of the mean over people."""
    ### BEGIN SOLUTION
    people = np.asarray(people)
    means = np.array([values[people == name].mean() for name in sorted(set(people))])
    drawn = np.random.default_rng(0).integers(0, len(means), (2000, len(means)))
    low, high = np.quantile(means[drawn].mean(1), [0.025, 0.975])
    return float(low), float(high)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a1-interval-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
import numpy as np


def study(seed, slices):
    """A number for each slice of 24 people, who differ by 0.1; the slices of one hardly differ."""
    rng = np.random.default_rng(seed)
    level, counts = rng.normal(0.5, 0.1, 24), rng.permutation(np.linspace(*slices, 24).round().astype(int))
    values = np.repeat(level, counts) + rng.normal(0, 0.02, counts.sum())
    return values, [f"sub-{k:02d}" for k, count in enumerate(counts) for _ in range(count)]


for seed in range(2):
    values, people = study(seed, (10, 10))
    low, high = (float(end) for end in interval(values, people))
    means = values.reshape(24, 10).mean(1)
    right = 2 * 1.96 * means.std(ddof=1) / np.sqrt(24)
    assert low < means.mean() < high, "The interval does not contain the mean itself, or the low end is not the first."
    assert high - low > 0.6 * right, "Far too narrow: you resampled slices. Slices of one person are not independent."
    assert high - low < 2 * right, "Too wide: the spread of the people themselves, not of their mean (no sqrt of n)."
    assert 0.8 * right < high - low < 1.3 * right, "Not a 95 % interval: its ends leave out 2.5 % on either side."
### BEGIN HIDDEN TESTS
values, people = study(5, (2, 30))
names = np.array(people)
order = np.random.default_rng(1).permutation(len(values))
ends = np.array(interval(values, people), float)
assert np.allclose(ends, np.array(interval(values, people), float)), "Another interval at each call: seed the draws."
means = np.array([values[names == name].mean() for name in sorted(set(people))])
right = 2 * 1.96 * means.std(ddof=1) / np.sqrt(24)
mixed = np.array(interval(values[order], [people[k] for k in order]), float)
assert np.abs(mixed - ends).max() < 0.2 * right, "The order of the slices matters to you: look at the people's names."
often = np.array([people.count(name) for name in people])
values = values + 0.3 * (often - 16) / 14
means = np.array([values[names == name].mean() for name in sorted(set(people))])
low, high = (float(end) for end in interval(values, people))
assert low < means.mean() < high, (
    "Someone with thirty slices weighs more than others in your mean: each person counts once."
)
### END HIDDEN TESTS

# %% [markdown]
# ## 8. What a finding is worth
#
# A share `prevalence` of those who come are ill. Return the positive predictive value: the share of ill people among
# the flagged. All numbers are shares between 0 and 1. If nobody is flagged, there is none: `np.nan`.


# %% nbgrader={"schema_version": 3, "grade_id": "a1-ppv", "grade": false, "solution": true, "locked": false, "task": false}
def ppv(sensitivity: float, specificity: float, prevalence: float) -> float:
    """The share of ill people among those who are flagged."""
    ### BEGIN SOLUTION
    ill, healthy = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    return ill / (ill + healthy) if ill + healthy > 0 else float("nan")
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a1-ppv-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
### BEGIN HIDDEN TESTS
import numpy as np

for s, c, p in ((0.9, 0.8, 0.5), (0.9, 0.95, 0.02), (0.6, 0.99, 0.005)):
    ill, healthy = 1_000_000 * p, 1_000_000 * (1 - p)
    caught, false_alarms = s * ill, healthy - c * healthy
    got = float(ppv(s, c, p))
    if p < 0.5:
        assert not np.isclose(got, s / (s + 1 - c)), "You left out the prevalence: this holds if half of all are ill."
        assert not np.isclose(got, c * healthy / (c * healthy + ill - caught)), "That is the NPV: of those not flagged."
        assert not np.isclose(got, caught / (caught + c * healthy)), (
            "Specificity is the share *not* flagged of the well."
        )
    assert np.isclose(got, caught / (caught + false_alarms), atol=1e-6), (
        f"Of a million people {caught:.0f} are rightly flagged and {false_alarms:.0f} wrongly: PPV is not {got:.4f}."
    )
for s, c, p in np.random.default_rng(2).uniform(0.01, 0.99, (20, 3)):
    assert np.isclose(float(ppv(s, c, p)), s * p / (s * p + (1 - c) * (1 - p))), (
        "Wrong at some shares. Use Bayes' rule."
    )
assert np.isnan(float(ppv(0.0, 1.0, 0.1))), "Where nobody is flagged there is no PPV: return NaN."

### END HIDDEN TESTS
import numpy as np

got = float(ppv(0.9, 0.95, 0.02))
assert not np.isclose(got, 0.947368, atol=1e-5), "You left out the prevalence: this holds if half of all are ill."
assert not np.isclose(got, 0.997857, atol=1e-5), "That is the NPV: the share of healthy people among those not flagged."
assert np.isclose(got, 0.268657, atol=1e-5), "At a prevalence of 2 % three of four alarms are false: PPV is 0.269."

# %% [markdown]
# ## 9. In words
#
# **a.** Write the paragraph of a paper that reports your detector: what was measured on whom, who chose the threshold,
# which numbers with which interval, and one thing that a reader must not conclude. Six sentences at most.

# %% [markdown] nbgrader={"schema_version": 3, "grade_id": "a1-words-report", "grade": true, "solution": true, "locked": false, "task": false, "points": 5}
# Brightness with a silenced rim and a 3 × 3 median was measured on 32 test people, three slices each, 20 of them with a
# simulated bright lesion. The threshold marks 1 % of the brain pixels of 20 healthy validation people; no test person
# took part in choosing it. It is about 0.538, and marks 0.90 % of the brain pixels of the 12 healthy test people. The
# mean over the 20 ill people of each one's own Dice is about 0.53, 95 % bootstrap interval over people 0.38 to 0.67;
# healthy people have no Dice and are not in it. The lesions are brighter than the tissue by construction: nothing
# follows for dark or iso-intense ones, nor for real scans.
#
# === BEGIN MARK SCHEME ===
#
# Half a point for each part of a line, where it has two.
#
# - 1 point: says on whom, as people and not as slices; validation and test people are different.
# - 1 point: the threshold's protocol, "healthy validation people, FPR 1 %", and not "the best".
# - 1 point: the numbers of threshold, FPR and Dice are given (half a point if one is missing).
# - 1 point: an interval over people; mean or pooled Dice, and that healthy people are not in it.
# - 1 point: a limit that this data set really has: simulated, all lesions bright, few people.
#
# === END MARK SCHEME ===

# %% [markdown]
# **b.** The same detector is tried in a clinic where a tenth as many people are ill. Which of these change, in which
# direction, and why: AUROC, AP, PPV, Dice of an ill person?

# %% [markdown] nbgrader={"schema_version": 3, "grade_id": "a1-words-rare", "grade": true, "solution": true, "locked": false, "task": false, "points": 3}
# AUROC stays, or nearly: it compares ill with healthy pixels pair by pair. Pooled over ill and healthy people it can
# move a little, because more of the healthy pixels are then of healthy people. AP and PPV fall, because the same
# false-positive rate now meets ten times as many healthy pixels and people for each ill one. The Dice of an ill person
# stays, for healthy people are not in it.
#
# === BEGIN MARK SCHEME ===
#
# Half a point for each part of a line, where it has two.
#
# - 1 point: AUROC unchanged, or changed only through the mix of negatives (pixels of ill and of healthy people); a
#   reason (ranks of pairs, or rates within each class).
# - 1 point: AP and PPV fall; a reason (more false positives for each true one).
# - 1 point: the Dice of an ill person does not change; healthy people have none.
#
# === END MARK SCHEME ===
