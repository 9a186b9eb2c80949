"""A memory bank of healthy patches: what is far from everything that healthy people showed is anomalous.

Roth, Pemula, Zepeda, Schoelkopf, Brox, Gehler, Towards total recall in industrial anomaly detection (PatchCore), CVPR
2022. Theirs takes the features of a network that was trained on photographs; ours those of a network of the course.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.detectors.blocks import code_shape
from course_lib.detectors.positional_gaussian import gaussian_blur
from course_lib.detectors.unet import UNet
from course_lib.errors import BadInput

CHUNK = 64  # images whose features are in memory at once
HALVINGS = 2  # from the image to the grid of places: one place for 4 x 4 pixels
BLUR = 1.5  # pixels, of the map: the paper's 4 on 224, for 96
TOP = 0.01  # share of the brain's pixels whose mean is an image's score
PROJECTED = 64  # numbers that a patch keeps in the search for the coreset
SELECTIONS = ("greedy", "random")


class MemoryBank(Detector):
    """The distance of each patch's features to the nearest of a bank of healthy ones.

    A patch u is a place on a grid of one place for 4 x 4 pixels. Its features f(u) are the maps of some levels of a
    trained network's way down, averaged over 3 x 3 of their places, brought to the grid, and divided by their healthy
    standard deviation. With M the bank,

        d(u) = min_{m in M} |f(u) - m| / sqrt(C),

    C the number of channels, so that d counts standard deviations. The map is d, made as large as the image and a
    little blurred. The bank is a *coreset*: few patches that leave no healthy patch far away (`coreset`). The score of
    an image is the mean of the map's highest 1 % in the brain; the paper's maximum hangs on one pixel, which on healthy
    people is one of the rim or of a badly aligned sulcus.

    Args:
        image_shape: height and width in pixels.
        network: a trained detector whose `network` is a `UNet`, such as `DenoisingAE` and `SyntheticAnomalies`. It
            stays as it is: no gradient, always in evaluation mode.
        size: patches in the bank.
        candidates: healthy patches that the bank is chosen from, drawn at random from all brain places of all training
            images; at most as many as there are. It bounds memory and time; a bank of as many is the full one.
        levels: of the U-Net's way down, 0 the finest.
        position: weight of a patch's place, as two more channels: with 1, half a picture away is as far as one standard
            deviation in every channel. 0 leaves them out, as the paper does.
        select: `"greedy"`, or `"random"` for comparison.

    Raises:
        BadInput: the network has no U-Net or not these levels, the sides are no multiples of 4, or `select` is unknown.
        ValueError: the bank is empty, larger than the candidates, or `position` is negative.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        network: Detector,
        size: int = 1000,
        candidates: int = 10_000,
        levels: tuple[int, ...] = (1, 2),
        position: float = 0.0,
        select: str = "greedy",
    ):
        super().__init__()
        unet = getattr(network, "network", None)
        if not isinstance(unet, UNet):
            raise BadInput(f"{type(network).__name__} has no U-Net.", field="network", remedy="Give a DenoisingAE.")
        if not levels or not set(levels) <= set(range(len(unet.down))):
            raise BadInput(f"levels {levels} of {len(unet.down)}.", field="levels", remedy="0 is the finest.")
        if select not in SELECTIONS:
            raise BadInput(f"no selection {select!r}.", field="select", remedy=f"One of {SELECTIONS}.")
        if not 1 <= size <= candidates or position < 0:
            raise ValueError(f"a bank of {size} from {candidates}, position {position}.")
        self.image_shape, self.network, self.size, self.candidates = image_shape, network, size, candidates
        self.levels, self.position, self.select = levels, position, select
        self.grid = code_shape(image_shape, HALVINGS)
        channels = sum(unet.down[level][0].out_channels for level in levels)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("sd", torch.ones(channels))
        self.register_buffer("bank", torch.zeros(size, channels + (2 if position else 0)))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))  # fewer than size where patches ran out
        self.train(self.training)

    def train(self, mode: bool = True) -> MemoryBank:
        """As of any module, but the network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def fit(self, images: Tensor) -> MemoryBank:
        """Fill the bank from healthy images `(N, 1, H, W)`.

        Places are drawn first, so that only their features are kept: for 10,000 patches of 48 channels 2 MB, and
        the features of 64 images at a time. Random numbers are torch's global ones.

        Raises:
            BadInput: no image has a brain.
        """
        patches = self._draw(images)  # (P, C)
        if not len(patches):
            raise BadInput("no brain in these images.", field="images")
        channels = len(self.mean)
        self.mean.copy_(patches[:, :channels].mean(0))
        self.sd.copy_(patches[:, :channels].std(0, correction=0).clamp(min=1e-6))
        patches[:, :channels] = (patches[:, :channels] - self.mean) / self.sd
        self.filled.fill_(min(self.size, len(patches)))
        if self.select == "greedy":
            chosen = coreset(project(patches, PROJECTED), self.filled.item())
        else:
            chosen = torch.randperm(len(patches))[: self.filled.item()]
        self.bank[: len(chosen)] = patches[chosen]
        return self

    def features(self, images: Tensor) -> Tensor:
        """Raw features of each place, and two coordinates: `(B, 1, H, W)` to `(B, C [+ 2], H/4, W/4)`."""
        parts, x, last = [], images, max(self.levels)
        for level, down in enumerate(self.network.network.down[: last + 1]):
            x = down(self.network.network.pool(x) if level else x)  # (B, w 2^level, H / 2^level, W / 2^level)
            if level in self.levels:
                parts.append(self._on_grid(F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)))
        if self.position:
            axes = [torch.linspace(-1, 1, n, device=images.device) for n in self.grid]
            place = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # (2, H/4, W/4)
            weight = self.position * len(self.mean) ** 0.5
            parts.append((weight * place).expand(len(images), -1, -1, -1))
        return torch.cat(parts, 1)

    def distance(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """d(u) and whether u lies in the brain: `(B, 1, H, W)` to twice `(B, H/4, W/4)`; d is 0 outside the brain."""
        inside = self._inside(images)
        patches = self.features(images).permute(0, 2, 3, 1)[inside]  # (P, C)
        channels = len(self.mean)
        patches[:, :channels] = (patches[:, :channels] - self.mean) / self.sd
        found = torch.zeros(inside.shape, device=images.device)
        if len(patches):
            found[inside] = nearest(patches, self.bank[: self.filled]) / channels**0.5
        return found, inside

    @torch.no_grad()
    def anomaly_map(self, images: Tensor) -> Tensor:
        """The distance to the bank in healthy s.d., `(B, 1, H, W)` to `(B, H, W)`; 0 outside the brain.

        Bilinear between places and blurred, both over the brain's places alone: the rim gets its neighbours' values.
        """
        found, inside = self.distance(images)
        pair = torch.stack([found, inside.float()], 1)  # (B, 2, H/4, W/4)
        wide = F.interpolate(pair, size=images.shape[-2:], mode="bilinear", align_corners=False)
        value, weight = gaussian_blur(wide, BLUR).unbind(1)  # (B, H, W)
        return value / weight.clamp(min=1e-6) * (images[:, 0] > 0)

    def anomaly_score(self, images: Tensor) -> Tensor:
        """The mean of the highest 1 % of the map in the brain, at least one pixel: `(B, 1, H, W)` to `(B,)`."""
        return top_mean(self.anomaly_map(images), images[:, 0] > 0, TOP)

    def _draw(self, images: Tensor) -> Tensor:
        """Features of `candidates` random brain places, without replacement, `(P, C [+ 2])`."""
        inside = torch.cat([self._inside(part) for part in images.split(CHUNK)])  # (N, H/4, W/4)
        count = int(inside.sum())
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[torch.randperm(count)[: self.candidates]] = True
        wanted = torch.zeros_like(inside)
        wanted[inside] = chosen
        pairs: Iterator = zip(images.split(CHUNK), wanted.split(CHUNK), strict=True)
        return torch.cat([self.features(part).permute(0, 2, 3, 1)[picked] for part, picked in pairs])

    def _inside(self, images: Tensor) -> Tensor:
        """Which places lie at least half in the brain, `(B, H/4, W/4)` bool."""
        return F.adaptive_avg_pool2d((images > 0).float(), self.grid)[:, 0] >= 0.5

    def _on_grid(self, features: Tensor) -> Tensor:
        """A level's map on the grid of places: averaged if it is finer, bilinear if it is coarser."""
        if features.shape[-1] > self.grid[1]:
            return F.adaptive_avg_pool2d(features, self.grid)
        return F.interpolate(features, size=self.grid, mode="bilinear", align_corners=False)


