"""The methods of part 3 and the auto-encoders before them, all with one budget: what its lessons train and compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from course_lib.detectors.aae import AAE
from course_lib.detectors.autoencoder import DenseAE
from course_lib.detectors.base import Detector
from course_lib.detectors.dae import DenoisingAE
from course_lib.detectors.glow_hierarchy import GlowHierarchy
from course_lib.detectors.gpnd import GPND
from course_lib.detectors.lsa import LSA
from course_lib.detectors.morphaeus import MorphAEus
from course_lib.detectors.ocgan import OCGAN
from course_lib.detectors.soft_intro_vae import SoftIntroVAE
from course_lib.detectors.vae import VAE
from course_lib.store import load_or_train_all

if TYPE_CHECKING:
    from course_lib.images.slices import SliceSet

BATCH = 16  # images a step
PRECISE = (DenoisingAE, SoftIntroVAE)  # GroupNorm gains nothing from bfloat16: fast mode would be slower


def contenders(image_shape: tuple[int, int], steps: int) -> dict[str, Detector]:
    """Untrained detectors by name, each with its defaults, and with its schedule stretched over `steps`.

    All have codes of 16 numbers but the VAEs and MorphAEus (32, of which a VAE switches some off), the DAE and the
    flows (none). In `steps`: GPND's last tenth, of at most 32 steps, collects codes and trains nothing; OCGAN mines
    from a third on; Soft-IntroVAE is a plain VAE for a fifth; the hierarchy's general flow gets half; MorphAEus bends
    from a quarter on.

    Raises:
        ValueError: fewer than 20 steps: some schedule would have an empty phase.
    """
    if steps < 20:
        raise ValueError(f"steps is {steps}; the schedules need 20 or more.")
    collecting = min(32, steps // 10)
    return {
        "AE": DenseAE(image_shape, latent=16),
        "VAE": VAE(image_shape),
        "DAE": DenoisingAE(image_shape),
        "AAE": AAE(image_shape),
        "GPND": GPND(image_shape, adversarial=steps - collecting, sample=collecting * BATCH),
        "OCGAN": OCGAN(image_shape, mining_from=steps // 3),
        "Soft-IntroVAE": SoftIntroVAE(image_shape, warm_up=steps // 5),
        "LSA": LSA(image_shape),
        "Glow hierarchy": GlowHierarchy(image_shape, general_steps=steps // 2),
        "MorphAEus": MorphAEus(image_shape, start=steps // 4, ramp=steps),
    }


def train_contenders(
    recipes: Mapping[str, Detector],
    slices: SliceSet,
    seeds: Iterable[int],
    *,
    steps: int,
    device: str = "cpu",
    progress: bool = False,
    **options,
) -> dict[str, list[tuple[Detector, object]]]:
    """`store.load_or_train_all` in batches of 16, each method in the arithmetic that is faster for it.

    Args:
        recipes: untrained detectors by name: those of `contenders`, or others.
        slices, seeds, steps, device, progress, options: as for `load_or_train_all`.

    Returns:
        For each name the trained detector and its history for each seed.
    """
    seeds = list(seeds)
    budget = {"steps": steps, "batch_size": BATCH, "device": device, "progress": progress, **options}
    trained = {}
    for fast in (True, False):
        chosen = {name: recipe for name, recipe in recipes.items() if isinstance(recipe, PRECISE) != fast}
        trained |= load_or_train_all(chosen, slices, seeds, fast=fast, **budget) if chosen else {}
    return {name: trained[name] for name in recipes}
