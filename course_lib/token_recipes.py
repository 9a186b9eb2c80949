"""The token detectors of part 4, trained in two stages: a VQ-VAE for each seed, and the transformers on top of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from course_lib.contenders import BATCH
from course_lib.detectors.causal_tokens import CausalTokens
from course_lib.detectors.masked_tokens import MaskedTokens
from course_lib.detectors.token_model import TokenModel
from course_lib.detectors.vq_vae import VQVAE
from course_lib.store import load_or_train_all

if TYPE_CHECKING:
    from course_lib.images.slices import SliceSet


def train_vqvaes(slices: SliceSet, seeds: Iterable[int], *, steps: int, device: str = "cpu", **settings) -> list[VQVAE]:
    """One VQ-VAE for each seed, from the store or trained now in batches of 16; `settings` as for `VQVAE`."""
    recipe = VQVAE(slices.image_shape, **settings)
    budget = {"steps": steps, "batch_size": BATCH, "device": device, "fast": True, "progress": False}
    return [model for model, _ in load_or_train_all({"VQ-VAE": recipe}, slices, seeds, **budget)["VQ-VAE"]]


def train_token_models(
    vqvaes: Sequence[VQVAE],
    slices: SliceSet,
    seeds: Iterable[int],
    *,
    steps: int,
    orders: Sequence[int] = (0,),
    masked: bool = True,
    device: str = "cpu",
) -> dict[str, list[TokenModel]]:
    """Transformers on one VQ-VAE for each seed: `causal 0`, ... for each order, and `masked`; the list is over seeds.

    Args:
        vqvaes: trained, one for each seed.
        slices: healthy ones to train on, those of the VQ-VAEs.
        seeds: of the transformers, in the order of the VQ-VAEs.
        steps: of each transformer, in batches of 16; their learning rate ends there.
        orders: numbers from 0 to 7.
        masked: whether to train the two-way transformer too.
        device: "cpu", "cuda" or "auto".
    """
    budget = {"steps": steps, "batch_size": BATCH, "device": device, "progress": False}
    trained: dict[str, list[TokenModel]] = {}
    for vqvae, seed in zip(vqvaes, seeds, strict=True):
        recipes: dict[str, TokenModel] = {f"causal {k}": CausalTokens(vqvae, order=k, schedule=steps) for k in orders}
        if masked:
            recipes["masked"] = MaskedTokens(vqvae, schedule=steps)
        for name, runs in load_or_train_all(recipes, slices, [seed], **budget).items():
            trained.setdefault(name, []).append(runs[0][0])
    return trained
