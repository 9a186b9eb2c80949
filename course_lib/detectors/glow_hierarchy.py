"""A hierarchy of distributions: what a flow of healthy slices knows beyond a flow of images in general.

Schirrmeister, Zhou, Ball, Zhang, Understanding anomaly detection with deep invertible networks through hierarchies of
distributions and features, NeurIPS 2020. Their general images are 80 million photographs; ours are made on the spot.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.detectors.glow import LOG2, Glow, input_gradient
from course_lib.errors import BadInput

PAPER_DIMENSIONS = 3072  # theirs: 32 x 32 pixels of 3 colours, and everything summed over them, in nats
PAPER_WEIGHT = 6000 / (PAPER_DIMENSIONS * LOG2)  # their lambda, in bits per dimension: 2.8
PAPER_TEMPERATURE = 1000 / (PAPER_DIMENSIONS * LOG2)  # their T, in bits per dimension: 0.47
TILES = 4  # along each side of a shuffled slice
ELLIPSES = 6  # in a drawn image


class GlowHierarchy(Detector):
    """Two flows of one architecture, p_gen of general images and p_in of healthy slices: `log p_gen(x) - log p_in(x)`.

    What all images share, such as that smooth ones are likely, is in both and cancels.

    Two phases, by the buffer `step`. First p_gen is trained for `general_steps` steps on `general_batch`, images that
    are made out of nothing and out of the healthy ones. Then p_in starts *as a copy of it*, is trained on the healthy
    slices, and p_gen never moves again. With an `outlier_weight` lambda the second phase also pushes p_in below p_gen
    where the general images are:

        L = bits_in(x) + lambda mean_o softplus( (bits_gen(x_o) - bits_in(x_o)) / T ).

    bits_gen takes no gradient there; there is no such term on the healthy slices.

    The ratio knows what is *not* general as well as the general images let it. What they hold, such as bright ellipses,
    it has been told of: results on anomalies like these are partly given away.

    Args:
        image_shape, scales, steps, hidden, pool: of both flows, as for `Glow`.
        general_steps: steps of the first phase.
        outlier_weight: lambda, per bit per dimension; 0 is the plain ratio. `PAPER_WEIGHT` is the paper's 6000.
        temperature: T, in bits per dimension. `PAPER_TEMPERATURE` is the paper's 1000.

    Raises:
        BadInput: a side is not a multiple of pool 2^L and of 4; when scoring, the second phase has not begun.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        scales: int = 3,
        steps: int = 4,
        hidden: int = 32,
        pool: int = 2,
        general_steps: int = 400,
        outlier_weight: float = 0.0,
        temperature: float = PAPER_TEMPERATURE,
    ):
        super().__init__()
        self.image_shape, self.scales, self.steps, self.hidden, self.pool = image_shape, scales, steps, hidden, pool
        self.general_steps, self.outlier_weight, self.temperature = general_steps, outlier_weight, temperature
        if general_steps < 1 or outlier_weight < 0 or temperature <= 0:
            given = f"{general_steps}, {outlier_weight} and {temperature}"
            raise ValueError(f"general_steps >= 1, outlier_weight >= 0 and temperature > 0 are needed, not {given}.")
        check_tiles(image_shape)
        self.general = Glow(image_shape, scales, steps, hidden, pool)  # p_gen
        self.inner = Glow(image_shape, scales, steps, hidden, pool)  # p_in
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def general_batch(self, images: Tensor) -> Tensor:
        """As many general images as there are healthy ones; a subclass may have better ones."""
        return general_images(images)

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`bits` of the phase's own flow on its own images, and `outlier`, lambda's term (0 in the first phase)."""
        if self.step < self.general_steps:
            return self.general.training_losses(self.general_batch(images)) | {"outlier": images.new_zeros(())}
        outlier = self.outlier_loss(self.general_batch(images)) if self.outlier_weight else images.new_zeros(())
        return self.inner.training_losses(images) | {"outlier": self.outlier_weight * outlier}

    def outlier_loss(self, outliers: Tensor) -> Tensor:
        """mean softplus((bits_gen - bits_in) / T) over the outliers: the cross-entropy of "it is not of p_in"."""
        x = self.inner.continuous(outliers, torch.rand_like(F.avg_pool2d(outliers, self.pool)))
        with torch.no_grad():
            bits_gen = self.general.bits(x)
        return F.softplus((bits_gen - self.inner.bits(x)) / self.temperature).mean()

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """A step of the phase that `step` is in; the first of the second phase begins with the copy."""
        if self.step == self.general_steps:
            self.inner.load_state_dict(self.general.state_dict())
        phase = int(self.step >= self.general_steps)
        losses = super().training_step(images, [optimizers[phase]])
        self.step += 1
        return losses

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for p_gen (1e-3), and for p_in (5e-4). The paper: Adamax, 5e-4, weight decay 5e-5, 250 epochs."""
        rates = ((self.general, 1e-3), (self.inner, 5e-4))
        return [torch.optim.Adam(flow.parameters(), lr=rate, fused=True) for flow, rate in rates]

    def ratio(self, x: Tensor) -> Tensor:
        """log2 p_gen(x) - log2 p_in(x) for each x `(B, 1, H / pool, W / pool)`, `(B,)`, in bits per dimension."""
        self._check_trained()
        return self.inner.bits(x) - self.general.bits(x)

    @torch.no_grad()
    def anomaly_score(self, images: Tensor) -> Tensor:
        """The ratio in bits per dimension: `(B, 1, H, W)` to `(B,)`. Below 0: likelier as a healthy slice."""
        return self.ratio(self.inner.continuous(images))

    def likelihood(self, images: Tensor) -> Tensor:
        """-log2 p_in(x) in bits per dimension, `(B,)`: the score that the ratio is to be better than."""
        return self.inner.anomaly_score(images)

    def last_scale(self, images: Tensor) -> Tensor:
        """The last scale's share of `likelihood`, `(B,)`: the hierarchy of features, without p_gen."""
        return self.inner.last_scale(images)

    def scale_ratios(self, images: Tensor) -> Tensor:
        """The share of each scale in `anomaly_score`, `(B, L)`: they sum to it."""
        self._check_trained()
        return self.inner.scale_bits(images) - self.general.scale_bits(images)

    @torch.no_grad()
    def anomaly_map(self, images: Tensor) -> Tensor:
        """The ratio of each pixel, in bits, in the brain, 0 outside: `(B, 1, H, W)` to `(B, H, W)`.

        The mean of the whole difference of the two flows' `bits_map`, background too, is `anomaly_score`. The paper
        scores whole images; this map is ours.
        """
        self._check_trained()
        return (self.inner.bits_map(images) - self.general.bits_map(images)) * (images[:, 0] > 0)

    def gradient_map(self, images: Tensor) -> Tensor:
        """|d ratio / d x| in the brain, 0 outside, `(B, H, W)`, in bits per intensity unit; the other map of ours."""
        return input_gradient(self, lambda hierarchy, x: hierarchy.ratio(x), self.inner, images)

    def _check_trained(self) -> None:
        if self.step <= self.general_steps:
            raise BadInput(
                f"p_in has seen no healthy slice: {int(self.step)} steps were taken, and the first "
                f"{self.general_steps} are p_gen's.",
                field="general_steps",
                remedy="Train for more steps, or give fewer to the first phase.",
            )


