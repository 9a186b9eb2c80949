"""A denoising diffusion model: noise a slice part of the way, denoise it, and take the difference.

Ho, Jain, Abbeel, Denoising diffusion probabilistic models, NeurIPS 2020; partial noising and coarse noise: Wyatt,
Leach, Schmon, Willcocks, AnoDDPM: anomaly detection with denoising diffusion probabilistic models using simplex noise,
CVPR workshops 2022; the deterministic sampler: Song, Meng, Ermon, Denoising diffusion implicit models, ICLR 2021.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.detectors.base import Detector
from course_lib.detectors.blocks import code_shape
from course_lib.images.noise import octave_noise, white_noise

NOISES = ("gaussian", "coarse")
FIRST_BETA, LAST_BETA = 1e-4, 0.02  # of the linear schedule
GROUPS = 4  # of the group normalisation
EMBEDDING = 64  # numbers that describe t
LONGEST_PERIOD = 1e4  # of the embedding's sines, in steps


class DDPM(Detector):
    """A network eps_theta(x_t, t) that names the noise in a slice; healthy slices are all it knows.

    With t = 1 ... T, `abar_t = prod_{s <= t} (1 - beta_s)`, abar_0 = 1 and noise n of unit variance:

        x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) n,    L = mean || n - eps_theta(x_t, t) ||^2,  t ~ U{1, ..., t_max}.

    At test time x is noised to t0 only, and denoised by DDIM in `sampler_steps` network calls. What is left of x at t0
    anchors the anatomy; what is lost is painted anew, as healthy tissue. The map is |x - x_hat| (the paper squares,
    which changes no order of pixels).

    The network sees slices averaged over `pool` x `pool` pixels, `x_0 = 2 image - 1`: healthy tissue lies in [-1, 1].
    The change x_hat - x_0 is brought back bilinearly and added to the image, so that finer detail stays as it was, and
    t0 = 0 gives the image itself. Weights of an exponential moving average (EMA) are used in evaluation mode.

    The noise of the test is the same field for each image, or a slice's map would depend on its batch. It hangs on
    `key`, a number drawn with the weights: another training has another field.

    Args:
        image_shape: height and width in pixels.
        noise: `"gaussian"`, or `"coarse"`: `images.noise.octave_noise`, which corrupts wide structures too.
        t0: how far a slice is noised at test time, 0 ... t_max. Methods take another one: no new training is needed.
        t_max: highest t of the training. T itself stays, so that t means the same in every model.
        sampler_steps: network calls for one slice (never more than t0).
        widths: channels of the levels of the U-Net, the first at `patch` x `patch` pixels of its input in one place.
        patch: 1 or more.
        pool: pixels that are averaged along each side before all else.
        T: steps of the whole schedule, beta from 1e-4 to 0.02 linearly.
        octaves, persistence, base: of the coarse noise.
        ema: decay of the moving average; ramped up over the first steps, as (1 + k) / (10 + k) at step k. The paper's
            0.9999 needs ten thousands of steps.

    Raises:
        BadInput: the sides cannot be halved that often.
        ValueError: an unknown noise; t0 or t_max out of range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        noise: str = "gaussian",
        t0: int = 200,
        t_max: int = 400,
        sampler_steps: int = 10,
        widths: tuple[int, ...] = (32, 48, 64),
        patch: int = 2,
        pool: int = 2,
        T: int = 1000,
        octaves: int = 4,
        persistence: float = 0.8,
        base: float = 0.25,
        ema: float = 0.99,
    ):
        super().__init__()
        if noise not in NOISES:
            raise ValueError(f"noise is one of {NOISES}, not {noise!r}.")
        if not 0 <= t0 <= t_max <= T or min(t_max, sampler_steps) < 1:
            raise ValueError(f"0 <= t0 <= t_max <= T and sampler_steps >= 1, not {t0}, {t_max}, {T}, {sampler_steps}.")
        if not {pool, patch} <= {1, 2, 4}:
            raise ValueError(f"pool and patch are 1, 2 or 4, not {pool} and {patch}.")
        code_shape(image_shape, int(math.log2(pool * patch)) + len(widths) - 1)  # refuses sides that cannot be halved
        self.image_shape, self.noise, self.t0, self.t_max = image_shape, noise, t0, t_max
        self.sampler_steps, self.widths, self.patch, self.pool, self.T = sampler_steps, widths, patch, pool, T
        self.octaves, self.persistence, self.base, self.ema = octaves, persistence, base, ema
        self.network = TimeUNet(widths, patch)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))  # of the moving average
        self.register_buffer("key", torch.randint(2**31, ()))  # of the noise at test time
        self.register_buffer("alpha_bar", alpha_bars(T), persistent=False)  # (T + 1,), float64

    # ---- the forward process ----------------------------------------------------------------------------------------

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Noise of the model's family, unit variance, `(B, 1, h, w)`."""
        if self.noise == "gaussian":
            return white_noise(shape, generator=generator).to(self.key.device)
        options = {"octaves": self.octaves, "persistence": self.persistence, "base": self.base}
        return octave_noise(shape, **options, generator=generator).to(self.key.device)

    def add_noise(self, x: Tensor, t: Tensor | int, noise: Tensor, start: int = 0) -> Tensor:
        """q(x_t | x_start): `sqrt(a) x + sqrt(1 - a) n` with a = abar_t / abar_start; t one number, or one an image."""
        a = (self.alpha_bar[t] / self.alpha_bar[start]).to(x.dtype)
        a = a.view(-1, 1, 1, 1)
        return a.sqrt() * x + (1 - a).sqrt() * noise

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`noise`: the mean squared error of the named noise, over all pixels, the background too."""
        x = self.shrink(images)
        t = torch.randint(1, self.t_max + 1, (len(x),)).to(x.device)
        noise = self.draw(tuple(x.shape))
        return {"noise": (self.network(self.add_noise(x, t, noise), t).float() - noise).square().mean()}

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step down the loss, and one of the moving average after it."""
        losses = super().training_step(images, optimizers)
        self.updates += 1
        weight = 1 - min(self.ema, (1 + int(self.updates)) / (10 + int(self.updates)))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), weight)
        return losses

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam, 1e-3, of the network alone; the paper's AdamW has 1e-4 for its 300 thousand steps."""
        return [torch.optim.Adam(self.network.parameters(), lr=1e-3, fused=True)]

    # ---- the reverse process ----------------------------------------------------------------------------------------

    def epsilon(self, x_t: Tensor, t: int) -> Tensor:
        """eps_theta(x_t, t) for one t, `(B, 1, h, w)`; by the averaged weights in evaluation mode."""
        network = self.network if self.training else self.average
        return network(x_t, torch.full((len(x_t),), t, device=x_t.device))

    def estimate(self, x_t: Tensor, t: int, epsilon: Tensor) -> Tensor:
        """The x_0 that goes with x_t and this noise: `(x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)`."""
        a = float(self.alpha_bar[t])
        return (x_t - math.sqrt(1 - a) * epsilon) / math.sqrt(a)

    def deterministic_step(self, x_t: Tensor, t: int, s: int) -> Tensor:
        """DDIM with eta 0, from t down to s: the same noise, and as much of it as s asks for."""
        epsilon = self.epsilon(x_t, t)
        return self.add_noise(self.estimate(x_t, t, epsilon), s, epsilon)

    def ancestral_step(self, x_t: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """DDPM, from t down to s: a draw of q(x_s | x_t, x_0) with x_0 as the network estimates it."""
        mean, variance = self.posterior(x_t, self.estimate(x_t, t, self.epsilon(x_t, t)), t, s)
        return mean + math.sqrt(variance) * noise

    def posterior(self, x_t: Tensor, x_0: Tensor, t: int, s: int) -> tuple[Tensor, float]:
        """Mean and variance of q(x_s | x_t, x_0), s < t, in units of the noise's own covariance (white: of each pixel).

        With a = abar_t / abar_s: `mean = (sqrt(abar_s) (1 - a) x_0 + sqrt(a) (1 - abar_s) x_t) / (1 - abar_t)`,
        `variance = (1 - a) (1 - abar_s) / (1 - abar_t)`. At s = t - 1 this is the paper's beta-tilde; at s = 0, x_0.
        """
        abar_t, abar_s = float(self.alpha_bar[t]), float(self.alpha_bar[s])
        a = abar_t / abar_s
        mean = (math.sqrt(abar_s) * (1 - a) * x_0 + math.sqrt(a) * (1 - abar_s) * x_t) / (1 - abar_t)
        return mean, (1 - a) * (1 - abar_s) / (1 - abar_t)

    def times(self, t0: int) -> list[int]:
        """The stops of the sampler from t0 to 0: evenly spaced, at most `sampler_steps` intervals."""
        stops = torch.linspace(t0, 0, min(self.sampler_steps, t0) + 1, dtype=torch.float64).round().int()
        return stops.tolist()

    def denoise(self, x_t: Tensor, t0: int) -> Tensor:
        """x_hat of x at t0 by DDIM, `(B, 1, h, w)`."""
        stops = self.times(t0)
        for t, s in zip(stops, stops[1:], strict=False):
            x_t = self.deterministic_step(x_t, t, s)
        return x_t

    @torch.no_grad()
    def restore(self, x: Tensor, t0: int | None = None) -> Tensor:
        """Noise x to t0 and denoise it: x_hat, `(B, 1, h, w)`, in the network's units."""
        t0 = self._check(self.t0 if t0 is None else t0)
        noise = self.test_noise(x, 0)  # the same for every t0, so that a sweep changes the level alone
        return self.denoise(self.add_noise(x, t0, noise), t0)

    def test_noise(self, x: Tensor, number: int) -> Tensor:
        """The noise field with this number, `(1, 1, h, w)`: the same in every call, for every image."""
        generator = torch.Generator().manual_seed(int(self.key) + number)
        return self.draw((1, 1, *x.shape[2:]), generator)

    # ---- images -----------------------------------------------------------------------------------------------------

    def shrink(self, images: Tensor) -> Tensor:
        """Images `(B, 1, H, W)` to x_0 `(B, 1, h, w)`, h = H / pool: 2 image - 1."""
        return 2 * F.avg_pool2d(images, self.pool) - 1

    def enlarge(self, change: Tensor) -> Tensor:
        """A change of x_0 `(B, 1, h, w)` to one of the images `(B, 1, H, W)`, bilinear, in intensity units."""
        if self.pool == 1:
            return change / 2
        return F.interpolate(change / 2, scale_factor=float(self.pool), mode="bilinear", align_corners=False)

    @torch.no_grad()
    def change(self, images: Tensor, t0: int | None = None) -> Tensor:
        """x_hat - x in the brain, 0 outside, `(B, 1, H, W)`, in intensity units."""
        x = self.shrink(images)
        return self.enlarge(self.restore(x, t0) - x) * (images > 0)

    def pseudo_healthy(self, images: Tensor, t0: int | None = None) -> Tensor:
        """The image and the change, `(B, 1, H, W)`: detail finer than `pool` pixels stays as it was."""
        return images + self.change(images, t0)

    def anomaly_map(self, images: Tensor, t0: int | None = None) -> Tensor:
        """|x - x_hat| in the brain, 0 outside: `(B, 1, H, W)` to `(B, H, W)`, in intensity units."""
        return self.change(images, t0).abs()[:, 0]

    def at(self, t0: int) -> DDPM:
        """The same trained model with another t0; the weights are shared, not copied."""
        other = copy.copy(self)
        other.t0 = self._check(t0)
        return other

    def _check(self, t0: int) -> int:
        if not 0 <= t0 <= self.t_max:
            raise ValueError(f"the network was trained for t of 0 to {self.t_max}, and t0 is {t0}.")
        return int(t0)


def alpha_bars(T: int) -> Tensor:
    """abar_0 = 1, ..., abar_T, `(T + 1,)`, float64: the products of 1 - beta, beta from 1e-4 to 0.02 linearly."""
    betas = torch.linspace(FIRST_BETA, LAST_BETA, T, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])


