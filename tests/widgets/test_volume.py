"""The volume viewer: what it shows and counts against direct indexing, and its two views without a browser."""

from __future__ import annotations

import gc
import sys
import time
from itertools import product

import ipywidgets as widgets
import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pandas as pd
import pytest

from course_lib.errors import BadInput
from course_lib.images import bids
from course_lib.images.slices import SliceSet
from course_lib.metrics.lesions import match
from course_lib.metrics.scores import Scores
from course_lib.widgets import driver, pictures
from course_lib.widgets.volume import VolumeExplorer, VolumeState, niivue_viewer, view, volume_viewer
from course_lib.widgets.volume.figure import volume_figure
from course_lib.widgets.volume.state import PLANES, TRUTH

SPACING = (2.0, 3.0, 4.0)
AFFINE = np.array([[2.0, 0, 0, -11], [0, 3, 0, -20], [0, 0, 4, 7], [0, 0, 0, 1]])
GRID = np.array([[2.0, 0, 0, -98], [0, 2, 0, -134], [0, 0, 2, -72], [0, 0, 0, 1]])  # of the course's 2 mm volumes


@pytest.fixture(autouse=True)
def close():
    yield
    widgets.Widget.close_all()
    plt.close("all")


def small(seed: int = 0, **options) -> VolumeState:
    """A volume of 12 x 10 x 6 voxels with two lesions, one of which reaches out of the brain."""
    rng = np.random.default_rng(seed)
    shape = (12, 10, 6)
    brain = np.zeros(shape, bool)
    brain[1:11, 1:9, :5] = True
    lesion = np.zeros(shape, bool)
    lesion[2:5, 2:4, 1:3] = lesion[8:12, 5:8, 3:6] = True
    image = np.where(brain, rng.uniform(0.1, 1.2, shape), 0)
    given = {"lesion": lesion, "brain": brain, "affine": AFFINE} | options
    return VolumeState(image, rng.uniform(0, 1, shape), **given)


def large(shape=(98, 116, 94), affine=GRID) -> VolumeState:
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    brain = (places**2).sum(0) < 0.8
    lesion = ((places - 0.2) ** 2).sum(0) < 0.02
    image = np.where(brain, rng.uniform(0.1, 1.2, shape), 0)
    return VolumeState(image, rng.normal(0.3, 0.1, shape) + 0.2 * lesion, lesion=lesion, brain=brain, affine=affine)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A folder with one ill person, in whose image each voxel differs, and the folder's slices."""
    folder, rng = tmp_path_factory.mktemp("cohort"), np.random.default_rng(0)
    brain, lesion = np.zeros((2, 98, 116, 94), bool)
    brain[20:80, 30:100, 32:60] = True
    lesion[30:34, 80:85, 40:50] = lesion[60:66, 40:45, 45:47] = True
    image = np.where(brain, rng.uniform(0.2, 1.2, brain.shape), 0).astype(np.float32)
    paths = (bids.image_path, bids.brain_path, bids.lesion_path)
    for path, data in zip(paths, (image, brain.astype(np.uint8), lesion.astype(np.uint8)), strict=True):
        path(folder, "sub-a").parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(data, GRID), path(folder, "sub-a"))
    row = {"participant_id": "sub-a", "split": "test", "family": "ms"}
    bids.write_participants(folder, pd.DataFrame([row]))
    bids.write_description(folder, "toy", licence="CC0", citation="Doe 2020")
    return folder, SliceSet.from_bids(folder, progress=False)


def scored(slices: SliceSet, seed: int = 1) -> Scores:
    noise = np.random.default_rng(seed).uniform(0, 1, slices.images.shape)
    return Scores(2 * slices.images + noise, slices.masks, slices.brains, slices.table)


# ---- where things are -----------------------------------------------------------------------------------------------


