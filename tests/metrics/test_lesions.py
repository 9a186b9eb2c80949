import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from course_lib.errors import BadInput
from course_lib.metrics.lesions import components, froc, match
from course_lib.metrics.overlap import dice, mean_dice, pixel_counts
from course_lib.metrics.pro import aupro
from course_lib.metrics.scores import Scores

PICTURES = hnp.arrays(bool, (4, 7, 7), elements=st.integers(0, 3).map(lambda v: v == 0))


def brute(detections, masks, min_iou):
    """Lesions found and false detections by loops over pairs, slice by slice."""
    found = lesions = false = 0
    for p, g in zip(detections, masks, strict=True):
        (lp, np_), (lg, ng) = (ndimage.label(a, np.ones((3, 3))) for a in (p, g))
        lesions += ng
        if min_iou is None:
            found += sum(bool((p & (lg == i)).any()) for i in range(1, ng + 1))
            false += sum(not (g & (lp == i)).any() for i in range(1, np_ + 1))
            continue
        pairs = [(((lp == i) & (lg == j)).sum() / ((lp == i) | (lg == j)).sum(), i, j)
                 for i in range(1, np_ + 1) for j in range(1, ng + 1)]  # fmt: skip
        used_p, used_g = set(), set()
        for iou, i, j in sorted(pairs, key=lambda pair: -pair[0]):
            if iou > min_iou and i not in used_p and j not in used_g:
                used_p.add(i)
                used_g.add(j)
        found, false = found + len(used_g), false + np_ - len(used_p)
    return found, lesions, false


@pytest.mark.parametrize("min_iou", [None, 0.5])
@given(detections=PICTURES, masks=PICTURES)
@settings(max_examples=80, deadline=None)
def test_matching_equals_loops_over_pairs(min_iou, detections, masks):
    table = pd.DataFrame({"subject": list("abcd"), "slice": 0, "split": "test", "family": "ms"})
    scores = Scores(np.zeros(masks.shape), masks, np.ones(masks.shape, bool), table)
    matched = match(detections, scores, min_iou)
    found, lesions, false = brute(detections, masks, min_iou)
    counts = matched.by_subject().sum()
    assert (counts["found"], counts["lesions"], counts["false"]) == (found, lesions, false)
    assert matched.false_positives_per_scan == false / 4
    if lesions:
        assert matched.sensitivity == found / lesions
        assert matched.f1 == pytest.approx(2 * found / (found + lesions + false))
    else:
        assert np.isnan(matched.sensitivity) and np.isnan(matched.f1)


def test_a_person_may_have_several_scans():
    table = pd.DataFrame({"subject": list("aabc"), "person": list("ppqp"), "slice": 0, "split": "test", "family": "ms"})
    spots = np.zeros((4, 5, 5), bool)
    spots[:, 2, 2] = True
    scores = Scores(np.zeros(spots.shape), np.zeros(spots.shape, bool), np.ones(spots.shape, bool), table)
    matched = match(spots, scores)
    assert matched.by_subject()["scans"].to_dict() == {"p": 2, "q": 1}
    assert matched.false_positives_per_scan == 4 / 3


def test_a_loose_and_a_strict_criterion_tell_a_flood_from_a_hit(make_scores):
    masks = np.zeros((1, 16, 16), bool)
    masks[0, 2:5, 2:5] = masks[0, 10:13, 10:13] = True
    scores = make_scores(np.zeros(masks.shape), masks)
    flood = match(np.ones(masks.shape, bool), scores)
    assert flood.sensitivity == 1 and flood.criterion == "any overlap, components slice by slice"
    strict = match(np.ones(masks.shape, bool), scores, 0.1)
    assert strict.sensitivity == 0 and strict.false_positives_per_scan == 1 and strict.criterion.startswith("IoU > 0.1")
    assert match(masks, scores, 0.9).f1 == 1


def test_components_join_across_slices_only_when_asked_and_only_neighbours():
    binary = np.zeros((4, 5, 5), bool)
    binary[:, 2, 2] = True
    assert components(binary)[1] == 4
    subjects, slices = ["a", "a", "a", "b"], [3, 4, 6, 5]  # 4 and 6 are not neighbours; b is somebody else
    labels, count = components(binary, subjects, slices, volumes=True)
    assert count == 3 and labels[0, 2, 2] == labels[1, 2, 2] != labels[2, 2, 2]
    shuffled = components(binary[[1, 3, 0, 2]], ["a", "b", "a", "a"], [4, 5, 3, 6], volumes=True)
    assert shuffled[1] == 3
    with pytest.raises(BadInput):
        components(binary, ["a"] * 4, [1, 1, 2, 3], volumes=True)
    with pytest.raises(BadInput):
        components(binary, volumes=True)


def test_rows_name_the_subject_the_slice_and_the_size(make_scores):
    masks = np.zeros((3, 8, 8), bool)
    masks[1, 1:3, 1:4] = masks[2, 5, 5] = True
    lesions = match(np.zeros(masks.shape, bool), make_scores(masks * 1.0, masks)).lesions
    assert lesions[["subject", "pixels", "found"]].values.tolist() == [["sub-1", 6, False], ["sub-2", 1, False]]


