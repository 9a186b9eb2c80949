"""Every detector of the course by its name, trained with the budget that it has in its lesson."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from course_lib.contenders import BATCH, PRECISE, contenders
from course_lib.detectors.auto_ddpm import AutoDDPM
from course_lib.detectors.base import Detector
from course_lib.detectors.causal_tokens import CausalTokens
from course_lib.detectors.ddpm import DDPM
from course_lib.detectors.deep_svdd import DeepSVDD
from course_lib.detectors.ensemble import Ensemble
from course_lib.detectors.gaussian import Gaussian
from course_lib.detectors.gmm import GaussianMixture
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.kde import KernelDensity
from course_lib.detectors.masked_tokens import MaskedTokens
from course_lib.detectors.memory_bank import MemoryBank
from course_lib.detectors.one_class_svm import OneClassSVM
from course_lib.detectors.pca import PCA
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.detectors.synthetic import SyntheticAnomalies
from course_lib.detectors.vq_vae import VQVAE
from course_lib.detectors.witnesses import WitnessGaussian
from course_lib.errors import BadInput
from course_lib.runtime import choose_device
from course_lib.store import load_or_train
from course_lib.training import fit

if TYPE_CHECKING:
    from course_lib.images.slices import SliceSet

ORDERS = {"quick": (0, 3)}  # of the ensemble; elsewhere all eight, each beside its reverse
ALL_ORDERS = (0, 3, 4, 7, 1, 2, 5, 6)
CONTENDERS = ("AE", "VAE", "DAE", "AAE", "GPND", "OCGAN", "Soft-IntroVAE", "LSA", "Glow hierarchy", "MorphAEus")
MARKED = 0.02  # share of healthy tokens that healing may replace


class Setting(NamedTuple):
    """What a training needs to know.

    Attributes:
        train, validation: healthy slices to learn from, and of other people to calibrate on.
        seed, profile, device: of the run.
        bright: whether lesions are known to be bright and slices to have no common height, as on the real strokes:
            the positional Gaussian then looks at the bright side only.
    """

    train: SliceSet
    validation: SliceSet
    seed: int = 0
    profile: str = "standard"
    device: str = "cpu"
    bright: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.image_shape

    def steps(self, quick: int, standard: int, full: int) -> int:
        """The number for this run's profile."""
        return {"quick": quick, "standard": standard, "full": full}[self.profile]

    def healthy_images(self) -> Tensor:
        """All validation slices, (N, 1, H, W), on the device."""
        return self.validation.batch(np.arange(len(self.validation))).to(choose_device(self.device))


class Trained(NamedTuple):
    """A detector that is ready, and what made it.

    Attributes:
        detector: in evaluation mode.
        stages: the networks that were trained for it, each with its steps and whether in fast arithmetic.
        seconds: processor time of what has a closed form.
    """

    detector: Detector
    stages: tuple[tuple[Detector, int, bool], ...] = ()
    seconds: float = 0.0


def train_by_name(name: str, setting: Setting) -> Trained:
    """A detector of the course, from the store or trained now with the settings and the budget of its lesson.

    Raises:
        BadInput: there is none of this name.
    """
    check_name(name)
    return RECIPES[name](setting)


def check_name(name: str) -> None:
    """Raise BadInput if no detector of the course has this name."""
    if name not in RECIPES:
        raise BadInput(f"no detector is called {name!r}.", field="detector", remedy=f"There are: {', '.join(RECIPES)}.")


def fitted(detector: Detector, setting: Setting, stages: tuple = ()) -> Trained:
    """A detector with a closed form, fitted to the training slices; `stages` is what it stands on."""
    started = time.process_time()
    fit(detector, setting.train, seed=setting.seed, device=setting.device, progress=False)
    return Trained(detector.eval(), stages, time.process_time() - started)


def stored(detector: Detector, setting: Setting, steps: int, fast: bool, stages: tuple = ()) -> Trained:
    """A detector that is trained by gradient steps in batches of 16; `stages` is what it stands on."""
    budget = {"steps": steps, "batch_size": BATCH, "fast": fast, "device": setting.device, "progress": False}
    trained, _ = load_or_train(detector, setting.train, seed=setting.seed, **budget)
    return Trained(trained, (*stages, (trained, steps, fast)))


def _positional(setting: Setting) -> Trained:
    if setting.bright:
        return fitted(PositionalGaussian(setting.shape, levels=1, side="bright"), setting)
    return fitted(PositionalGaussian(setting.shape, setting.train.table["z_mm"].nunique()), setting)


