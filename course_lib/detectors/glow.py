"""Glow: an invertible network, and with it the exact likelihood of an image, scale by scale.

Kingma and Dhariwal, Glow: generative flow with invertible 1 x 1 convolutions, NeurIPS 2018; the priors, the order of
the coupling and the likelihood of each scale: Schirrmeister, Zhou, Ball, Zhang, Understanding anomaly detection with
deep invertible networks through hierarchies of distributions and features, NeurIPS 2020. Theirs has L = 3, K = 32 and
512 hidden channels. Ours is narrower, multiplies by a plain matrix W where theirs holds its LU factors, and is set up
by one batch where theirs takes about eleven.

Every layer returns its output and its log-determinant *position by position*, `(1 or B, H, W)`: the sum over H and W
is log |det dy/dx|. No factor H W can be forgotten, and likelihoods have a place in the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.detectors.base import Detector
from course_lib.detectors.vae import differentiable
from course_lib.errors import BadInput

GREYS = 256  # grey values of a quantised image
BRIGHTEST = 2.0  # intensities from here on share the last grey value; healthy tissue ends near 1
NARROWEST = 1e-6  # standard deviation that an ActNorm divides by
LOG2 = math.log(2)  # nats in a bit


class ActNorm(nn.Module):
    """y = exp(s) (x + b), where b and s are learned, and set by the first training batch: y has mean 0 and s.d. 1.

    Args:
        shape: `(C, 1, 1)`: one b and s for each channel; `(C, H, W)`: for each number. A batch is too small to know
            the variance of each number (at the picture's edge most often 0): it is then
            `(sum of squares over the batch + the channel's variance) / (B + 1)`.
    """

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        self.b, self.s = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))  # saved: a loaded one is not set again

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y `(B, C, H, W)`, and the sum of s over the channels, `(1, H, W)`."""
        if self.training and not self.initialised:
            self.initialise(x)
        return self.s.exp() * (x + self.b), self.s.expand(x.shape[1:]).sum(0, keepdim=True)

    def inverse(self, y: Tensor) -> Tensor:
        """x = exp(-s) y - b."""
        return (-self.s).exp() * y - self.b

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """b = -mean, exp(s) = 1 / s.d., over the batch, and over the positions where they share b and s."""
        x, count = x.to(self.b.dtype), len(x)  # float32 also under autocast
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        if self.b.shape[1:] != (1, 1):
            channel = variance
            variance, mean = torch.var_mean(x, 0, correction=0, keepdim=True)
            variance = (count * variance + channel) / (count + 1)
        self.b.copy_(-mean[0])
        self.s.copy_(-variance[0].sqrt().clamp(min=NARROWEST).log())
        self.initialised.fill_(True)


class InvertibleConvolution(nn.Module):
    """y = W x at each position: a 1 x 1 convolution, at first a random rotation. It mixes what the coupling splits."""

    def __init__(self, channels: int):
        super().__init__()
        self.w = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0].contiguous())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y `(B, C, H, W)`, and log |det W| at each position, `(1, H, W)`."""
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would err by a grey value
            y = F.conv2d(x, self.w[:, :, None, None])
            return y, torch.linalg.slogdet(self.w)[1].expand(1, *x.shape[2:])

    def inverse(self, y: Tensor) -> Tensor:
        """x = W^-1 y; W is inverted in double precision."""
        return F.conv2d(y, torch.linalg.inv(self.w.double()).to(y.dtype)[:, :, None, None])


class Coupling(nn.Module):
    """Half of the channels stays; the other half is shifted and scaled by what a network sees in the first.

    `(a, b) -> (a, (b + t) sigmoid(r + 2))` with `(t, r) = NN(a)`: shift first, as in both papers' code. NN need not
    be invertible. It ends in zeros, so that the layer starts as a multiplication of b by 0.88.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.half = channels // 2
        self.first = nn.Conv2d(self.half, hidden, 3, padding=1, bias=False)  # the ActNorms have the biases
        self.second = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.norms = nn.ModuleList(ActNorm((hidden, 1, 1)) for _ in range(2))
        self.last = nn.Conv2d(hidden, 2 * (channels - self.half), 3, padding=1)
        self.gain = nn.Parameter(torch.zeros(2 * (channels - self.half), 1, 1))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def shift_and_scale(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """t and log sigmoid(r + 2), each `(B, C / 2, H, W)`, in float32 also under autocast."""
        h = F.relu(self.norms[0](self.first(a))[0])
        h = F.relu(self.norms[1](self.second(h))[0])
        out = self.last(h).to(a.dtype) * (3 * self.gain).exp()
        return out[:, 0::2], F.logsigmoid(out[:, 1::2] + 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y `(B, C, H, W)`, and the sum of the log-scales over the channels, `(B, H, W)`."""
        a, b = x[:, : self.half], x[:, self.half :]
        t, log_scale = self.shift_and_scale(a)
        return torch.cat([a, (b + t) * log_scale.exp()], 1), log_scale.sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """b = b' / scale - t, where t and the scale come from a, which did not change."""
        a, b = y[:, : self.half], y[:, self.half :]
        t, log_scale = self.shift_and_scale(a)
        return torch.cat([a, b * (-log_scale).exp() - t], 1)


class Scale(nn.Module):
    """One scale: 2 x 2 pixels become 4 channels, K steps of flow, and half of the channels meets its prior.

    The prior is N(0, 1) after an ActNorm with its own b and s at each position.

    Args:
        channels, height, width: of what comes in.
        steps: K.
        hidden: channels inside the couplings.
        last: whether all channels end here.
    """

    def __init__(self, channels: int, height: int, width: int, steps: int, hidden: int, last: bool):
        super().__init__()
        channels = 4 * channels
        self.kept = channels if last else channels // 2
        self.layers = nn.ModuleList()
        for _ in range(steps):
            self.layers += [ActNorm((channels, 1, 1)), InvertibleConvolution(channels), Coupling(channels, hidden)]
        self.prior = ActNorm((self.kept, height // 2, width // 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(B, C, H, W)` to z, the channels that go on, and this scale's log-likelihood `(B, H / 2, W / 2)` in nats."""
        x, nats = F.pixel_unshuffle(x, 2), 0.0  # (B, 4C, H / 2, W / 2)
        for layer in self.layers:
            x, logdet = layer(x)
            nats = nats + logdet
        z, logdet = self.prior(x[:, : self.kept])
        return z, x[:, self.kept :], nats + logdet + log_normal(z).sum(1)

    def inverse(self, z: Tensor, rest: Tensor) -> Tensor:
        """What came in, from z and from what went on (no channels, if nothing did)."""
        x = torch.cat([self.prior.inverse(z), rest], 1)
        for layer in reversed(self.layers):
            x = layer.inverse(x)
        return F.pixel_shuffle(x, 2)


class Glow(Detector):
    """A flow f, trained to the likelihood of healthy slices; the anomaly is the negative log-likelihood.

    `log p(x) = sum_i [ log N(z_i; 0, I) + log |det prior_i| + log |det flow_i| ]` over the scales i. All of it is
    exact. Intensities are quantised to 256 grey values q and made continuous again: `x = (q + u) / 256 - 1/2`, u
    uniform in [0, 1) while training and 1/2 when scoring. A constant background would otherwise have infinite density.
    With it the numbers are bits per dimension of the quantised image: `-log2 p(x) / D + 8`.

    Beware: most of it is about local texture, which a healthy slice has more of than a blurred or a blank one. The
    likelihood of one flow can be higher far away from its training data than on it. `glow_hierarchy` is about that.

    Args:
        image_shape: height and width in pixels.
        scales: L.
        steps: K, flow steps in each scale.
        hidden: channels inside the couplings.
        pool: the flow sees means of `pool` x `pool` pixels. D = HW / pool^2.

    Raises:
        BadInput: a side is not a multiple of pool 2^L.
    """

    def __init__(self, image_shape: tuple[int, int], scales: int = 3, steps: int = 4, hidden: int = 32, pool: int = 2):
        super().__init__()
        self.image_shape, self.scales, self.steps, self.hidden, self.pool = image_shape, scales, steps, hidden, pool
        if min(scales, steps, hidden, pool) < 1:
            raise ValueError(f"scales, steps, hidden and pool are at least 1: {scales}, {steps}, {hidden}, {pool}.")
        multiple = pool * 2**scales
        if any(side % multiple for side in image_shape):
            raise BadInput(
                f"{scales} scales of means over {pool} pixels need multiples of {multiple}, not {image_shape}.",
                field="image_shape",
                remedy="Pad or crop the images, or choose fewer scales.",
            )
        height, width = (side // pool for side in image_shape)
        self.dimensions = height * width  # D
        self.flow = nn.ModuleList(
            Scale(2**i, height // 2**i, width // 2**i, steps, hidden, last=i == scales - 1) for i in range(scales)
        )

    def continuous(self, images: Tensor, noise: Tensor | float = 0.5) -> Tensor:
        """x = (q + u) / 256 - 1/2 in [-1/2, 1/2], `(B, 1, H / pool, W / pool)`, q the grey values of the images.

        Args:
            noise: u in [0, 1), a number or `(B, 1, H / pool, W / pool)`.
        """
        pooled = F.avg_pool2d(images, self.pool)
        q = (pooled * (GREYS / BRIGHTEST)).floor().clamp(0, GREYS - 1)
        return (q + noise) / GREYS - 0.5

    def encode(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The codes z_i of x, `(B, 2^(i+1), H_i, W_i)` (the last has twice that), and log-likelihoods `(B, H_i, W_i)`.

        In nats, of the density of x; their sum over scales and positions is log p(x).
        """
        codes, nats = [], []
        for scale in self.flow:
            z, x, log_likelihood = scale(x)
            codes.append(z)
            nats.append(log_likelihood)
        return codes, nats

    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        """x from its codes: the inverse of `encode`."""
        x = codes[-1][:, :0]  # nothing goes on after the last scale
        for scale, z in zip(reversed(self.flow), reversed(codes), strict=True):
            x = scale.inverse(z, x)
        return x

    def log_likelihoods(self, x: Tensor) -> Tensor:
        """The log-likelihood of each scale, `(B, L)`, in nats; the sum over the scales is log p(x)."""
        return torch.stack([nats.flatten(1).sum(1) for nats in self.encode(x)[1]], 1)

    def bits(self, x: Tensor) -> Tensor:
        """Bits per dimension of the quantised image, `(B,)`: `-log2 p(x) / D + log2(256)`."""
        return -self.log_likelihoods(x).sum(1) / (self.dimensions * LOG2) + math.log2(GREYS)

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`bits`: the mean bits per dimension, with uniform noise within each grey value."""
        pooled = F.avg_pool2d(images, self.pool)
        return {"bits": self.bits(self.continuous(images, torch.rand_like(pooled))).mean()}

    @torch.no_grad()
    def anomaly_score(self, images: Tensor) -> Tensor:
        """The negative log-likelihood in bits per dimension, `(B,)`: without noise, the same at each call."""
        return self.bits(self.continuous(images))

    @torch.no_grad()
    def scale_bits(self, images: Tensor) -> Tensor:
        """The share of each scale in `anomaly_score`, `(B, L)`, in bits per dimension of the whole: they sum to it.

        Each scale with D_i numbers in its code gets D_i / D of the constant log2(256).
        """
        share = images.new_tensor([scale.prior.b.numel() / self.dimensions for scale in self.flow])  # (L,)
        nats = self.log_likelihoods(self.continuous(images))  # (B, L)
        return -nats / (self.dimensions * LOG2) + share * math.log2(GREYS)

    def last_scale(self, images: Tensor) -> Tensor:
        """The share of the last, coarsest scale, `(B,)`: the paper's score by the hierarchy of features."""
        return self.scale_bits(images)[:, -1]

    @torch.no_grad()
    def bits_map(self, images: Tensor) -> Tensor:
        """The bits of each pixel, `(B, H, W)`: the mean over all pixels, background too, is `anomaly_score`.

        Each position of a scale spreads its bits evenly over the pixels that it stands for, 2 pool up to 2^L pool
        wide. A position's code depends on its surroundings too, so the places are blurred.
        """
        nats = self.encode(self.continuous(images))[1]
        total = images.new_full((len(images), 1, *self.image_shape), math.log2(GREYS))
        for i, log_likelihood in enumerate(nats):
            wide = F.interpolate(log_likelihood[:, None], size=self.image_shape, mode="nearest")
            total -= wide / (4 ** (i + 1) * LOG2)
        return total[:, 0]

    @torch.no_grad()
    def anomaly_map(self, images: Tensor) -> Tensor:
        """`bits_map` in the brain, 0 outside: `(B, 1, H, W)` to `(B, H, W)`. The papers define no map; this is ours."""
        return self.bits_map(images) * (images[:, 0] > 0)

    def gradient_map(self, images: Tensor) -> Tensor:
        """|d bits / d x| in the brain, 0 outside, `(B, H, W)`, in bits per intensity unit; the other map of ours."""
        return input_gradient(self, lambda flow, x: flow.bits(x), self, images)

    @torch.no_grad()
    def sample(self, count: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Images drawn from the model, `(count, 1, H, W)`, in intensity units, at the flow's resolution.

        Args:
            count: how many.
            temperature: standard deviation of z; below 1 more typical, less varied.
            generator: on the CPU.
        """
        shapes, device = [scale.prior.b.shape for scale in self.flow], self.flow[0].prior.b.device
        codes = [temperature * torch.randn(count, *shape, generator=generator).to(device) for shape in shapes]
        pictures = (self.decode(codes) + 0.5).clamp(0, 1) * BRIGHTEST
        return F.interpolate(pictures, size=self.image_shape, mode="nearest")


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, 1) of each number, in nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi))


def input_gradient(
    model: nn.Module, score: Callable[[nn.Module, Tensor], Tensor], flow: Glow, images: Tensor
) -> Tensor:
    """|d score / d image| in the brain, 0 outside, `(B, H, W)`; the steps of the quantisation count as a ramp.

    Args:
        model: what `score` is given; it works in inference mode too.
        score: of the model and x `(B, 1, H / pool, W / pool)`, to `(B,)`.
        flow: makes x of the images.
        images: `(B, 1, H, W)`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x, model = flow.continuous(images.detach().clone()).requires_grad_(), differentiable(model)
        (gradient,) = torch.autograd.grad(score(model, x).sum(), x)
    per_pixel = gradient.abs() / (BRIGHTEST * flow.pool**2)  # an x of 1 is an intensity of 2, and a mean over pixels
    return (F.interpolate(per_pixel, size=flow.image_shape, mode="nearest") * (images > 0))[:, 0].detach()
