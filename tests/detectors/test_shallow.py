"""The closed-form detectors against direct computations and reference libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis
from sklearn.decomposition import PCA as Reference

from course_lib.detectors.levels import SliceLevels
from course_lib.detectors.pca import PCA
from course_lib.detectors.positional_gaussian import (
    BLUR,
    PRIOR,
    SMALLEST_VARIANCE,
    PositionalGaussian,
    gaussian_blur,
    local_statistics,
)
from course_lib.detectors.zscore import SMALLEST_SD, PixelZScore
from course_lib.errors import BadInput

SHAPE = (32, 32)


def test_levels_find_the_three_heights_and_know_them_again(brains, unseen):
    levels = SliceLevels(3)
    found = levels.fit(brains)
    names = found[:3].tolist()
    assert sorted(names) == [0, 1, 2]
    assert found.tolist() == [names[i % 3] for i in range(120)]
    assert levels(unseen).tolist() == [names[i % 3] for i in range(30)]


def test_a_lesion_does_not_change_the_level(brains, unseen):
    levels = SliceLevels(3)
    levels.fit(brains)
    ill = unseen.clone()
    ill[:, :, 10:20, 10:20] *= 1.8
    assert torch.equal(levels(ill), levels(unseen))


def test_more_levels_than_slices_are_refused(brains):
    with pytest.raises(BadInput, match="cannot make 17 levels"):
        SliceLevels(17).fit(brains[:5])


def test_zscore_is_the_distance_in_standard_deviations(brains, unseen):
    detector = PixelZScore(SHAPE, levels=1).fit(brains)
    values, x = brains[:, 0, 16, 16].double().numpy(), unseen[:, 0, 16, 16].double().numpy()
    expected = np.abs(x - values.mean()) / max(values.std(ddof=1), SMALLEST_SD)
    np.testing.assert_allclose(detector.anomaly_map(unseen)[:, 16, 16], expected, rtol=1e-5, atol=1e-5)


def test_zscore_keeps_the_heights_apart(brains, unseen):
    healthy, test = brains.clone(), unseen.clone()
    healthy[2::3], test[2::3] = 1.5 * healthy[2::3], 1.5 * test[2::3]  # one height is brighter than the others
    apart = PixelZScore(SHAPE, levels=3).fit(healthy).anomaly_score(test[2::3]).mean()
    mixed = PixelZScore(SHAPE, levels=1).fit(healthy).anomaly_score(test[2::3]).mean()
    assert apart < 0.8 * mixed


def test_zscore_at_a_pixel_that_no_healthy_brain_covers_uses_the_levels_statistics(brains):
    detector = PixelZScore(SHAPE, levels=1).fit(brains)
    inside = brains[brains > 0].double()
    assert detector.mean[0, 0, 0].item() == pytest.approx(inside.mean().item(), rel=1e-5)
    assert detector.sd[0, 0, 0].item() == pytest.approx(inside.std().item(), rel=1e-5)


def test_pca_projects_as_scikit_learn_does(brains, unseen):
    detector = PCA(SHAPE, components=5).fit(brains)
    reference = Reference(5, svd_solver="full").fit(brains.flatten(1).double().numpy())
    flat = unseen.flatten(1).double().numpy()
    expected = reference.inverse_transform(reference.transform(flat))
    # The randomised solver's subspace is not exact; the residual is, to a part in a thousand of the intensity.
    np.testing.assert_allclose(detector.reconstruct(unseen).flatten(1), expected, atol=3e-3)
    identity = detector.directions @ detector.directions.T
    torch.testing.assert_close(identity, torch.eye(5), atol=1e-5, rtol=0)


def test_pca_rebuilds_what_lies_in_its_subspace(brains):
    detector = PCA(SHAPE, components=119).fit(brains)  # as many as the images allow
    torch.testing.assert_close(detector.reconstruct(brains), brains, atol=1e-4, rtol=0)


def test_pca_refuses_more_components_than_images(brains):
    with pytest.raises(BadInput, match="8 components need more than 8 images"):
        PCA(SHAPE, components=8).fit(brains[:8])


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_blur_is_scipys(sigma):
    image = torch.rand(2, 3, 20, 31, dtype=torch.float64)
    expected = gaussian_filter(image.numpy(), (0, 0, sigma, sigma), mode="constant", truncate=4)
    np.testing.assert_allclose(gaussian_blur(image, sigma), expected, atol=1e-12)


def test_local_statistics_see_the_brain_only(brains):
    image = brains[0]
    weights = (image[0] > 0).double().numpy()
    point = np.zeros(SHAPE)
    point[8, 20] = 1
    weights = weights * gaussian_filter(point, 2.0, mode="constant", truncate=4)
    values = image[0].double().numpy()
    mean = np.average(values, weights=weights)
    sd = np.sqrt(np.average((values - mean) ** 2, weights=weights))
    means, sds = local_statistics(image[None], (1.0, 2.0))
    assert means[0, 1, 8, 20].item() == pytest.approx(mean, rel=1e-5)
    assert sds[0, 1, 8, 20].item() == pytest.approx(sd, rel=1e-4)


def test_local_statistics_of_a_constant_brain():
    image = torch.zeros(1, 1, 24, 24)
    image[:, :, 4:20, 4:20] = 1.7
    means, sds = local_statistics(image, (1.0, 4.0))
    inside = (slice(None), slice(None), slice(4, 20), slice(4, 20))
    torch.testing.assert_close(means[inside], torch.full_like(means[inside], 1.7), atol=1e-5, rtol=0)
    assert sds[inside].max() < 2e-3  # single precision


def direct_gaussian(healthy, scales, side):
    """mu and Sigma of every pixel by plain NumPy, as the docstrings define them: `(F, H, W)` and `(F, F, H, W)`."""
    features = torch.cat(local_statistics(healthy, scales), 1).double().numpy()
    features = features if side == "both" else features[:, : len(scales)]
    brain = (healthy > 0).double().numpy()

    def blur(array):
        return gaussian_filter(array, (0,) * (array.ndim - 2) + (BLUR, BLUR), mode="constant", truncate=4)

    count, total = brain.sum(0), (features * brain).sum(0)
    mean = (total + PRIOR * blur(total) / np.maximum(blur(count), 1e-6)) / (count + PRIOR)
    size = len(mean)
    scatter = np.zeros((size, size, *SHAPE))
    for f, b in zip(features, brain, strict=True):
        offset = (f - mean) * b
        scatter += offset[:, None] * offset[None]
    whole = scatter.sum((2, 3)) / count.sum()
    covariance = (blur(scatter) + PRIOR * whole[..., None, None]) / (blur(count) + PRIOR)
    return mean, covariance + SMALLEST_VARIANCE * np.eye(size)[..., None, None]


@pytest.mark.parametrize("side", ["both", "bright"])
@pytest.mark.parametrize("pixel", [(16, 16), (12, 20), (4, 16)])
def test_positional_gaussian_is_the_mahalanobis_distance(brains, unseen, side, pixel):
    healthy, scales = brains[2::3], (1.0, 2.0)
    detector = PositionalGaussian(SHAPE, levels=1, scales=scales, side=side).fit(healthy)
    mean, covariance = direct_gaussian(healthy, scales, side)
    mu, inverse = mean[:, *pixel], np.linalg.inv(covariance[:, :, *pixel])
    features = torch.cat(local_statistics(unseen, scales), 1).double().numpy()[:, : len(mu), *pixel]
    covered = (unseen[:, 0, *pixel] > 0).numpy()
    features = features if side == "both" else np.maximum(features, mu)
    expected = [mahalanobis(f, mu, inverse) * c for f, c in zip(features, covered, strict=True)]
    np.testing.assert_allclose(detector.anomaly_map(unseen)[:, *pixel], expected, rtol=1e-3, atol=1e-3)


def test_the_bright_side_does_not_see_dark_lesions(brains, unseen):
    dark, bright = unseen.clone(), unseen.clone()
    dark[:, :, 12:18, 14:20], bright[:, :, 12:18, 14:20] = 0.05, 1.2
    detector = PositionalGaussian(SHAPE, levels=3, side="bright").fit(brains)
    lesion = (slice(None), slice(13, 17), slice(15, 19))
    assert detector.anomaly_map(dark)[lesion].mean() < 0.05 * detector.anomaly_map(bright)[lesion].mean()


def test_an_unknown_side_is_refused():
    with pytest.raises(ValueError, match="side is 'dark'"):
        PositionalGaussian(SHAPE, side="dark")


def test_memory_of_fitting_does_not_grow_with_the_images(brains):
    """The chunks' sums are those of all images at once."""
    from course_lib.detectors import positional_gaussian

    detector = PositionalGaussian(SHAPE, levels=1)
    whole = detector.fit(brains).whitening.clone()
    before, positional_gaussian.CHUNK = positional_gaussian.CHUNK, 7
    try:
        torch.testing.assert_close(detector.fit(brains).whitening, whole, rtol=1e-4, atol=1e-4)
    finally:
        positional_gaussian.CHUNK = before