def test_size_classes_are_terciles(make_scores):
    masks = np.zeros((9, 20, 20), bool)
    for i in range(9):
        masks[i, 0, : i + 1] = True
    matched = match(masks, make_scores(masks * 1.0, masks))
    assert np.bincount(matched.sizes()).tolist() == [3, 3, 3]
    assert (np.diff(matched.lesions["pixels"].to_numpy()[np.argsort(matched.sizes(), kind="stable")]) > 0).all()


def test_froc_rises_and_ends_with_every_lesion_found(ill):
    curve = froc(ill, points=8)
    assert curve["sensitivity"].is_monotonic_increasing and curve["sensitivity"].iloc[-1] == 1
    assert curve["threshold"].is_monotonic_decreasing
    matched = match(ill.detections(curve["threshold"][3]), ill)
    assert matched.sensitivity == curve["sensitivity"][3]
    assert matched.false_positives_per_scan == curve["false_positives_per_scan"][3]


def test_froc_without_a_lesion_is_refused(well):
    with pytest.raises(BadInput):
        froc(well)


def test_wrong_criteria_and_shapes_are_refused(ill):
    with pytest.raises(BadInput, match="min_iou"):
        match(ill.masks, ill, 1.0)
    with pytest.raises(BadInput, match="detections"):
        match(ill.masks[:3], ill)


@given(PICTURES, PICTURES)
@settings(max_examples=60, deadline=None)
def test_dice_is_symmetric_and_undefined_without_a_lesion(a, b):
    if a.any() and b.any():
        assert dice(a, b) == dice(b, a)
        assert dice(a, a) == 1
    assert np.isnan(dice(a, np.zeros_like(a)))


def test_a_mean_dice_refuses_healthy_subjects():
    truth = np.zeros((2, 3, 3), bool)
    truth[0, 1, 1] = True
    assert mean_dice(truth[:1], truth[:1]) == 1
    with pytest.raises(BadInput, match="no lesion"):
        mean_dice(truth, truth)


def test_dice_changes_nothing_and_refuses_soft_masks():
    soft = np.array([[0.0, 0.4], [1.0, 1.0]])
    with pytest.raises(BadInput):
        dice(soft, np.ones((2, 2), bool))
    with pytest.raises(BadInput):
        dice(np.ones((2, 3), bool), np.ones((2, 2), bool))
    assert soft[0, 1] == 0.4


def test_pixel_counts_add_up_to_the_brain(make_scores, ill):
    brains = np.zeros(ill.maps.shape, bool)
    brains[:, 2:14, 2:14] = True
    scores = make_scores(ill.maps, ill.masks, brains=brains, subjects=ill.table["subject"])
    counts = pixel_counts(ill.maps > 0.3, scores)
    assert (counts[["tp", "fp", "fn", "tn"]].sum(axis=1) == 2 * 144).all()
    assert list(counts.index) == scores.subjects
    one = counts.iloc[0]
    assert one["dice"] == 2 * one["tp"] / (2 * one["tp"] + one["fp"] + one["fn"])


def brute_aupro(maps, labels, count, negative, limit):
    """The same curve from every threshold in turn."""
    fpr, pro = [0.0], [0.0]
    for t in np.unique(maps)[::-1]:
        fpr.append((maps[negative] >= t).mean())
        pro.append(np.mean([(maps[labels == i] >= t).mean() for i in range(1, count + 1)]))
    grid = np.unique(np.r_[fpr, limit])
    grid = grid[grid <= limit]
    fpr, pro = np.array(fpr), np.array(pro)
    area = 0.0
    for (f0, p0), (f1, p1) in zip(
        zip(fpr[:-1], pro[:-1], strict=True), zip(fpr[1:], pro[1:], strict=True), strict=True
    ):
        if f0 >= limit:
            break
        end = min(f1, limit)
        if f1 > f0:
            area += (end - f0) * (p0 + p0 + (p1 - p0) * (end - f0) / (f1 - f0)) / 2
    return area / limit


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("decimals", [1, 6])
def test_aupro_equals_every_threshold_in_turn(make_scores, limit, decimals):
    rng = np.random.default_rng(4)
    masks = np.zeros((3, 12, 12), bool)
    masks[0, 2:5, 2:5] = masks[1, 1:9, 3:9] = masks[2, 5, 5] = True
    maps = (rng.random(masks.shape) + 0.3 * masks).round(decimals).astype(np.float32)
    labels, count = ndimage.label(masks, np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))]))
    expected = brute_aupro(maps, labels, count, ~masks, limit)
    assert aupro(make_scores(maps, masks), limit) == pytest.approx(expected, abs=1e-9)


def test_aupro_of_perfect_random_and_no_lesions(make_scores, well):
    masks = np.zeros((2, 40, 40), bool)
    masks[:, 5:20, 5:20] = True
    assert aupro(make_scores(masks * 1.0, masks)) == pytest.approx(1)
    noise = np.random.default_rng(0).random(masks.shape)
    assert aupro(make_scores(noise, masks)) == pytest.approx(0.15, abs=0.03)
    assert np.isnan(aupro(well))
    with pytest.raises(BadInput):
        aupro(well, 0)
