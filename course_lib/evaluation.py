"""From a detector and slices to a tidy table of numbers with intervals: predict, evaluate, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from course_lib import maps as map_filters
from course_lib.detectors.base import Detector
from course_lib.errors import BadInput
from course_lib.metrics import intervals
from course_lib.metrics.intervals import Interval
from course_lib.metrics.measurements import RANKING, Key, Measured, measurements
from course_lib.metrics.scores import HEALTHY, Scores
from course_lib.metrics.thresholds import HealthyFPR, LesionValidation, Protocol

__all__ = ["Scores", "as_scores", "evaluate", "measure", "paired_difference", "predict", "results_table"]

COLUMNS = (
    "detector",
    "data",
    "family",
    "level",
    "metric",
    "protocol",
    "postprocess",
    "value",
    "low",
    "high",
    "subjects",
    "chance",
    "seeds",
)
ByName = Mapping[str, Scores | Sequence[Scores]]


# ---- from a detector to scores --------------------------------------------------------------------------------------


@torch.inference_mode()
def predict(
    detector, slices, steps: map_filters.Steps = (), *, batch_size: int = 64, device=None, name: str = ""
) -> Scores:
    """The anomaly maps and image scores of a detector on some slices.

    The detector is put in evaluation mode and back into the mode it was in. Maps are float32; outside the brain they
    are set to the lowest value of the slice's brain, so that filters take nothing in from there. Post-processing
    changes the maps only: an image's score is the detector's own, by its own rule.

    Args:
        detector: has `anomaly_map(images (B, 1, H, W)) -> (B, H, W)`, and perhaps `anomaly_score(images) -> (B,)`.
        slices: a `SliceSet`, or anything with its images, masks, brains, table and batch.
        steps: post-processing, e.g. `[("rim", 2), ("median", 3)]`; see `course_lib.maps.postprocess`.
        batch_size: images at a time; it does not change the result.
        device: where the images go; default: where the detector's parameters or buffers are.
        name: the detector's name in tables; default: its class.

    Returns:
        The scores; with steps, `.raw` holds those before post-processing.

    Raises:
        BadInput: there is no slice, the maps have another shape or are NaN or infinite, a step is unknown.
    """
    map_filters.minimal_component(steps)  # checks the names before the work
    if not len(slices.table):
        raise BadInput("there is no slice to score.", field="slices")
    maps, image_scores = _run(detector, slices, batch_size, device)
    own = image_scores if _own_score(detector) else None
    return as_scores(maps, slices, steps, image_scores=own, name=name or type(detector).__name__)


def as_scores(
    maps: np.ndarray,
    slices,
    steps: map_filters.Steps = (),
    *,
    image_scores: np.ndarray | None = None,
    name: str = "maps",
) -> Scores:
    """Scores from maps that are already there, for a method that makes several at once, or one from elsewhere.

    Args:
        maps: (N, H, W), of the slices in their order, higher is more anomalous.
        slices, steps: as for `predict`.
        image_scores: (N,), higher is more anomalous; default: each map's mean over the brain.
        name: of the detector, in tables.

    Returns, raises: as `predict`.
    """
    component = map_filters.minimal_component(steps)
    maps, brains = np.asarray(maps, np.float32), np.asarray(slices.brains, bool)
    if maps.shape != brains.shape:
        raise BadInput(f"maps of {maps.shape} for slices of {brains.shape}.", field="anomaly_map")
    own = image_scores is not None
    if not own:
        image_scores = np.where(brains, maps, 0).sum((1, 2), dtype=np.float64) / np.maximum(brains.sum((1, 2)), 1)
    maps = np.where(brains, maps, map_filters.lowest(maps, brains)[:, None, None])  # (N, H, W)
    raw = Scores(
        maps=maps,
        masks=np.asarray(slices.masks),
        brains=brains,
        table=slices.table,
        image_scores=image_scores,
        detector=name,
        data=getattr(slices, "name", "data"),
        image_rule="the detector's own" if own else "mean over the brain",
    )
    return _with_steps(raw, steps, component) if len(steps) else raw


def _run(detector, slices, batch_size: int, device) -> tuple[np.ndarray, np.ndarray]:
    if device is None:
        tensors = [*detector.parameters(), *detector.buffers()] if isinstance(detector, torch.nn.Module) else []
        device = tensors[0].device if tensors else "cpu"
    training = getattr(detector, "training", False)
    maps, image_scores = [], []
    try:
        if hasattr(detector, "eval"):
            detector.eval()
        with torch.autocast(torch.device(device).type, enabled=False):
            for start in range(0, len(slices.table), batch_size):
                rows = np.arange(start, min(start + batch_size, len(slices.table)))
                images = slices.batch(rows).to(device, torch.float32)  # (B, 1, H, W)
                anomaly = detector.anomaly_map(images)  # (B, H, W)
                if anomaly.shape != (len(rows), *images.shape[-2:]):
                    raise BadInput(
                        f"anomaly_map gives {tuple(anomaly.shape)} for images {tuple(images.shape)}.",
                        field="anomaly_map",
                        remedy="It has to return (B, H, W).",
                    )
                maps.append(anomaly.float().cpu().numpy())
                if _own_score(detector):
                    image_scores.append(detector.anomaly_score(images).float().cpu().numpy())
    finally:
        if hasattr(detector, "train"):
            detector.train(training)
    return np.concatenate(maps), np.concatenate(image_scores) if image_scores else np.zeros(0, np.float32)


def _own_score(detector) -> bool:
    """Whether the detector scores images by a rule of its own; the contract's default is the mean over the brain."""
    rule = getattr(type(detector), "anomaly_score", None)
    return rule is not None and rule is not Detector.anomaly_score


