import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from course_lib.detectors.base import Detector
from course_lib.errors import BadInput
from course_lib.evaluation import (
    COLUMNS,
    Scores,
    as_scores,
    evaluate,
    measure,
    paired_difference,
    predict,
    residual_contrast,
    results_table,
)
from course_lib.metrics.intervals import bootstrap
from course_lib.metrics.statistics import Mean

GOLDEN = Path(__file__).parent / "golden"
STEPS = [("rim", 1), ("median", 3)]


class FakeSlices:
    """What evaluation uses of a SliceSet."""

    def __init__(self, images, masks, brains, table):
        self.images, self.masks, self.brains = images, masks, brains
        self.table, self.name = table.reset_index(drop=True), "fake"

    def batch(self, rows):
        return torch.from_numpy(self.images[rows])[:, None]

    def select(self, which):
        which = np.asarray(which)
        return FakeSlices(self.images[which], self.masks[which], self.brains[which], self.table[which])


class Brightness(Detector):
    def anomaly_map(self, images):
        assert not self.training and torch.is_inference_mode_enabled() and images.dtype == torch.float32
        return images[:, 0]


class Noise(Detector):
    """Knows nothing: a fixed random picture."""

    def __init__(self, seed=0):
        super().__init__()
        self.seed = seed

    def anomaly_map(self, images):
        noise = torch.rand(images.shape[-2:], generator=torch.Generator().manual_seed(self.seed))
        return noise.expand(len(images), -1, -1) + 0.01 * images[:, 0]


class OwnScore(Brightness):
    def anomaly_score(self, images):
        return images.amax((1, 2, 3))


