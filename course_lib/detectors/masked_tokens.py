"""The transformer that fills gaps: a token is judged, and drawn anew, from both sides.

Chang et al., MaskGIT: masked generative image transformer, CVPR 2022; for anomalies Naval Marimont and Tarroni,
MIM-OOD, 2023. Ours has one transformer for both parts, and no synthetic corruptions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.detectors.token_model import TokenModel, choose
from course_lib.detectors.vq_vae import VQVAE


class MaskedTokens(TokenModel):
    """p(s_t | the visible tokens), learned by hiding some and asking for them.

    For each grid r ~ U(0, 1); ceil(cos(pi r / 2) L) random tokens are hidden behind the symbol [M], and

        L = -mean over hidden t of log p(s_t | s_visible).

    A token that is visible is no surprise: each is judged while it is hidden, in one of `parts` disjoint sets of
    blocks, the others in view. These are no factors of a chain: their sum is no log p(x), only a score. Healing hides
    the marked tokens and their neighbours, and fills them in a few rounds, the most certain first.

    Args:
        vqvae, width, layers, heads, schedule: as for `TokenModel`.
        parts: sets that are hidden one after the other, `1 / parts` of the grid each.
        block: side of the blocks that are hidden together, in tokens. With 1 a lesion's other tokens stay in view and
            speak for it.
        rounds: of the filling.
        grow: places by which marked regions grow before they are filled.
    """

    causal = False

    def __init__(
        self,
        vqvae: VQVAE,
        width: int = 64,
        layers: int = 3,
        heads: int = 4,
        schedule: int = 800,
        parts: int = 4,
        block: int = 2,
        rounds: int = 6,
        grow: int = 1,
    ):
        super().__init__(vqvae, width, layers, heads, schedule)
        self.parts, self.block, self.rounds, self.grow = parts, block, rounds, grow
        self.register_buffer("sets", _sets(vqvae.grid, parts, block))  # (parts, L) bool

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`tokens`: the mean of -log p over the hidden tokens, in nats a token."""
        tokens = self.vqvae.encode(images).flatten(1)  # (B, L)
        shares = torch.cos(torch.pi / 2 * torch.rand(len(tokens), 1, device=tokens.device))
        ranks = torch.rand(tokens.shape, device=tokens.device).argsort(1).argsort(1)
        hidden = ranks < (shares * tokens.shape[1]).ceil()
        return {"tokens": F.cross_entropy(self.logits(tokens, hidden)[hidden], tokens[hidden])}

    def logits(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Of every place, given the tokens that are not hidden: both `(B, L)`, to `(B, L, K)`."""
        return self.transformer(tokens.masked_fill(hidden, self.vqvae.codes))

    @torch.no_grad()
    def surprise(self, tokens: Tensor) -> Tensor:
        """-log p of each token while its set is hidden: `(B, h, w)` to the same, in nats."""
        flat = tokens.flatten(1)  # (B, L)
        found = torch.zeros(flat.shape, device=flat.device)
        for hidden in self.sets:
            log_p = self.logits(flat, hidden.expand_as(flat)).log_softmax(-1).gather(-1, flat[..., None])[..., 0]
            found = torch.where(hidden, -log_p, found)
        return found.view(tokens.shape)

    @torch.no_grad()
    def heal(self, tokens: Tensor, marked: Tensor, chance: Tensor | None = None) -> Tensor:
        """Hide the marked tokens and those around them, and fill them in `rounds`, the most certain first."""
        around = F.max_pool2d(marked[:, None].float(), 2 * self.grow + 1, stride=1, padding=self.grow)[:, 0] > 0
        hidden, flat = around.flatten(1), tokens.flatten(1).clone()
        wanted = hidden.sum(1, keepdim=True)  # (B, 1)
        for turn in range(1, self.rounds + 1):
            logits = self.logits(flat, hidden)
            drawn = choose(logits, chance)  # (B, L)
            certainty = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
            ranks = certainty.masked_fill(~hidden, -math.inf).argsort(1, descending=True).argsort(1)
            keep = (wanted * math.cos(math.pi / 2 * turn / self.rounds)).floor()  # how many stay hidden
            filled = hidden & (ranks < hidden.sum(1, keepdim=True) - keep)
            flat, hidden = torch.where(filled, drawn, flat), hidden & ~filled
        return flat.view(tokens.shape)


def _sets(grid: tuple[int, int], parts: int, block: int) -> Tensor:
    """Disjoint sets of blocks that cover the grid: `(parts, L)` bool, of nearly equal size, at random."""
    rows, columns = (-(-side // block) for side in grid)
    labels = torch.randperm(rows * columns).remainder(parts).view(rows, columns)
    labels = labels.repeat_interleave(block, 0).repeat_interleave(block, 1)[: grid[0], : grid[1]].flatten()
    return labels == torch.arange(parts)[:, None]