def _contender(name: str) -> Callable[[Setting], Trained]:
    """A method of parts 2 and 3 (`contenders`)."""

    def train(setting: Setting) -> Trained:
        steps = setting.steps(100, 800, 5000)
        recipe = contenders(setting.shape, steps)[name]
        trained = stored(recipe, setting, steps, fast=not isinstance(recipe, PRECISE))
        if name == "LSA":  # its score adds two terms, each in units of its healthy range
            trained.detector.calibrate(setting.healthy_images())
        return trained

    return train


def _vqvae(setting: Setting) -> Trained:
    return stored(VQVAE(setting.shape), setting, setting.steps(100, 800, 5000), fast=True)


def _causal(setting: Setting, order: int) -> Trained:
    """A transformer on the VQ-VAE of the same seed, calibrated."""
    vqvae, steps = _vqvae(setting), setting.steps(100, 800, 5000)
    model = CausalTokens(vqvae.detector, order=order, schedule=steps)
    trained = stored(model, setting, steps, fast=False, stages=vqvae.stages)
    trained.detector.calibrate(setting.healthy_images(), MARKED)
    return trained


def _orders(setting: Setting) -> Trained:
    parts = [_causal(setting, order) for order in ORDERS.get(setting.profile, ALL_ORDERS)]
    stages = (parts[0].stages[0], *(part.stages[1] for part in parts))  # one VQ-VAE for all
    return Trained(Ensemble([part.detector for part in parts]).eval(), stages)


def _masked(setting: Setting) -> Trained:
    vqvae, steps = _vqvae(setting), setting.steps(100, 800, 5000)
    model = MaskedTokens(vqvae.detector, schedule=steps)
    trained = stored(model, setting, steps, fast=False, stages=vqvae.stages)
    trained.detector.calibrate(setting.healthy_images(), MARKED)
    return trained


def _ddpm(setting: Setting, noise: str) -> Trained:
    detector = DDPM(setting.shape, noise=noise, sampler_steps=setting.steps(4, 10, 10))
    return stored(detector, setting, setting.steps(40, 2500, 10_000), fast=False)


def _one_pass(noise: str) -> Callable[[Setting], Trained]:
    def train(setting: Setting) -> Trained:
        model = _ddpm(setting, noise)
        return model._replace(detector=model.detector.at(200).eval())

    return train


def _composite(setting: Setting) -> Trained:
    brush = {"levels": 3, "repeats": 2} if setting.profile == "quick" else {}
    model = _ddpm(setting, "gaussian")
    return model._replace(detector=AutoDDPM(model.detector, **brush).calibrate(setting.healthy_images()).eval())


def _synthetic(setting: Setting) -> Trained:
    return stored(SyntheticAnomalies(setting.shape), setting, setting.steps(60, 600, 5000), fast=False)


def _memory_bank(setting: Setting) -> Trained:
    dae, candidates = _contender("DAE")(setting), setting.steps(1500, 10_000, 50_000)
    bank = MemoryBank(setting.shape, dae.detector, size=candidates // 10, candidates=candidates)
    return fitted(bank, setting, dae.stages)


def _witnesses(setting: Setting) -> Trained:
    dae, outliner = _contender("DAE")(setting), _synthetic(setting)
    place = {"levels": 1, "side": "bright"} if setting.bright else {"levels": setting.train.table["z_mm"].nunique()}
    detector = WitnessGaussian(setting.shape, dae.detector, outliner.detector, **place)
    return fitted(detector, setting, (*dae.stages, *outliner.stages))


RECIPES: dict[str, Callable[[Setting], Trained]] = {
    # part 1
    "brightness": lambda s: fitted(IntensityThreshold(), s),
    "positional Gaussian": _positional,
    "Gaussian": lambda s: fitted(Gaussian(s.shape, pool=4), s),
    "mixture": lambda s: fitted(GaussianMixture(s.shape, pool=4), s),
    "KDE": lambda s: fitted(KernelDensity(s.shape, pool=4), s),
    "OC-SVM": lambda s: fitted(OneClassSVM(s.shape, pool=4), s),
    "PCA 16": lambda s: fitted(PCA(s.shape, components=16), s),
    "Deep SVDD": lambda s: stored(DeepSVDD(s.shape), s, s.steps(150, 800, 5000), fast=True),
    # parts 2 and 3
    **{name: _contender(name) for name in CONTENDERS},
    # part 4
    "VQ-VAE": _vqvae,
    "one order": lambda s: _causal(s, 0),
    "all orders": _orders,
    "masked": _masked,
    # part 5
    "diffusion": _one_pass("gaussian"),
    "coarse diffusion": _one_pass("coarse"),
    "composite": _composite,
    "made-up anomalies": _synthetic,
    "memory bank": _memory_bank,
    "witnesses": _witnesses,
}
