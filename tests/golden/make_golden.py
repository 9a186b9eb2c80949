"""Make the golden cohort: tiny scores and masks, and what reference libraries say about them.

Nothing of `course_lib.metrics` is used here: AP, AUROC and best Dice are scikit-learn's, components are scipy's, and
the rest is plain loops. Run `python tests/golden/make_golden.py` to make the two files again; the versions that made
the stored ones stand in `expected.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy
import sklearn
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

HERE = Path(__file__).parent
SIZE, SLICES, SUBJECTS = 24, 3, 6


def cohort() -> dict[str, np.ndarray]:
    """Scores in hundredths (many ties), masks, brain and subjects: validation and test, healthy and ill."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[:SIZE, :SIZE]
    brain = ((y - 12) / 10.5) ** 2 + ((x - 11.5) / 9) ** 2 < 1
    scores, masks, groups, subjects = [], [], [], []
    for group in ("val healthy", "test healthy", "test ill"):
        for number in range(SUBJECTS):
            level = rng.lognormal(0, 0.25)
            for _ in range(SLICES):
                mask = np.zeros((SIZE, SIZE), bool)
                if group == "test ill":
                    for _ in range(rng.integers(0, 4)):
                        (cy, cx), radius = rng.integers(6, 18, 2), rng.uniform(0.8, 3.2)
                        mask |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
                values = ndimage.gaussian_filter(rng.gamma(1.5, 20, (SIZE, SIZE)), 0.7) * level
                scores.append(np.round(values + 18 * ndimage.gaussian_filter(mask.astype(float), 0.6)))
                masks.append(mask & brain)
                groups.append(group)
                subjects.append(f"{group} {number}")
    return {
        "hundredths": np.array(scores, np.int16),
        "masks": np.array(masks),
        "brain": brain,
        "groups": np.array(groups),
        "subjects": np.array(subjects),
    }


def best_dice(labels: np.ndarray, scores: np.ndarray) -> float:
    """The largest F1 on scikit-learn's curve."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(max(2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True) if p + r > 0))


def expected(data: dict[str, np.ndarray]) -> dict:
    """The references' values."""
    scores, brain = data["hundredths"].astype(float) / 100, data["brain"]
    ill, val, well = (data["groups"] == group for group in ("test ill", "val healthy", "test healthy"))
    labels, values = data["masks"][ill][:, brain].ravel(), scores[ill][:, brain].ravel()
    out = {
        "AP": average_precision_score(labels, values),
        "AUROC": roc_auc_score(labels, values),
        "best Dice": best_dice(labels, values),
    }
    subjects = np.unique(data["subjects"][ill])
    own = []
    for subject in subjects:
        rows = data["subjects"] == subject
        own.append((data["masks"][rows][:, brain].ravel(), scores[rows][:, brain].ravel()))
    out["AP (subject mean)"] = np.mean([average_precision_score(g, s) for g, s in own if g.any()])
    out["Dice (subject mean), oracle (patient)"] = np.mean([best_dice(g, s) for g, s in own if g.any()])
    healthy = scores[val][:, brain].ravel()
    for q in (0.01, 0.05):
        threshold = min(t for t in np.unique(healthy) if np.mean(healthy >= t) <= q)
        found = values >= threshold
        name = f"healthy FPR {100 * q:g} %"
        out[f"Dice, {name}"] = 2 * np.sum(found & labels) / (found.sum() + labels.sum())
        out[f"sensitivity, {name}"] = np.sum(found & labels) / labels.sum()
        dice = [2 * np.sum((s >= threshold) & g) / ((s >= threshold).sum() + g.sum()) for g, s in own if g.any()]
        out[f"Dice (subject mean), {name}"] = np.mean(dice)
        out[f"FPR, {name}"] = np.mean(scores[well][:, brain] >= threshold)
        per = [np.mean(scores[data["subjects"] == s][:, brain] >= threshold) for s in np.unique(data["subjects"][well])]
        out[f"FPR (worst subject), {name}"] = max(per)
        out |= {f"{key}, {name}": value for key, value in lesions(data, scores, ill, threshold).items()}
    slices = np.concatenate([np.flatnonzero(ill & data["masks"].any((1, 2))), np.flatnonzero(well)])
    image = scores[slices][:, brain].mean(1)
    out["image AUROC"] = roc_auc_score(data["masks"][slices].any((1, 2)), image)
    out["image AP"] = average_precision_score(data["masks"][slices].any((1, 2)), image)
    return {key: float(value) for key, value in out.items()}


def lesions(data: dict[str, np.ndarray], scores: np.ndarray, ill: np.ndarray, threshold: float) -> dict[str, float]:
    """Lesions found by any overlap and detections that touch none, slice by slice with 8 neighbours."""
    found = total = true = detected = 0
    for score, mask in zip(scores[ill], data["masks"][ill], strict=True):
        detections, count_d = ndimage.label((score >= threshold) & data["brain"], np.ones((3, 3)))
        truth, count_t = ndimage.label(mask, np.ones((3, 3)))
        total, detected = total + count_t, detected + count_d
        found += sum(bool(((truth == i) & (detections > 0)).any()) for i in range(1, count_t + 1))
        true += sum(bool(((detections == i) & mask).any()) for i in range(1, count_d + 1))
    false = detected - true
    return {
        "lesion sensitivity": found / total,
        "lesion precision": true / detected,
        "lesion F1": 2 * found / (2 * found + false + total - found),
        "lesion FP per scan": false / SUBJECTS,
    }


if __name__ == "__main__":
    golden = cohort()
    np.savez_compressed(HERE / "cohort.npz", **golden)
    versions = {"scikit-learn": sklearn.__version__, "scipy": scipy.__version__, "numpy": np.__version__}
    text = json.dumps({"made with": versions, "expected": expected(golden)}, indent=1)
    (HERE / "expected.json").write_text(text + "\n", encoding="utf-8")
