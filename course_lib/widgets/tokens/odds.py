"""What a model would put at one place of a grid: the probabilities of all codes, given what it sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import numpy as np
import torch
from torch import Tensor

from course_lib.detectors.causal_tokens import CausalTokens
from course_lib.detectors.masked_tokens import MaskedTokens
from course_lib.detectors.token_model import TokenModel
from course_lib.errors import BadInput

ALTERNATIVES = 5
AROUND = 1  # squares that are shown on each side of the token's own


@dataclass(frozen=True)
class Odds:
    """A token and its rivals.

    Attributes:
        place: (row, column) on the grid.
        token: the code that is there.
        probability: of it, given what the model sees.
        rank: 1 if no code is more probable.
        rivals: the most probable codes, at most `ALTERNATIVES`; the token may be among them.
        chances: their probabilities, falling.
        patches: (1 + rivals, P, P) float32, what is decoded around the place with the token and with each rival.
    """

    place: tuple[int, int]
    token: int
    probability: float
    rank: int
    rivals: tuple[int, ...]
    chances: tuple[float, ...]
    patches: np.ndarray


@singledispatch
def log_probabilities(model: TokenModel, tokens: Tensor) -> Tensor:
    """log p of every code at every place, as `surprise` judges: `(B, h, w)` to `(B, h, w, K)`.

    Raises:
        BadInput: it is not known how to ask this model.
    """
    raise BadInput(f"a {type(model).__name__} cannot be asked for single probabilities.", field="models")


@log_probabilities.register
def _(model: CausalTokens, tokens: Tensor) -> Tensor:
    log_p = model.logits(model.read(tokens)).log_softmax(-1)[:, model.back]  # (B, L, K)
    return log_p.view(*tokens.shape, -1)


@log_probabilities.register
def _(model: MaskedTokens, tokens: Tensor) -> Tensor:
    flat = tokens.flatten(1)
    found = torch.zeros(*flat.shape, model.vqvae.codes, device=flat.device)  # (B, L, K)
    for hidden in model.sets:
        found[:, hidden] = model.logits(flat, hidden.expand_as(flat)).log_softmax(-1)[:, hidden]
    return found.view(*tokens.shape, -1)


def odds_at(model: TokenModel, tokens: Tensor, place: tuple[int, int]) -> Odds:
    """The token of a grid `(1, h, w)` at a place, and the codes that the model finds most probable there."""
    row, column = place
    log_p = log_probabilities(model, tokens)[0, row, column]  # (K,)
    token = int(tokens[0, row, column])
    rivals = log_p.argsort(descending=True, stable=True)[:ALTERNATIVES]
    grids = tokens.repeat(1 + len(rivals), 1, 1)
    grids[1:, row, column] = rivals
    decoded = model.vqvae.decode(grids)[:, 0].cpu().numpy()  # (1 + rivals, H, W)
    return Odds(
        place=place,
        token=token,
        probability=float(log_p[token].exp()),
        rank=1 + int((log_p > log_p[token]).sum()),
        rivals=tuple(rivals.tolist()),
        chances=tuple(log_p[rivals].exp().tolist()),
        patches=_around(decoded, place, model.vqvae.factor),
    )


def _around(images: np.ndarray, place: tuple[int, int], factor: int) -> np.ndarray:
    """The token's square and its neighbours', `(n, H, W)` to `(n, P, P)`; 0 beyond the image's border."""
    pad = AROUND * factor
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad)))
    top, left = (factor * index for index in place)
    return padded[:, top : top + factor + 2 * pad, left : left + factor + 2 * pad]