def _with_steps(raw: Scores, steps: map_filters.Steps, component: int) -> Scores:
    maps = map_filters.postprocess(raw.maps, raw.brains, steps)
    text = map_filters.describe(steps)
    return replace(raw, maps=maps, postprocess=text, min_component=component, raw=raw)


# ---- from scores to a table -----------------------------------------------------------------------------------------


def evaluate(
    scores: Scores | ByName,
    healthy_validation: Scores | ByName | None = None,
    *,
    lesion_validation: Scores | ByName | None = None,
    false_positive_rates: Sequence[float] = (0.01, 0.05),
    pixels: str = "all slices",
    min_iou: float | None = None,
    healthy: Sequence[str] = (HEALTHY,),
    rankings_only: bool = False,
    split: str = "test",
    resamples: int = 1000,
    method: str = "bca",
    seed: int = 0,
    minimum: int = intervals.MINIMAL_SUBJECTS,
) -> pd.DataFrame:
    """Every number of every detector on every family, with its interval, protocol, post-processing and chance level.

    Levels and metrics, for each family of the scores that is not healthy (artefacts are families too):

    - `pixel`: AP, AUROC, best Dice (oracle), over the brain pixels of the family's subjects pooled; AP (subject
      mean), a different quantity; for each threshold Dice (pooled), Dice (subject mean), sensitivity and precision.
    - `lesion`: sensitivity, precision, F1, false positives per scan at each threshold (`metrics.lesions.match`), and
      the sensitivity of small, medium and large lesions (terciles over the family's lesions). A scan is one id
      in the table's column `subject`; a person may have several, and is resampled with all of them.
    - `image`: AUROC and AP of lesion slices against all slices of the healthy test subjects. A slice without a lesion
      of an ill subject is neither, and is left out.

    Under the family `healthy`: the false-positive rate that each threshold really has on healthy test subjects, that
    of the worst of them (no interval: a maximum has none), and false positives per healthy scan. Healthy subjects
    enter no Dice and no AP of pixels.

    Args:
        scores: test scores of one detector, or a mapping from name to scores, or to a list with one for each training
            seed (all of the same slices): then values are means over seeds and intervals resample seeds too.
        healthy_validation: scores of healthy validation subjects, in the same form; gives the honest thresholds.
        lesion_validation: scores of ill validation subjects, in the same form; adds `LesionValidation`.
        false_positive_rates: for `HealthyFPR`.
        pixels: which pixels of a family are pooled: `"all slices"` of its subjects, or only its `"lesion slices"`.
            The second has a higher prevalence, hence a higher AP: it is stated in the metric's name.
        min_iou: a lesion counts as found by any overlap (None) or above this intersection over union.
        healthy: the families that count as healthy.
        rankings_only: AP, AUROC and best Dice alone, of pixels and of images: much quicker where many are compared.
        split: the split that is measured; `"val"` to choose between detectors without looking at test data.
        resamples, method, seed, minimum: of the bootstrap; below `minimum` subjects the bounds are NaN.

    Returns:
        Tidy table with the columns `COLUMNS`. Where post-processing was given, both the raw and the post-processed
        maps are measured. `table.attrs["notes"]` says what was pooled and how lesions were matched.

    Raises:
        BadInput: a mapping lacks a detector; thresholds fitted on the wrong data; scores of another split than
            `split`, or of validation persons; detectors or seeds of different slices.
    """
    by_name = _by_name(scores)
    validation, ill_validation = _by_name(healthy_validation), _by_name(lesion_validation)
    for side in (validation, ill_validation):
        for name, runs in by_name.items() if side else ():
            if len(side.get(name, ())) != len(runs):
                raise BadInput(f"{name}: not one validation for each of its {len(runs)} scores.", field="validation")
    everything = [run for runs in by_name.values() for run in runs]
    set_on = [run for side in (validation, ill_validation) for runs in side.values() for run in runs]
    _check_measured(everything, set_on, split)
    protocols = [HealthyFPR(q, tuple(healthy)) for q in false_positive_rates]
    options = {"pixels": pixels, "min_iou": min_iou, "healthy": healthy, "rankings_only": rankings_only}
    bootstrap = {"resamples": resamples, "method": method, "seed": seed, "minimum": minimum}
    rows = []
    for name, runs in by_name.items():
        pairs = zip(validation.get(name, [None] * len(runs)), ill_validation.get(name, [None] * len(runs)), strict=True)
        cells = [_all_cells(run, well, ill, protocols, options) for run, (well, ill) in zip(runs, pairs, strict=True)]
        _check_seeds(name, cells)
        rows += [_row(name, runs[0].data, key, [each[key] for each in cells], bootstrap) for key in cells[0]]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    found = "any overlap" if min_iou is None else f"IoU > {min_iou:g}"
    table.attrs["notes"] = {
        "split": split,
        "region": "brain pixels",
        "pooled pixels": pixels,
        "lesions": f"8-connected in each slice; found by {found}; terciles of size within the family",
        "healthy subjects": "in no Dice and no pixel AP; reported apart",
        "intervals": f"{method}, {resamples} resamples of subjects",
    }
    return table


