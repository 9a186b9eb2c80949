"""One run of the benchmark: a detector, a data set and a seed become a tidy table with a row for each person."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from course_lib.contenders import BATCH
from course_lib.detectors.base import Detector
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.errors import BadInput
from course_lib.evaluation import predict
from course_lib.images.artefacts import ARTEFACTS
from course_lib.line_up import Setting, Trained, check_name, fitted, stored, train_by_name
from course_lib.metrics.curves import rank_metrics
from course_lib.metrics.scores import HEALTHY, Scores
from course_lib.references import load
from course_lib.store import rebuild
from course_lib.training import fit
from data_scripts import open_slices

CLEAN = (("rim", 2), ("median", 3))  # of every map, as in all lessons
BUDGET = {"steps": 800, "fast": False}  # of a detector that is given by its class, in batches of 16
EVERYONE = "all"  # the subject of rows that pool a family's persons
TIMED = 16  # slices on which the cost of a map is measured
SMALLEST_REAL = 50  # pixels of a lesion that counts, on the real strokes
COLUMNS = ("detector", "data", "family", "subject", "level", "metric", "value")


def measure_run(
    detector: str | Mapping[str, object],
    data: str = "atlas",
    seed: int = 0,
    profile: str = "standard",
    device: str = "cpu",
    *,
    heights: int | None = None,
) -> pd.DataFrame:
    """Train a detector (or take it from the store) and measure it on the test people of a data set.

    Args:
        detector: a name of `course_lib.line_up`; or `"module:Class"` or `"file.py:Class"`; or a mapping with such a
            `class`, and perhaps `name`, the budget (`steps`, `fast`) and arguments of the class, which
            is given `image_shape` if it takes one.
        data, profile, device: as in the lessons.
        seed: of the training.
        heights: every so manieth height of the test people is scored; default 4, in `full` 1. Data sets without
            common heights are scored whole.

    Returns:
        Rows `detector, data, family, subject, level, metric, value`. Level `pixel`: AP in the brain, maps with a
        silenced rim and a 3 x 3 median. Level `image`: AUROC of the person's lesion slices against all slices of the
        healthy test people. Both for each person with a lesion, and under the subject "all" for the family pooled.
        Level `cost`, measured now on one thread: `training seconds` (steps times the dearest step), `ms a slice`,
        `weights`.

    Raises:
        BadInput: there is no such detector or data set, or a lesion is nowhere to be scored.
    """
    check_detector(detector)
    slices = open_slices(data, profile, progress=False)
    train = slices.select("split == 'train' and family == 'healthy'")
    validation = slices.select("split == 'val' and family == 'healthy'")
    setting = Setting(train, validation, seed, profile, device, bright=data == "stroke")
    test = test_slices(slices, data, heights or (1 if profile == "full" else 4))
    name, trained = train_detector(detector, setting)
    steps = [("smooth", 1)] if setting.bright and isinstance(trained.detector, IntensityThreshold) else list(CLEAN)
    scores = replace(predict(trained.detector, test, steps, name=name), raw=None)
    rows = person_rows(scores) + cost_rows(trained, train, test)
    return pd.DataFrame([(name, data, *row) for row in rows], columns=list(COLUMNS))


def check_detector(detector: str | Mapping[str, object]) -> None:
    """Raise BadInput if a detector's description cannot be used; nothing is trained."""
    if isinstance(detector, str) and ":" not in detector:
        return check_name(detector)
    description = {"class": detector} if isinstance(detector, str) else dict(detector)
    if "class" not in description:
        raise BadInput("a detector needs its 'class', such as 'my_file.py:MyDetector'.", field="detector")
    kind = find_class(str(description["class"]))
    known = {"class", "name", *BUDGET, *inspect.signature(kind.__init__).parameters} - {"self"}
    unknown = sorted(set(description) - known)
    if unknown:
        remedy = f"There are: {', '.join(sorted(known))}."
        raise BadInput(f"{kind.__name__} takes no {', '.join(unknown)}.", field="detector", remedy=remedy)
    return None


