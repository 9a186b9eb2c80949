"""One run of the benchmark: every detector by name, classes of one's own, and numbers that hold by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from course_lib import benchmark, leaderboard
from course_lib.benchmark import check_detector, measure_run, person_rows
from course_lib.errors import BadInput
from course_lib.evaluation import predict
from course_lib.images.slices import SliceSet
from course_lib.line_up import Setting, train_by_name
from tests.detectors.conftest import toy_brains

OWN = '''
import torch
from course_lib.detectors.base import Detector

class Mine(Detector):
    """The distance to a learnt mean image, to some power."""

    def __init__(self, image_shape, power=1.0):
        super().__init__()
        self.image_shape, self.power = image_shape, power
        self.mean = torch.nn.Parameter(torch.zeros(image_shape))

    def training_losses(self, images):
        return {"error": (images[:, 0] - self.mean).square().mean()}

    @torch.no_grad()
    def anomaly_map(self, images):
        return (images[:, 0] - self.mean).abs() ** self.power * (images[:, 0] > 0)
'''


def toy_slices() -> SliceSet:
    """Toy brains at three heights: 20 people to train, 4 to validate, 5 healthy and 5 + 5 ill ones to test."""
    groups = [("train", "healthy")] * 20 + [("val", "healthy")] * 4 + [("test", "healthy")] * 5
    groups += [("test", "ms")] * 5 + [("test", "tumour")] * 5
    people = [(split, family, f"sub-{number:02d}") for number, (split, family) in enumerate(groups)]
    images = toy_brains(3 * len(people))[:, 0].numpy()
    masks = np.zeros(images.shape, bool)
    for number, (_, family, _) in enumerate(people):
        if family != "healthy":
            masks[3 * number + 1, 14:19, 13 : 18 + number % 2] = True
    images = np.where(masks, np.where(np.arange(len(images)) % 2, 1.0, 0.1)[:, None, None], images).astype(np.float32)
    rows = [(name, k, 4.0 * k, split, family) for split, family, name in people for k in range(3)]
    table = pd.DataFrame(rows, columns=["subject", "slice", "z_mm", "split", "family"])
    return SliceSet(images, masks, images > 0, table, name="toys")


@pytest.fixture
def toys(monkeypatch, tmp_path) -> SliceSet:
    """Toy slices in place of every data set, and a store of the test's own."""
    slices = toy_slices()
    monkeypatch.setattr(benchmark, "open_slices", lambda *_, **__: slices)
    monkeypatch.setenv("LEARNING_NORMAL_DATA", str(tmp_path))
    return slices


def parts(slices: SliceSet) -> tuple[SliceSet, SliceSet]:
    return tuple(slices.select(f"split == '{split}' and family == 'healthy'") for split in ("train", "val"))


def test_a_run_gives_each_persons_numbers_as_scikit_learn_does(toys):
    table = measure_run("brightness", heights=1)
    assert list(table.columns) == list(benchmark.COLUMNS)
    assert not table.duplicated(["family", "subject", "level", "metric"]).any()
    test = benchmark.test_slices(toys, "atlas", 1)
    trained = train_by_name("brightness", Setting(*parts(toys))).detector
    scores = predict(trained, test, list(benchmark.CLEAN))
    person = next(unit for unit in scores.subjects if unit in set(table["subject"]))
    for who, here in ((person, scores.units == person), ("all", scores.table["family"].to_numpy() == "ms")):
        brain, ill = scores.brains[here], scores.lesion_px > 0
        expected = average_precision_score(scores.masks[here][brain], scores.maps[here][brain])
        rows = table[(table["subject"] == who) & table["family"].isin(["ms", "tumour"][: 1 if who == "all" else 2])]
        assert rows.loc[rows["metric"] == "AP", "value"].item() == pytest.approx(expected)
        both = (here & ill) | (scores.table["family"].to_numpy() == "healthy")
        auroc = roc_auc_score((here & ill)[both], scores.image_scores[both])
        assert rows.loc[rows["metric"] == "AUROC", "value"].item() == pytest.approx(auroc)
    assert set(table.loc[table["level"] == "cost", "metric"]) == {"weights", "training seconds", "ms a slice"}
    assert (table["value"] >= 0).all()


def test_every_nth_height_is_scored(toys):
    assert len(benchmark.test_slices(toys, "atlas", 1)) == 45
    assert set(benchmark.test_slices(toys, "atlas", 2).table["z_mm"]) == {0.0, 8.0}
    with pytest.raises(BadInput, match="nobody among these test people has a lesion"):
        measure_run("brightness", heights=2)  # the toys' lesions are at the height between


# One of each kind; lesson 5.3 measures them all.
@pytest.mark.parametrize("name", ["positional Gaussian", "LSA", "one order", "composite", "memory bank"])
def test_a_detector_of_the_line_up_is_measured_and_found_again(name, toys, monkeypatch):
    monkeypatch.setattr(Setting, "steps", lambda self, quick, standard, full: 200 if quick == 1500 else min(quick, 20))
    found = measure_run(name, profile="quick", heights=1)
    assert set(found["detector"]) == {name} and np.isfinite(found["value"]).all()
    again = measure_run(name, profile="quick", heights=1)  # from the store, or fitted again
    lines = found["level"] != "cost"
    pd.testing.assert_frame_equal(found[lines], again[lines])


