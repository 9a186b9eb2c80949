"""Deep SVDD: a network that draws healthy images towards one point, and may not do so by ignoring them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from course_lib.detectors.base import Detector
from course_lib.detectors.blocks import Decoder, code_shape
from course_lib.detectors.vae import differentiable

SLOPE = 0.1  # of LeakyReLU, which has no bound: a saturated unit would be a bias by another name
SMALLEST = 0.1  # of a coordinate of the centre, away from 0


class DeepSVDD(Detector):
    """phi(x; W), trained so that healthy images come to lie near a fixed point c; the distance to c is the anomaly.

    `L = mean_i ||phi(x_i) - c||^2`, with weight decay in the optimizer. "Map everything to c" solves it perfectly
    and detects nothing. Three conditions keep that solution out of reach: no layer has a bias (it could output c
    whatever it sees), no activation is bounded, and c is not 0 (zero weights would map everything there). The
    arguments `bias`, `zero_centre` and `weight_decay` exist to break them and watch.

    Three phases, by the buffer `step`. First the network is the encoder of an auto-encoder (`pretraining` steps, with
    a decoder that is not used again). Then c is the mean of phi in evaluation mode over `centring` batches, without
    updates. All other steps minimise L, and never move c.

    Args:
        image_shape: height and width in pixels. Sides below 16, such as the (1, 2) of points in the plane, get two
            fully connected hidden layers in place of four convolutions.
        latent: d, numbers in phi.
        channels: width of the convolutions, each of which halves the image.
        hidden: width of the fully connected layers.
        pretraining: steps of the auto-encoder.
        centring: batches that c is the mean of.
        bias: give every layer a bias (breaks the first condition).
        zero_centre: c = 0 (breaks the third).
        batch_norm: normalise each layer's output over the batch, without learned scale or shift.
        weight_decay: decoupled (AdamW), times the learning rate at each step.

    Raises:
        BadInput: a side of 16 pixels or more is not a multiple of 2^len(channels).

    Source: Ruff et al., Deep one-class classification, ICML 2018, Sections 3.2 to 3.4. Differences: c comes from a
    sample of the training images instead of all; one learning rate; batch normalisation as in the authors' code.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        latent: int = 32,
        channels: tuple[int, ...] = (8, 16, 32, 32),
        hidden: int = 64,
        pretraining: int = 60,
        centring: int = 8,
        bias: bool = False,
        zero_centre: bool = False,
        batch_norm: bool = True,
        weight_decay: float = 1e-6,
    ):
        super().__init__()
        self.image_shape, self.latent, self.channels, self.hidden = image_shape, latent, channels, hidden
        self.pretraining, self.centring = pretraining, centring
        self.bias, self.zero_centre, self.batch_norm, self.weight_decay = bias, zero_centre, batch_norm, weight_decay
        if min(image_shape) < 16:
            self.phi = self._fully_connected()
            self.decoder = _points_decoder(image_shape, latent, hidden)
        else:
            self.phi = self._convolutional()
            self.decoder = _image_decoder(image_shape, latent, channels)
        self.register_buffer("centre", torch.zeros(latent))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, images: Tensor) -> Tensor:
        """phi(x): `(B, 1, H, W)` to `(B, latent)`."""
        return self.phi(images).float()

    def squared_distances(self, images: Tensor) -> Tensor:
        """||phi(x) - c||^2 of each image, `(B,)`."""
        return (self(images) - self.centre).square().sum(1)

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`loss`, the phase's own, mean over the batch: the squared error summed over pixels, or ||phi(x) - c||^2."""
        if self.step < self.pretraining:
            return {"loss": (self.decoder(self(images)).float() - images).square().sum((1, 2, 3)).mean()}
        return {"loss": self.squared_distances(images).mean()}

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """A step of the phase that `step` is in; while c is being found, no weight moves."""
        seen = int(self.step) - self.pretraining  # batches of the second phase so far
        if 0 <= seen < self.centring:
            losses = {"loss": self._move_centre(images, seen)}
        else:
            losses = super().training_step(images, optimizers)
        self.step += 1
        return losses

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW, learning rate 1e-3."""
        return [torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=self.weight_decay, fused=True)]

    @torch.no_grad()
    def anomaly_score(self, images: Tensor) -> Tensor:
        """||phi(x) - c||^2: `(B, 1, H, W)` to `(B,)`. Its unit is arbitrary."""
        return self.squared_distances(images)

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Relevance |x * d score / d x| in the brain, 0 outside: `(B, 1, H, W)` to `(B, H, W)`.

        Deep SVDD has no map of its own: it was made to judge whole images. This is the cheapest explanation of its
        score, not part of the paper.
        """
        with torch.inference_mode(False), torch.enable_grad():
            images, network = images.detach().clone().requires_grad_(), differentiable(self)
            (gradient,) = torch.autograd.grad(network.squared_distances(images).sum(), images)
        return ((images * gradient).abs() * (images > 0))[:, 0].detach()

    @torch.no_grad()
    def _move_centre(self, images: Tensor, seen: int) -> Tensor:
        """Take a batch into the mean that c is, after the last one push c away from 0; returns the mean distance."""
        self.eval()  # as for scoring; and the statistics of the batch normalisation stay
        if not self.zero_centre:
            self.centre += (self(images).mean(0) - self.centre) / (seen + 1)
            if seen == self.centring - 1:
                self.centre.copy_(away_from_zero(self.centre))
        distance = self.squared_distances(images).mean()
        self.train()
        return distance

    def _layer(self, linear: nn.Module, normalise: nn.Module) -> list[nn.Module]:
        return [linear, *([normalise] if self.batch_norm else []), nn.LeakyReLU(SLOPE)]

    def _convolutional(self) -> nn.Sequential:
        layers: list[nn.Module] = []
        for wide_in, wide_out in zip((1, *self.channels), self.channels, strict=False):
            conv = nn.Conv2d(wide_in, wide_out, 3, stride=2, padding=1, bias=self.bias)
            layers += self._layer(conv, nn.BatchNorm2d(wide_out, affine=False))
        height, width = code_shape(self.image_shape, len(self.channels))
        flat = self.channels[-1] * height * width
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, self.latent, bias=self.bias))

    def _fully_connected(self) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten()]
        sizes = (self.image_shape[0] * self.image_shape[1], self.hidden, self.hidden)
        for wide_in, wide_out in zip(sizes, sizes[1:], strict=False):
            linear = nn.Linear(wide_in, wide_out, bias=self.bias)
            layers += self._layer(linear, nn.BatchNorm1d(wide_out, affine=False))
        return nn.Sequential(*layers, nn.Linear(self.hidden, self.latent, bias=self.bias))


def away_from_zero(centre: Tensor) -> Tensor:
    """c with every |c_j| below 0.1 set to -0.1 or 0.1 by its sign; an exact 0 counts as positive.

    A coordinate of c near 0 can be matched by zero weights. Source: the authors' code, whose strict inequalities
    leave an exact 0 (a dead unit) where it is.
    """
    pushed = torch.where(centre < 0, -SMALLEST, SMALLEST)
    return torch.where(centre.abs() < SMALLEST, pushed, centre)


def _image_decoder(image_shape, latent, channels) -> nn.Module:
    height, width = code_shape(image_shape, len(channels))
    unflat = nn.Unflatten(1, (channels[-1], height, width))
    return nn.Sequential(nn.Linear(latent, channels[-1] * height * width), unflat, Decoder(channels))


def _points_decoder(image_shape, latent, hidden) -> nn.Module:
    pixels = image_shape[0] * image_shape[1]
    unflat = nn.Unflatten(1, (1, *image_shape))
    return nn.Sequential(nn.Linear(latent, hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, pixels), unflat)
