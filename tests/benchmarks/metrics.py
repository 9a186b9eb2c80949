"""AP, AUROC and best Dice over many pixels, beside scikit-learn, torchmetrics and two recipes; a process each.

Run: `OMP_NUM_THREADS=1 python tests/benchmarks/metrics.py [pixels ...]`, by default 10^7; `1e8` takes some minutes and
4 GiB. CPU seconds are the least of seven runs (one at 10^8); the memory is the growth of the process's peak above the
loaded arrays. Packages that are missing are left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BUDGETS = {10**7: 0.10, 10**8: 3.0}  # CPU seconds
BYTES = 12  # a pixel, extra


def data(pixels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth gamma-distributed scores (k, 256, 256) float32, and discs of 1 % prevalence that score higher."""
    from scipy.ndimage import gaussian_filter

    size, rng = 256, np.random.default_rng(seed)
    count = max(1, round(pixels / size**2))
    y, x = np.mgrid[:size, :size]
    scores, labels = np.empty((count, size, size), np.float32), np.zeros((count, size, size), bool)
    for i in range(count):
        for _ in range(rng.integers(1, 4) if rng.random() < 0.5 else 0):
            (cy, cx), (a, b) = rng.integers(40, 216, 2), rng.integers(6, 26, 2)
            labels[i] |= ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1
        noise = rng.standard_gamma(1.5, (size, size), np.float32) * np.float32(0.05)
        scores[i] = gaussian_filter(noise, 1.0) + 0.06 * labels[i]
    return scores, labels


def ours(scores, labels) -> dict:
    """All three, exact."""
    from course_lib.metrics.curves import rank_metrics

    found = rank_metrics(scores, labels)
    return {"ap": found.ap, "auroc": found.auroc, "best_dice": found.best_dice}


def ours_with_ties(scores, labels) -> dict:
    """All three, the scores rounded to 2 decimals."""
    return ours(scores, labels)


def ours_half_positive(scores, labels) -> dict:
    """All three, the worst case for the look-up: every second pixel is positive."""
    return ours(scores, labels)


def sklearn_ap(scores, labels) -> dict:
    """scikit-learn, AP alone."""
    from sklearn.metrics import average_precision_score

    return {"ap": average_precision_score(labels.ravel(), scores.ravel())}


def sklearn_auroc(scores, labels) -> dict:
    """scikit-learn, AUROC alone."""
    from sklearn.metrics import roc_auc_score

    return {"auroc": roc_auc_score(labels.ravel(), scores.ravel())}


def sklearn_best_dice(scores, labels) -> dict:
    """scikit-learn's curve, best Dice alone."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels.ravel(), scores.ravel())
    return {"best_dice": float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())}


def torchmetrics_ap(scores, labels) -> dict:
    """torchmetrics, AP alone, exact mode."""
    import torch
    from torchmetrics.functional.classification import binary_average_precision

    return {
        "ap": float(
            binary_average_precision(torch.from_numpy(scores).flatten(), torch.from_numpy(labels).flatten().long())
        )
    }


def monai_auroc(scores, labels) -> dict:
    """MONAI, AUROC alone."""
    import torch
    from monai.metrics import compute_roc_auc

    return {
        "auroc": float(compute_roc_auc(torch.from_numpy(scores).flatten(), torch.from_numpy(labels).flatten().int()))
    }


def linear_100_best_dice(scores, labels) -> dict:
    """The field's recipe: 100 equally spaced thresholds (not exact)."""
    found = 0.0
    for threshold in np.linspace(scores.min(), scores.max(), 100):
        above = scores > threshold
        found = max(found, 2 * np.sum(above & labels) / (above.sum() + labels.sum()))
    return {"best_dice": float(found)}


CANDIDATES = (ours, ours_with_ties, ours_half_positive, sklearn_ap, sklearn_auroc, sklearn_best_dice, torchmetrics_ap,
              monai_auroc, linear_100_best_dice)  # fmt: skip


def peak_mib() -> float:
    """The peak resident memory of this process."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 / (1024 if sys.platform == "darwin" else 1)


def run_one(name: str, folder: Path) -> dict:
    """Measure one candidate in this process."""
    scores, labels = np.load(folder / "scores.npy"), np.load(folder / "labels.npy")
    if name == "ours_with_ties":
        scores = scores.round(2)
    if name == "ours_half_positive":
        labels.reshape(-1)[::2] = True
        labels.reshape(-1)[1::2] = False
    function = globals()[name]
    try:
        function(scores[:2], labels[:2])  # imports and warms up
    except ImportError as error:
        return {"name": name, "skipped": str(error)[:60]}
    before, cpu = peak_mib(), float("inf")
    for _ in range(7 if scores.size < 5e7 else 1):
        started = time.process_time()
        values = function(scores, labels)
        cpu = min(cpu, time.process_time() - started)
    return {"name": name, "pixels": scores.size, "cpu_s": cpu, "extra_MiB": peak_mib() - before, **values}


def main(sizes: list[int], names: list[str]) -> None:
    """Print one row a candidate, and whether the budgets are kept."""
    for pixels in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for name, array in zip(("scores", "labels"), data(pixels), strict=True):
                np.save(Path(folder) / f"{name}.npy", array)
            print(f"{pixels:.0e} pixels, one thread, load {os.getloadavg()[0]:.1f}", flush=True)
            for name in names:
                command = [sys.executable, "-W", "ignore", __file__, "--one", name, folder]
                output = subprocess.run(command, capture_output=True, text=True, check=False)
                row = json.loads(output.stdout or json.dumps({"name": name, "skipped": output.stderr[-200:]}))
                if "skipped" in row:
                    print(f"  {name:22} skipped: {row['skipped']}", flush=True)
                    continue
                values = "  ".join(f"{key} {row[key]:.12f}" for key in ("ap", "auroc", "best_dice") if key in row)
                verdict = ""
                if name in ("ours", "ours_with_ties") and pixels in BUDGETS:
                    kept = row["cpu_s"] <= BUDGETS[pixels] and row["extra_MiB"] * 2**20 <= BYTES * row["pixels"]
                    verdict = "within budget" if kept else "OVER BUDGET"
                print(f"  {name:22} {row['cpu_s']:8.3f} s {row['extra_MiB']:7.0f} MiB  {values}  {verdict}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(run_one(sys.argv[2], Path(sys.argv[3]))))
    else:
        numbers = [int(float(arg)) for arg in sys.argv[1:] if arg[0].isdigit()]
        chosen = [arg for arg in sys.argv[1:] if not arg[0].isdigit()]
        main(numbers or [10**7], chosen or [function.__name__ for function in CANDIDATES])
