"""Inserted pathology: exact masks, stated sizes, intensities and displacements, live speed, refusals."""

import time

import numpy as np
import pytest
from scipy import ndimage

from course_lib.errors import BadInput
from course_lib.images import anatomy, pathology
from course_lib.images.lattice import axial_slices
from course_lib.images.volumes import normalise

LOCAL = ("ms", "stroke", "tumour", "texture", "resection")
SOFT_MM = {"ms": 12, "stroke": 20, "tumour": 16, "texture": 12, "resection": 8}  # how far soft edges reach


@pytest.fixture(scope="module")
def subject():
    return anatomy.healthy_subject(np.random.default_rng(11))


@pytest.fixture(scope="module")
def picture(subject):
    return axial_slices(normalise(subject.image, subject.brain), subject.affine, [18])[18]


def put(subject, family, seed=0, **options):
    options = {"brain": subject.brain, "tissue": subject.tissue, "unit": subject.unit, **options}
    return pathology.place(subject.clean, family, np.random.default_rng(seed), **options)


@pytest.mark.parametrize("family", pathology.FAMILIES)
def test_the_same_stream_gives_the_same_case(subject, family):
    one, two = put(subject, family), put(subject, family)
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.mask, two.mask)
    assert one.parameters == two.parameters
    assert one.mask.dtype == bool and one.image.dtype == np.float32
    assert one.mask.any() and not one.mask[~subject.brain].any()
    np.testing.assert_array_equal(one.image[~subject.brain], 0)
    assert one.image[subject.brain].min() > 0


@pytest.mark.parametrize("family", LOCAL)
def test_nothing_changes_beyond_the_mask_and_its_soft_edge(subject, family):
    done = put(subject, family, seed=1)
    far = ndimage.distance_transform_edt(~done.mask, sampling=2.0) > SOFT_MM[family]
    if family == "tumour":  # tissue that is pushed away changes too, and the displacement says where
        far &= done.displacement_mm == 0
    np.testing.assert_array_equal(done.image[far], subject.clean[far])
    changed = np.abs(done.image - subject.clean)
    if family != "tumour":
        assert changed[done.mask].sum() > 0.55 * changed.sum()
    again = subject.again(done.image)
    np.testing.assert_array_equal(again[far], subject.image[far])  # bias and noise are those of the healthy twin


@pytest.mark.parametrize("family", ["ms", "stroke", "tumour", "resection"])
def test_the_mask_holds_what_changed_most(subject, family):
    done = put(subject, family, seed=2, **({"push_mm": 0, "necrosis": 0} if family == "tumour" else {}))
    change = np.abs(done.image - subject.clean) / subject.unit
    near = ndimage.binary_dilation(done.mask, iterations=2) & ~done.mask & subject.brain
    assert np.median(change[done.mask]) > 0.7
    assert np.median(change[done.mask]) > 2 * np.median(change[near])


@pytest.mark.parametrize(
    ("family", "low", "high"),
    [
        ("ms", 0.3, 12),
        ("stroke", 2, 40),
        ("tumour", 4, 60),
        ("texture", 1, 20),
        ("resection", 1.5, 25),
        ("atrophy", 60, 500),
        ("midlineshift", 200, 800),
    ],
)
def test_volumes_are_in_the_range_of_the_family(subject, family, low, high):
    for seed in range(4):
        ml = put(subject, family, seed).mask.sum() * 0.008
        assert low < ml < high


def test_a_tumour_of_a_given_radius_has_about_the_volume_of_its_ball(subject):
    deep = subject.tissue["wm"] * (ndimage.distance_transform_edt(subject.brain) > 10)
    centre = np.unravel_index(np.argmax(ndimage.gaussian_filter(deep, 3)), deep.shape)
    done = put(subject, "tumour", centre=centre, radius_mm=12, oedema_mm=0, push_mm=0)
    assert done.mask.sum() * 8 == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.35)
    middle = np.array(ndimage.center_of_mass(done.mask))
    assert np.linalg.norm(middle - centre) < 3