def train_detector(detector: str | Mapping[str, object], setting: Setting) -> tuple[str, Trained]:
    """Its name in tables, and the detector, trained."""
    if isinstance(detector, str) and ":" not in detector:
        return detector, train_by_name(detector, setting)
    description = {"class": detector} if isinstance(detector, str) else dict(detector)
    kind = find_class(str(description.pop("class")))
    name = str(description.pop("name", kind.__name__))
    steps, fast = (description.pop(key, default) for key, default in BUDGET.items())
    if "image_shape" in inspect.signature(kind.__init__).parameters:
        description.setdefault("image_shape", setting.shape)
    torch.manual_seed(setting.seed)
    recipe = kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in description.items()})
    return name, fitted(recipe, setting) if hasattr(recipe, "fit") else stored(recipe, setting, steps, fast)


def find_class(reference: str) -> type[Detector]:
    """The class behind `"module:Class"` or `"path/to/file.py:Class"`.

    Raises:
        BadInput: there is no such file, module or class, it cannot be imported, or it is no `Detector`.
    """
    kind = load(reference, "detector")
    if not (isinstance(kind, type) and issubclass(kind, Detector)):
        raise BadInput(f"{reference!r} is no subclass of course_lib.detectors.base.Detector.", field="detector")
    return kind


def test_slices(slices, data: str, heights: int):
    """The test people of a data set, without artefacts: every so manieth height, or all where there are none."""
    table = slices.table
    wanted = (table["split"] == "test") & ~table["family"].isin(ARTEFACTS)
    if data == "stroke":
        wanted &= (table["family"] == HEALTHY) | (table["lesion_px"] >= SMALLEST_REAL)
    elif "z_mm" in table:
        wanted &= table["z_mm"].isin(np.unique(table["z_mm"])[::heights])
    return slices.select(wanted.to_numpy())


def person_rows(scores: Scores) -> list[tuple]:
    """Rows (family, subject, level, metric, value) of every person with a lesion, and of each family pooled.

    Raises:
        BadInput: nobody has a lesion.
    """
    rows, ill, units = [], scores.lesion_px > 0, scores.units
    families = scores.table["family"].to_numpy()
    well = families == HEALTHY
    for family in (family for family in scores.families if family != HEALTHY):
        chosen = families == family
        people = [unit for unit in scores.subjects if (chosen & ill & (units == unit)).any()]
        for name, here in [(unit, chosen & (units == unit)) for unit in people] + [(EVERYONE, chosen)] * bool(people):
            ranked = rank_metrics(scores.maps[here], scores.masks[here], scores.brains[here])
            rows.append((family, name, "pixel", "AP", ranked.ap))
            if well.any():
                rows.append((family, name, "image", "AUROC", _auroc(scores.image_scores, here & ill, well)))
    if not rows:
        raise BadInput("nobody among these test people has a lesion.", field="data")
    return rows


def _auroc(image_scores: np.ndarray | None, ill: np.ndarray, well: np.ndarray) -> float:
    both = ill | well
    return rank_metrics(image_scores[both], ill[both]).auroc


def cost_rows(trained: Trained, train, test) -> list[tuple]:
    """Rows of the level `cost`. A step is timed on copies, before and after training; the dearer one counts."""
    detector = trained.detector
    place = next((t.device for t in [*detector.parameters(), *detector.buffers()]), torch.device("cpu"))
    images = test.batch(np.arange(min(TIMED, len(test)))).to(place)  # (B, 1, H, W)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            detector.anomaly_map(images[:1])  # the first call allocates
            started = time.process_time()
            detector.anomaly_map(images)
            seconds = (time.process_time() - started) / len(images)
        training = sum(steps * step_seconds(part, train, fast) for part, steps, fast in trained.stages)
    finally:
        torch.set_num_threads(threads)
    weights = sum(parameter.numel() for parameter in detector.parameters())
    costs = {"weights": weights, "training seconds": training + trained.seconds, "ms a slice": 1e3 * seconds}
    return [("", EVERYONE, "cost", metric, float(value)) for metric, value in costs.items()]


def step_seconds(detector: Detector, train, fast: bool) -> float:
    """Processor seconds of a training step: of a new detector or of the trained one, whichever is dearer."""
    times = []
    for some in (rebuild(detector, seed=0), copy.deepcopy(detector)):
        options = {"batch_size": BATCH, "fast": fast, "progress": False}
        fit(some, train, steps=1, **options)  # the first step allocates
        started = time.process_time()
        fit(some, train, steps=2, **options)
        times.append((time.process_time() - started) / 2)
    return max(times)
