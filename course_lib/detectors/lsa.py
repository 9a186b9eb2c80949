"""Latent space autoregression: remember the image, and be surprised by its code.

Abati, Porrello, Calderara, Cucchiara, Latent space autoregression for novelty detection, CVPR 2019. The masks, the bins
and the score are those of the authors' code, which holds no training; lambda and the optimizer are from the paper.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.detectors.autoencoder import CHANNELS, DenseAE
from course_lib.errors import BadInput

SMALLEST = 2.2e-16  # probability of a bin, so that its logarithm is finite
MOMENTUM = 0.1  # of the ranges that are kept in training
NARROWEST = 1e-6  # range of a term of the score


class LSA(DenseAE):
    """An auto-encoder and, on its code, an estimator of the code's density, trained together.

    The code z lies in (0, 1)^d. The estimator h writes its density as a chain, `p(z) = prod_j p(z_j | z_<j)`, and each
    factor as a softmax over B equal bins of (0, 1). With REC the squared error summed over pixels,

        L = REC + lambda NLL,    NLL = -sum_j log p(z_j | z_<j).

    We minimise L / HW, which changes no minimum and keeps the first loss that of `DenseAE`. The image score is the sum
    of both terms, each brought to 0 .. 1 on healthy images. The map is the residual: a likelihood has no pixels.

    NLL as a loss also makes the encoder write codes that are easy to predict. How far that goes depends on `soft`:
    the bin of z_j is an index, and an index has no gradient. In the authors' code the encoder hence feels NLL only
    through the conditions z_<j, never through the value that is predicted.

    Args:
        image_shape: height and width in pixels.
        latent: d, numbers in the code.
        lam: lambda. 0 trains the estimator on codes that it cannot change, a density fitted after the fact.
        bins: B.
        soft: False is the authors' way. True interpolates p linearly between the centres of the two nearest bins, so
            that the gradient reaches z_j as well (ours, not the paper's).
        hidden: channels of the estimator's hidden layers, at each of the d positions.
        depth, channels: encoder and decoder, as those of `autoencoder.DenseAE`.

    Raises:
        BadInput: a side cannot be halved `depth` times.
        ValueError: `lam` is negative, or there are fewer than 2 bins.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        latent: int = 16,
        lam: float = 1.0,
        bins: int = 50,
        soft: bool = False,
        hidden: tuple[int, ...] = (16, 16, 16),
        depth: int = 4,
        channels: tuple[int, ...] = CHANNELS,
    ):
        if lam < 0:
            raise ValueError(f"lam is 0 or more, not {lam}.")
        if bins < 2:
            raise ValueError(f"a density needs 2 bins or more, not {bins}.")
        super().__init__(image_shape, latent, depth, channels)
        self.lam, self.bins, self.soft, self.hidden = lam, bins, soft, hidden
        self.estimator = Estimator(latent, bins, hidden)
        self.register_buffer("rec_range", torch.tensor([0.0, 1.0]))  # lowest and highest REC of healthy images
        self.register_buffer("nll_range", torch.tensor([0.0, 1.0]))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))  # that the ranges come from

    def encode(self, images: Tensor) -> Tensor:
        """z, `(B, latent)`, between 0 and 1, in float32 also under autocast: the bins are narrow."""
        code = super().encode(images)
        return torch.sigmoid(code.to(torch.promote_types(code.dtype, torch.float32)))

    def surprise(self, codes: Tensor) -> Tensor:
        """-log p(z_j | z_<j) of each code number, `(B, latent)`, in nats; log B where h knows nothing."""
        return -probability(codes, self.estimator(codes), self.soft).clamp(min=SMALLEST).log()

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`reconstruction`, REC / HW, and `autoregression`, lambda NLL / HW (NLL / HW if lambda is 0): batch means."""
        codes = self.encode(images)
        rec = squared_error(images, self.decode(codes))  # (B,)
        nll = self.surprise(codes if self.lam > 0 else codes.detach()).sum(1)  # (B,)
        if self.training:
            self._follow(rec, nll)
        pixels = images[0].numel()
        return {
            "reconstruction": rec.mean() / pixels,
            "autoregression": (self.lam or 1.0) * nll.mean() / pixels,
        }

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam, learning rate 1e-3, with an epsilon of 1e-8 / HW: its steps down L / HW are then those down L.

        At the usual 1e-8 the estimator, whose gradients lambda / HW makes small, would hardly move.
        """
        epsilon = 1e-8 / math.prod(self.image_shape)
        return [torch.optim.Adam(self.parameters(), lr=1e-3, eps=epsilon, fused=True)]

    @torch.no_grad()
    def reconstruction_error(self, images: Tensor) -> Tensor:
        """REC, the sum over pixels of (x - x_hat)^2, `(B,)`: an image score."""
        return squared_error(images, self(images))

    @torch.no_grad()
    def negative_log_likelihood(self, images: Tensor) -> Tensor:
        """NLL of the code, `(B,)`, in nats: an image score; `latent log(bins)` where h knows nothing."""
        return self.surprise(self.encode(images)).sum(1)

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> LSA:
        """Take the ranges of REC and NLL from healthy validation images `(N, 1, H, W)`, as the paper does.

        Without it they are a running mean over the last ten or so training batches of each batch's lowest and highest,
        which is narrower. Returns the detector.

        Raises:
            BadInput: fewer than 2 images: they have no range.
        """
        if len(images) < 2:
            raise BadInput(f"a range needs 2 images or more, not {len(images)}.", field="images")
        mode = self.training
        self.eval()
        parts = images.split(64)
        rec = torch.cat([self.reconstruction_error(part) for part in parts])  # (N,)
        nll = torch.cat([self.negative_log_likelihood(part) for part in parts])
        self.rec_range.copy_(torch.stack(rec.aminmax()))
        self.nll_range.copy_(torch.stack(nll.aminmax()))
        self.train(mode)
        return self

    @torch.no_grad()
    def anomaly_score(self, images: Tensor) -> Tensor:
        """norm(REC) + norm(NLL), `(B, 1, H, W)` to `(B,)`, norm(v) = (v - min) / (max - min) on healthy images.

        Healthy images lie between 0 and 2; others go beyond. The authors' score, high for normal, is 2 minus this.
        """
        rec, nll = self.reconstruction_error(images), self.negative_log_likelihood(images)
        return normalise(rec, self.rec_range) + normalise(nll, self.nll_range)

    @torch.no_grad()
    def _follow(self, rec: Tensor, nll: Tensor) -> None:
        """Move the ranges a little towards those of a training batch: a plain mean at first, then one that forgets."""
        self.batches += 1
        weight = (1 / self.batches).clamp(min=MOMENTUM)
        self.rec_range.lerp_(torch.stack(rec.aminmax()), weight)
        self.nll_range.lerp_(torch.stack(nll.aminmax()), weight)