def coreset(features: Tensor, size: int, generator: torch.Generator | None = None) -> Tensor:
    """Greedy k-centre: a random point, then again and again the point that is farthest from all chosen ones.

    The largest distance of any point to its nearest chosen one, the *covering radius*, is at most twice the smallest
    that any choice of as many points could have. Each step costs one product of a matrix and a vector, by
    |x - c|^2 = |x|^2 - 2 x c + |c|^2.

    Args:
        features: `(N, C)`.
        size: how many to choose; all N, in random order of the start, if it is at least N.
        generator: of the start.

    Returns:
        Indices `(min(size, N),)`, in the order of choice: the first k of them are the coreset of size k.

    Source: Gonzalez, Theoretical Computer Science 38 (1985); Sener and Savarese, ICLR 2018.
    """
    x = features - features.mean(0)  # no distance changes, and the squares lose fewer digits
    squares = x.square().sum(1)  # (N,)
    gaps = torch.full_like(squares, torch.inf)  # to the nearest chosen one, squared
    chosen = torch.empty(min(size, len(x)), dtype=torch.long)
    index = int(torch.randint(len(x), (1,), generator=generator))
    for number in range(len(chosen)):
        chosen[number] = index
        to_new = torch.addmv(squares, x, x[index], alpha=-2).add_(squares[index])
        torch.minimum(gaps, to_new, out=gaps)
        gaps[index] = -torch.inf  # never again, whatever the rounding
        index = int(gaps.argmax())
    return chosen


