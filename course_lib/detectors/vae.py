"""The variational auto-encoder, with every weight of its bound in sight.

Kingma and Welling, Auto-encoding variational Bayes, ICLR 2014; as a detector: Baur et al., Medical Image Analysis 69
(2021); beta: Higgins et al., ICLR 2017; gradient maps: Zimmerer et al., MIDL 2019.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from course_lib.detectors.autoencoder import CHANNELS
from course_lib.detectors.blocks import Decoder, Encoder, code_shape
from course_lib.detectors.reconstruction import Reconstruction

VARIANCE = 0.005  # v of the likelihood N(x; x_hat, v): a standard deviation of 0.07, about half a robust one
ACTIVE = 0.1  # nats: a code number that carries more counts as active
LOGVAR = (-10.0, 5.0)  # keeps exp() in bounds


class VAE(Reconstruction):
    """A variational auto-encoder: the code of an image is a Gaussian that costs nats to tell from N(0, I).

    The likelihood is `p(x | z) = N(x; decode(z), v I)` with a constant v, so that the negative ELBO, in nats, is

        sum_p (x_p - x_hat_p)^2 / (2 v) + beta KL(q(z | x) || N(0, I)) + (HW / 2) log(2 pi v).

    The squares are *summed* over pixels. With their mean in that place, and v forgotten, the KL weighs HW / (2 v)
    times as much: on 96 x 96 pixels nearly a million times, and the code is empty. The best v is the mean squared
    error itself; a constant keeps beta comparable between trainings.

    Args:
        image_shape: height and width in pixels.
        latent: numbers in the code.
        beta: weight of the KL; 1 gives the bound itself.
        variance: v, in squared intensity units.
        depth, channels: encoder and decoder, as those of `autoencoder.DenseAE`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        latent: int = 32,
        beta: float = 1.0,
        variance: float = VARIANCE,
        depth: int = 4,
        channels: tuple[int, ...] = CHANNELS,
    ):
        super().__init__()
        self.image_shape, self.latent, self.beta, self.variance = image_shape, latent, beta, variance
        self.depth, self.channels = depth, channels
        if not 1 <= depth <= len(channels):
            raise ValueError(f"depth is {depth}, but channels gives the widths of levels 1 to {len(channels)}.")
        widths = tuple(channels[:depth])
        height, width = code_shape(image_shape, depth)
        squeezed = 16  # as in DenseAE
        self.encoder = nn.Sequential(Encoder(widths), nn.Conv2d(widths[-1], squeezed, 1), nn.Flatten())
        self.to_mu = nn.Linear(squeezed * height * width, latent)
        self.to_logvar = nn.Linear(squeezed * height * width, latent)
        self.from_code = nn.Sequential(
            nn.Linear(latent, squeezed * height * width),
            nn.Unflatten(1, (squeezed, height, width)),
            nn.Conv2d(squeezed, widths[-1], 1),
        )
        self.decoder = Decoder(widths)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma^2 of q(z | x), each `(B, latent)`, in float32 also under autocast: exp() needs it."""
        features = self.encoder(images)
        mu, logvar = self.to_mu(features), self.to_logvar(features)
        precise = torch.promote_types(mu.dtype, torch.float32)
        return mu.to(precise), logvar.to(precise).clamp(*LOGVAR)

    def encode(self, images: Tensor) -> Tensor:
        """The mean code mu, `(B, latent)`: what is used at test time, where a sample would only add noise."""
        return self.posterior(images)[0]

    def decode(self, code: Tensor) -> Tensor:
        """`(B, latent)` to `(B, 1, H, W)`."""
        return self.decoder(self.from_code(code))

    def forward(self, images: Tensor) -> Tensor:
        """decode(mu(x)), `(B, 1, H, W)`."""
        return self.decode(self.encode(images))

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`reconstruction`, the mean of (x - x_hat)^2 as for all auto-encoders of the course, and `kl`.

        Together they are the negative ELBO in nats times 2 v / HW, less a constant. The factor changes no minimum; it
        keeps the first loss, the learning rate and the limit on gradients those of `DenseAE`.
        """
        mu, logvar = self.posterior(images)
        rebuilt = self.decode(sample(mu, logvar))
        nats = 2 * self.variance / images[0].numel()
        return {
            "reconstruction": nats * misfit(images, rebuilt, self.variance).mean(),
            "kl": nats * self.beta * kl_per_dimension(mu, logvar).sum(1).mean(),
        }

    def elbo(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """The evidence lower bound of each image at beta = 1, `(B,)`, in nats: at most log p(x) on average over noise.

        Args:
            noise: standard normal numbers `(B, latent)`, z = mu + sigma noise; default: none, z = mu, which leaves out
                what the code's width costs and is then no strict bound, but the same at each call.
        """
        mu, logvar = self.posterior(images)
        rebuilt = self.decode(mu if noise is None else sample(mu, logvar, noise))
        constant = 0.5 * images[0].numel() * math.log(2 * math.pi * self.variance)
        return -misfit(images, rebuilt, self.variance) - kl_per_dimension(mu, logvar).sum(1) - constant

    def gradient_map(self, images: Tensor, of: str = "kl") -> Tensor:
        """|d KL / d x| or |d ELBO / d x| in the brain, `(B, H, W)`, nats per intensity unit; works in inference mode.

        Raises:
            ValueError: `of` is neither "kl" nor "elbo".
        """
        if of not in ("kl", "elbo"):
            raise ValueError(f"of is 'kl' or 'elbo', not {of!r}.")
        with torch.inference_mode(False), torch.enable_grad():
            images, network = images.detach().clone().requires_grad_(), differentiable(self)
            nats = network.elbo(images) if of == "elbo" else kl_per_dimension(*network.posterior(images)).sum(1)
            (gradient,) = torch.autograd.grad(nats.sum(), images)
        return (gradient.abs() * (images > 0))[:, 0].detach()

    @torch.no_grad()
    def kl_score(self, images: Tensor) -> Tensor:
        """KL of each image, `(B,)`, in nats: an image score."""
        return kl_per_dimension(*self.posterior(images)).sum(1)

    @torch.no_grad()
    def negative_elbo(self, images: Tensor) -> Tensor:
        """The negative ELBO of each image at z = mu, `(B,)`, in nats: an image score."""
        return -self.elbo(images)

    @torch.no_grad()
    def code_nats(self, images: Tensor) -> Tensor:
        """The KL of each code number, mean over the images, `(latent,)`, in nats."""
        return kl_per_dimension(*self.posterior(images)).mean(0)

    def active_units(self, images: Tensor) -> int:
        """How many code numbers carry more than 0.1 nat: 0 is a collapsed model, which paints one mean image."""
        return int((self.code_nats(images) > ACTIVE).sum())


def sample(mu: Tensor, logvar: Tensor, noise: Tensor | None = None) -> Tensor:
    """z = mu + sigma noise, `(B, latent)`: the gradient passes to mu and sigma."""
    return mu + (0.5 * logvar).exp() * (torch.randn_like(mu) if noise is None else noise)


def kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + sigma^2 - log sigma^2 - 1) / 2 of each number, in nats."""
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1)


def misfit(images: Tensor, rebuilt: Tensor, variance: float) -> Tensor:
    """sum_p (x_p - x_hat_p)^2 / (2 v), `(B,)`, in nats: -log N(x; x_hat, v I) without its constant.

    Images in float32 keep it in float32, whatever the decoder's arithmetic was.
    """
    return (images - rebuilt).square().flatten(1).sum(1) / (2 * variance)


def differentiable(network: nn.Module) -> nn.Module:
    """The network, or a copy of it where it was made in inference mode: autograd cannot pass through such weights."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network) if any(tensor.is_inference() for tensor in tensors) else network
