"""What the kernel detectors share, and the contract, for each of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import cdist

from course_lib.detectors.gaussian import Gaussian
from course_lib.detectors.gmm import GaussianMixture
from course_lib.detectors.kde import KernelDensity
from course_lib.detectors.kernel_pca import KernelPCA
from course_lib.detectors.kernels import neighbour_gamma, squared_distances
from course_lib.detectors.one_class_svm import OneClassSVM
from course_lib.errors import BadInput
from course_lib.training import fit

SHAPE = (32, 32)
MAKERS = {
    "gaussian": lambda: Gaussian(SHAPE, pool=2),
    "sphere": lambda: Gaussian(SHAPE, pool=2, covariance="spherical"),
    "kde": lambda: KernelDensity(SHAPE, pool=2, kept=100),
    "one_class_svm": lambda: OneClassSVM(SHAPE, pool=2, kept=100),
    "kernel_pca": lambda: KernelPCA(SHAPE, pool=2, kept=100, components=6),
    "gmm": lambda: GaussianMixture(SHAPE, pool=2, mixtures=3, features=6),
}


@pytest.fixture(scope="module")
def trained():
    """One of each, fitted once for this module: name -> detector."""
    found = {}

    def get(name, brains):
        if name not in found:
            found[name] = MAKERS[name]()
            fit(found[name], brains, progress=False)
        return found[name]

    return get


@pytest.mark.parametrize("name", MAKERS)
def test_the_contract_holds(name, trained, brains, unseen):
    detector = trained(name, brains)
    anomaly, score = detector.anomaly_map(unseen), detector.anomaly_score(unseen)
    assert anomaly.shape == (30, *SHAPE) and anomaly.dtype == torch.float32 and anomaly.isfinite().all()
    assert score.shape == (30,) and score.dtype == torch.float32 and score.isfinite().all()
    assert (anomaly[unseen[:, 0] == 0] == 0).all() and anomaly[unseen[:, 0] > 0].std() > 0
    torch.testing.assert_close(detector.anomaly_map(unseen[3:4])[0], anomaly[3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(detector.anomaly_score(unseen[3:4])[0], score[3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_a_saved_detector_scores_alike(name, trained, brains, unseen, tmp_path):
    detector = trained(name, brains)
    save_file(detector.state_dict(), tmp_path / "weights.safetensors")
    again = type(detector)(**detector.hyperparameters())
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(again.anomaly_score(unseen), detector.anomaly_score(unseen))
    assert torch.equal(again.anomaly_map(unseen), detector.anomaly_map(unseen))


@pytest.mark.parametrize("name", MAKERS)
def test_the_map_of_a_bright_square_is_brightest_there(name, trained, brains, unseen):
    ill = unseen.clone()
    ill[:, :, 12:18, 14:20] = 1.3
    detector = trained(name, brains)
    anomaly = detector.anomaly_map(ill)
    lesion = torch.zeros(SHAPE, dtype=torch.bool)
    lesion[12:18, 14:20] = True
    rest = (ill[:, 0] > 0) & ~lesion
    assert anomaly[:, lesion].mean() > 3 * anomaly[rest].mean()
    if name != "gmm":  # the square lies mostly outside the mixture's principal subspace
        assert (detector.anomaly_score(ill) > detector.anomaly_score(unseen)).float().mean() > 0.9


def test_points_in_the_plane_are_images():
    points = torch.randn(200, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    far = torch.tensor([6.0, 6.0]).view(1, 1, 1, 2)
    for make in (KernelDensity, OneClassSVM, KernelPCA, Gaussian):
        detector = make((1, 2)).fit(points)
        assert detector.anomaly_score(far) > detector.anomaly_score(points).median()
    mixture = GaussianMixture((1, 2), mixtures=2, features=None, covariance="full").fit(points)
    assert mixture.anomaly_score(far) > mixture.anomaly_score(points).max()


def test_pooling_averages_squares_and_the_map_keeps_the_sum():
    image = torch.rand(2, 1, 8, 12) + 0.1
    detector = KernelDensity((8, 12), pool=4, kept=2)
    expected = image.double().view(2, 2, 4, 3, 4).mean((2, 4)).flatten(1)
    torch.testing.assert_close(detector.vectors(image), expected)
    relevance = torch.ones(2, 6, dtype=torch.float64)
    assert detector.to_map(relevance, image).sum((1, 2)).tolist() == pytest.approx([6, 6])


def test_distances_and_gamma_are_scipys():
    x = torch.randn(40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    direct = cdist(x, x, "sqeuclidean")
    np.testing.assert_allclose(squared_distances(x, x), direct, atol=1e-12)
    np.fill_diagonal(direct, np.inf)
    assert neighbour_gamma(x) == pytest.approx(1 / torch.from_numpy(direct.min(1)).median().item())
    assert neighbour_gamma(torch.cat([x, x])) == pytest.approx(neighbour_gamma(x))  # twins say nothing


def test_more_images_than_memory_and_fewer(brains):
    few = KernelDensity(SHAPE, pool=4, kept=50).fit(brains)
    vectors = {tuple(row.tolist()) for row in few.vectors(brains)}
    assert few.used.all() and all(tuple(row.tolist()) in vectors for row in few.points)
    roomy = KernelDensity(SHAPE, pool=4, kept=500, gamma=3.0).fit(brains)
    exact = KernelDensity(SHAPE, pool=4, kept=120, gamma=3.0).fit(brains)
    assert int(roomy.used.sum()) == 120
    torch.testing.assert_close(roomy.anomaly_score(brains), exact.anomaly_score(brains))
    torch.testing.assert_close(roomy.anomaly_map(brains), exact.anomaly_map(brains))


def test_what_cannot_work_is_refused(brains):
    with pytest.raises(BadInput, match="squares of 5 pixels do not tile an image of 32 x 32"):
        KernelDensity(SHAPE, pool=5)
    with pytest.raises(BadInput, match="gamma is positive"):
        KernelDensity(SHAPE, gamma=0.0)
    with pytest.raises(BadInput, match="all images are the same"):
        KernelDensity(SHAPE).fit(brains[:1].expand(5, 1, 32, 32))
    with pytest.raises(BadInput, match="at least 2 images, not 1"):
        KernelDensity(SHAPE).fit(brains[:1])
    with pytest.raises(BadInput, match="20 components need more than 20 kept images"):
        KernelPCA(SHAPE).fit(brains[:20])
    with pytest.raises(BadInput, match="nu is 1.0"):
        OneClassSVM(SHAPE, nu=1.0)
    with pytest.raises(BadInput, match="need more than 8 images"):
        GaussianMixture(SHAPE, features=4).fit(brains[:8])
    with pytest.raises(BadInput, match="no covariance 'tied'"):
        GaussianMixture(SHAPE, covariance="tied")
    with pytest.raises(BadInput, match="no covariance 'mcd'"):
        Gaussian(SHAPE, covariance="mcd")