def cohort(count=7, per_subject=3, size=24):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    brain = (y - 12) ** 2 + (x - 11.5) ** 2 < 100
    images, masks, rows = [], [], []
    for split, family in (("val", "healthy"), ("test", "healthy"), ("test", "ms"), ("test", "spike")):
        for number in range(count):
            for k in range(per_subject):
                image, mask = rng.normal(0.5, 0.1, (size, size)), np.zeros((size, size), bool)
                if family != "healthy" and k:  # the first slice is without a lesion
                    cy, cx = rng.integers(7, 16, 2)
                    mask = (y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(2, 9)
                    image += rng.uniform(0.2, 0.5) * mask
                images.append(np.where(brain, image.clip(0.01, 2), 0))
                masks.append(mask & brain)
                rows.append({"subject": f"{split}{family}{number}", "slice": k, "split": split, "family": family})
    images = np.array(images, np.float32)
    return FakeSlices(images, np.array(masks), np.repeat(brain[None], len(images), 0), pd.DataFrame(rows))


@pytest.fixture(scope="module")
def slices():
    return cohort()


def part(slices, split, *families):
    rows = slices.table["split"] == split
    return slices.select(rows & slices.table["family"].isin(families) if families else rows)


@pytest.fixture(scope="module")
def scored(slices):
    return predict(Brightness(), part(slices, "test"), STEPS)


@pytest.fixture(scope="module")
def validation(slices):
    return predict(Brightness(), part(slices, "val"), STEPS)


@pytest.fixture(scope="module")
def table(scored, validation):
    return evaluate(scored, validation, resamples=200)


def pick(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    assert len(table) == 1, wanted
    return table.iloc[0]


# ---- predict ---------------------------------------------------------------------------------------------------------


def test_predict_gives_maps_lowest_outside_the_brain_and_the_raw_beside(slices):
    scores = predict(Brightness(), slices, STEPS)
    assert scores.maps.dtype == np.float32 and scores.postprocess == "rim 1, median 3"
    assert scores.raw.postprocess == "none" and scores.raw.raw is None
    for raw, image, brain in zip(scores.raw.maps, slices.images, slices.brains, strict=True):
        assert np.array_equal(raw[brain], image[brain]) and (raw[~brain] == image[brain].min()).all()


def test_the_batch_size_changes_nothing_and_the_mode_is_restored(slices):
    detector = Brightness().train()
    one, many = predict(detector, slices, STEPS, batch_size=1), predict(detector, slices, STEPS, batch_size=50)
    assert np.array_equal(one.maps, many.maps) and np.array_equal(one.image_scores, many.image_scores)
    assert detector.training and not predict(detector.eval(), slices).raw and not detector.training


def test_the_mode_is_restored_when_the_detector_fails(slices):
    class Broken(Detector):
        def anomaly_map(self, images):
            raise RuntimeError("no")

    detector = Broken().train()
    with pytest.raises(RuntimeError):
        predict(detector, slices)
    assert detector.training


def test_image_scores_are_the_detectors_own_or_the_mean_over_the_brain(slices):
    default, own = predict(Brightness(), slices), predict(OwnScore(), slices)
    with torch.inference_mode():
        expected = Brightness().eval().anomaly_score(slices.batch(np.arange(len(slices.table)))).numpy()
    assert np.allclose(default.image_scores, expected, rtol=1e-5) and default.image_rule == "mean over the brain"
    assert np.allclose(own.image_scores, slices.images.max((1, 2))) and own.image_rule == "the detector's own"


def test_maps_that_are_no_maps_are_refused(slices):
    class Wrong(Detector):
        def anomaly_map(self, images):
            return images

    class NotFinite(Detector):
        def anomaly_map(self, images):
            return images[:, 0] / 0

    with pytest.raises(BadInput, match="anomaly_map"):
        predict(Wrong(), slices)
    with pytest.raises(BadInput, match="NaN or infinite"):
        predict(NotFinite(), slices)
    with pytest.raises(BadInput, match="no slice"):
        predict(Brightness(), slices.select(np.zeros(len(slices.table), bool)))


def test_what_a_map_says_outside_the_brain_does_not_matter(slices):
    class Holes(Brightness):
        def anomaly_map(self, images):
            return torch.where(images[:, 0] > 0, images[:, 0], torch.nan)

    found, expected = predict(Holes(), slices, STEPS), predict(Brightness(), slices, STEPS)
    assert np.array_equal(found.image_scores, expected.image_scores) and np.array_equal(found.maps, expected.maps)


@pytest.mark.parametrize("step", [("rim", 1.5), ("median", 3.5), ("components", 2.5), ("rim", float("nan"))])
def test_parts_of_a_pixel_are_refused(slices, step):
    with pytest.raises(BadInput, match="whole number"):
        predict(Brightness(), slices, [step])


def test_scores_of_ready_maps_are_those_of_a_detector(slices):
    asked = predict(Brightness(), slices, STEPS, name="b")
    made = as_scores(slices.images, slices, STEPS, name="b")
    for name in ("maps", "image_scores", "masks", "brains"):
        np.testing.assert_array_equal(getattr(made, name), getattr(asked, name))
    assert (made.postprocess, made.image_rule) == (asked.postprocess, asked.image_rule)
    own = as_scores(slices.images, slices, image_scores=np.arange(len(slices.images)))
    assert own.image_rule == "the detector's own" and own.image_scores[3] == 3
    with pytest.raises(BadInput, match="for slices of"):
        as_scores(slices.images[:-1], slices)


def test_rankings_alone_are_the_same_numbers(scored, validation, table):
    few = evaluate(scored, validation, rankings_only=True, resamples=100)
    assert set(few["metric"]) >= {"AP", "AUROC", "best Dice"} and not (few["level"] == "lesion").any()
    key = ["detector", "family", "level", "metric", "protocol", "postprocess"]
    both = few.merge(table, on=key, suffixes=("", "_all"))
    assert len(both) == len(few)
    np.testing.assert_array_equal(both["value"], both["value_all"])


def test_a_plain_class_of_a_student_works(slices):
    class Student:
        def anomaly_map(self, images):
            return images[:, 0]

    assert np.array_equal(predict(Student(), slices).maps, predict(Brightness(), slices).maps)


# ---- evaluate --------------------------------------------------------------------------------------------------------


def test_the_table_is_tidy_and_every_number_has_its_protocol(table):
    assert tuple(table.columns) == COLUMNS
    assert not table.duplicated(["detector", "family", "level", "metric", "protocol", "postprocess"]).any()
    assert (table["protocol"].str.len() > 0).all() and set(table["family"]) == {"ms", "spike", "healthy"}
    bounded = table[table["low"].notna()]
    assert len(bounded) > 0.9 * len(table)
    assert ((bounded["low"] <= bounded["value"]) & (bounded["value"] <= bounded["high"])).all()


def test_raw_and_post_processed_stand_side_by_side(table):
    pixels = table[table["level"] != "image"]
    counts = pixels.groupby("postprocess").size()
    assert set(counts.index) == {"none", "rim 1, median 3"} and counts.nunique() == 1
    assert set(table[table["level"] == "image"]["postprocess"]) == {"none"}


def test_the_numbers_are_those_of_the_pooled_brain(table, scored):
    from sklearn.metrics import average_precision_score, roc_auc_score

    ms = scored.raw.family("ms")
    labels, values = ms.masks[ms.brains], ms.maps[ms.brains]
    row = pick(table, family="ms", level="pixel", metric="AP", postprocess="none")
    assert row["value"] == pytest.approx(average_precision_score(labels, values), abs=1e-12)
    assert row["chance"] == pytest.approx(labels.mean()) and row["subjects"] == 7
    row = pick(table, family="ms", level="pixel", metric="AUROC", postprocess="none")
    assert row["value"] == pytest.approx(roc_auc_score(labels, values), abs=1e-12) and row["chance"] == 0.5


def test_lesion_slices_are_another_quantity_with_another_name(scored, table):
    other = evaluate(scored, pixels="lesion slices", resamples=100)
    row = pick(other, family="ms", metric="AP, lesion slices", postprocess="none")
    assert row["chance"] > pick(table, family="ms", level="pixel", metric="AP", postprocess="none")["chance"]
    assert "AP" not in set(other[other["level"] == "pixel"]["metric"])
    with pytest.raises(BadInput):
        evaluate(scored, pixels="all")


def test_healthy_subjects_are_reported_by_their_false_positives_only(table):
    healthy = table[table["family"] == "healthy"]
    assert set(healthy["metric"]) == {"FPR", "FPR (worst subject)", "FP per scan"}
    worst = healthy[healthy["metric"] == "FPR (worst subject)"]
    mean = healthy[healthy["metric"] == "FPR"]
    assert worst["low"].isna().all() and (worst["value"].to_numpy() >= mean["value"].to_numpy()).all()


def test_healthy_subjects_change_no_number_of_a_family(scored, validation, table):
    alone = evaluate(scored.family("ms", "spike"), validation, resamples=200)
    both = table[(table["family"] != "healthy") & (table["level"] != "image")].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, both, check_like=True)


def test_slices_without_a_lesion_of_ill_subjects_are_in_no_image_score(scored, table):
    from sklearn.metrics import roc_auc_score

    raw = scored.raw
    ill = (raw.table["family"] == "ms").to_numpy() & raw.masks.any((1, 2))
    well = (raw.table["family"] == "healthy").to_numpy()
    chosen = ill | well
    row = pick(table, family="ms", level="image", metric="AUROC")
    assert row["value"] == pytest.approx(roc_auc_score(ill[chosen], raw.image_scores[chosen]), abs=1e-12)
    assert row["subjects"] == 14 and row["protocol"] == "image score: mean over the brain"


def test_nothing_outside_the_brain_counts(scored, validation, table):
    rng = np.random.default_rng(0)
    raw = scored.raw
    noisy = replace(raw, maps=np.where(raw.brains, raw.maps, rng.normal(size=raw.maps.shape) * 100))
    other = evaluate(noisy, validation.raw, resamples=200)
    expected = table[table["postprocess"] == "none"].reset_index(drop=True)
    pd.testing.assert_frame_equal(other, expected)


def test_few_subjects_have_a_value_but_no_interval(scored, validation):
    few = scored.select(scored.table["subject"].isin(["testms0", "testms1", "testms2"]).to_numpy())
    found = evaluate(few, validation, resamples=100)
    assert found["value"].notna().any() and found["low"].isna().all()


def test_without_validation_there_are_only_rankings_and_oracles(scored):
    found = evaluate(scored, resamples=100)
    assert all(p == "all thresholds" or p.startswith(("oracle", "image score")) for p in found["protocol"])


def test_lesion_validation_is_a_protocol_of_its_own(slices, scored, validation):
    ill = scored.family("ms")
    moved = ill.table.assign(split="val", subject="v" + ill.table["subject"])
    ill = replace(ill, table=moved, raw=replace(ill.raw, table=moved))
    found = evaluate(scored, validation, lesion_validation=ill, resamples=100)
    assert "lesion validation" in set(found["protocol"])


def test_seeds_are_averaged_and_have_to_match(slices, scored, validation):
    runs = [predict(Noise(seed), part(slices, "test")) for seed in (0, 1, 2)]
    wells = [predict(Noise(seed), part(slices, "val")) for seed in (0, 1, 2)]
    found = evaluate({"noise": runs}, {"noise": wells}, resamples=100)
    assert (found["seeds"] == 3).all()
    alone = [pick(evaluate(run, resamples=50), family="ms", level="pixel", metric="AP")["value"] for run in runs]
    row = pick(found, family="ms", level="pixel", metric="AP")
    assert row["value"] == pytest.approx(np.mean(alone))
    assert row["low"] <= row["chance"] * 1.5  # it knows nothing
    with pytest.raises(BadInput, match="validation"):
        evaluate({"noise": runs}, {"noise": wells[:2]})
    with pytest.raises(BadInput, match="same slices"):
        evaluate({"noise": [runs[0], runs[1].select(np.arange(30, 60))]})


def test_paired_difference_is_that_of_the_table(slices, scored, validation, table):
    other = predict(Noise(), part(slices, "test"), STEPS)
    found = paired_difference(scored, other, "AP", family="ms", resamples=200)
    theirs = evaluate(other, resamples=50)
    same = {"family": "ms", "level": "pixel", "metric": "AP", "postprocess": "rim 1, median 3"}
    assert found.value == pytest.approx(pick(table, **same)["value"] - pick(theirs, **same)["value"])
    assert found.low > 0 and found.subjects == 7
    image = paired_difference(scored, other, "AUROC", level="image", family="ms", resamples=100)
    assert image.subjects == 14
    well = predict(Noise(), part(slices, "val"), STEPS)
    dice = paired_difference(scored, other, "Dice", family="ms", protocol="healthy FPR 5 %",
                             validation_a=validation, validation_b=well, resamples=100)  # fmt: skip
    assert dice.low > 0
    itself = paired_difference(scored, scored, family="ms", resamples=100)
    assert (itself.low, itself.value, itself.high) == (0, 0, 0)


def test_paired_difference_refuses_other_subjects_and_unknown_numbers(scored):
    with pytest.raises(BadInput, match="same slices"):
        fewer = scored.select((scored.table["subject"] != "testms3").to_numpy())
        paired_difference(scored, fewer, family="ms")
    with pytest.raises(BadInput, match="There are: .*AUROC"):
        paired_difference(scored, scored, "accuracy", family="ms")


@pytest.mark.parametrize("change", ["one slice less", "another order", "another mask"])
def test_only_the_same_slices_are_compared(scored, change):
    if change == "another mask":
        masks = scored.masks.copy()
        masks[30] = np.roll(masks[-1], 1, 0)
        other = replace(scored, masks=masks)
    else:  # the subjects stay the same
        other = scored.select(np.arange(1, len(scored)) if change == "one slice less" else np.r_[1, 0, 2 : len(scored)])
    assert other.subjects == scored.subjects
    for compare in (
        lambda: paired_difference(scored, other, family="ms"),
        lambda: paired_difference([scored, other], scored, family="ms"),
        lambda: evaluate({"a": scored, "b": other}),
        lambda: evaluate({"a": [scored, other]}),
    ):
        with pytest.raises(BadInput, match="same slices"):
            compare()


def test_only_the_split_that_is_meant_is_measured(slices, scored, validation):
    everything = predict(Brightness(), slices, STEPS)
    for wrong in (everything, validation):
        with pytest.raises(BadInput, match="to be measured"):
            evaluate(wrong)
        with pytest.raises(BadInput, match="to be measured"):
            paired_difference(wrong, wrong, family="ms")
    moved = scored.raw.table.assign(split="val")
    chosen = replace(scored.raw, table=moved)
    assert evaluate(chosen, split="val", resamples=50)["value"].notna().any()
    assert paired_difference(chosen, chosen, family="ms", split="val", resamples=50).value == 0


@pytest.mark.parametrize("column", ["subject", "person"])
def test_nobody_is_measured_on_whom_a_threshold_was_set(scored, validation, column):
    def named(scores):
        return replace(scores, table=scores.table.assign(**{column: scores.table["subject"]}), raw=None)

    test, well = named(scored), named(validation)
    shared = well.table[column].replace({"valhealthy3": "testms2"})
    leaked = replace(well, table=well.table.assign(**{column: shared}))
    with pytest.raises(BadInput, match="testms2 is both"):
        evaluate(test, leaked)
    with pytest.raises(BadInput, match="testms2 is both"):
        paired_difference(test, test, "Dice", family="ms", protocol="healthy FPR 5 %",
                          validation_a=well, validation_b=leaked)  # fmt: skip


def test_measure_does_it_in_one_call(slices, table):
    found = measure({"Brightness": Brightness()}, slices, STEPS, resamples=200)
    pd.testing.assert_frame_equal(found, table)


def test_the_report_card_names_protocol_and_post_processing(table):
    card = results_table(table)
    assert card.attrs["title"] == "pixel AP, all thresholds, post-processing: rim 1, median 3"
    assert list(card.index) == ["Brightness", "chance"] and list(card.columns) == ["ms", "spike"]
    assert card.loc["Brightness", "ms"].count("[") == 1
    assert "oracle" in results_table(table, "best Dice").attrs["title"]
    with pytest.raises(BadInput, match="Choose one"):
        results_table(table, "Dice")
    with pytest.raises(BadInput):
        results_table(table, "accuracy")
    assert "healthy FPR 5 %" in results_table(table, "Dice", protocol="healthy FPR 5 %").attrs["title"]


def test_a_person_under_two_ids_is_one(slices):
    scores = predict(Brightness(), part(slices, "test", "ms"))
    person = scores.table["subject"].replace({"testms1": "testms0"})
    joined = replace(scores, table=scores.table.assign(person=person))
    assert len(joined.subjects) == 6 and (evaluate(joined, resamples=50)["subjects"] == 6).all()


def test_false_positives_are_counted_per_scan_and_not_per_person(scored, validation):
    """Ids joined to persons change who is resampled, and no number of scans."""

    def joined(scores):
        person = scores.table["subject"].str.replace(r"\d$", lambda digit: "p" + str(int(digit[0]) % 5), regex=True)
        return replace(scores, table=scores.table.assign(person=person), raw=None)

    apart = evaluate(replace(scored, raw=None), replace(validation, raw=None), resamples=50)
    found = evaluate(joined(scored), joined(validation), resamples=50)
    rows = {"level": "lesion", "metric": "FP per scan", "protocol": "healthy FPR 5 %"}
    for family in ("ms", "healthy"):
        row = pick(found, family=family, **rows)
        assert row["value"] == pytest.approx(pick(apart, family=family, **rows)["value"]) and row["subjects"] == 5


# ---- golden cohort ---------------------------------------------------------------------------------------------------


def golden():
    data = np.load(GOLDEN / "cohort.npz")
    maps = (data["hundredths"] / 100).astype(np.float32)
    brains = np.repeat(data["brain"][None], len(maps), 0)
    split, family = zip(*(str(group).split() for group in data["groups"]), strict=True)
    table = pd.DataFrame({"subject": data["subjects"], "split": split, "family": family})
    table["slice"] = table.groupby("subject").cumcount()
    image_scores = maps[:, data["brain"]].astype(np.float64).mean(1)
    everything = Scores(maps, data["masks"], brains, table, image_scores)
    rows = table["split"] == "test"
    return everything.select(rows.to_numpy()), everything.select((~rows).to_numpy())


def test_the_golden_cohort_has_the_values_of_the_reference_libraries():
    expected = json.loads((GOLDEN / "expected.json").read_text())["expected"]
    test, validation = golden()
    found = evaluate(test, validation, resamples=50)
    seen = 0
    for name, value in expected.items():
        metric, _, protocol = name.partition(", ")
        level = next((level for level in ("lesion", "image") if metric.startswith(level)), "pixel")
        family = "healthy" if metric.startswith("FPR") else "ill"
        rows = found[(found["level"] == level) & (found["metric"] == metric.removeprefix(level).strip())]
        rows = rows[rows["family"] == family]
        rows = rows[rows["protocol"] == protocol] if protocol else rows
        if metric == "AP (subject mean)" or not protocol:
            rows = rows[~rows["protocol"].str.startswith("healthy FPR")]
        tolerance = 1e-6 if level == "image" else 1e-12  # image scores are kept as float32
        assert rows["value"].tolist() == [pytest.approx(value, abs=tolerance)], name
        seen += 1
    assert seen == 25


# ---- the evaluation traps, one test each -----------------------------------------------------------------------------


def test_trap_oracle_threshold_as_the_headline(table):
    """Best Dice is marked as an oracle wherever it is printed."""
    oracles = table[table["metric"] == "best Dice"]
    assert (oracles["protocol"] == "oracle (dataset)").all() and len(oracles)


def test_trap_nominal_false_positive_rate(table):
    """What "5 % FPR" means on new subjects, and for the worst of them, stands beside it."""
    for protocol in ("healthy FPR 1 %", "healthy FPR 5 %"):
        rows = table[(table["protocol"] == protocol) & (table["family"] == "healthy")]
        assert {"FPR", "FPR (worst subject)"} <= set(rows["metric"])


def test_trap_threshold_from_the_test_set(scored):
    with pytest.raises(BadInput, match="oracles"):
        evaluate(scored, scored.family("healthy"))


def test_trap_pooled_and_per_subject_ap_are_named_apart(table):
    assert {"AP", "AP (subject mean)"} <= set(table[table["level"] == "pixel"]["metric"])


def test_trap_healthy_subjects_added_to_the_pool(table, slices):
    """The prevalence, hence the AP's scale, is that of ill subjects; it stands beside every AP."""
    ms = part(slices, "test", "ms")
    row = pick(table, family="ms", level="pixel", metric="AP", postprocess="none")
    assert row["chance"] == pytest.approx(ms.masks[ms.brains].mean())


def test_trap_auroc_alone(table):
    """Every AUROC of pixels has its AP and both chance levels beside it."""
    pixel = table[table["level"] == "pixel"]
    assert len(pixel[pixel["metric"] == "AUROC"]) == len(pixel[pixel["metric"] == "AP"]) > 0
    assert pixel[pixel["metric"].isin(["AP", "AUROC"])]["chance"].notna().all()


def test_trap_padded_background(slices, table):
    wide = [np.pad(a, ((0, 0), (24, 24), (24, 24))) for a in (slices.images, slices.masks, slices.brains)]
    found = measure({"Brightness": Brightness()}, FakeSlices(*wide, slices.table), STEPS, resamples=200)
    pd.testing.assert_frame_equal(found, table)


def test_trap_threshold_grids_and_hot_pixels(scored):
    """One hot pixel, or scores far outside [0, 1], move the exact best Dice by next to nothing."""
    from course_lib.metrics.curves import rank_metrics

    raw = scored.raw.family("ms")
    hot = raw.maps.copy()
    hot[0, 12, 12] = 1e4
    exact = rank_metrics(raw.maps, raw.masks, raw.brains).best_dice
    assert rank_metrics(hot, raw.masks, raw.brains).best_dice == pytest.approx(exact, abs=0.01)
    assert rank_metrics(raw.maps * 4000 - 7, raw.masks, raw.brains).best_dice == pytest.approx(exact, abs=1e-9)


def test_trap_scores_that_pass_through_a_sigmoid(scored):
    from course_lib.metrics.curves import rank_metrics

    raw = scored.raw.family("ms")
    ap = [rank_metrics(raw.maps * np.float32(k), raw.masks, raw.brains).ap for k in (1, 4096)]
    assert ap[0] == ap[1]


def test_trap_per_slice_min_max(slices, validation):
    """Normalising each slice is no step that we offer; as a detector of its own it is refused our thresholds."""
    from course_lib.maps import postprocess

    with pytest.raises(BadInput, match="unknown"):
        postprocess(slices.images, slices.brains, [("minmax", 1)])

    class Stretched(Brightness):
        def anomaly_map(self, images):
            return images[:, 0] / images.amax((2, 3))[..., None]

    with pytest.raises(BadInput, match="detector"):
        stretched = predict(Stretched(), part(slices, "test"), STEPS)
        evaluate({"mine": stretched}, {"mine": validation}, resamples=20)


def test_trap_half_precision_is_widened(slices):
    class Half(Brightness):
        def anomaly_map(self, images):
            return images[:, 0].half()

    assert predict(Half(), slices).maps.dtype == np.float32


def test_trap_eroded_region(slices):
    """A silenced rim stays in the region: lesions in it are missed, not forgotten."""
    eroded = predict(Brightness(), part(slices, "test", "ms"), [("rim", 5)])
    found = evaluate(eroded, resamples=50)
    chances = found[(found["metric"] == "AP") & (found["level"] == "pixel")]["chance"]
    assert chances.nunique() == 1 and len(chances) == 2


def test_trap_post_processing_is_recorded(table):
    assert set(table["postprocess"]) == {"none", "rim 1, median 3"}


def test_trap_threshold_of_raw_maps_on_filtered_ones(scored, validation):
    from course_lib.metrics.thresholds import HealthyFPR

    with pytest.raises(BadInput, match="postprocess"):
        HealthyFPR(0.05).fit(validation.raw).apply(scored)


def test_trap_voxel_dice_hides_missed_lesions(table):
    lesion = table[table["level"] == "lesion"]
    assert {"sensitivity", "F1", "FP per scan", "sensitivity (small)"} <= set(lesion["metric"])
    assert "any overlap" in table.attrs["notes"]["lesions"]


def test_trap_healthy_subjects_in_the_dice_mean(scored, table):
    row = table[(table["metric"] == "Dice (subject mean)") & (table["family"] == "healthy")]
    assert row.empty
    mixed = Mean([0.4, np.nan, 0.6])  # a NaN is left out, it is no 0 and no 1
    assert mixed(np.ones((1, 3)))[0] == 0.5


def test_trap_intervals_over_pixels_or_slices(table):
    """The unit is the subject: no function takes another, and the table says how many there were."""
    from course_lib.metrics import intervals

    assert set(table[table["family"] == "ms"]["subjects"]) == {7, 14}
    assert not [name for name in dir(intervals) if "pixel" in name or "slice" in name]
    with pytest.raises(BadInput):
        bootstrap(Mean([1, 2]), 2)


def test_trap_image_pooling_rule_is_named(slices):
    found = measure({"own": OwnScore()}, slices, resamples=50)
    assert set(found[found["level"] == "image"]["protocol"]) == {"image score: the detector's own"}


def test_trap_leakage_between_splits(scored):
    table = scored.table.copy()
    table.loc[0, "split"] = "val"
    with pytest.raises(BadInput, match="two splits"):
        replace(scored, table=table, raw=None)


def test_trap_nan_scores(scored):
    maps = scored.maps.copy()
    maps[5, 12, 12] = np.nan
    with pytest.raises(BadInput, match="NaN or infinite"):
        replace(scored, maps=maps)


def test_trap_in_place_binarisation(scored, validation):
    before = [array.copy() for array in (scored.maps, scored.masks, scored.brains, scored.raw.maps)]
    evaluate(scored, validation, resamples=20)
    after = (scored.maps, scored.masks, scored.brains, scored.raw.maps)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("masks", np.full((63, 24, 24), 255)),
        ("masks", np.zeros((63, 24, 23), bool)),
        ("brains", np.ones((62, 24, 24), bool)),
        ("image_scores", np.full(63, np.nan)),
        ("image_scores", np.zeros(3)),
        ("maps", np.zeros((24, 24))),
        ("table", pd.DataFrame({"subject": ["a"], "slice": 0, "split": "test", "family": "ms"})),
        ("table", pd.DataFrame({"subject": ["a"] * 63})),
        ("table", pd.DataFrame({"subject": [None] * 63, "slice": 0, "split": "test", "family": "ms"})),
    ],
)
def test_scores_refuse_what_does_not_fit(scored, name, value):
    with pytest.raises(BadInput) as error:
        replace(scored, raw=None, **{name: value})
    assert error.value.field


def test_residual_contrast_is_the_mean_inside_and_outside_of_lesions():
    brains = np.zeros((3, 8, 8), bool)
    brains[:, 1:7, 1:7] = True
    masks = np.zeros_like(brains)
    masks[0, 2:4, 2:4] = True
    maps = np.where(masks, 3.0, 1.0).astype(np.float32)
    table = pd.DataFrame(
        {"subject": ["a", "a", "h"], "slice": [0, 1, 0], "split": "test", "family": ["ms", "ms", "healthy"]}
    )
    scores = Scores(
        maps=maps, masks=masks, brains=brains, table=table, image_scores=np.zeros(3), detector="d", data="toy"
    )
    contrast = residual_contrast(scores).set_index("subject")
    assert contrast.loc["a", ["lesion", "rest"]].tolist() == [3.0, 1.0]
    assert np.isnan(contrast.loc["h", "lesion"]) and contrast.loc["h", "rest"] == 1.0