def embed(t: Tensor) -> Tensor:
    """Sines and cosines of t at 32 frequencies from 1 down to 1 / LONGEST_PERIOD, `(B,)` to `(B, EMBEDDING)`."""
    half = EMBEDDING // 2
    frequencies = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, device=t.device) / (half - 1))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class TimeBlock(nn.Module):
    """A residual block that is told t: norm, SiLU, 3 x 3; plus a linear map of the time; norm, SiLU, 3 x 3.

    `(B, c, h, w)` and `(B, EMBEDDING)` to `(B, d, h, w)`.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, channels) for channels in (channels_in, channels_out))
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.time = nn.Linear(EMBEDDING, channels_out)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The sum of the two ways."""
        h = self.first(F.silu(self.norms[0](x))) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.second(F.silu(self.norms[1](h)))


class TimeUNet(nn.Module):
    """A U-Net of one residual block a level on either side: x_t `(B, 1, h, w)` and t `(B,)` to eps `(B, 1, h, w)`.

    Each `patch` x `patch` pixels first become channels of one place, which saves three quarters of the work at the
    finest level. No attention: at these sizes the coarsest level sees the whole head.
    """

    def __init__(self, widths: tuple[int, ...], patch: int):
        super().__init__()
        self.patch = patch
        self.time = nn.Sequential(
            nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU()
        )
        self.first = nn.Conv2d(patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(TimeBlock(c, d) for c, d in zip((widths[0], *widths), widths, strict=False))
        wide_to_narrow = tuple(reversed(widths))
        pairs = zip(wide_to_narrow, wide_to_narrow[1:], strict=False)
        self.up = nn.ModuleList(TimeBlock(c + d, d) for c, d in pairs)
        self.norm = nn.GroupNorm(GROUPS, widths[0])
        self.last = nn.Conv2d(widths[0], patch**2, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """eps_theta(x_t, t)."""
        time, h, skips = self.time(embed(t)), self.first(F.pixel_unshuffle(x_t, self.patch)), []
        for level, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if level else h, time)  # (B, widths[level], h / patch / 2^level, ...)
            skips.append(h)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            h = block(torch.cat([F.interpolate(h, scale_factor=2.0, mode="nearest"), skip], 1), time)
        return F.pixel_shuffle(self.last(F.silu(self.norm(h))), self.patch)
