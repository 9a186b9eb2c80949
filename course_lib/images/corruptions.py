"""Made-up anomalies: random corruptions of healthy slices, with the mask of what was changed.

The line of foreign patch interpolation (Tan et al. 2020), CutPaste (Li et al., CVPR 2021), NSA (Schlueter et al., ECCV
2022) and DRAEM (Zavrtanik, Kristan, Skocaj, ICCV 2021), for whole batches at once. Kinds:

    patch     tissue of another image of the batch, from another place, blended in
    constant  one random grey
    texture   grain is added; the mean stays
    blur      the tissue is smoothed
    gain      the tissue is multiplied by one number, up or down

Each is applied inside a random soft shape alpha: x becomes x + alpha (v - x), v the kind's picture. Where alpha is 0
nothing changes, bit by bit; the brain stays the brain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.errors import BadInput

KINDS = ("patch", "constant", "texture", "blur", "gain")
LENGTHS = (4.0, 20.0)  # pixels: correlation length of the noise that shapes are cut from
HEIGHTS = (0.1, 0.5)  # how far below its highest peak the noise is cut, as a share of the peak
SOFTNESS = (0.5, 3.0)  # pixels: width of a shape's edge
VISIBLE = 0.04  # mean |change| in 5 x 5 pixels, intensity units: a third of a robust standard deviation
FLOOR = 1 / 255  # brain stays above the background, which is exactly 0


class Corruption(nn.Module):
    """Corrupt a random share of the images, each by one kind, and say where.

    The mask holds the pixels of the shape (alpha at least one half) where the change can be seen: where its mean
    size in the 5 x 5 pixels around exceeds `VISIBLE`. So a blur of smooth tissue, or a patch of the same grey, is no
    anomaly; single pixels at which a visible grain happens to be near zero are. What was changed less than that, and
    a shape's soft edge, is changed but not in the mask.

    Args:
        kinds: which of `KINDS`, drawn evenly.
        share: of the images that are corrupted; the others are left as they are, with empty masks.
        shapes: a bank of shapes to draw from, `(K, H, W)`, centred, as `lesion_shapes` makes; default: random shapes.

    Raises:
        BadInput: an unknown kind, or none.
        ValueError: `share` is not within 0 and 1.
    """

    def __init__(self, kinds: Sequence[str] = KINDS, share: float = 0.8, shapes: Tensor | None = None):
        super().__init__()
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise BadInput(f"{unknown or 'nothing'} is no corruption.", field="kinds", remedy=f"Some of {KINDS}.")
        if not 0 <= share <= 1:
            raise ValueError(f"share is between 0 and 1, not {share}.")
        self.kinds, self.share = tuple(kinds), share
        self.register_buffer("shapes", shapes, persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Corrupted images and masks.

        Args:
            images: `(B, 1, H, W)`, 0 outside the brain.
            generator: on the CPU; default torch's global one, which `training.fit` seeds in every step.

        Returns:
            images `(B, 1, H, W)` and masks `(B, 1, H, W)`, bool.
        """
        with torch.autocast(images.device.type, enabled=False):  # products of small matrices, whose digits count
            return self._corrupt(images, generator)

    def _corrupt(self, images: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        count, brain = len(images), images > 0
        if self.shapes is None:
            alpha = random_shapes(brain, generator)  # (B, 1, H, W)
        else:
            alpha = shapes_of_bank(brain, self.shapes, generator)
        kind = torch.randint(len(self.kinds), (count,), generator=generator)
        kind[torch.rand(count, generator=generator) >= self.share] = -1
        corrupted = images.clone()
        for number, name in enumerate(self.kinds):
            rows = (kind == number).nonzero()[:, 0].to(images.device)
            if len(rows):
                picture = _PICTURES[name](images, rows, generator)  # (n, 1, H, W)
                corrupted[rows] = torch.lerp(images[rows], picture, alpha[rows])
        return corrupted, (alpha >= 0.5) & visible(corrupted - images)


def visible(change: Tensor) -> Tensor:
    """Where a change can be seen: its mean size in the 5 x 5 pixels around exceeds `VISIBLE`. `(B, 1, H, W)`, bool."""
    return F.avg_pool2d(change.abs(), 5, stride=1, padding=2) > VISIBLE


# ---- shapes ---------------------------------------------------------------------------------------------------------


def random_shapes(brain: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Soft random shapes alpha in the brain, cut from smooth noise: `(B, 1, H, W)` bool to `(B, 1, H, W)`, 0 to 1.

    A shape is where the noise is nearly as high as its highest peak in the brain: at least one blob, often several.
    Near a peak p, noise of correlation length l falls as p (1 - r^2 / 2 l^2), so that a cut at p (1 - h) leaves a
    radius of about l sqrt(2 h); its slope there turns the height above the cut into pixels.
    """
    count, device = len(brain), brain.device
    length = _between(*LENGTHS, count, generator, logarithmic=True).to(device)
    height, softness = (_between(*ends, count, generator).to(device) for ends in (HEIGHTS, SOFTNESS))
    noise = smooth_noise(length, brain.shape[-2:], spacing=2.0, generator=generator)
    peak = noise.masked_fill(~brain, -math.inf).amax((2, 3), keepdim=True).clamp(min=0.1)  # (B, 1, 1, 1)
    slope = peak * (2 * height).sqrt() / length
    inside = (noise - peak * (1 - height)) / slope  # pixels from the border, about
    return (0.5 + inside / softness).clamp(0, 1) * brain


def shapes_of_bank(brain: Tensor, bank: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Shapes of a bank, mirrored at random and put on random places of the brain: `(B, 1, H, W)`, 0 to 1.

    Args:
        brain: `(B, 1, H, W)` bool.
        bank: `(K, H, W)`, 0 to 1, each shape centred.
    """
    count, (height, width) = len(brain), brain.shape[-2:]
    picked = torch.randint(len(bank), (count,), generator=generator)
    mirrored = torch.rand(count, 2, generator=generator) < 0.5
    weight = brain.flatten(1).float().cpu() + 1e-9  # an image without a brain gets a shape too, and loses it again
    place = torch.multinomial(weight, 1, generator=generator)[:, 0]
    down = torch.arange(height) - (place // width)[:, None] + height // 2  # (B, H): where the bank is read
    right = torch.arange(width) - (place % width)[:, None] + width // 2
    inside = ((down >= 0) & (down < height))[:, :, None] & ((right >= 0) & (right < width))[:, None]
    down = torch.where(mirrored[:, :1], height - 1 - down, down).clamp(0, height - 1)
    right = torch.where(mirrored[:, 1:], width - 1 - right, right).clamp(0, width - 1)
    index = (picked[:, None, None], down[:, :, None], right[:, None])
    alpha = bank.cpu()[index] * inside  # (B, H, W)
    return alpha[:, None].to(brain.device) * brain


def smooth_noise(
    length: Tensor, shape: tuple[int, int], spacing: float, generator: torch.Generator | None = None
) -> Tensor:
    """Gaussian noise with a correlation length of its own for each image: `(B, 1, 1, 1)` pixels to `(B, 1, H, W)`.

    White noise on a grid of nodes, smoothed along both axes by a Gaussian of width length / sqrt(2): mean 0, standard
    deviation 1, correlation exp(-d^2 / 2 length^2).

    Args:
        length: at least `spacing`.
        shape: H, W.
        spacing: distance of the nodes, in pixels.
    """
    bases = [_kernel(size, length.flatten() / math.sqrt(2), spacing) for size in shape]
    nodes = torch.randn(len(length), *(basis.shape[2] for basis in bases), generator=generator).to(length.device)
    rows, columns = (basis / basis.square().sum(2, keepdim=True).sqrt() for basis in bases)  # unit variance
    return (rows @ nodes @ columns.transpose(1, 2))[:, None]


def _kernel(size: int, sigma: Tensor, spacing: float) -> Tensor:
    """Gaussian weights of nodes, which reach three spacings beyond the border, for pixels: `(B, size, nodes)`."""
    nodes = torch.arange(-3 * spacing, size + 3 * spacing, spacing, device=sigma.device)
    distance = torch.arange(size, device=sigma.device)[:, None] - nodes  # (size, nodes)
    return (-0.5 * (distance / sigma[:, None, None]).square()).exp()


# ---- kinds: what stands where alpha is 1, `(B, 1, H, W)` and rows `(n,)` to `(n, 1, H, W)` ---------------------------


def _patch(images: Tensor, rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """Tissue of another image, moved by up to a quarter of the side, and blended in by a factor of 0.4 to 1.

    Where the moved image has no brain the own one stays. In a batch of one, another place of the same image.
    """
    count, (height, width) = len(images), images.shape[-2:]
    other = torch.randint(1, max(count, 2), (len(rows),), generator=generator)
    source = (rows.cpu() + other) % count
    shift = [torch.randint(-(n // 4), n // 4 + 1, (len(rows), 1), generator=generator) for n in (height, width)]
    down, right = ((torch.arange(n) + s) % n for n, s in zip((height, width), shift, strict=True))  # (n, H), (n, W)
    index = (x.to(images.device) for x in (source[:, None, None], down[:, :, None], right[:, None]))
    foreign = images[:, 0][tuple(index)][:, None]
    factor = _between(0.4, 1.0, len(rows), generator).to(images.device)
    return torch.where(foreign > 0, torch.lerp(images[rows], foreign, factor), images[rows])


def _constant(images: Tensor, rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """One grey for each image, 0.05 to 1.2."""
    return _between(0.05, 1.2, len(rows), generator).to(images).expand_as(images[rows])


def _texture(images: Tensor, rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """Grain of a correlation length of 1 to 3 pixels and a standard deviation of 0.1 to 0.25, 0.8 to 2 robust s.d."""
    length = _between(1.0, 3.0, len(rows), generator).to(images.device)
    sd = _between(0.1, 0.25, len(rows), generator).to(images.device)
    grain = smooth_noise(length, images.shape[-2:], spacing=1.0, generator=generator)
    return (images[rows] + sd * grain).clamp(min=FLOOR)


def _blur(images: Tensor, rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """A Gaussian average, of a width of 1 to 3 pixels, over brain pixels alone."""
    sigma = _between(1.0, 3.0, len(rows), generator).to(images.device).flatten()
    down, right = (_kernel(n, sigma, 1.0)[:, None, :, 3 : 3 + n] for n in images.shape[-2:])  # (n, 1, H, H)
    weight, total = (down @ x @ right for x in ((images[rows] > 0).to(images.dtype), images[rows]))
    return (total / weight.clamp(min=1e-6)).clamp(min=FLOOR)


def _gain(images: Tensor, rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """Times exp(g), |g| from 0.3 to 0.9: 0.4 to 0.74, or 1.35 to 2.5 times."""
    size = _between(0.3, 0.9, len(rows), generator).to(images.device)
    sign = 2.0 * torch.randint(2, (len(rows), 1, 1, 1), generator=generator).to(images.device) - 1
    return (images[rows] * (sign * size).exp()).clamp(min=FLOOR)


_PICTURES = {"patch": _patch, "constant": _constant, "texture": _texture, "blur": _blur, "gain": _gain}


def _between(low: float, high: float, count: int, generator, logarithmic: bool = False) -> Tensor:
    """Uniform numbers (of the logarithm), `(count, 1, 1, 1)`."""
    share = torch.rand(count, 1, 1, 1, generator=generator)
    return low * (high / low) ** share if logarithmic else low + (high - low) * share