def test_ms_lies_in_white_matter_and_mostly_near_the_ventricles(subject):
    weight = np.zeros_like(subject.brain, dtype=int)
    for seed in range(8):
        weight += put(subject, "ms", seed).mask
    wm = np.average(subject.tissue["wm"], weights=weight)
    near = np.average(subject.tissue["ventricle_mm"] < 15, weights=weight)
    usual = (subject.tissue["ventricle_mm"] < 15)[subject.tissue["wm"] > 0.75].mean()
    assert wm > 0.8 and near > 1.5 * usual


def test_a_stroke_is_dark_one_sided_and_reaches_the_cortex(subject):
    middle = np.nonzero(subject.brain)[0].mean()
    for seed in range(4):
        done = put(subject, "stroke", seed)
        change = (done.image - subject.clean)[done.mask] / subject.unit
        assert -3 < change.mean() < -0.8
        side = np.nonzero(done.mask)[0] - middle
        assert (side > 0).all() or (side < 0).all()
        assert subject.tissue["gm"][done.mask].max() > 0.9 and subject.tissue["wm"][done.mask].max() > 0.9


def test_texture_keeps_the_mean_and_changes_the_spread(subject):
    for seed in range(4):
        done = put(subject, "texture", seed, texture=1.5)
        change = (done.image - subject.clean)[done.mask] / subject.unit
        assert abs(change.mean()) < 0.02
        assert 1.0 < change.std() < 2.2


@pytest.mark.parametrize(
    ("family", "given", "stated"),
    [
        ("midlineshift", {"shift_mm": 8.0}, 8.0),
        ("midlineshift", {"shift_mm": -8.0}, 8.0),
        ("atrophy", {"ventricles_mm": 6.0, "sulci_mm": 0.0}, 6.0),
        ("tumour", {"push_mm": 5.0, "radius_mm": 12.0}, 5.0),
    ],
)
def test_the_displacement_has_the_stated_magnitude(subject, family, given, stated):
    done = put(subject, family, **given)
    assert 0.8 * stated < done.displacement_mm.max() <= 1.02 * stated
    if family != "tumour":
        np.testing.assert_array_equal(done.mask, (done.displacement_mm >= pathology.MOVED_MM) & subject.brain)
    still = (done.displacement_mm == 0) & ~ndimage.binary_dilation(done.mask, iterations=8)
    np.testing.assert_array_equal(done.image[still], subject.clean[still])


@pytest.mark.parametrize("shift", [8.0, -8.0])
def test_the_midline_moves_by_what_is_stated(subject, shift):
    """The image at x is the old one at x - shift: compare along x where the field is nearly constant."""
    done = put(subject, "midlineshift", shift_mm=shift)
    core = done.displacement_mm > 0.9 * abs(shift)
    voxels = round(shift / 2)
    moved = np.roll(subject.clean, voxels, axis=0)
    core &= np.roll(subject.brain, voxels, axis=0)
    right = np.corrcoef(done.image[core], moved[core])[0, 1]
    unmoved = np.corrcoef(done.image[core], subject.clean[core])[0, 1]
    assert core.sum() > 1000 and right > 0.85 and right > unmoved + 0.3


def test_atrophy_enlarges_the_ventricles_and_keeps_the_intensities(subject):
    done = put(subject, "atrophy", ventricles_mm=5, sulci_mm=0.8)
    near = (subject.tissue["ventricle_mm"] < 12) & subject.brain
    fluid = 0.5 * (subject.parameters["csf_level"] + subject.parameters["wm_level"])
    assert (done.image < fluid)[near].sum() > 1.4 * (subject.clean < fluid)[near].sum()
    assert done.image[subject.brain].max() <= subject.clean.max() * 1.1


def test_no_displacement_leaves_the_image_alone(subject):
    done = put(subject, "atrophy", ventricles_mm=0, sulci_mm=0)
    np.testing.assert_array_equal(done.image, subject.clean)
    assert not done.mask.any()


