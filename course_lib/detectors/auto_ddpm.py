"""Mask, stitch and re-sample: paint only where a first, strong denoising disagreed.

Bercea, Neumayr, Rueckert, Schnabel, Mask, stitch, and re-sample: enhancing robustness and generalizability in anomaly
detection through automatic diffusion models, ICML workshop on interpretable machine learning in healthcare 2023. The
inpainting is that of Lugmayr et al., RePaint: inpainting using denoising diffusion probabilistic models, CVPR 2022.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.detectors.ddpm import DDPM
from course_lib.errors import BadInput

LARGEST_SAMPLE = 2_000_000  # pixels that a quantile is taken of; torch refuses more than 16 million


class AutoDDPM(Detector):
    """A composite of a slice and of what a trained diffusion model paints into it.

    1. x_hat = denoise(x at t0), strong noise. The coarse map c is |x - x_hat|, smoothed. (The paper: the residual over
       its 95th percentile in the image, times a perceptual distance, LPIPS, whose weights one has to download.)
    2. m = [c > tau] in the brain, widened by one pixel. tau is one number for all images, from healthy *validation*
       slices: `calibrate` puts it where `share` of their brain pixels lie above.
    3. Start from x_hat at `inpaint_t`. Go down to 0 in `levels` strides from t to s, each `repeats` times: what is
       known is x noised to s, what is not is a reverse step from t to s; the state is known (1 - m) + unknown m. But
       for the last time, noise the state from s back to t, so that both sides of the seam get to know each other.
    4. A = |x - x_composite| c. Outside m the composite *is* x, and A is 0.

    A lesion that m misses is copied exactly. It costs `ddpm.sampler_steps` + levels x repeats network calls a slice.

    All of this is at the resolution of the diffusion model. The change is brought to the image's as there.

    Args:
        ddpm: trained; it stays as it is. The paper's has Gaussian noise; a coarse one draws coarse noise in step 3 too.
        t0: of step 1.
        inpaint_t, levels, repeats: of step 3; the paper has 50, 50 and 5.
        share: of healthy brain pixels that tau leaves above.
        sigma: of the smoothing, in pixels of the image.

    Raises:
        ValueError: t0 or inpaint_t is beyond what the model was trained for; more levels than steps.
    """

    def __init__(
        self,
        ddpm: DDPM,
        t0: int = 200,
        inpaint_t: int = 50,
        levels: int = 5,
        repeats: int = 3,
        share: float = 0.05,
        sigma: float = 2.0,
    ):
        super().__init__()
        if not (0 < t0 <= ddpm.t_max and 1 <= levels <= inpaint_t <= ddpm.t_max and repeats >= 1 and 0 < share < 1):
            raise ValueError(
                f"0 < t0 <= {ddpm.t_max}, 1 <= levels <= inpaint_t <= {ddpm.t_max}, repeats >= 1 and 0 < share < 1, "
                f"not {t0}, {levels}, {inpaint_t}, {repeats} and {share}."
            )
        self.ddpm, self.t0, self.inpaint_t, self.levels = ddpm, t0, inpaint_t, levels
        self.repeats, self.share, self.sigma = repeats, share, sigma
        self.register_buffer("tau", torch.tensor(math.inf))  # in the network's units; infinite before calibration
        self.ddpm.eval()

    def train(self, mode: bool = True) -> AutoDDPM:
        """Nothing here is trained: the diffusion model stays in evaluation mode."""
        super().train(mode)
        self.ddpm.eval()
        return self

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> AutoDDPM:
        """Take tau from healthy validation images `(N, 1, H, W)`; returns the detector.

        Raises:
            BadInput: no pixel of them is brain.
        """
        values = []
        for part in images.split(64):
            x, brain = self.ddpm.shrink(part), self.region(part)
            values.append(self.coarse(x, self.ddpm.restore(x, self.t0), brain)[brain])
        values = torch.cat(values)
        if not len(values):
            raise BadInput("there is no brain in these images.", field="images")
        values = values[:: math.ceil(len(values) / LARGEST_SAMPLE)]
        self.tau.copy_(torch.quantile(values.double(), 1 - self.share))
        return self

    def fit(self, images: Tensor) -> AutoDDPM:
        """`calibrate`: give it healthy validation images, on which the network was not trained."""
        return self.calibrate(images)

    def region(self, images: Tensor) -> Tensor:
        """The brain at the network's resolution, `(B, 1, h, w)`, boolean: places that are brain throughout."""
        return F.avg_pool2d((images > 0).to(images.dtype), self.ddpm.pool) == 1

    def coarse(self, x: Tensor, x_hat: Tensor, brain: Tensor) -> Tensor:
        """c, the smoothed |x - x_hat| in the brain, `(B, 1, h, w)`; the rim is not mixed with the background."""
        sigma = self.sigma / self.ddpm.pool
        weight = smooth(brain.to(x.dtype), sigma).clamp(min=1e-6)
        return smooth((x - x_hat).abs() * brain, sigma) / weight * brain

    def mask(self, coarse: Tensor, brain: Tensor) -> Tensor:
        """m, `(B, 1, h, w)`, boolean: c above tau, one pixel wider, in the brain.

        Raises:
            BadInput: tau was never calibrated.
        """
        if self.tau.isinf():
            raise BadInput("tau is not known.", field="tau", remedy="Call calibrate with healthy validation images.")
        found = (coarse > self.tau) & brain
        return (F.max_pool2d(found.to(coarse.dtype), 3, stride=1, padding=1) > 0) & brain

    @torch.no_grad()
    def inpaint(self, x: Tensor, mask: Tensor, start: Tensor) -> Tensor:
        """The composite: x outside `mask`, and in it what fits there, from `start`; all `(B, 1, h, w)`."""
        draws = _Draws(self.ddpm, x)
        state = self.ddpm.add_noise(start, self.inpaint_t, draws.next())
        stops = torch.linspace(self.inpaint_t, 0, self.levels + 1, dtype=torch.float64).round().int().tolist()
        for t, s in zip(stops, stops[1:], strict=False):
            for repeat in range(self.repeats):
                known = self.ddpm.add_noise(x, s, draws.next())  # at s, as the unknown part: not at t
                unknown = self.ddpm.ancestral_step(state, t, s, draws.next())
                state = torch.where(mask, unknown, known)
                if repeat < self.repeats - 1:
                    state = self.ddpm.add_noise(state, t, draws.next(), start=s)
        return state

    @torch.no_grad()
    def parts(self, images: Tensor) -> dict[str, Tensor]:
        """All stages at the network's resolution, each `(B, 1, h, w)`: x, x_hat, coarse, mask, composite."""
        x, brain = self.ddpm.shrink(images), self.region(images)
        x_hat = self.ddpm.restore(x, self.t0)
        coarse = self.coarse(x, x_hat, brain)
        mask = self.mask(coarse, brain)
        return {"x": x, "x_hat": x_hat, "coarse": coarse, "mask": mask, "composite": self.inpaint(x, mask, x_hat)}

    @torch.no_grad()
    def pseudo_healthy(self, images: Tensor) -> Tensor:
        """The image and the change in m, `(B, 1, H, W)`."""
        stages = self.parts(images)
        return images + self.ddpm.enlarge(stages["composite"] - stages["x"]) * (images > 0)

    @torch.no_grad()
    def anomaly_map(self, images: Tensor) -> Tensor:
        """A = |x - composite| c in the brain, 0 elsewhere: `(B, 1, H, W)` to `(B, H, W)`, in squared intensity."""
        stages = self.parts(images)
        change, coarse = (self.ddpm.enlarge(part) for part in (stages["composite"] - stages["x"], stages["coarse"]))
        return (change.abs() * coarse * (images > 0))[:, 0]


class _Draws:
    """The numbered noise fields of one inpainting, the same in each call."""

    def __init__(self, ddpm: DDPM, x: Tensor):
        self.ddpm, self.x, self.number = ddpm, x, 0

    def next(self) -> Tensor:
        self.number += 1  # field 0 is that of the first denoising
        return self.ddpm.test_noise(self.x, self.number)


def smooth(fields: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing, `(B, 1, h, w)`, cut at 3 sigma, zeros beyond the border."""
    reach = max(1, math.ceil(3 * sigma))
    place = torch.arange(-reach, reach + 1, dtype=fields.dtype, device=fields.device)
    kernel = torch.exp(-0.5 * (place / sigma) ** 2)
    kernel = kernel / kernel.sum()
    across = F.conv2d(fields, kernel.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(across, kernel.view(1, 1, -1, 1), padding=(reach, 0))