def _all_cells(
    run: Scores, well: Scores | None, ill: Scores | None, protocols: Sequence[Protocol], options: dict
) -> dict:
    """The numbers of one detector and seed, raw and post-processed."""
    cells = {}
    for raw in [True, False] if run.raw is not None else [None]:
        of = (lambda scores: scores and (scores.raw if scores.raw is not None else scores)) if raw else (lambda s: s)
        thresholds = [protocol.fit(of(well)) for protocol in protocols] if well is not None else []
        thresholds += [LesionValidation().fit(of(ill))] if ill is not None else []
        cells |= measurements(of(run), thresholds, images=raw is not False, **options)
    return cells


def _row(name: str, data: str, key: Key, cells: Sequence[Measured], bootstrap: dict) -> tuple:
    first = cells[0]
    statistics = [cell.statistic for cell in cells]
    if first.bounded and min(first.strata) >= bootstrap["minimum"]:
        found = intervals.bootstrap(statistics, first.strata, **bootstrap)
    else:
        everyone = np.ones((1, len(first.names)))
        value = float(np.mean([statistic(everyone)[0] for statistic in statistics])) if first.names else float("nan")
        found = Interval(value, float("nan"), float("nan"), len(first.names), len(cells))
    bounds = (found.value, found.low, found.high, len(first.names), first.chance, len(cells))
    return (name, data, key.family, key.level, key.metric, key.protocol, key.postprocess, *bounds)


def _check_seeds(name: str, cells: Sequence[dict]) -> None:
    for other in cells[1:]:
        if other.keys() != cells[0].keys() or any(other[key].names != cells[0][key].names for key in other):
            raise BadInput(
                f"{name}: the seeds do not give the same numbers.",
                field="scores",
                remedy="Use the same post-processing, and the same rule for image scores, for all of them.",
            )


def _check_measured(runs: Sequence[Scores], validations: Sequence[Scores], split: str) -> None:
    """What is measured is one split, the same slices for all, and nobody on whom a threshold was set."""
    for run in runs:
        if run.splits != [split]:
            raise BadInput(
                f"{run.detector}: scores of the split {run.splits} were given to be measured, not {split!r} alone.",
                field="split",
                remedy="Select the split first, or say which one is meant: evaluate(..., split=...).",
            )
    _check_same_slices(runs)
    for well in validations:
        people = set(well.units) & set(runs[0].units)
        people |= set(well.table["subject"]) & set(runs[0].table["subject"])
        if people:
            raise BadInput(
                f"{min(map(str, people))} is both measured and among the validation scores.",
                field="validation",
                remedy="Thresholds are set on other people; on those who are measured they are oracles.",
            )


