import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from course_lib import maps
from course_lib.errors import BadInput

VOLUMES = hnp.arrays(np.float32, (3, 7, 9), elements=st.floats(-100, 100, width=32))


def disc(slices=3, size=24):
    y, x = np.mgrid[:size, :size]
    return np.repeat(((y - 12) ** 2 + (x - 11) ** 2 < 81)[None], slices, axis=0)


@given(VOLUMES, st.sampled_from([1, 3, 5]))
@settings(max_examples=60, deadline=None)
def test_the_median_is_scipys_slice_by_slice(volume, size):
    assert np.array_equal(maps.median_filter(volume, size), ndimage.median_filter(volume, (1, size, size)))


def test_the_median_of_one_picture_and_of_more_than_a_block():
    volume = np.random.default_rng(0).normal(size=(150, 5, 6)).astype(np.float32)
    filtered = maps.median_filter(volume, 3)
    assert np.array_equal(filtered, ndimage.median_filter(volume, (1, 3, 3)))
    assert np.array_equal(maps.median_filter(volume[7], 3), filtered[7])


@pytest.mark.parametrize("size", [0, 2, -3])
def test_a_median_without_a_centre_is_refused(size):
    with pytest.raises(BadInput):
        maps.median_filter(np.zeros((1, 4, 4)), size)


def test_the_rim_gets_the_lowest_value_of_its_slice_and_stays_finite():
    brains, volume = disc(), np.random.default_rng(0).normal(size=(3, 24, 24)).astype(np.float32)
    out = maps.erode_rim(volume, brains, 2)
    inner = np.stack([ndimage.binary_erosion(b, np.ones((3, 3)), iterations=2) for b in brains])
    assert np.array_equal(out[inner], volume[inner])
    for picture, before, brain, kept in zip(out, volume, brains, inner, strict=True):
        assert (picture[~kept] == before[brain].min()).all()
    assert np.array_equal(maps.erode_rim(volume, brains, 0)[brains], volume[brains])


def test_slices_do_not_touch_each_other():
    brains, volume = disc(), np.random.default_rng(0).normal(size=(3, 24, 24)).astype(np.float32)
    steps = [("rim", 2), ("median", 3), ("smooth", 1.2)]
    whole = maps.postprocess(volume, brains, steps)
    parts = [maps.postprocess(volume[i : i + 1], brains[i : i + 1], steps) for i in range(3)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_smoothing_keeps_a_constant_inside_the_brain_and_ignores_the_outside():
    brains = disc()
    volume = np.where(brains, np.float32(3), np.float32(1e6))
    assert np.allclose(maps.smooth(volume, brains, 2)[brains], 3, rtol=1e-5)
    noise = np.random.default_rng(0).normal(size=volume.shape)
    assert maps.smooth(noise, brains, 1.5)[brains].std() < 0.5 * noise[brains].std()
    assert np.array_equal(maps.smooth(noise, brains, 0), noise.astype(np.float32))


@given(hnp.arrays(bool, (2, 8, 8)), st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_removing_components_never_adds_and_keeps_the_large(binary, size):
    kept = maps.remove_small_components(binary, size)
    assert not (kept & ~binary).any()
    for before, after in zip(binary, kept, strict=True):
        labels, count = ndimage.label(before, np.ones((3, 3)))
        expected = [i for i in range(1, count + 1) if (labels == i).sum() >= size]
        assert np.array_equal(after, np.isin(labels, expected) & before)
    assert np.array_equal(maps.remove_small_components(kept, size), kept)


def test_a_median_of_a_large_component_is_not_lost_between_slices():
    binary = np.zeros((2, 5, 5), bool)
    binary[:, 2, 2] = True  # the same place in two slices: two components of one pixel
    assert not maps.remove_small_components(binary, 2).any()


def test_steps_are_applied_in_their_order_and_recorded():
    brains, volume = disc(), np.random.default_rng(0).normal(size=(3, 24, 24)).astype(np.float32)
    steps = [("rim", 2), ("median", 3)]
    expected = maps.median_filter(maps.erode_rim(volume, brains, 2), 3)
    assert np.array_equal(maps.postprocess(volume, brains, steps), expected)
    assert not np.array_equal(maps.postprocess(volume, brains, steps[::-1]), expected)
    assert maps.describe(steps) == "rim 2, median 3" and maps.describe(()) == "none"
    assert maps.minimal_component([*steps, ("components", 5)]) == 5 and maps.minimal_component(steps) == 0


def test_unknown_and_misplaced_steps_are_refused():
    for steps in ([("blur", 1)], [("components", 5), ("median", 3)]):
        with pytest.raises(BadInput):
            maps.postprocess(np.zeros((1, 4, 4)), np.ones((1, 4, 4)), steps)
    for call in (lambda b: maps.erode_rim(np.zeros((1, 4, 4)), b), lambda b: maps.smooth(np.zeros((1, 4, 4)), b)):
        with pytest.raises(BadInput, match="maps"):
            call(np.ones((1, 4, 5), bool))


def test_nothing_is_changed_in_place():
    brains, volume = disc(), np.random.default_rng(0).normal(size=(3, 24, 24)).astype(np.float32)
    binary = volume > 1
    copies = volume.copy(), brains.copy(), binary.copy()
    out = maps.postprocess(volume, brains, [("rim", 1), ("median", 3), ("median", 5), ("smooth", 1)])
    maps.remove_small_components(binary, 0)[:] = True
    maps.postprocess(volume, brains, ())[:] = 0
    assert all(np.array_equal(a, b) for a, b in zip((volume, brains, binary), copies, strict=True))
    assert out.dtype == np.float32
