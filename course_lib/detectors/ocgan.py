"""OCGAN: a bounded code, filled by the healthy images, of which every point has to decode to a healthy image.

Perera, Nallapati and Xiang, OCGAN: one-class novelty detection using GANs with constrained latent representations,
CVPR 2019 (arXiv:1903.08550); code: github.com/PramuPerera/OCGAN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.detectors.aae import (
    BETAS,
    CodeDiscriminator,
    DenseDecoder,
    DenseEncoder,
    ImageDiscriminator,
    bce,
    descend,
    uncached_autocast,
)
from course_lib.detectors.autoencoder import CHANNELS
from course_lib.detectors.reconstruction import Reconstruction

WEIGHTS = ("latent_weight", "visual_weight", "weight")  # in the order of the generator's losses


class OCGAN(Reconstruction):
    """A denoising auto-encoder De(En(x)) with a code in the cube (-1, 1)^d, and three networks that watch over it.

    An auto-encoder also rebuilds what it never saw, by codes that no healthy image uses. So here none is left unused:
    Dl asks the codes to fill the cube evenly, Dv asks every point of it to decode to a healthy image, and the weak
    classifier C finds the points that do not, yet. A step, with l1 = En(x + n), n from N(0, noise^2), u from
    U(-1, 1)^d, in the paper's order:

        1. classifier      minimise [bce(C(De(l1)), 1) + bce(C(De(u)), 0)] / 2                    moves C
        2. discriminators  minimise [bce(Dl(l1), 0) + bce(Dl(u), 1)] / 2
                                  + [bce(Dv(De(u)), 0) + bce(Dv(x), 1)] / 2                       moves Dl, Dv
        3. mining          from u, walk to u* where C is surer that De(u*) is out of class        moves no network
        4. generator       minimise latent_weight * bce(Dl(l1), 1) + visual_weight * bce(Dv(De(u*)), 1)
                                  + weight * mean (x - De(l1))^2                                  moves En, De

    The discriminators see u, not u*: such fakes would be too easy for them. The target of 4 is the image without noise.

    Args:
        image_shape: height and width in pixels.
        latent: d. Above 16 most of the cube is never visited.
        weight: lambda. The paper's 10 (on images in [-1, 1]) leaves the reconstruction to the adversaries here.
        latent_weight, visual_weight: of the two adversaries; the paper's text has 1 and 1, the authors' code 10 and 1.
            0 takes one out, for an ablation: with both 0 a denoising auto-encoder with a bounded code is left.
        noise: its standard deviation, in intensity units.
        mining_from: the step from which on there is mining; before, u* = u.
        mining_steps, mining_rate: number and length of the steps of mining; the cube has sides of length 2.
        depth, channels: encoder and decoder, as those of `autoencoder.DenseAE`.

    Raises:
        BadInput: a side is not a multiple of 2^depth, or of 8.
        ValueError: a weight, noise, mining_from, mining_steps or mining_rate is negative; or the depth.

    Differences from the paper: the decoder's output is not bounded, and neither C nor Dv has batch normalisation. From
    the authors' code: En ends with tanh; Dl has one output and no sigmoid before its cross-entropy; five mining steps.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        latent: int = 16,
        weight: float = 1000.0,
        noise: float = 0.1,
        mining_from: int = 250,
        mining_steps: int = 5,
        mining_rate: float = 0.1,
        depth: int = 4,
        channels: tuple[int, ...] = CHANNELS,
        latent_weight: float = 1.0,
        visual_weight: float = 1.0,
    ):
        super().__init__()
        self.image_shape, self.latent, self.weight, self.noise = image_shape, latent, weight, noise
        self.mining_from, self.mining_steps, self.mining_rate = mining_from, mining_steps, mining_rate
        self.depth, self.channels = depth, channels
        self.latent_weight, self.visual_weight = latent_weight, visual_weight
        for name in (*WEIGHTS, "noise", "mining_from", "mining_steps", "mining_rate"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be 0 or more.")
        self.En = DenseEncoder(image_shape, latent, depth, channels)
        self.De = DenseDecoder(image_shape, latent, depth, channels)
        self.Dl = CodeDiscriminator(latent)
        self.Dv, self.C = ImageDiscriminator(image_shape), ImageDiscriminator(image_shape)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def encode(self, images: Tensor) -> Tensor:
        """tanh(En(x)), `(B, 1, H, W)` to `(B, latent)`, between -1 and 1, float32 also under autocast."""
        code = self.En(images)
        return code.to(torch.promote_types(code.dtype, torch.float32)).tanh()

    def decode(self, code: Tensor) -> Tensor:
        """De(l), `(B, latent)` to `(B, 1, H, W)`, not limited to a range."""
        return self.De(code)

    def forward(self, images: Tensor) -> Tensor:
        """De(En(x)), `(B, 1, H, W)`; at test time without noise."""
        return self.decode(self.encode(images))

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """The four parts of a step, in order; `classifier` and the discriminators are log 2 = 0.69 at a loss."""
        of_classifier, of_discriminators, of_generator = optimizers
        noisy = images + self.noise * torch.randn_like(images)
        u = 2 * torch.rand(len(images), self.latent, device=images.device, dtype=images.dtype) - 1  # (B, d)
        with uncached_autocast(images):
            losses = {"classifier": self.classifier_step(noisy, u, of_classifier)}
            losses |= self.discriminator_step(images, noisy, u, of_discriminators)
            u_star = self.mine(u) if self.step >= self.mining_from else u
            losses |= self.generator_step(images, noisy, u_star, of_generator)
        self.step += 1
        return losses

    def classifier_step(self, noisy: Tensor, u: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """Part 1, from images with noise `(B, 1, H, W)` and points of the cube `(B, d)`; returns C's loss, in nats."""
        with torch.no_grad():
            rebuilt, drawn = self(noisy), self.decode(u)  # (B, 1, H, W)
        return descend((bce(self.C(rebuilt), 1) + bce(self.C(drawn), 0)) / 2, optimizer)

    def discriminator_step(
        self, images: Tensor, noisy: Tensor, u: Tensor, optimizer: torch.optim.Optimizer
    ) -> dict[str, Tensor]:
        """Part 2; returns the losses of Dl and of Dv, in nats."""
        with torch.no_grad():
            codes, drawn = self.encode(noisy), self.decode(u)  # (B, d), (B, 1, H, W)
        of_dl = (bce(self.Dl(codes), 0) + bce(self.Dl(u), 1)) / 2
        of_dv = (bce(self.Dv(drawn), 0) + bce(self.Dv(images), 1)) / 2
        descend(of_dl + of_dv, optimizer)
        return {"latent_discriminator": of_dl.detach(), "visual_discriminator": of_dv.detach()}

    def mine(self, u: Tensor) -> Tensor:
        """Part 3, informative-negative mining: u* for each u, both `(B, d)`, in [-1, 1], a constant.

        `mining_steps` steps of length `mining_rate` down the gradient of bce(C(De(u)), 0), each back into the cube.
        All networks are in evaluation mode, so that not even the statistics of batch normalisation move.
        """
        modes = {network: network.training for network in (self.De, self.C)}
        for network in modes:
            network.eval()
        with torch.enable_grad():
            for _ in range(self.mining_steps):
                u = u.detach().requires_grad_()
                loss = bce(self.C(self.decode(u)), 0) * len(u)  # a sum, so that each point has a gradient of its own
                with torch.autocast(u.device.type, enabled=False):
                    (gradient,) = torch.autograd.grad(loss, u)
                u = (u - self.mining_rate * F.normalize(gradient, dim=1)).clamp(-1, 1)
        for network, training in modes.items():
            network.train(training)
        return u.detach()

    def generator_step(
        self, images: Tensor, noisy: Tensor, u_star: Tensor, optimizer: torch.optim.Optimizer
    ) -> dict[str, Tensor]:
        """Part 4; returns its terms: `latent` reaches En alone, `visual` De alone, `reconstruction` both."""
        losses = self.generator_losses(images, noisy, u_star)
        weights = [getattr(self, name) for name in WEIGHTS]
        descend(sum(w * loss for w, loss in zip(weights, losses.values(), strict=True)), optimizer)
        return {name: loss.detach() for name, loss in losses.items()}

    def generator_losses(self, images: Tensor, noisy: Tensor, u_star: Tensor) -> dict[str, Tensor]:
        """bce(Dl(l1), 1) and bce(Dv(De(u*)), 1), in nats, and the mean over all pixels of (x - De(l1))^2."""
        codes = self.encode(noisy)  # l1, (B, d)
        return {
            "latent": bce(self.Dl(codes), 1),
            "visual": bce(self.Dv(self.decode(u_star)), 1),
            "reconstruction": F.mse_loss(self.decode(codes).to(images.dtype), images),
        }

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for C, for Dl and Dv, and for En and De. Those that judge images learn at a fifth of the rate."""
        slow, quick = {"lr": 2e-4, "betas": BETAS, "fused": True}, {"lr": 1e-3, "betas": BETAS, "fused": True}
        judges = [{"params": self.Dl.parameters(), "lr": quick["lr"]}, {"params": self.Dv.parameters()}]
        return [
            torch.optim.Adam(self.C.parameters(), **slow),
            torch.optim.Adam(judges, **slow),
            torch.optim.Adam([*self.En.parameters(), *self.De.parameters()], **quick),
        ]

    @torch.no_grad()
    def anomaly_score(self, images: Tensor) -> Tensor:
        """The mean over the brain of (x - De(En(x)))^2: `(B, 1, H, W)` to `(B,)`, in squared intensity units."""
        brain = images[:, 0] > 0  # (B, H, W); the paper's images have no background
        return self.anomaly_map(images).square().sum((1, 2)) / brain.sum((1, 2)).clamp(min=1)
