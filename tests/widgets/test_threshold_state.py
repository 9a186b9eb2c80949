"""The threshold explorer's numbers against loops over every pixel, at 20 positions of its settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from course_lib.errors import BadInput
from course_lib.evaluation import evaluate
from course_lib.maps import median_filter
from course_lib.metrics.thresholds import HealthyFPR, OracleDataset
from course_lib.widgets.threshold.state import ThresholdState
from course_lib.widgets.threshold.store import open_state, save_state


def by_hand(state: ThresholdState, detector: str, family: str) -> dict[str, dict[str, int]]:
    """Counts of each person of a family, pixel by pixel and component by component."""
    scores, threshold = state.scores[detector], state.threshold(detector)
    maps = scores.maps if state.median == 1 else median_filter(scores.maps, state.median)
    found: dict[str, dict[str, int]] = {}
    for row in np.flatnonzero(scores.table["family"] == family):
        counts = found.setdefault(
            scores.table["subject"][row], dict.fromkeys(("tp", "fp", "fn", "tn", "pieces", "false"), 0)
        )
        marked = (maps[row].astype(float) >= threshold) & scores.brains[row]
        labels, number = ndimage.label(marked, np.ones((3, 3)))
        for piece in range(1, number + 1):
            where = labels == piece
            if where.sum() < state.min_pixels:
                marked &= ~where
                continue
            counts["pieces"] += 1
            counts["false"] += not (where & scores.masks[row]).any()
        for i, j in np.argwhere(scores.brains[row]):
            kind = {(True, True): "tp", (True, False): "fp", (False, True): "fn", (False, False): "tn"}
            counts[kind[bool(marked[i, j]), bool(scores.masks[row, i, j])]] += 1
    return found


@pytest.mark.parametrize("position", range(20))
def test_twenty_positions_to_the_integer(state, position):
    rng = np.random.default_rng(position)
    state.choose_family(str(rng.choice(state.families)))
    state.median = int(rng.choice([1, 3, 5]))
    state.min_pixels = int(rng.integers(0, 12))
    detector = str(rng.choice(["first", "second"]))
    state.choose_detector(detector)
    low, high = state.score_ends(detector)
    [
        lambda: state.set_fpr(float(10 ** rng.uniform(-3, -0.5))),
        lambda: state.set_score(float(rng.uniform(low, high))),
        state.set_oracle,
    ][position % 3]()
    reading, ill = state.reading(), by_hand(state, detector, state.family)
    well = by_hand(state, detector, "healthy")
    for name in ("tp", "fp", "fn", "tn"):
        assert getattr(reading.counts, name).tolist() == [person[name] for person in ill.values()], name
    assert reading.counts.false.tolist() == [person["false"] for person in ill.values()]
    tp, fp, fn = (sum(person[name] for person in ill.values()) for name in ("tp", "fp", "fn"))
    assert reading.dice.value == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert reading.sensitivity.value == pytest.approx(tp / (tp + fn))
    assert reading.ppv.value == pytest.approx(tp / (tp + fp), nan_ok=True) if tp + fp else np.isnan(reading.ppv.value)
    assert reading.false_per_scan.value == pytest.approx(np.mean([person["false"] for person in ill.values()]))
    assert reading.false_per_healthy_scan.value == pytest.approx(np.mean([p["false"] for p in well.values()]))
    assert reading.clinic.sensitivity.value == np.mean([person["pieces"] > 0 for person in ill.values()])
    assert reading.clinic.specificity.value == np.mean([person["pieces"] == 0 for person in well.values()])
    row, marked = state.row, state.detected()
    shown = by_hand_slice(state, detector, row)
    assert np.array_equal(marked, shown)


def by_hand_slice(state: ThresholdState, detector: str, row: int) -> np.ndarray:
    maps = state.scores[detector].maps[row]
    maps = maps if state.median == 1 else median_filter(maps, state.median)
    marked = (maps.astype(float) >= state.threshold(detector)) & state.scores[detector].brains[row]
    labels, number = ndimage.label(marked, np.ones((3, 3)))
    for piece in range(1, number + 1):
        if (labels == piece).sum() < state.min_pixels:
            marked = marked & (labels != piece)
    return marked


def test_intervals_and_values_are_those_of_the_table(state):
    """What `evaluate` puts into a results table is what the explorer shows."""
    state.set_fpr(0.05)
    shown = state.reading()
    both = {name: replace(scores, image_scores=None) for name, scores in state.scores.items()}
    table = evaluate(both, state.validation, resamples=400, method="percentile")
    rows = table[(table["detector"] == "first") & (table["family"] == "ms") & (table["protocol"] == "healthy FPR 5 %")]
    for metric, level, interval in (
        ("sensitivity", "pixel", shown.sensitivity),
        ("precision", "pixel", shown.ppv),
        ("FP per scan", "lesion", shown.false_per_scan),
    ):
        (row,) = rows[(rows["metric"].str.startswith(metric)) & (rows["level"] == level)].itertuples()
        assert interval.value == pytest.approx(row.value)
        assert (interval.low, interval.high) == pytest.approx((row.low, row.high))


def test_thresholds_are_those_of_the_protocols(state):
    for q in (0.0, 0.001, 0.01, 0.2):
        state.set_fpr(q)
        for name in state.scores:
            assert state.threshold(name) == HealthyFPR(q).fit(state.validation[name]).value
    state.set_oracle()
    assert state.threshold() == OracleDataset().fit(state.scores["first"].family("ms")).value
    assert "oracle" in state.source


def test_two_detectors_are_compared_at_the_same_healthy_rate(state):
    state.choose_beside("second")
    low, high = state.score_ends("first")
    for settle in (lambda: state.set_fpr(0.03), lambda: state.set_score(0.6 * low + 0.4 * high), state.set_oracle):
        settle()
        first, second = (state.reading(name) for name in state.detectors)
        assert second.fpr <= first.fpr + 1e-12
        assert first.fpr - second.fpr < 2 / len(state.validation["second"].maps[state.validation["second"].brains])
        assert second.source == "same healthy FPR"


def test_the_curves_are_scikit_learns(state):
    scores = state.scores["first"].family("ms")
    truth, values = scores.masks[scores.brains], scores.maps[scores.brains]
    ranking = state.ranking("first")
    assert ranking.ap == pytest.approx(average_precision_score(truth, values))
    assert ranking.auroc == pytest.approx(roc_auc_score(truth, values))
    assert ranking.healthy.sum() == pytest.approx(1) and ranking.lesion.sum() == pytest.approx(1)


def test_a_threshold_in_score_units_is_carried_over_by_its_rate(state):
    state.set_score(0.5)
    q = state.fpr("first", 0.5)
    state.choose_detector("second")
    assert state.source == "healthy validation persons"
    assert state.reading().fpr <= q
    state.set_score(1.0)
    q = state.fpr("second", 1.0)
    state.choose_median(3)
    assert state.reading().fpr <= q


def test_choosing_shows_the_largest_lesion(state):
    state.choose_family("stroke")
    sizes = state.scores["first"].lesion_px * (state.scores["first"].table["family"] == "stroke")
    assert state.scores["first"].lesion_px[state.row] == sizes.max()
    state.choose_scan("test-healthy2")
    assert state.place == 2 and not state.lesion().any()
    assert set(state.scans.values()) == {f"test-stroke{k}" for k in range(5)} | {f"test-healthy{k}" for k in range(6)}


def test_without_healthy_test_persons_there_is_no_clinic(state):
    rows = (state.scores["first"].table["family"] != "healthy").to_numpy()
    ill = {name: scores.select(rows) for name, scores in state.scores.items()}
    alone = ThresholdState(ill, state.validation, state.images[rows])
    assert alone.reading().clinic is None and np.isnan(alone.reading().false_per_healthy_scan.value)


def test_few_persons_have_no_interval(state):
    few = state.scores["first"].table["subject"].isin(["test-ms0", "test-ms1", "test-healthy0"]).to_numpy()
    small = ThresholdState(
        {name: scores.select(few) for name, scores in state.scores.items()}, state.validation, state.images[few]
    )
    assert np.isfinite(small.reading().dice.value) and np.isnan(small.reading().dice.low)


def test_what_is_refused(state):
    with pytest.raises(BadInput, match="validation"):
        ThresholdState(state.scores, {"first": state.validation["first"]}, state.images)
    with pytest.raises(BadInput, match="not scored on these"):
        ThresholdState(state.scores, state.validation, state.images[:3])
    with pytest.raises(BadInput, match="lesion"):
        well = {"first": state.scores["first"].family("healthy")}
        ThresholdState(well, state.validation, state.images[: len(well["first"])])
    with pytest.raises(BadInput, match="split"):
        ThresholdState(state.scores, state.scores, state.images).reading()
    for wrong in (
        lambda: state.set_fpr(1.0),
        lambda: state.set_score(float("nan")),
        lambda: state.choose_detector("third"),
        lambda: state.choose_beside("third"),
        lambda: state.choose_family("healthy"),
        lambda: state.choose_scan("nobody"),
    ):
        with pytest.raises(BadInput):
            wrong()


# ---- on disk --------------------------------------------------------------------------------------------------------


def test_a_stored_state_says_the_same(state, tmp_path):
    save_state(state, tmp_path / "app")
    again = open_state(tmp_path / "app")
    for one in (state, again):
        one.choose_family("stroke")
        one.set_fpr(0.02)
    assert str(again.reading().dice) == str(state.reading().dice)
    assert np.array_equal(again.detected(), state.detected())
    assert isinstance(again.images, np.memmap)
    save_state(state, tmp_path / "app")  # replaces the older one
    assert [path.name for path in tmp_path.iterdir()] == ["app"]


def test_a_damaged_store_is_named(state, tmp_path):
    folder = tmp_path / "app"
    with pytest.raises(BadInput, match="make app"):
        open_state(folder)
    save_state(state, folder)
    whole = (folder / "test_maps_1.npy").read_bytes()
    (folder / "test_maps_1.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="test_maps_1.npy"):
        open_state(folder)
    (folder / "test_maps_1.npy").unlink()
    with pytest.raises(BadInput, match="test_maps_1.npy"):
        open_state(folder)
    (folder / "meta.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read"):
        open_state(folder)
    (folder / "meta.json").write_text('{"format": 99, "detectors": [], "unit": {}}')
    with pytest.raises(BadInput, match="another version"):
        open_state(folder)


def test_pickled_arrays_are_not_loaded(state, tmp_path):
    save_state(state, tmp_path / "app")
    np.save(tmp_path / "app" / "images.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match=r"images\.npy"):
        open_state(tmp_path / "app")
