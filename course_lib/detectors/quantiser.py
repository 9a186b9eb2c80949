"""Vector quantisation: every vector becomes the nearest of K codes, and the codes follow the vectors.

Van den Oord, Vinyals, Kavukcuoglu, Neural discrete representation learning, NeurIPS 2017, with the codebook of its
appendix, moving averages. Restarts: Dhariwal et al., Jukebox, 2020.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5  # of the Laplace smoothing of counts


class Quantiser(nn.Module):
    """A codebook e of K codes with D dimensions each. Its codes are averages, not weights: no gradient reaches them.

    With n_k the number of a batch's vectors that are nearest to code k, and S_k their sum, each training batch gives

        N_k <- gamma N_k + (1 - gamma) n_k,   m_k <- gamma m_k + (1 - gamma) S_k,
        e_k <- m_k / N'_k,   N'_k = (N_k + epsilon) / (sum_j N_j + K epsilon) sum_j N_j.

    The first batch's vectors become the first codes, with N = 1. (N = 0 would divide a code that the first batch does
    not use by almost nothing, and throw it out of reach for hundreds of steps.) A code with N_k below `restart` is
    dead: it becomes a random vector of the batch, with N = 1. In evaluation mode nothing changes.

    Args:
        codes: K.
        dimensions: D.
        decay: gamma.
        restart: N_k under which a code is replaced; 0 never.
    """

    def __init__(self, codes: int, dimensions: int, decay: float = 0.99, restart: float = 0.5):
        super().__init__()
        self.decay, self.restart = decay, restart
        self.register_buffer("codebook", torch.randn(codes, dimensions))  # e
        self.register_buffer("sizes", torch.ones(codes))  # N
        self.register_buffer("sums", self.codebook.clone())  # m
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise z, `(B, D, h, w)`; in training mode, update the codebook.

        Returns:
            z_q `(B, D, h, w)`, whose value is the code and whose gradient is z's own (*straight through*);
            the tokens `(B, h, w)`; and the commitment `mean (z - sg[e_k])^2`, which pulls the encoder to its codes.
        """
        z = z.float()  # bfloat16 has too few digits for distances
        vectors = z.detach().movedim(1, -1).flatten(0, -2)  # (N, D), N = B h w
        if self.training and not self.started:
            self._start(vectors)
        flat = self.nearest(vectors)  # (N,)
        tokens = flat.view(len(z), *z.shape[2:])  # (B, h, w)
        codes = self.lookup(tokens)
        if self.training:
            self._follow(vectors, flat)
        return z + (codes - z).detach(), tokens, F.mse_loss(z, codes)

    def nearest(self, vectors: Tensor) -> Tensor:
        """argmin_k |z - e_k|^2 of each vector `(N, D)`, `(N,)`. |z|^2 is the same for all k and left out."""
        return torch.addmm(self.codebook.square().sum(1), vectors, self.codebook.T, alpha=-2).argmin(1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """The codes of tokens: `(B, h, w)` integers from 0 to K - 1, to `(B, D, h, w)`."""
        return F.embedding(tokens, self.codebook).movedim(-1, 1)

    def _start(self, vectors: Tensor) -> None:
        """Random vectors of the first batch become the codes; again and again if there are fewer than K."""
        picks = _random_rows(len(vectors), len(self.codebook), vectors.device)
        self._set(slice(None), vectors[picks])
        self.started.fill_(True)

    def _follow(self, vectors: Tensor, flat: Tensor) -> None:
        n = torch.bincount(flat, minlength=len(self.codebook)).to(vectors.dtype)  # (K,)
        sums = torch.zeros_like(self.sums).index_add_(0, flat, vectors)  # S, (K, D)
        self.sizes.lerp_(n, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        total = self.sizes.sum()
        smoothed = (self.sizes + EPSILON) / (total + len(n) * EPSILON) * total  # N'
        self.codebook.copy_(self.sums / smoothed[:, None])
        dead = (self.sizes < self.restart).nonzero()[:, 0]
        if len(dead):
            self._set(dead, vectors[_random_rows(len(vectors), len(dead), vectors.device)])

    def _set(self, which, vectors: Tensor) -> None:
        self.codebook[which], self.sums[which], self.sizes[which] = vectors, vectors, 1.0


def perplexity(tokens: Tensor, codes: int) -> Tensor:
    """exp(-sum_k p_k log p_k), p the tokens' frequencies: how many codes are in use, from 1 to K; a scalar."""
    p = torch.bincount(tokens.flatten(), minlength=codes) / tokens.numel()
    return torch.special.entr(p).sum().exp()


def _random_rows(rows: int, count: int, device: torch.device) -> Tensor:
    """`count` random numbers of rows, without repetition where there are enough."""
    if rows < count:
        return torch.randint(rows, (count,), device=device)
    return torch.randperm(rows, device=device)[:count]
