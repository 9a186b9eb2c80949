import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.errors import BadInput
from course_lib.metrics.overlap import pixel_counts
from course_lib.metrics.thresholds import (
    Fixed,
    HealthyFPR,
    LesionValidation,
    OracleDataset,
    OraclePatient,
    threshold_at_fpr,
)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.25, 0.9]))
@settings(max_examples=200, deadline=None)
def test_at_most_q_pass_and_no_lower_threshold_would_do(values, q):
    scores = np.array(values, np.float32)
    t = np.float32(threshold_at_fpr(scores, q))
    allowed = np.floor(q * len(scores) * (1 + 1e-12))
    assert (scores >= t).sum() <= allowed
    assert (scores >= np.nextafter(t, np.float32(-np.inf))).sum() > allowed


@pytest.mark.parametrize("bad", [[], [1.0, np.nan], [np.inf]])
def test_a_threshold_needs_finite_scores(bad):
    with pytest.raises(BadInput):
        threshold_at_fpr(np.array(bad), 0.1)


def test_healthy_fpr_keeps_its_rate_on_what_it_was_fitted_on(well):
    for q in (0.01, 0.05):
        threshold = HealthyFPR(q).fit(well)
        rate = threshold.apply(well).mean()
        assert 0.9 * q < rate <= q
        assert str(threshold.protocol) == f"healthy FPR {100 * q:g} %" and not threshold.oracle


def test_healthy_fpr_refuses_lesions_test_data_and_ill_subjects(well, ill, make_scores):
    with pytest.raises(BadInput, match="split"):
        HealthyFPR(0.05).fit(make_scores(well.maps, well.masks, family="healthy"))
    with pytest.raises(BadInput, match="lesion"):
        HealthyFPR(0.05).fit(make_scores(ill.maps, ill.masks, split="val", family="healthy"))
    with pytest.raises(BadInput, match="ill person"):
        HealthyFPR(0.05).fit(make_scores(well.maps, well.masks, split="val", family="ms"))
    with pytest.raises(BadInput):
        HealthyFPR(1.0)


def test_lesion_validation_needs_lesions_of_the_validation_split(ill, well, make_scores):
    with pytest.raises(BadInput, match="split"):
        LesionValidation().fit(ill)
    with pytest.raises(BadInput, match="no lesion"):
        LesionValidation().fit(well)
    threshold = LesionValidation().fit(make_scores(ill.maps, ill.masks, split="val"))
    assert threshold.value == OracleDataset().fit(ill).value and not threshold.oracle


def test_oracles_say_so_and_the_order_of_protocols_holds(ill):
    dataset, patient = OracleDataset().fit(ill), OraclePatient().fit(ill)
    assert (str(dataset.protocol), str(patient.protocol)) == ("oracle (dataset)", "oracle (patient)")
    assert dataset.oracle and patient.oracle
    means = [pixel_counts(threshold.apply(ill), ill)["dice"].mean() for threshold in (dataset, patient)]
    assert means[0] <= means[1]


def test_oracles_need_a_lesion(well):
    for oracle in (OracleDataset(), OraclePatient()):
        with pytest.raises(BadInput, match="no lesion"):
            oracle.fit(well)


def test_a_healthy_subject_has_no_patient_oracle(ill, make_scores):
    masks = ill.masks.copy()
    masks[:2] = False
    scores = make_scores(ill.maps, masks, subjects=ill.table["subject"])
    threshold = OraclePatient().fit(scores)
    assert threshold.by_subject["ill-0"] == np.inf and not threshold.apply(scores)[:2].any()
    assert np.isnan(pixel_counts(threshold.apply(scores), scores).loc["ill-0", "dice"])


def test_a_fixed_threshold_is_its_number(ill):
    threshold = Fixed(0.4).fit()
    assert threshold.value == 0.4 and str(threshold) == "0.4 (fixed 0.4)"
    assert np.array_equal(threshold.apply(ill), ill.maps >= 0.4)
    with pytest.raises(BadInput):
        Fixed(float("nan"))


def test_a_threshold_refuses_another_detector_and_other_post_processing(well, ill, make_scores):
    threshold = HealthyFPR(0.05).fit(well)
    with pytest.raises(BadInput, match="detector"):
        threshold.apply(make_scores(ill.maps, ill.masks, detector="another"))
    with pytest.raises(BadInput, match="postprocess"):
        threshold.apply(make_scores(ill.maps, ill.masks, postprocess="median 3"))


def test_small_components_go_after_the_threshold(ill, make_scores):
    trimmed = make_scores(ill.maps, ill.masks, min_component=4)
    before, after = ill.detections(0.5), trimmed.detections(0.5)
    assert after.sum() < before.sum() and not (after & ~before).any()