class MaskedLinear(nn.Linear):
    """A linear layer over positions x channels in which position i of the output sees positions j < i, or j <= i.

    `(B, positions, channels_in)` to `(B, positions, channels_out)`. Weights are not shared between positions.

    Args:
        positions, channels_in, channels_out: of the shapes above.
        strict: True for j < i (mask A of the paper, the first layer), False for j <= i (mask B, all others).
    """

    def __init__(self, positions: int, channels_in: int, channels_out: int, strict: bool):
        super().__init__(positions * channels_in, positions * channels_out)
        self.positions, self.channels_out = positions, channels_out
        sees = torch.ones(positions, positions, dtype=torch.bool).tril(-1 if strict else 0)  # [i, j]
        mask = sees.repeat_interleave(channels_out, 0).repeat_interleave(channels_in, 1)  # as the weight
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, positions, channels_in)` to `(B, positions, channels_out)`."""
        flat = F.linear(features.flatten(1), self.weight * self.mask, self.bias)
        return flat.unflatten(1, (self.positions, self.channels_out))


class Estimator(nn.Module):
    """h: for each number of a code, a distribution over bins, given the numbers before it alone.

    Args:
        latent: d, positions.
        bins: B, equal bins of (0, 1).
        hidden: channels of the hidden layers.
    """

    def __init__(self, latent: int, bins: int, hidden: tuple[int, ...] = (16, 16, 16)):
        super().__init__()
        widths = (1, *hidden, bins)
        layers: list[nn.Module] = []
        for number, (c, d) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [MaskedLinear(latent, c, d, strict=number == 0), nn.LeakyReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, codes: Tensor) -> Tensor:
        """log p(bin of z_j | z_<j), `(B, latent)` to `(B, latent, bins)`, in float32 also under autocast."""
        logits = self.layers(codes[:, :, None])
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def probability(codes: Tensor, log_p: Tensor, soft: bool) -> Tensor:
    """The probability of the bin that holds each code number, `(B, latent)`.

    Args:
        codes: z, `(B, latent)`, between 0 and 1.
        log_p: of each bin, `(B, latent, bins)`.
        soft: interpolate linearly between the centres of the two nearest bins; beyond the outermost it is constant.
    """
    bins = log_p.shape[-1]
    if not soft:
        index = (codes.detach() * bins).long().clamp(0, bins - 1)
        return log_p.gather(-1, index[:, :, None])[:, :, 0].exp()
    place = (codes * bins - 0.5).clamp(0, bins - 1)  # in bins, 0 at the first centre
    lower = place.detach().long().clamp(max=bins - 2)
    p_lower, p_upper = log_p.gather(-1, torch.stack([lower, lower + 1], -1)).exp().unbind(-1)
    return p_lower + (place - lower) * (p_upper - p_lower)


def squared_error(images: Tensor, rebuilt: Tensor) -> Tensor:
    """REC, the sum over pixels of (x - x_hat)^2, `(B,)`; float32 images keep it in float32."""
    return (images - rebuilt).square().flatten(1).sum(1)


def normalise(values: Tensor, bounds: Tensor) -> Tensor:
    """(v - min) / (max - min) with `bounds` = [min, max] of healthy images."""
    return (values - bounds[0]) / (bounds[1] - bounds[0]).clamp(min=NARROWEST)