def _check_same_slices(runs: Sequence[Scores]) -> None:
    """Numbers are averaged and compared only over the same slices, with the same truth and region."""
    for other in runs[1:]:
        first, columns = runs[0], ["subject", "slice", "family"]
        same = len(other) == len(first) and (other.table[columns].values == first.table[columns].values).all()
        same = same and np.array_equal(other.units, first.units)
        if not same or not all(np.array_equal(getattr(other, n), getattr(first, n)) for n in ("masks", "brains")):
            raise BadInput(
                f"{first.detector} and {other.detector} were not scored on the same slices.",
                field="scores",
                remedy="Give the same slices, in the same order and with the same masks, to all of them.",
            )


def _by_name(scores: Scores | ByName | None) -> dict[str, list[Scores]]:
    """One list of seeds a detector, whatever the form."""
    if scores is None:
        return {}
    if isinstance(scores, Scores):
        scores = {scores.detector: scores}
    return {name: [runs] if isinstance(runs, Scores) else list(runs) for name, runs in scores.items()}


def paired_difference(
    scores_a: Scores | Sequence[Scores],
    scores_b: Scores | Sequence[Scores],
    metric: str = "AP",
    *,
    family: str,
    level: str = "pixel",
    protocol: str = RANKING,
    validation_a: Scores | Sequence[Scores] | None = None,
    validation_b: Scores | Sequence[Scores] | None = None,
    split: str = "test",
    resamples: int = 1000,
    method: str = "bca",
    seed: int = 0,
    minimum: int = intervals.MINIMAL_SUBJECTS,
    **options,
) -> Interval:
    """The interval of a - b for one number, over the same resampled subjects on both sides.

    Both sides are compared as given (post-processed where they are; `scores.raw` for the raw maps).

    Args:
        scores_a, scores_b: test scores, or one for each seed; the same slices on both sides.
        metric, level, protocol, family: which number, by its names in the table of `evaluate`; at the image level
            the protocol may be left as it is.
        validation_a, validation_b: healthy validation scores, where the protocol is a `HealthyFPR`, e.g.
            `protocol="healthy FPR 1 %"`.
        split: as for `evaluate`.
        resamples, method, seed, minimum: of the bootstrap.
        options: `pixels`, `min_iou`, `healthy`, as for `evaluate`.

    Raises:
        BadInput: there is no such number, or the two sides' slices differ, or the subjects are too few, or the
            scores are of another split than `split` or of validation persons.
    """
    given = [[side] if isinstance(side, Scores) else list(side) for side in (scores_a, scores_b)]
    wells = [
        [side] * len(runs) if side is None or isinstance(side, Scores) else list(side)
        for side, runs in zip((validation_a, validation_b), given, strict=True)
    ]
    _check_measured(sum(given, []), [well for side in wells for well in side if well is not None], split)
    sides = []
    for runs, side in zip(given, wells, strict=True):
        pairs = zip(runs, side, strict=True)
        sides.append([_one_cell(run, well, family, level, metric, protocol, options) for run, well in pairs])
    first = sides[0][0]
    if any(cell.names != first.names for side in sides for cell in side):
        raise BadInput("the number is not defined for the same subjects on both sides.", field="scores")
    statistics = intervals.difference(*([cell.statistic for cell in side] for side in sides))
    bootstrap = {"resamples": resamples, "method": method, "seed": seed, "minimum": minimum}
    return intervals.bootstrap(statistics, first.strata, **bootstrap)


def _one_cell(
    run: Scores, well: Scores | None, family: str, level: str, metric: str, protocol: str, options: dict
) -> Measured:
    healthy = tuple(options.get("healthy", (HEALTHY,)))
    kept = run.family(family, *healthy)
    thresholds = []
    if protocol.startswith("healthy FPR") and well is not None:
        thresholds = [HealthyFPR(float(protocol.split()[2]) / 100, healthy).fit(well)]
    options = {"rankings_only": protocol == RANKING and level != "lesion"} | options
    cells = measurements(kept, thresholds, **options) if kept is not None else {}
    for key, cell in cells.items():
        same_protocol = key.protocol == protocol or (level == "image" and protocol == RANKING)
        if (key.family, key.level, key.metric) == (family, level, metric) and same_protocol:
            return cell
    known = sorted({f"{key.level} {key.metric} ({key.protocol})" for key in cells if key.family == family})
    raise BadInput(
        f"no {level} {metric} ({protocol}) for the family {family!r}.",
        field="metric",
        remedy=f"There are: {'; '.join(known) or 'none'}.",
    )


