"""The cohort on disk: the same bytes whatever the workers, nested profiles, restart, the table, the convention."""

import json
import multiprocessing
import time

import nibabel as nib
import numpy as np
import pytest

from course_lib.errors import BadInput
from course_lib.files import sha256
from course_lib.images import artefacts, bids, pathology
from data_scripts import make_atlas_cohort as cohort

REAL = cohort.SIZES
FEW = {  # a small cohort, for speed: 5, 7 and 9 subjects
    ("train", "healthy"): (1, 2, 3),
    ("test", "ms"): (1, 1, 2),
    ("test", "atrophy"): (1, 1, 1),
    ("test", "spike"): (1, 1, 1),
    ("val", "tumour"): (1, 2, 2),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(cohort, "SIZES", FEW)
    folder = tmp_path_factory.mktemp("cohort") / "atlas"
    cohort.make_cohort(folder, "quick", seed=3, workers=1, progress=False)
    yield folder
    patch.undo()


def digests(folder) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def voxels(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_profiles_are_nested_and_have_the_stated_sizes(monkeypatch):
    monkeypatch.setattr(cohort, "SIZES", REAL)
    quick, standard, full = (cohort.cohort_plan(p).set_index("participant_id") for p in cohort.PROFILES)
    assert (len(quick), len(standard), len(full)) == (130, 312, 958)
    assert set(quick.index) < set(standard.index) < set(full.index)
    assert (full.loc[quick.index, "profile"] == "quick").all()
    assert standard.groupby(["split", "family"]).size()["train", "healthy"] == 120
    for family in pathology.FAMILIES + artefacts.ARTEFACTS:
        assert (standard["family"] == family).sum() == (16 if family in pathology.FAMILIES else 12)
    bids.check_participants(standard.reset_index())


def test_two_workers_make_the_same_files(made, tmp_path):
    # Workers are new processes with the real SIZES, which know all of these subjects.
    other = cohort.make_cohort(tmp_path / "two", "quick", seed=3, workers=2, progress=False)
    assert digests(other) == digests(made)


def test_a_larger_profile_keeps_the_smaller_ones_files(made, tmp_path):
    folder = cohort.make_cohort(tmp_path / "larger", "standard", seed=3, workers=1, progress=False)
    large, small = digests(folder), digests(made)
    tables = {"participants.tsv", "participants.json"}
    assert all(large[name] == value for name, value in small.items() if name not in tables)
    assert len(bids.read_participants(folder)) == 7
    cohort.make_cohort(folder, "quick", seed=3, workers=1, progress=False)
    assert len(bids.read_participants(folder)) == 7  # the larger cohort stays listed
    assert digests(folder) == large


def test_another_seed_makes_other_images_and_is_refused_in_the_same_folder(made):
    image = cohort.simulate(3, "sub-testms001")[1]
    assert np.abs(image - cohort.simulate(4, "sub-testms001")[1]).mean() > 0.01
    before = digests(made)
    with pytest.raises(BadInput, match="another cohort.*seed 3") as error:
        cohort.make_cohort(made, "quick", seed=4, workers=1, progress=False)
    assert error.value.field == "seed"
    assert digests(made) == before


def test_another_version_is_refused(made, monkeypatch):
    monkeypatch.setattr(cohort, "GENERATOR", "0")
    with pytest.raises(BadInput, match="another cohort"):
        cohort.make_cohort(made, "quick", seed=3, workers=1, progress=False)


def test_what_is_there_is_not_made_again_and_what_is_missing_is(made, tmp_path, monkeypatch):
    asked = []
    real = cohort.make_subject
    monkeypatch.setattr(cohort, "make_subject", lambda *a: asked.append(a[-1]) or real(*a))
    before = digests(made)
    cohort.make_cohort(made, "quick", seed=3, workers=1, progress=False)
    assert asked == []
    bids.lesion_path(made, "sub-testms001").unlink()
    (bids.image_path(made, "sub-testms001").parent / ".part-old.nii.gz").write_bytes(b"half")
    cohort.make_cohort(made, "quick", seed=3, workers=1, progress=False)
    assert asked == ["sub-testms001"]
    assert digests(made) == before


def _make_until_killed(folder) -> None:
    cohort.SIZES = FEW  # a new process has the real ones
    cohort.make_cohort(folder, "full", seed=3, workers=1, progress=False)


def test_a_killed_run_goes_on_to_the_same_files(made, tmp_path):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = multiprocessing.get_context("spawn").Process(target=_make_until_killed, args=(cut,))
    process.start()
    deadline = time.monotonic() + 120
    while len(list(cut.rglob("*_FLAIR.nii.gz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not (cut / "participants.tsv").exists()
    assert 1 <= len(list(cut.rglob("*_FLAIR.json"))) < 9
    for folder in (cut, whole):
        cohort.make_cohort(folder, "full", seed=3, workers=1, progress=False)
    assert digests(cut) == digests(whole)


def test_images_follow_the_convention(made):
    for name in bids.read_participants(made)["participant_id"]:
        image = nib.load(bids.image_path(made, name))
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_array_equal(image.affine[:3, 3], [-98, -134, -72])
        data, brain = np.asarray(image.dataobj), voxels(bids.brain_path(made, name)) > 0
        assert data.shape == (98, 116, 94)
        np.testing.assert_array_equal(data > 0, brain)
        assert abs(np.median(data[brain]) - 0.5) < 1e-3 and data.max() <= 2
        deviation = np.abs(data[brain] - np.median(data[brain]))
        assert 1.4826 * np.median(deviation) == pytest.approx(1 / 8, rel=0.01)


def test_masks_and_displacements_are_written_as_simulated(made):
    for name in ("sub-testms001", "sub-testatrophy001", "sub-testspike001", "sub-valtumour001"):
        _, _, mask, moved, _ = cohort.simulate(3, name)
        np.testing.assert_array_equal(voxels(bids.lesion_path(made, name)) > 0, mask)
        assert bids.displacement_path(made, name).exists() == (moved is not None)
        if moved is not None:
            np.testing.assert_allclose(voxels(bids.displacement_path(made, name)), moved, atol=1 / 127)
    assert not bids.lesion_path(made, "sub-trainhealthy001").exists()


def test_the_table_has_all_parameters_with_their_units(made):
    table = bids.read_participants(made).set_index("participant_id")
    meaning = json.loads((made / "participants.json").read_text())
    assert set(meaning) == set(table.reset_index().columns)
    assert all(entry["Description"] for entry in meaning.values())
    assert meaning["noise_sd"]["Units"] and meaning["ventricles_mm"]["Units"] == "mm"
    assert table.loc["sub-testms001", "lesion_ml"] > 0 and table.loc["sub-trainhealthy001", "lesion_ml"] == 0
    assert np.isnan(float(table.loc["sub-trainhealthy001", "radius_mm"]))
    drawn = cohort.simulate(3, "sub-testms001")[4]
    for key, value in drawn.items():
        assert float(table.loc["sub-testms001", key]) == pytest.approx(value, abs=1e-5)


def test_the_description_says_what_it_is(made):
    description = bids.read_description(made)
    text = json.dumps(description)
    assert "simulated" in text.lower() and "Fonov" in text and "McGill" in text
    assert description["GeneratedBy"][0]["Version"] == cohort.GENERATOR


def test_names_that_are_no_subjects_are_refused():
    for name in ("sub-testflu001", "sub-testms1", "../sub-testms001"):
        with pytest.raises(BadInput):
            cohort.simulate(0, name)
    with pytest.raises(BadInput):
        cohort.cohort_plan("huge")


def test_the_command_line_names_the_folder(made, capsys):
    cohort.main(["--profile", "quick", "--seed", "3", "--workers", "1", "--folder", str(made)])
    assert f"5 subjects in {made}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cohort.main(["--seed", "9", "--folder", str(made)])
    assert "another cohort" in capsys.readouterr().err