def project(features: Tensor, channels: int, generator: torch.Generator | None = None) -> Tensor:
    """A random projection `(N, C)` to `(N, channels)` that keeps squared distances on average; no change if C is less.

    Source: Johnson and Lindenstrauss, Contemporary Mathematics 26 (1984).
    """
    if features.shape[1] <= channels:
        return features
    matrix = torch.randn(features.shape[1], channels, generator=generator) / channels**0.5
    return features @ matrix.to(features)


def nearest(patches: Tensor, bank: Tensor) -> Tensor:
    """The Euclidean distance of each patch `(P, C)` to the nearest of the bank `(M, C)`: `(P,)`, in small blocks."""
    # Imported where it is used, as everywhere in the library: importing the course stays quick.
    from sklearn.metrics import pairwise_distances_argmin_min

    queries, stored = (np.ascontiguousarray(x.detach().cpu().numpy()) for x in (patches, bank))
    return torch.from_numpy(pairwise_distances_argmin_min(queries, stored)[1]).to(patches)


def top_mean(values: Tensor, where: Tensor, share: float) -> Tensor:
    """The mean of the highest `share` of the values where `where` holds, one or more: `(B, H, W)` twice to `(B,)`."""
    ranked = values.masked_fill(~where, -torch.inf).flatten(1).sort(1, descending=True).values
    count = (share * where.flatten(1).sum(1)).ceil().long().clamp(min=1)  # (B,)
    taken = torch.arange(ranked.shape[1], device=values.device) < count[:, None]
    return torch.where(taken & ranked.isfinite(), ranked, 0).sum(1) / count
