"""What a move of a control costs in the kernel: 128 x 128 overlays, with 10^7 scores behind the curves.

Run: `python tests/benchmarks/widgets.py [slices]`, by default 612 slices of 128 x 128. Wall and CPU milliseconds of
one callback, over positions of each slider; the budget is a median of 50 ms. The brain fills the whole slice, so that
every pixel counts. Last, the token explorer's threshold on the course's own slices.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from _timing import machine
from scipy.ndimage import gaussian_filter

from course_lib.metrics.scores import Scores
from course_lib.token_recipes import train_token_models, train_vqvaes
from course_lib.widgets.threshold import ThresholdExplorer, ThresholdState
from course_lib.widgets.tokens import TokenExplorer, TokenState
from data_scripts import open_slices

BUDGET = 50.0  # ms
SHAPE, PERSONS = (128, 128), 36


def scores(slices: int, split: str, families: list[str], seed: int) -> Scores:
    """Smooth noise over `slices` slices of `PERSONS` persons; the ill have bright blobs."""
    rng = np.random.default_rng(seed)
    person = np.arange(slices) * PERSONS // slices
    family = np.array(families)[person % len(families)]
    table = pd.DataFrame({"slice": np.arange(slices), "split": split, "family": family})
    table["subject"] = [f"{split}-{number}" for number in person]
    masks = gaussian_filter(rng.standard_normal((slices, *SHAPE)).astype(np.float32), (0, 4, 4)) > 0.2
    masks &= (family != "healthy")[:, None, None]
    maps = gaussian_filter(rng.standard_normal((slices, *SHAPE)).astype(np.float32), (0, 1, 1)) + 0.6 * masks
    return Scores(maps.astype(np.float32), masks, np.ones(masks.shape, bool), table)


def timed(explorer: ThresholdExplorer, name: str, most: int = 40) -> tuple[list[float], list[float]]:
    """Wall and CPU milliseconds of moves of a control through its positions."""
    control = explorer.controls[name]
    stops = [v for _, v in control.options] if hasattr(control, "options") else range(control.min, control.max + 1)
    wall, cpu = [], []
    for stop in list(stops)[:: max(1, len(stops) // most)]:
        began = time.perf_counter(), time.process_time()
        control.value = stop
        wall.append(1e3 * (time.perf_counter() - began[0]))
        cpu.append(1e3 * (time.process_time() - began[1]))
    return wall, cpu


def main() -> int:
    """Print the table; the exit code is 1 if a median is over the budget."""
    slices = int(sys.argv[1]) if len(sys.argv) > 1 else 612
    test, well = scores(slices, "test", ["ms", "healthy"], 0), scores(slices // 4, "val", ["healthy"], 1)
    state = ThresholdState({"toy": test}, {"toy": well}, test.maps)
    print(f"{machine()}; {test.maps.size:.2e} scores in {slices} slices of {SHAPE[0]} x {SHAPE[1]}")
    began = time.perf_counter()
    explorer = ThresholdExplorer(state)
    print(f"first look {time.perf_counter() - began:.1f} s")
    print(f"{'control':16}{'wall, median ms':>18}{'CPU, median ms':>17}{'CPU, largest ms':>18}")
    late = False
    for name in ("fpr", "score", "min_pixels", "place", "prevalence", "miss_cost"):
        if name == "min_pixels":
            explorer.controls["fpr"].value = 0.01
        wall, cpu = timed(explorer, name)
        late |= statistics.median(cpu) > BUDGET
        print(f"{name:16}{statistics.median(wall):18.1f}{statistics.median(cpu):17.1f}{max(cpu):18.1f}")
    wall, cpu = timed(token_explorer(), "tau")
    late |= statistics.median(cpu) > BUDGET
    print(f"{'tokens: tau':16}{statistics.median(wall):18.1f}{statistics.median(cpu):17.1f}{max(cpu):18.1f}")
    return int(late)


def token_explorer() -> TokenExplorer:
    """A token explorer on a causal model of 60 steps: healing costs the same as after a long training."""
    slices = open_slices("atlas", "quick", progress=False)
    train = slices.select("split == 'train' and family == 'healthy'")
    validation = slices.select("split == 'val' and family == 'healthy'")
    vqvaes = train_vqvaes(train, [0], steps=60)
    runs = train_token_models(vqvaes, train, [0], steps=60, masked=False)["causal 0"]
    runs[0].calibrate(validation.batch(range(len(validation))))
    return TokenExplorer(TokenState({"causal 0": runs[0]}, slices.select("split == 'test'"), validation))


if __name__ == "__main__":
    sys.exit(main())
