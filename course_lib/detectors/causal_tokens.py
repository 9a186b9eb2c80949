"""The autoregressive transformer over tokens: what comes next, given all that was read so far.

Pinaya et al., Medical Image Analysis 2022 (MIDL 2021); exact attention for their Performer, as our grids are small.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.detectors.orders import inverse, order
from course_lib.detectors.token_model import TokenModel, choose
from course_lib.detectors.transformer import Cache
from course_lib.detectors.vq_vae import VQVAE


class CausalTokens(TokenModel):
    """p(s) = prod_t p(s_t | s_<t), the tokens read in one of eight orders.

        L = -(1 / L) sum_t log p(s_t | s_<t)

    Input is the start symbol and the first L - 1 tokens, target are all L. Healing walks along the order and draws each
    marked token given the prefix that is already healed. Since a token is judged by what came before alone, those
    *after* a lesion look odd too: hence ensembles of orders (`Ensemble`).

    Args:
        vqvae, width, layers, heads, schedule: as for `TokenModel`.
        order: 0 to 7, see `orders.order`.
    """

    causal = True

    def __init__(
        self,
        vqvae: VQVAE,
        order: int = 0,  # noqa: A002 (the paper's word)
        width: int = 64,
        layers: int = 3,
        heads: int = 4,
        schedule: int = 800,
    ):
        super().__init__(vqvae, width, layers, heads, schedule)
        self.order = order
        self.register_buffer("pi", _order(vqvae.grid, order), persistent=False)
        self.register_buffer("back", inverse(self.pi), persistent=False)

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`tokens`: the mean of -log p(s_t | s_<t), in nats a token."""
        sequence = self.read(self.vqvae.encode(images))  # (B, L)
        return {"tokens": F.cross_entropy(self.logits(sequence).flatten(0, 1), sequence.flatten())}

    def read(self, tokens: Tensor) -> Tensor:
        """The grid as a sequence: `(B, h, w)` to `(B, L)`."""
        return tokens.flatten(1)[:, self.pi]

    def logits(self, sequence: Tensor) -> Tensor:
        """Of each token given those before it: `(B, L)` to `(B, L, K)`."""
        return self.transformer(self._shift(sequence[:, :-1]))

    @torch.no_grad()
    def surprise(self, tokens: Tensor) -> Tensor:
        """-log p(s_t | s_<t) of each token, back on the grid: `(B, h, w)` to the same, in nats."""
        sequence = self.read(tokens)
        log_p = self.logits(sequence).log_softmax(-1).gather(-1, sequence[..., None])[..., 0]  # (B, L)
        return -log_p[:, self.back].view(tokens.shape)

    def negative_log_likelihood(self, images: Tensor) -> Tensor:
        """-log p(x) of the tokens, the paper's image score: `(B, 1, H, W)` to `(B,)`, in nats."""
        return self.surprise(self.vqvae.encode(images)).sum((1, 2))

    @torch.no_grad()
    def heal(self, tokens: Tensor, marked: Tensor, chance: Tensor | None = None) -> Tensor:
        """Draw the marked tokens anew, one after the other along the order, each from p(. | healed prefix)."""
        rows = marked.flatten(1).any(1)
        healed = tokens.clone()
        if rows.any():
            chance = chance if chance is None else chance[self.pi]
            walked = self._walk(self.read(tokens[rows]), self.read(marked[rows]), chance)
            healed[rows] = walked[:, self.back].view(-1, *tokens.shape[1:])
        return healed

    def _walk(self, sequence: Tensor, marked: Tensor, chance: Tensor | None) -> Tensor:
        """From the first place that is marked in any sequence `(B, L)` to the last one."""
        places = marked.any(0).nonzero()[:, 0].tolist()
        cache = Cache(self.transformer, len(sequence), places[-1] + 1)
        logits = self.transformer(self._shift(sequence[:, : places[0]]), cache)[:, -1]  # of the first place, (B, K)
        for t in range(places[0], places[-1] + 1):
            drawn = choose(logits, None if chance is None else chance[t])
            sequence[:, t] = torch.where(marked[:, t], drawn, sequence[:, t])
            if t < places[-1]:
                logits = self.transformer(sequence[:, t : t + 1], cache)[:, -1]
        return sequence

    @torch.inference_mode()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """New grids, token by token: `(count, h, w)`. A generator lives on the model's device."""
        device, length = self.pi.device, len(self.pi)
        chances = torch.rand(length, count, generator=generator, device=device)
        cache = Cache(self.transformer, count, length)
        token, drawn = torch.full((count,), self.vqvae.codes, device=device), []  # the start symbol
        for chance in chances:
            token = choose(self.transformer(token[:, None], cache)[:, -1], chance)  # (count,)
            drawn.append(token)
        return torch.stack(drawn, 1)[:, self.back].view(count, *self.vqvae.grid)

    def _shift(self, sequence: Tensor) -> Tensor:
        """The start symbol, then the sequence: `(B, n)` to `(B, n + 1)`."""
        return F.pad(sequence, (1, 0), value=self.vqvae.codes)


_order = order  # the constructor has an argument of that name