def general_images(images: Tensor) -> Tensor:
    """General images in the course's intensities, as many as healthy ones are given: `(B, 1, H, W)` to the same.

    By the toss of a coin each is a drawing of ellipses, or the healthy slice turned and its tiles shuffled. They have
    edges, areas and the slices' own texture, and no anatomy.
    """
    drawn = ellipses(len(images), images.shape[-2:], images.device)
    coin = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(coin, drawn, shuffle_tiles(turn(images)))


def ellipses(count: int, shape: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Six ellipses one upon the other on a black ground, with noise: `(count, 1, H, W)`.

    Grey levels are uniform in [0.1, 1], the standard deviation of the noise in [0, 0.06] for each image.
    """
    y, x = (torch.linspace(-1, 1, size, device=device) for size in shape)
    y, x = y[:, None], x[None]  # (H, 1), (1, W)
    pictures = torch.zeros(count, *shape, device=device)
    for _ in range(ELLIPSES):
        chance = torch.rand(6, count, 1, 1, device=device)
        right, down = 1.2 * chance[0] - 0.6, 1.2 * chance[1] - 0.6  # centres
        angle, grey = math.pi * chance[2], 0.1 + 0.9 * chance[3]
        along = (x - right) * angle.cos() + (y - down) * angle.sin()  # (count, H, W)
        across = (y - down) * angle.cos() - (x - right) * angle.sin()
        inside = (along / (0.15 + 0.65 * chance[4])) ** 2 + (across / (0.15 + 0.65 * chance[5])) ** 2 < 1
        pictures = torch.where(inside, grey, pictures)
    noise = 0.06 * torch.rand(count, 1, 1, device=device) * torch.randn(count, *shape, device=device)
    return ((pictures + noise).clamp(min=0) * (pictures > 0))[:, None]


def turn(images: Tensor) -> Tensor:
    """Each image mirrored at random along each axis and, where it is square, along its diagonal: `(B, 1, H, W)`."""
    mirrors = [lambda image: image.flip(-1), lambda image: image.flip(-2)]
    if images.shape[-1] == images.shape[-2]:
        mirrors.append(lambda image: image.transpose(-1, -2))
    for mirror in mirrors:
        coin = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(coin, mirror(images), images)
    return images


def shuffle_tiles(images: Tensor) -> Tensor:
    """The 4 x 4 tiles of each image in an order of its own: `(B, 1, H, W)` to the same.

    Raises:
        BadInput: a side is not a multiple of 4.
    """
    check_tiles(images.shape[-2:])
    count, _, height, width = images.shape
    tiles = images.reshape(count, TILES, height // TILES, TILES, width // TILES).transpose(2, 3).flatten(1, 2)
    order = torch.rand(count, TILES**2, device=images.device).argsort(1)  # a permutation for each image
    tiles = tiles[torch.arange(count, device=images.device)[:, None], order]  # (B, 16, H / 4, W / 4)
    return tiles.unflatten(1, (TILES, TILES)).transpose(2, 3).reshape(images.shape)


def check_tiles(shape: tuple[int, int]) -> None:
    """Raise BadInput where a side of the image is not a multiple of 4."""
    if any(side % TILES for side in shape):
        raise BadInput(f"{TILES} x {TILES} tiles do not fit {tuple(shape)} pixels.", field="image_shape")