def test_a_stacked_subject_lies_where_its_nifti_file_says(cohort):
    folder, slices = cohort
    scores = scored(slices)
    state = VolumeState.from_scores(slices, scores, "sub-a")
    assert state.image.shape == (96, 96, len(slices)) and state.spacing_mm.tolist() == [2, 2, 4]
    files = {
        "image": bids.image_path(folder, "sub-a"),
        "brain": bids.brain_path(folder, "sub-a"),
        "lesion": bids.lesion_path(folder, "sub-a"),
    }
    rng, volumes = np.random.default_rng(2), {name: nibabel.load(path) for name, path in files.items()}
    in_lesion = 0
    for k in range(60):
        x, y = (rng.integers(-40, -28), rng.integers(26, 36)) if k % 2 else rng.integers(-45, 45, 2)
        mm = np.array([2 * (x // 2), 2 * (y // 2), rng.choice(slices.table["z_mm"])], float)
        state.set_cursor(mm)
        assert state.cursor_mm.tolist() == mm.tolist()
        for name, volume in volumes.items():
            voxel = tuple(np.rint(np.linalg.solve(volume.affine, [*mm, 1])[:3]).astype(int))
            value = volume.dataobj[voxel]
            assert getattr(state, name)[tuple(state.cursor)] == pytest.approx(value)
            in_lesion += name == "lesion" and value > 0
        row, column = (76 - mm[1]) / 2, (mm[0] + 96) / 2
        number = int(np.flatnonzero(slices.table["z_mm"] == mm[2])[0])
        assert state.anomaly[tuple(state.cursor)] == scores.maps[number, int(row), int(column)]
    assert in_lesion > 5


def test_left_is_left_front_is_up_in_the_axial_and_right_in_the_sagittal_plane():
    image = np.full((20, 20, 20), 0.1, np.float32)
    image[3, 16, 12] = 1.2  # left, front, above the middle
    state = VolumeState(image, image, affine=np.diag([2.0, 2, 2, 1]))  # the highest score is under the cursor
    for plane, (right, down) in {"axial": (0, 0), "coronal": (0, 0), "sagittal": (1, 0)}.items():
        state.overlay = False
        picture = state.picture(plane)[..., 0].astype(int)
        rows, columns = np.nonzero(picture > 200)
        height, width = picture.shape
        assert (columns.mean() > width / 2, rows.mean() > height / 2) == (right, down)
        column, row = state.cursor_pixel(plane)
        assert (column, row) == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5))
    assert view.SIDES == {"axial": "LRAP", "coronal": "LR", "sagittal": "PA"}


def test_every_pixel_shows_the_voxel_it_lies_in():
    state, rng = small(threshold=0.6), np.random.default_rng(3)
    state.outline = False
    for _ in range(20):
        state.cursor = rng.integers(0, state.image.shape)
        state.opacity = float(rng.choice([0.3, 1.0]))
        for plane, (across, up, fixed) in PLANES.items():
            picture = state.picture(plane)
            height, width = picture.shape[:2]
            mm = {across: AFFINE[across, 3] - SPACING[across] / 2 + (np.arange(width) + 0.5) / state.scale}
            mm[up] = AFFINE[up, 3] - SPACING[up] / 2 + (height - np.arange(height) - 0.5) / state.scale
            voxel = {k: np.rint((mm[k] - AFFINE[k, 3]) / SPACING[k]).astype(int) for k in mm}
            index = [None] * 3
            index[across], index[up] = voxel[across][None, :], voxel[up][:, None]
            index[fixed] = state.cursor[fixed]
            image, anomaly, brain = (array[tuple(index)] for array in (state.image, state.anomaly, state.brain))
            grey, heat = pictures.grey(image), pictures.heat(anomaly, state.ends[1])
            mixed = np.rint(grey + state.opacity * (heat.astype(float) - grey))
            marked = (anomaly >= 0.6) & brain
            assert (picture == np.where(marked[..., None], mixed, grey)).all()


def test_millimetres_are_equally_long_in_both_directions():
    for state in (small(), large((96, 96, 17), np.diag([2.0, 2, 4, 1]))):
        for plane, (across, up, _) in PLANES.items():
            width, height = state.pixels(plane)
            size = np.array(state.image.shape) * state.spacing_mm
            assert (
                width / size[across]
                == pytest.approx(height / size[up], rel=0.01)
                == pytest.approx(state.scale, rel=0.01)
            )
            assert max(width, height) <= 460


def test_the_outline_lies_on_the_lesions_border():
    state = small()
    state.overlay = False
    for plane in PLANES:
        inside = np.pad(state.truth(plane), 1)
        core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        drawn = (state.picture(plane) == TRUTH).all(-1)
        assert (drawn == (inside[1:-1, 1:-1] & ~core)).all() and drawn.any()
    state.outline = False
    assert not (state.picture("axial") == TRUTH).all(-1).any()


# ---- what is counted ------------------------------------------------------------------------------------------------


def flood(mask: np.ndarray) -> list[set]:
    """Pieces of 26 neighbours, one voxel after the other."""
    left, pieces = {tuple(int(i) for i in v) for v in np.argwhere(mask)}, []
    steps = [s for s in product((-1, 0, 1), repeat=3) if any(s)]
    while left:
        todo, piece = [left.pop()], set()
        while todo:
            voxel = todo.pop()
            piece.add(voxel)
            near = {tuple(a + b for a, b in zip(voxel, s, strict=True)) for s in steps} & left
            left -= near
            todo += near
        pieces.append(piece)
    return pieces


def test_numbers_are_those_of_brute_force():
    state, seen = small(), set()
    truth = state.lesion & state.brain
    lesions = flood(truth)
    for k, threshold in enumerate(np.linspace(0.3, 1.02, 20)):
        state.set_threshold(threshold)
        state.min_voxels = (0, 1, 2, 5)[k % 4]
        pieces = [p for p in flood((state.anomaly >= threshold) & state.brain) if len(p) >= state.min_voxels]
        marked = set().union(*pieces)
        found = sum(bool(lesion & marked) for lesion in lesions)
        reading = state.reading()
        assert {tuple(v) for v in np.argwhere(state.detected()).tolist()} == marked
        assert reading.voxels == len(marked)
        assert reading.detected_ml == pytest.approx(len(marked) * 0.024)
        assert reading.lesion_ml == pytest.approx(truth.sum() * 0.024)
        assert (reading.pieces, reading.found, reading.missed) == (len(pieces), found, len(lesions) - found)
        assert reading.false == sum(not p & set().union(*lesions) for p in pieces)
        both = len(marked & set().union(*lesions))
        assert reading.dice == pytest.approx(2 * both / (len(marked) + truth.sum()))
        seen.add((reading.found, reading.false > 0, reading.pieces > 3))
    assert len(seen) > 3


def test_pieces_are_those_of_the_lesion_metrics(cohort):
    _, slices = cohort
    scores = scored(slices)
    state = VolumeState.from_scores(slices, scores, "sub-a")
    for threshold in np.quantile(scores.maps[scores.brains], [0.9, 0.99, 0.999]):
        state.set_threshold(threshold)
        known, reading = match(scores.detections(threshold), scores, volumes=True), state.reading()
        assert reading.pieces == len(known.detections) and reading.voxels == known.detections["pixels"].sum()
        assert reading.false == (~known.detections["true"]).sum()
        assert (reading.found, reading.missed) == (known.lesions["found"].sum(), (~known.lesions["found"]).sum())


def test_a_threshold_that_is_a_score_counts_it():
    state = small()
    highest = state.anomaly[state.brain].max()
    state.set_threshold(highest)
    assert state.reading().voxels == 1
    state.set_threshold(float(np.nextafter(np.float64(highest), 2)))
    assert state.reading().voxels == 0


def test_without_a_truth_there_is_no_number_about_it():
    reading = small(lesion=None).reading()
    assert (
        np.isnan([reading.dice, reading.lesion_ml]).all() and reading.found is reading.false is reading.lesion is None
    )
    healthy = small(lesion=np.zeros((12, 10, 6), bool), threshold=2.0).reading()
    assert np.isnan(healthy.dice) and healthy.lesion_ml == healthy.found == healthy.missed == healthy.false == 0


def test_a_map_that_says_nothing_and_one_below_zero_can_be_looked_at():
    state = small()
    flat = VolumeState(state.image, np.zeros_like(state.image), affine=AFFINE)
    assert flat.ends == (0, 1) and driver.walk(VolumeExplorer(flat)) > 0
    negative = VolumeState(state.image, state.anomaly - 5, affine=AFFINE)
    assert negative.colours == negative.ends and negative.colours[0] < 0


# ---- settings -------------------------------------------------------------------------------------------------------


def test_the_cursor_takes_the_nearest_voxel_and_stays_inside():
    state = small()
    state.set_cursor([-11 + 2 * 4 + 0.9, -20 + 3 * 5 - 1.4, 7 + 4 * 2 + 1.9])
    assert state.cursor.tolist() == [4, 5, 2] and state.cursor_mm.tolist() == [-3, -5, 15]
    reading = state.reading()
    assert reading.image == state.image[4, 5, 2] and reading.anomaly == state.anomaly[4, 5, 2]
    for place in ([-13, 0, 7], [0, 0, 40], [0, np.nan, 7], [0, 0]):
        with pytest.raises(BadInput):
            state.set_cursor(place)
    assert state.cursor.tolist() == [4, 5, 2]


def test_jumps():
    state = small()
    state.jump_to_highest()
    inside = np.where(state.brain, state.anomaly, -1)
    assert inside[tuple(state.cursor)] == inside.max()
    state.jump_to_lesion()
    sizes = {len(piece): piece for piece in flood(state.lesion)}
    assert tuple(state.cursor.tolist()) in sizes[max(sizes)]
    with pytest.raises(BadInput, match="no lesion"):
        small(lesion=None).jump_to_lesion()


def test_slices_that_are_left_out_are_empty_and_others_are_refused(cohort):
    _, slices = cohort
    scores = scored(slices)
    some = scores.select(np.delete(np.arange(len(slices)), 4)[::-1])  # in any order
    state = VolumeState.from_scores(slices, some, "sub-a")
    assert state.image.shape[2] == len(slices) and not state.brain[..., 4].any() and state.brain[..., 5].any()
    assert VolumeState.from_scores(slices, scores.select(np.arange(0, 8, 2)), "sub-a").spacing_mm[2] == 8
    for which, subject in ((scores, "sub-b"), (scores.select([3]), "sub-a"), (scores.select([3, 3, 4]), "sub-a")):
        with pytest.raises(BadInput):
            VolumeState.from_scores(slices, which, subject)
    with pytest.raises(BadInput, match="multiples"):
        VolumeState.from_scores(slices, scores.select([0, 2, 5]), "sub-a")
    with pytest.raises(BadInput, match="not all slices"):
        VolumeState.from_scores(slices.select([0, 1]), scores, "sub-a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"affine": np.diag([-2.0, 2, 2, 1])}, "RAS"),
        ({"affine": np.eye(4)[[1, 0, 2, 3]]}, "RAS"),
        ({"affine": np.eye(3)}, "RAS"),
        ({"brain": np.zeros((12, 10, 6), bool)}, "empty"),
        ({"brain": np.ones((12, 10, 5), bool)}, "brain has"),
        ({"lesion": np.full((12, 10, 6), 2)}, "binary"),
        ({"ends": (1.0, 0.0)}, "range"),
        ({"threshold": np.nan}, "threshold"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(BadInput, match=message):
        small(**change)


def test_values_and_shapes_that_are_refused():
    state = small()
    holed = state.anomaly.copy()
    holed[5, 5, 2] = np.nan
    with pytest.raises(BadInput, match="NaN"):
        VolumeState(state.image, holed, affine=AFFINE)
    with pytest.raises(BadInput, match="two voxels"):
        VolumeState(state.image[..., :1], state.anomaly[..., :1], affine=AFFINE)
    with pytest.raises(BadInput, match="anomaly has"):
        VolumeState(state.image, state.anomaly[1:], affine=AFFINE)


# ---- the view -------------------------------------------------------------------------------------------------------


def test_every_control_can_be_walked(cohort):
    _, slices = cohort
    explorer = VolumeExplorer(VolumeState.from_scores(slices, scored(slices), "sub-a"))
    before = {name: getattr(control, "value", None) for name, control in explorer.controls.items()}
    assert driver.walk(explorer) >= 30
    assert explorer.errors.outputs == () and explorer.said.value == ""
    moved = {name for name, control in explorer.controls.items() if getattr(control, "value", None) != before[name]}
    assert moved <= {"x", "y", "z"}  # the buttons move the cursor
    assert all(control.description for control in explorer.controls.values())


def test_controls_change_the_state_and_follow_it():
    explorer = VolumeExplorer(small())
    state = explorer.state
    for name, value in {"x": -3.0, "y": 1.0, "z": 15.0, "min_voxels": 3, "overlay": False, "opacity": 0.5}.items():
        driver.set_control(explorer, name, value)
    assert state.cursor_mm.tolist() == [-3, 1, 15]
    assert (state.min_voxels, state.overlay, state.opacity) == (3, False, 0.5)
    driver.set_control(explorer, "highest")
    assert [explorer.controls[name].value for name in "xyz"] == state.cursor_mm.tolist()
    stop = explorer.controls["threshold"].options[200][1]
    driver.set_control(explorer, "threshold", stop)
    assert state.threshold == stop and f"{stop:.4g}" in explorer.table.value
    assert VolumeExplorer(small(lesion=None)).controls["largest"].disabled


def test_a_refusal_is_said_and_an_error_is_kept():
    explorer = VolumeExplorer(small())
    explorer._act("x", 1e6)
    assert 'role="alert"' in explorer.said.value and "outside" in explorer.said.value
    explorer.state.cut = None
    with pytest.raises(TypeError):  # without a kernel it comes through the Output
        explorer._act("x", -3.0)


def test_planes_that_stay_the_same_are_not_drawn_again(monkeypatch):
    explorer = VolumeExplorer(small(threshold=0.9))
    drawn = []
    monkeypatch.setattr(view, "put", lambda place, picture, says: drawn.append(says.split()[0]))
    explorer._act("threshold", 5.0)
    drawn.clear()
    explorer._act("opacity", 0.1)  # nothing is marked
    assert drawn == []
    explorer._act("z", 7.0)
    assert sorted(drawn) == ["axial", "coronal", "sagittal"]


def test_planes_have_a_sentence_and_captions(cohort):
    _, slices = cohort
    explorer = VolumeExplorer(VolumeState.from_scores(slices, scored(slices), "sub-a"))
    for plane, place in explorer.planes.items():
        assert place.says.value.startswith(f"{plane} plane, ") and "lesion voxels" in place.says.value
        assert bytes(place.image.value).startswith(b"\x89PNG")
    state = explorer.state
    assert f"z = {state.cursor_mm[2]:g} mm" in explorer.captions["axial"].value
    assert "slices 4 mm apart" in explorer.table.value and "not known" in explorer.table.value


@pytest.mark.parametrize("shape", [(96, 96, 17), (98, 116, 94)])
def test_a_step_is_quick(shape):
    explorer = VolumeExplorer(large(shape, np.diag([2.0, 2, 4 if shape[2] == 17 else 2, 1])))
    for name in ("x", "z", "threshold"):
        control, seconds = explorer.controls[name], []
        for value in driver.positions(control, 15):
            start = time.process_time()  # not of other jobs on this machine
            control.value = value
            seconds.append(time.process_time() - start)
        assert np.median(seconds) < 0.05, name


# ---- the figure -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesion", [True, False])
def test_figure_has_axes_in_millimetres(lesion):
    state = small() if lesion else small(lesion=None)
    fig = volume_figure(state)
    axes = [ax for ax in fig.axes if ax.images]
    assert [ax.get_title() for ax in axes] == [
        f"{plane}, {'xyz'[fixed]} = {state.cursor_mm[fixed]:g} mm" for plane, (_, _, fixed) in PLANES.items()
    ]
    for ax, (across, up, _) in zip(axes, PLANES.values(), strict=True):
        assert ax.get_xlabel().startswith("xyz"[across]) and ax.get_xlabel().endswith("(mm)")
        assert ax.get_ylabel().startswith("xyz"[up]) and ax.get_ylabel().endswith("(mm)")
        for limits, axis in ((ax.get_xlim(), across), (ax.get_ylim(), up)):
            first, half = AFFINE[axis, 3], SPACING[axis] / 2
            assert limits == (first - half, first + (state.image.shape[axis] - 1) * SPACING[axis] + half)
        assert ax.get_aspect() == 1
    letters = [[text.get_text() for text in ax.texts] for ax in axes]
    assert letters == [["L", "R", "A", "P"], ["L", "R"], ["P", "A"]]
    assert ("Dice" in fig.get_suptitle()) == lesion
    fig.canvas.draw()


# ---- NiiVue ---------------------------------------------------------------------------------------------------------


def test_niivue_shows_both_volumes_and_its_threshold_follows():
    ipyniivue = pytest.importorskip("ipyniivue")
    state = small(threshold=0.7)
    viewer = niivue_viewer(state)
    assert isinstance(viewer.viewer, ipyniivue.NiiVue) and len(viewer.viewer.volumes) == 2
    image, overlay = (nibabel.load(viewer.folder / f"{name}.nii.gz") for name in ("image", "map"))
    for file, data in ((image, state.image), (overlay, np.where(state.brain, state.anomaly, 0))):
        assert (file.affine == AFFINE).all() and (file.get_fdata(dtype=np.float32) == data).all()
    assert viewer.viewer.volumes[1].cal_min == pytest.approx(0.7)
    stop = viewer.controls["threshold"].options[300][1]
    driver.set_control(viewer, "threshold", stop)
    assert viewer.viewer.volumes[1].cal_min == stop == state.threshold
    assert f"{state.reading().detected_ml:.2f} ml" in viewer.table.value
    driver.set_control(viewer, "opacity", 0.25)
    assert viewer.viewer.volumes[1].opacity == 0.25
    assert driver.walk(viewer) == 10 and viewer.said.value == ""
    state.min_voxels = 4
    viewer.show()
    assert "below 4 voxels are drawn" in viewer.legend.value
    assert isinstance(volume_viewer(state), type(viewer))


def test_niivues_files_go_with_it():
    pytest.importorskip("ipyniivue")
    viewer = niivue_viewer(small())
    folder = viewer.folder
    assert folder.is_dir()
    widgets.Widget.close_all()
    del viewer
    gc.collect()
    assert not folder.exists()


def test_niivue_of_a_map_below_zero():
    pytest.importorskip("ipyniivue")
    state = small()
    viewer = niivue_viewer(VolumeState(state.image, state.anomaly - 5, affine=AFFINE, threshold=-4.2))
    overlay = nibabel.load(viewer.folder / "map.nii.gz").get_fdata()
    assert overlay.min() >= viewer.state.anomaly.min() - viewer.state.colours[0]
    assert viewer.viewer.volumes[1].cal_min == pytest.approx(-4.2 - viewer.state.colours[0])


def test_without_ipyniivue_our_planes_are_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(BadInput, match=r'pip install "learning-normal\[viewer\]"'):
        niivue_viewer(small())
    assert isinstance(volume_viewer(small()), VolumeExplorer)


def test_our_planes_can_be_asked_for():
    assert isinstance(volume_viewer(small(), prefer_niivue=False), VolumeExplorer)