def residual_contrast(scores: Scores) -> pd.DataFrame:
    """How bright a map is inside lesions and in the rest of the brain, one row for each subject.

    A map can only be thresholded if the two differ: for a residual |x - x_hat|, a low mean in the lesion says that the
    lesion was copied, a low mean in the rest that healthy tissue was rebuilt well.

    Returns:
        `family`, `subject`, `lesion` (mean over the subject's lesion pixels; NaN without any), `rest` (mean over its
        other brain pixels).
    """
    inside, rest = scores.masks & scores.brains, scores.brains & ~scores.masks
    sums = scores.table[["family", "subject"]].assign(
        lesion=np.where(inside, scores.maps, 0).sum((1, 2), dtype=np.float64),
        rest=np.where(rest, scores.maps, 0).sum((1, 2), dtype=np.float64),
        lesion_px=inside.sum((1, 2)),
        rest_px=rest.sum((1, 2)),
    )
    sums = sums.groupby(["family", "subject"], sort=False).sum().reset_index()
    sums["lesion"] /= sums["lesion_px"].where(sums["lesion_px"] > 0)
    sums["rest"] /= sums["rest_px"].where(sums["rest_px"] > 0)
    return sums[["family", "subject", "lesion", "rest"]]


# ---- to read --------------------------------------------------------------------------------------------------------


def measure(
    detectors: Mapping[str, object],
    slices,
    steps: map_filters.Steps = (),
    *,
    batch_size: int = 64,
    device=None,
    **options,
) -> pd.DataFrame:
    """Predict and evaluate in one call: detectors x data set -> tidy table.

    Args:
        detectors: name to trained detector, or to a list of them, one for each seed.
        slices: a `SliceSet` with a test split, and healthy subjects in its validation split.
        steps: post-processing.
        batch_size, device: as for `predict`.
        options: as for `evaluate`.

    Raises:
        BadInput: as `predict` and `evaluate`.
    """
    test, validation = {}, {}
    healthy = options.get("healthy", (HEALTHY,))
    parts = [slices.table["split"] == "test", (slices.table["split"] == "val") & slices.table["family"].isin(healthy)]
    for part, out in zip(parts, (test, validation), strict=True):
        if not part.any():
            continue
        chosen = slices.select(part.to_numpy())
        for name, seeds in detectors.items():
            seeds = seeds if isinstance(seeds, (list, tuple)) else [seeds]
            given = {"batch_size": batch_size, "device": device, "name": name}
            out[name] = [predict(detector, chosen, steps, **given) for detector in seeds]
    return evaluate(test, validation or None, **options)


def results_table(
    table: pd.DataFrame,
    metric: str = "AP",
    *,
    level: str = "pixel",
    protocol: str | None = None,
    postprocess: str | None = None,
    digits: int = 2,
    intervals: bool = True,
) -> pd.DataFrame:
    """The report card of one number: detector x family, each cell `value [low, high]`, chance in the last row.

    Args:
        table: of `evaluate`.
        metric, level: which number.
        protocol: which threshold; needed where the number has several.
        postprocess: `"none"` for raw maps; default: the post-processed ones where there are any.
        digits: decimals.
        intervals: whether to show the bounds.

    Returns:
        DataFrame of text. Its `attrs["title"]` names the number with its protocol and post-processing, so that an
        oracle is called one.

    Raises:
        BadInput: there is no such number, or several protocols and none was chosen.
    """
    rows = table[(table["metric"] == metric) & (table["level"] == level)]
    if protocol is not None:
        rows = rows[rows["protocol"] == protocol]
    processed = [text for text in rows["postprocess"].unique() if text != "none"]
    postprocess = postprocess or (processed[0] if processed else "none")
    rows = rows[rows["postprocess"] == postprocess]
    protocols = list(rows["protocol"].unique())
    if rows.empty or (protocol is None and len(protocols) > 1 and level != "image"):
        raise BadInput(
            f"{level} {metric}: {len(protocols)} protocols match.", field="protocol", remedy=f"Choose one: {protocols}."
        )

    def cell(row) -> str:
        bounds = f" [{row.low:.{digits}f}, {row.high:.{digits}f}]" if intervals and np.isfinite(row.low) else ""
        return f"{row.value:.{digits}f}{bounds}"

    text = rows.assign(text=[cell(row) for row in rows.itertuples()])
    card = text.pivot(index="detector", columns="family", values="text")
    card = card.reindex(index=rows["detector"].unique(), columns=rows["family"].unique()).fillna("")
    chance = rows.groupby("family")["chance"].first().reindex(card.columns)
    if chance.notna().any():
        card.loc["chance"] = [f"{value:.{digits + 1}f}" if np.isfinite(value) else "" for value in chance]
    card.attrs["title"] = f"{level} {metric}, {'; '.join(protocols)}, post-processing: {postprocess}"
    return card
