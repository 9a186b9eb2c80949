"""What every detector owes to the contract, for each of them."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from course_lib.detectors.aae import AAE
from course_lib.detectors.autoencoder import DenseAE, SpatialAE
from course_lib.detectors.base import Detector
from course_lib.detectors.causal_tokens import CausalTokens
from course_lib.detectors.dae import DenoisingAE
from course_lib.detectors.ddpm import DDPM
from course_lib.detectors.deep_svdd import DeepSVDD
from course_lib.detectors.gaussian import Gaussian
from course_lib.detectors.glow import Glow
from course_lib.detectors.glow_hierarchy import GlowHierarchy
from course_lib.detectors.gmm import GaussianMixture
from course_lib.detectors.gpnd import GPND
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.kde import KernelDensity
from course_lib.detectors.kernel_pca import KernelPCA
from course_lib.detectors.lsa import LSA
from course_lib.detectors.masked_tokens import MaskedTokens
from course_lib.detectors.memory_bank import MemoryBank
from course_lib.detectors.morphaeus import MorphAEus
from course_lib.detectors.ocgan import OCGAN
from course_lib.detectors.one_class_svm import OneClassSVM
from course_lib.detectors.pca import PCA
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.detectors.soft_intro_vae import SoftIntroVAE
from course_lib.detectors.synthetic import SyntheticAnomalies
from course_lib.detectors.vae import VAE
from course_lib.detectors.vq_vae import VQVAE
from course_lib.detectors.witnesses import WitnessGaussian
from course_lib.detectors.zscore import PixelZScore
from course_lib.training import fit
from tests.detectors.conftest import toy_brains

SHAPE = (32, 32)
SMALL = {"channels": (8, 16, 16, 16)}
MAKERS = {
    "intensity": lambda: IntensityThreshold(),
    "zscore": lambda: PixelZScore(SHAPE, levels=3),
    "gaussian": lambda: PositionalGaussian(SHAPE, levels=3),
    "gaussian_bright": lambda: PositionalGaussian(SHAPE, levels=3, side="bright"),
    "pca": lambda: PCA(SHAPE, components=8),
    "spatial": lambda: SpatialAE(SHAPE, **SMALL),
    "shallow": lambda: SpatialAE(SHAPE, depth=2, **SMALL),
    "dense": lambda: DenseAE(SHAPE, latent=16, **SMALL),
    "vae": lambda: VAE(SHAPE, latent=16, **SMALL),
    "soft_intro_vae": lambda: SoftIntroVAE(SHAPE, latent=16, beta_neg=200.0, warm_up=60, **SMALL),
    "lsa": lambda: LSA(SHAPE, **SMALL),
    "morphaeus": lambda: MorphAEus(
        SHAPE, latent=16, channels=(8, 16, 16, 16), width=8, start=60, ramp=120, squarings=4
    ),
    "glow": lambda: Glow(SHAPE, steps=2, hidden=16),
    "hierarchy": lambda: GlowHierarchy(SHAPE, steps=2, hidden=16, general_steps=60),
    "aae": lambda: AAE(SHAPE, **SMALL),
    "gpnd": lambda: GPND(SHAPE, adversarial=100, sample=120, **SMALL),
    "ocgan": lambda: OCGAN(SHAPE, mining_from=60, **SMALL),
    "dae": lambda: DenoisingAE(SHAPE),
    "ddpm": lambda: DDPM(SHAPE, widths=(16, 24, 32)),
    "ddpm_coarse": lambda: DDPM(SHAPE, noise="coarse", widths=(16, 24, 32)),
    "vq_vae": lambda: VQVAE(SHAPE, halvings=2, codes=32, channels=(8, 16)),
    "causal_tokens": lambda: CausalTokens(part("vq_vae"), order=5, schedule=120),
    "masked_tokens": lambda: MaskedTokens(part("vq_vae"), schedule=120),
    "synthetic": lambda: SyntheticAnomalies(SHAPE),
    "memory_bank": lambda: MemoryBank(SHAPE, part("dae"), size=200, candidates=2000),
    "witnesses": lambda: WitnessGaussian(SHAPE, part("dae"), part("synthetic"), levels=3),
    "deep_svdd": lambda: DeepSVDD(SHAPE, channels=(8, 16, 16)),
    "whole_gaussian": lambda: Gaussian(SHAPE),
    "mixture": lambda: GaussianMixture(SHAPE),
    "kde": lambda: KernelDensity(SHAPE),
    "one_class_svm": lambda: OneClassSVM(SHAPE),
    "kernel_pca": lambda: KernelPCA(SHAPE, components=16),
}
ON_PARTS = ("causal_tokens", "masked_tokens")  # built on a trained detector, which knows the image's shape
VARIATIONAL, ADVERSARIAL = ("vae", "soft_intro_vae", "lsa"), ("aae", "gpnd", "ocgan")
RECONSTRUCTING = (
    "pca",
    "spatial",
    "shallow",
    "dense",
    "vae",
    "soft_intro_vae",
    "lsa",
    "morphaeus",
    "aae",
    "gpnd",
    "ocgan",
    "dae",
    "ddpm",
    "ddpm_coarse",
    "vq_vae",
)


@lru_cache
def part(name: str) -> Detector:
    """A trained detector that others are built on."""
    torch.manual_seed(0)
    detector = MAKERS[name]()
    fit(detector, toy_brains(120), steps=120, batch_size=16, progress=False)
    return detector


@pytest.fixture(scope="module")
def trained():
    """One of each, trained once for this module: name -> detector."""
    found = {}

    def get(name, brains):
        if name not in found:
            torch.manual_seed(0)
            detector = MAKERS[name]()
            fit(detector, brains, steps=120, batch_size=16, progress=False)
            found[name] = detector
        return found[name]

    return get


@pytest.mark.parametrize("name", MAKERS)
def test_maps_are_finite_and_zero_outside_the_brain(name, trained, brains, unseen):
    anomaly = trained(name, brains).anomaly_map(unseen)
    assert anomaly.shape == (30, *SHAPE) and anomaly.dtype == torch.float32 and not anomaly.requires_grad
    assert anomaly.isfinite().all()
    assert (anomaly[unseen[:, 0] == 0] == 0).all()
    assert anomaly[unseen[:, 0] > 0].std() > 0


@pytest.mark.parametrize("name", MAKERS)
def test_a_batch_of_one_is_a_row_of_a_batch(name, trained, brains, unseen):
    detector = trained(name, brains)
    together, alone = detector.anomaly_map(unseen), torch.cat([detector.anomaly_map(image[None]) for image in unseen])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert detector.anomaly_score(unseen[:1]).shape == (1,)


@pytest.mark.parametrize("name", [name for name in MAKERS if not name.endswith("_tokens")])  # need `calibrate` first
def test_a_bright_square_scores_higher_than_healthy_tissue(name, trained, brains, unseen):
    ill = unseen.clone()
    ill[:, :, 12:18, 14:20] = 1.3  # inside the smallest brain
    detector = trained(name, brains)
    anomaly, healthy = detector.anomaly_map(ill), detector.anomaly_map(unseen)
    assert (anomaly[:, 12:18, 14:20].mean((1, 2)) > healthy[:, 12:18, 14:20].mean((1, 2))).all()
    scores, healthy_scores = detector.anomaly_score(ill), detector.anomaly_score(unseen)
    assert (scores > healthy_scores).all()
    assert healthy_scores.std() > 1e-6 * healthy_scores.mean().abs()  # not one constant score (far away some are flat)


@pytest.mark.parametrize("name", MAKERS)
def test_a_rebuilt_detector_with_the_loaded_state_gives_the_same_maps(name, trained, brains, unseen):
    detector = trained(name, brains)
    again = type(detector)(**detector.hyperparameters())
    again.load_state_dict(detector.state_dict())
    assert torch.equal(again.eval().anomaly_map(unseen), detector.anomaly_map(unseen))


@pytest.mark.parametrize("name", MAKERS)
def test_hyperparameters_are_the_constructors_arguments(name):
    detector = MAKERS[name]()
    given = detector.hyperparameters()
    assert type(detector)(**given).hyperparameters() == given
    assert ("image_shape" in given) == (name not in ("intensity", *ON_PARTS))


@pytest.mark.parametrize("name", RECONSTRUCTING)
def test_the_residual_to_the_pseudo_healthy_image_is_the_map(name, trained, brains, unseen):
    detector = trained(name, brains)
    healthy = detector.pseudo_healthy(unseen)
    assert healthy.shape == unseen.shape and (healthy[unseen == 0] == 0).all()
    torch.testing.assert_close((unseen - healthy).abs()[:, 0], detector.anomaly_map(unseen))


def test_a_detector_without_maps_or_losses_says_so(brains):
    class Empty(Detector):
        pass

    with pytest.raises(NotImplementedError, match="Empty defines no anomaly_map"):
        Empty().anomaly_map(brains)
    with pytest.raises(NotImplementedError, match="training_losses"):
        Empty().training_losses(brains)


def test_a_constructor_that_forgets_its_argument_is_told():
    class Forgetful(Detector):
        def __init__(self, width):
            super().__init__()

    with pytest.raises(AttributeError, match="must store .*width"):
        Forgetful(3).hyperparameters()


def test_the_default_score_is_the_mean_over_the_brain(brains):
    images = brains[:4]
    expected = torch.stack([image[image > 0].mean() for image in images])
    torch.testing.assert_close(IntensityThreshold().anomaly_score(images), expected)
    assert IntensityThreshold().anomaly_score(torch.zeros(1, 1, 8, 8)).item() == 0  # no brain, no division by zero
