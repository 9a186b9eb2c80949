"""Healthy subjects: the template, the deformation, the tissues, the scanner."""

import numpy as np
import pytest
import torch

from course_lib.images import anatomy
from course_lib.images.fields import sample, smooth_noise
from course_lib.images.volumes import normalise


@pytest.fixture(scope="module")
def subject():
    return anatomy.healthy_subject(np.random.default_rng(1))


def test_the_template_is_ras_at_2_mm_with_the_stated_grid():
    template = anatomy.template()
    assert template.t1.shape == (98, 116, 94)
    np.testing.assert_array_equal(np.diag(template.affine), [2, 2, 2, 1])
    np.testing.assert_array_equal(template.affine[:3, 3], [-98, -134, -72])
    assert (template.gm + template.wm + template.csf)[template.brain].max() < 1.1
    # The ventricles lie around (0, -15, 15) mm; the corpus of the left one at x = -12, z = 24 is fluid.
    assert template.ventricles[43, 57:73, 48].any()


def test_the_same_stream_gives_the_same_subject_and_another_another(subject):
    again = anatomy.healthy_subject(np.random.default_rng(1))
    other = anatomy.healthy_subject(np.random.default_rng(2))
    np.testing.assert_array_equal(subject.image, again.image)
    assert subject.parameters == again.parameters
    assert np.abs(subject.image - other.image).mean() > 0.01


def test_tissues_have_the_drawn_intensities(subject):
    levels, brain = subject.parameters, subject.brain
    for name, key in (("wm", "wm_level"), ("gm", "gm_level"), ("csf", "csf_level")):
        pure = brain & (subject.tissue[name] > 0.95)
        assert pure.sum() > 1000
        assert np.median(subject.clean[pure]) == pytest.approx(levels[key], abs=0.04)
    total = subject.tissue["gm"] + subject.tissue["wm"] + subject.tissue["csf"]
    np.testing.assert_allclose(total[brain], 1, atol=1e-3)
    assert total[~brain].max() == 0


def test_normalised_it_follows_the_convention(subject):
    image = normalise(subject.image, subject.brain)
    np.testing.assert_array_equal(image > 0, subject.brain)
    values = image[subject.brain]
    assert np.median(values) == pytest.approx(0.5, abs=1e-4)
    assert 1.4826 * np.median(np.abs(values - np.median(values))) == pytest.approx(1 / 8, abs=1e-4)


def test_the_noise_is_rician_with_the_stated_spread():
    subject = anatomy.healthy_subject(np.random.default_rng(3), noise=0.03)
    brain, signal = subject.brain, subject.clean * subject.bias
    bright = brain & (signal > 0.4)
    residual = (subject.image - signal)[bright]
    assert residual.std() == pytest.approx(0.03, rel=0.02)
    # Magnitude: E[m^2] = A^2 + 2 sigma^2 (Gudbjartsson and Patz 1995).
    excess = (subject.image[brain] ** 2 - signal[brain] ** 2).mean()
    assert excess == pytest.approx(2 * 0.03**2, rel=0.1)


def test_no_noise_and_unit_bias_leave_the_clean_image(subject):
    silent = np.zeros_like(subject.noise)
    ones = np.ones_like(subject.bias)
    image = anatomy.acquire(subject.clean, subject.brain, ones, silent)
    np.testing.assert_allclose(image[subject.brain], subject.clean[subject.brain], rtol=1e-6)


def test_the_deformation_is_small_and_does_not_fold():
    for seed in range(3):
        y, drawn = anatomy.deformation(np.random.default_rng(seed))
        grid = anatomy._coarse_grid()
        moved = 2.0 * (y - grid).norm(dim=0)
        assert 1 < moved.mean() < 8 and moved.max() < 25
        jacobian = torch.stack([torch.stack(torch.gradient(component)) for component in y / anatomy.COARSE])
        determinant = torch.linalg.det(jacobian.permute(2, 3, 4, 0, 1))
        assert determinant.min() > 0, f"folds with {drawn}"


def test_larger_ventricles_hold_more_fluid():
    found = []
    for seed in range(12):
        subject = anatomy.healthy_subject(np.random.default_rng(seed))
        inside = (subject.tissue["ventricle_mm"] < 0) & subject.brain
        found.append((subject.parameters["ventricle_growth_mm"], inside.sum()))
    growth, volume = np.array(found).T
    assert np.corrcoef(growth, volume)[0, 1] > 0.6


def test_every_drawn_parameter_is_explained(subject):
    assert set(subject.parameters) == set(anatomy.MEANINGS)
    assert all(np.isfinite(value) for value in subject.parameters.values())


def test_smooth_noise_has_unit_spread_and_the_stated_scale():
    rng = np.random.default_rng(0)
    fields = torch.stack([smooth_noise(rng, (40, 44, 36), 6)[0] for _ in range(20)])
    assert fields.shape == (20, 40, 44, 36)
    assert float(fields.std()) == pytest.approx(1, abs=0.06)
    near = float((fields[:, 1:] * fields[:, :-1]).mean())
    far = float((fields[:, 24:] * fields[:, :-24]).mean())
    assert near > 0.9 and abs(far) < 0.15


@pytest.mark.parametrize("shape", [(9, 8, 7), (9, 8)])
def test_sample_reproduces_linear_functions(shape):
    axes = np.indices(shape).astype(np.float32)
    volume = torch.from_numpy(sum((k + 1) * axis for k, axis in enumerate(axes)))[None]
    points = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (50, len(shape))).astype(np.float32))
    points = points * torch.tensor([n - 1.0 for n in shape])
    expected = sum((k + 1) * points[:, k] for k in range(len(shape)))
    torch.testing.assert_close(sample(volume, points)[0], expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(sample(volume, 2 * points, step=2)[0], expected, rtol=1e-5, atol=1e-4)