def test_a_class_in_a_file_is_trained_stored_and_measured(toys, tmp_path):
    file = tmp_path / "my_file.py"
    file.write_text(OWN)
    description = {"class": f"{file}:Mine", "name": "mine", "steps": 30, "power": 2.0}
    table = measure_run(description, seed=1, heights=1)
    assert set(table["detector"]) == {"mine"}
    assert len(list((tmp_path / "store").glob("Mine-*/meta.json"))) == 1
    other = measure_run(description | {"power": 1.0}, seed=1, heights=1)
    rows = table["metric"] == "AP"
    assert (table.loc[rows, "value"] - other.loc[rows, "value"]).abs().max() < 1e-6  # a power changes no ranking
    assert set(measure_run(f"{file}:Mine", heights=1)["detector"]) == {"Mine"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("no such detector", "no detector is called 'no such detector'"),
        ("course_lib.nowhere:Thing", "cannot be imported"),
        ("nowhere.py:Thing", "there is no"),
        ("pathlib:Path", "no subclass"),
        ({"name": "x"}, "needs its 'class'"),
        ({"class": "course_lib.detectors.pca:PCA", "componentz": 3}, "PCA takes no componentz"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused_before_any_work(given, words):
    with pytest.raises(BadInput, match=words):
        check_detector(given)


def test_the_heights_that_are_asked_for_go_before_those_of_the_profile(toys, monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark, "test_slices", lambda slices, data, heights: asked.append(heights) or slices)
    for options in ({}, {"profile": "full"}, {"profile": "full", "heights": 2}, {"heights": 1}):
        measure_run("brightness", **options)
    assert asked == [4, 1, 2, 1]


def test_all_orders_score_in_evaluation_mode_and_stay_so(toys, monkeypatch):
    monkeypatch.setattr(Setting, "steps", lambda self, quick, standard, full: 2)
    ensemble = train_by_name("all orders", Setting(*parts(toys), profile="quick")).detector
    predict(ensemble, parts(toys)[1])
    assert not any(module.training for module in ensemble.modules())


@pytest.mark.parametrize("author", ["1234567", "NA", "None"])
def test_every_author_is_known_again(toys, tmp_path, author):
    test, board = benchmark.test_slices(toys, "atlas", 1), tmp_path / "board.csv"
    detector = train_by_name("brightness", Setting(*parts(toys))).detector
    looks = [leaderboard.enter(detector, test, test, name="a", author=author, board=board).look for _ in range(2)]
    assert looks == [1, 2] and leaderboard.read_board(board)["author"].tolist() == [author]


def test_the_board_counts_looks_replaces_and_sorts(toys, tmp_path):
    test = benchmark.test_slices(toys, "atlas", 1)
    board = tmp_path / "board.csv"
    good, bad = (train_by_name(name, Setting(*parts(toys))).detector for name in ("Gaussian", "brightness"))
    first = leaderboard.enter(bad, test, test, name="bright", author="ana", board=board)
    second = leaderboard.enter(good, test, test, name="whole", author="ana", board=board)
    leaderboard.enter(bad, test, test, name="bright", author="bob", board=board)
    third = leaderboard.enter(bad, test, test, name="whole", author="ana", board=board)
    assert (first.look, second.look, third.look) == (1, 2, 3)
    table = leaderboard.read_board(board)
    assert sorted(zip(table["name"], table["author"], strict=True)) == [
        ("bright", "ana"),
        ("bright", "bob"),
        ("whole", "ana"),
    ]
    assert table["held_out"].is_monotonic_decreasing and third.held_out == first.held_out != second.held_out
    assert first.public_low <= first.public <= first.public_high


def test_the_boards_number_is_the_mean_over_families_of_the_mean_over_people(toys):
    test = benchmark.test_slices(toys, "atlas", 1)
    detector = train_by_name("brightness", Setting(*parts(toys))).detector
    scores = predict(detector, test, list(benchmark.CLEAN))
    people, rows = leaderboard.people_ap(scores), person_rows(scores)
    assert leaderboard.mean_ap(people).value == pytest.approx(people.groupby("family")["value"].mean().mean())
    assert len(people) == sum(metric == "AP" and who != "all" for _, who, _, metric, _ in rows) == 10


def test_a_damaged_board_and_an_entry_without_a_name_are_refused(toys, tmp_path):
    (tmp_path / "board.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="no leaderboard"):
        leaderboard.read_board(tmp_path / "board.csv")
    with pytest.raises(SystemExit, match="2"):
        leaderboard.main(["--board", str(tmp_path / "board.csv"), "show"])
    with pytest.raises(BadInput, match="a name and an author"):
        leaderboard.enter(None, None, None, name=" ")


def test_held_out_people_depend_on_the_secret_alone(tmp_path):
    one = leaderboard.held_out("a secret", people=1, folder=tmp_path)
    again = leaderboard.held_out("a secret", people=1, folder=tmp_path)
    (tmp_path / leaderboard.SECRET).write_text("another\n")
    other = leaderboard.held_out(people=1, folder=tmp_path)
    assert np.array_equal(other.images, leaderboard.held_out("another", people=1, folder=tmp_path).images)
    assert np.array_equal(one.images, again.images)
    assert set(one.families) == set(other.families) >= {"healthy", "ms", "stroke", "tumour", "texture"}
    assert one.images.shape == other.images.shape and not np.array_equal(one.images, other.images)
    assert set(one.table["split"]) == {"test"}
    assert "a secret" not in "".join(path.read_text() for path in tmp_path.glob("*/*.json"))
    assert torch.isfinite(one.batch(np.arange(2))).all()