@pytest.mark.parametrize("family", pathology.FAMILIES)
def test_a_slice_is_changed_live(picture, family):
    times = []
    for seed in range(9):
        start = time.process_time()
        changed, mask = pathology.insert(picture, family, np.random.default_rng(seed))
        times.append(time.process_time() - start)
        assert changed.shape == mask.shape == (96, 96) and mask.any()
        np.testing.assert_array_equal(changed > 0, picture > 0)
    assert np.median(times) < 0.050


def test_a_slice_obeys_the_sliders(picture):
    centre = (40, 30)
    options = {"centre": centre, "radius_mm": 10, "texture": 0}
    bright, mask = pathology.insert(picture, "ms", np.random.default_rng(0), intensity=4, **options)
    dark, same = pathology.insert(picture, "ms", np.random.default_rng(0), intensity=-2, **options)
    np.testing.assert_array_equal(mask, same)  # the intensity does not change the shape
    inside = ndimage.binary_erosion(mask, iterations=1)
    assert mask[centre] and inside.any()
    assert np.median((bright - picture)[inside]) == pytest.approx(4 / 8, abs=0.06)
    assert np.median((dark - picture)[inside]) == pytest.approx(-2 / 8, abs=0.06)
    small = pathology.insert(picture, "ms", np.random.default_rng(0), intensity=4, centre=centre, radius_mm=5)[1]
    assert small.sum() < mask.sum()


def test_giving_one_parameter_leaves_the_others_as_drawn(subject):
    free, held = put(subject, "stroke").parameters, put(subject, "stroke", intensity=-1.0).parameters
    assert held["intensity"] == -1.0
    assert {k: v for k, v in held.items() if k == "angle_deg"} == {k: v for k, v in free.items() if k == "angle_deg"}


def test_centres_are_drawn_where_they_may_lie(subject):
    where = np.zeros_like(subject.brain)
    where[:, :, 40:44] = True
    for family in LOCAL:
        assert 40 <= put(subject, family, where=where).parameters["centre_z"] < 44


@pytest.mark.parametrize(
    ("family", "options", "field"),
    [
        ("flu", {}, "family"),
        ("ms", {"size": 3}, "size"),
        ("ms", {"radius_mm": -1}, "radius_mm"),
        ("ms", {"radius_mm": float("nan")}, "radius_mm"),
        ("ms", {"radius_mm": "large"}, "radius_mm"),
        ("ms", {"centre": (0, 0)}, "centre"),
        ("ms", {"centre": (500, 3)}, "centre"),
        ("ms", {"centre": (1, 2, 3)}, "centre"),
        ("ms", {"centre": (float("nan"), 3)}, "centre"),
        ("atrophy", {"centre": (40, 40)}, "centre"),
        ("tumour", {"push_mm": 12, "radius_mm": 5}, "push_mm"),
        ("ms", {"unit": 0}, "unit"),
        ("ms", {"spacing_mm": float("inf")}, "spacing_mm"),
        ("ms", {"brain": np.zeros((96, 96), bool)}, "brain"),
        ("ms", {"brain": np.ones((5, 5), bool)}, "brain"),
        ("ms", {"tissue": {"wm": np.ones((96, 96))}}, "tissue[gm]"),
        ("ms", {"where": np.zeros((96, 96), bool)}, "image"),
    ],
)
def test_nonsense_is_refused(picture, family, options, field):
    with pytest.raises(BadInput) as error:
        pathology.insert(picture, family, np.random.default_rng(0), **options)
    assert error.value.field == field


@pytest.mark.parametrize(
    "image",
    [
        np.full((96, 96), np.nan),
        np.ones((2, 2)),
        np.ones(96),
        np.ones((96, 96), complex),
        "image",
        np.zeros((96, 96)),
    ],
)
def test_images_that_are_none_are_refused(image):
    with pytest.raises(BadInput):
        pathology.insert(image, "ms", np.random.default_rng(0))


def test_the_input_is_not_written_to(picture):
    before = picture.copy()
    for family in pathology.FAMILIES:
        pathology.insert(picture, family, np.random.default_rng(0))
    np.testing.assert_array_equal(picture, before)
