"""Artefacts: what they do to the image, and what their masks hold."""

import numpy as np
import pytest

from course_lib.errors import BadInput
from course_lib.images import anatomy, artefacts
from course_lib.images.lattice import axial_slices
from course_lib.images.volumes import normalise


@pytest.fixture(scope="module")
def subject():
    return anatomy.healthy_subject(np.random.default_rng(12))


@pytest.fixture(scope="module")
def picture(subject):
    return axial_slices(normalise(subject.image, subject.brain), subject.affine, [18])[18]


@pytest.mark.parametrize("name", artefacts.ARTEFACTS)
def test_masks_hold_what_changed(subject, name):
    options = {"brain": subject.brain, "unit": subject.unit}
    changed, mask = artefacts.corrupt(subject.image, name, np.random.default_rng(0), **options)
    again, _ = artefacts.corrupt(subject.image, name, np.random.default_rng(0), **options)
    np.testing.assert_array_equal(changed, again)
    assert mask.any() and not mask[~subject.brain].any()
    np.testing.assert_array_equal(changed[~subject.brain], 0)
    assert changed[subject.brain].min() > 0
    if name == "missingslice":
        np.testing.assert_array_equal(changed[~mask], subject.image[~mask])
    else:
        difference = np.abs(changed - subject.image)[subject.brain & ~mask]
        assert difference.max() <= artefacts.CHANGED * subject.unit + 1e-5


def test_a_ghost_is_a_shifted_copy():
    """With period n the k-space comb adds copies N / n apart, each of strength s / n."""
    image = np.zeros((64, 40))
    image[20:24, 10:30] = 1.0
    brain = np.ones_like(image, dtype=bool)
    changed, _ = artefacts.corrupt(image, "ghosting", np.random.default_rng(0), brain=brain, ghosts=4, strength=0.4)
    expected = 0.4 / 4 / (1 - 0.4 / 4)
    np.testing.assert_allclose(changed[20:24, 10:30], 1, atol=1e-5)
    for shift in (16, 32, -16):
        np.testing.assert_allclose(np.roll(changed, -shift, axis=0)[20:24, 10:30], expected, atol=1e-5)
    assert changed[10:15].max() < 0.01


def test_a_spike_is_a_plane_wave_of_the_stated_length():
    image, brain = np.full((64, 64), 0.5), np.ones((64, 64), bool)
    changed, _ = artefacts.corrupt(image, "spike", np.random.default_rng(0), brain=brain, strength=2, wavelength_mm=16)
    wave = changed - 0.5
    assert np.abs(wave).max() == pytest.approx(2 / 8, rel=0.02)
    power = np.abs(np.fft.fft2(wave, s=(512, 512)))
    row, column = np.unravel_index(np.argmax(power), power.shape)
    frequency = np.hypot(np.fft.fftfreq(512)[row], np.fft.fftfreq(512)[column])
    assert 2.0 / frequency == pytest.approx(16, rel=0.05)


def test_missing_slices_lose_the_stated_share(subject):
    where = np.zeros_like(subject.brain)
    where[:, :, 40] = True
    drawn: dict = {}
    changed, mask = artefacts.corrupt(
        subject.image,
        "missingslice",
        np.random.default_rng(0),
        brain=subject.brain,
        where=where,
        drawn=drawn,
        slices=3,
        loss=0.75,
    )
    assert np.flatnonzero(mask.any(axis=(0, 1))).tolist() == [40, 41, 42]
    np.testing.assert_array_equal(mask[:, :, 41], subject.brain[:, :, 41])
    strong = mask & (subject.image > 0.1)
    np.testing.assert_allclose(changed[strong], 0.25 * subject.image[strong], rtol=1e-5)
    assert drawn["slices"] == 3 and drawn["loss"] == 0.75


@pytest.mark.parametrize("name", artefacts.ARTEFACTS)
def test_a_slice_is_changed_live(picture, name):
    changed, mask = artefacts.corrupt(picture, name, np.random.default_rng(0))
    assert changed.shape == mask.shape == (96, 96) and mask.any()
    np.testing.assert_array_equal(changed > 0, picture > 0)


def test_no_strength_no_change(picture):
    for name, off in (("ghosting", "strength"), ("spike", "strength"), ("missingslice", "loss")):
        changed, _ = artefacts.corrupt(picture, name, np.random.default_rng(0), **{off: 0})
        np.testing.assert_allclose(changed, picture, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("blur", {}, "artefact"),
        ("spike", {"angle": 3}, "angle"),
        ("spike", {"strength": -1}, "strength"),
        ("ghosting", {"ghosts": 1}, "ghosts"),
        ("spike", {"brain": np.zeros((96, 96), bool)}, "brain"),
        ("spike", {"unit": -1}, "unit"),
    ],
)
def test_nonsense_is_refused(picture, name, options, field):
    with pytest.raises(BadInput) as error:
        artefacts.corrupt(picture, name, np.random.default_rng(0), **options)
    assert error.value.field == field
