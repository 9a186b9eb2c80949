"""A small transformer over token sequences: causal, with a cache for drawing token by token, or looking both ways.

Vaswani et al., Attention is all you need, NeurIPS 2017; normalisation before each part as in GPT-2 (Radford 2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Transformer(nn.Module):
    """Logits of K codes at each of L places, from L input tokens.

    Inputs are codes, or the one extra symbol K: the start symbol of a causal model, the mask of a two-way one. It is
    no output: a model that could answer with it would give away probability. Attention is exact, through torch's
    `scaled_dot_product_attention`; sequences here are short enough.

    Args:
        codes: K.
        length: L, the largest length.
        causal: whether place t sees the inputs at places up to t alone.
        width: features at each place, a multiple of `heads`.
        layers, heads: of attention.
    """

    def __init__(self, codes: int, length: int, causal: bool, width: int = 64, layers: int = 3, heads: int = 4):
        super().__init__()
        self.codes, self.causal, self.width = codes, causal, width
        self.token = nn.Embedding(codes + 1, width)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codes)
        self.apply(_small_weights)

    def forward(self, inputs: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits `(B, n, K)` of the next n places: inputs `(B, n)`, integers from 0 to K, in float32 also in autocast.

        With a cache the inputs are those after the cached ones, and are added to it: all at once at the start, or one
        at a time; without gradients. What comes out is the same as without a cache, for a causal model.
        """
        start = 0 if cache is None else cache.filled
        n = inputs.shape[1]
        features = self.token(inputs) + self.place[start : start + n]  # (B, n, width)
        for number, block in enumerate(self.blocks):
            features = block(features, self.causal, cache and cache.layer(number))
        if cache is not None:
            cache.filled = start + n
        return self.head(self.norm(features)).float()


class Block(nn.Module):
    """Attention, then two layers at each place, each added to what came in: `(B, n, width)` to the same."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, features: Tensor, causal: bool, cache: tuple[Tensor, Tensor, int] | None = None) -> Tensor:
        """`(B, n, width)` to the same; `cache` as `Cache.layer` gives it."""
        features = features + self.attend(self.norm_attention(features), causal, cache)
        return features + self.narrow(F.gelu(self.wide(self.norm_mlp(features)), approximate="tanh"))

    def attend(self, features: Tensor, causal: bool, cache: tuple[Tensor, Tensor, int] | None) -> Tensor:
        """softmax(Q K^T / sqrt(d)) V, d the features of a head."""
        batch, n, width = features.shape
        parts = self.query_key_value(features).view(batch, n, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, n, d)
        if cache is not None:
            keys, values, start = cache
            keys[:, :, start : start + n], values[:, :, start : start + n] = k, v
            k, v = keys[:, :, : start + n], values[:, :, : start + n]
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=causal and n > 1)
        return self.out(seen.transpose(1, 2).reshape(batch, n, width))


class Cache:
    """The keys and values of the places so far, for each layer: a place is worked out once, not for every later one.

    Args:
        transformer: whose.
        batch: sequences.
        length: the most places it can hold.
    """

    def __init__(self, transformer: Transformer, batch: int, length: int):
        first = transformer.blocks[0]
        shape = (len(transformer.blocks), 2, batch, first.heads, length, transformer.width // first.heads)
        self.memory = transformer.place.new_empty(shape)  # (layers, 2, B, heads, length, d)
        self.filled = 0

    def layer(self, number: int) -> tuple[Tensor, Tensor, int]:
        """Keys and values `(B, heads, length, d)` of a layer, and how many places are filled."""
        keys, values = self.memory[number]
        return keys, values, self.filled


def _small_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
