"""A network that learns to outline anomalies which we made up.

The line of Tan, Hou, Batten, Qiu, Kainz, Detecting outliers with foreign patch interpolation (MOOD 2020; MELBA 2022);
Li, Sohn, Yoon, Pfister, CutPaste, CVPR 2021; Zavrtanik, Kristan, Skocaj, DRAEM, ICCV 2021; Schlueter, Tan, Hou, Kainz,
Natural synthetic anomalies, ECCV 2022. Ours has one small U-Net, five kinds of corruption, and no reconstruction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.detectors.base import Detector
from course_lib.detectors.unet import UNet
from course_lib.images.corruptions import KINDS, Corruption
from course_lib.images.lesion_shapes import lesion_shapes

EXPECTED = 0.05  # share of brain pixels that are abnormal, about: what the network says before it has learnt anything


class SyntheticAnomalies(Detector):
    """A U-Net f trained as a supervised segmenter, on healthy images with made-up anomalies.

    With x' and m the corrupted image and its mask (`course_lib.images.corruptions`), B the brain's pixels, s the
    sigmoid and p = s(f(x')), the loss is the sum of two, each a mean over the batch,

        cross-entropy = -1/|B| sum_{i in B} m_i log p_i + (1 - m_i) log(1 - p_i)
        soft Dice     = 1 - (2 sum_i m_i p_i + 1) / (sum_i m_i + sum_i p_i + 1),    i in B.

    Cross-entropy is a proper scoring rule: alone it would make p the probability that a pixel was corrupted. But it
    counts pixels, and large and obvious corruptions own most of them. Dice counts images, so that small and faint ones
    are learnt within a short budget; the price is a p that is too sure of itself. (The choice was made on the lesions
    of validation people. DRAEM's focal loss has the same purpose.)

    The map is s(f(x)). The score of an image is its mean: about the share of the brain that is taken for abnormal.

    Args:
        image_shape: height and width in pixels.
        kinds: of corruption, some of `corruptions.KINDS`.
        shapes: families of the atlas cohort whose outlines the corruptions take; none: shapes cut from smooth noise.
        share: of the training images that are corrupted.
        width, depth: of the U-Net.

    Raises:
        BadInput: an unknown kind or family, or sides that cannot be halved.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        kinds: tuple[str, ...] = KINDS,
        shapes: tuple[str, ...] = (),
        share: float = 0.8,
        width: int = 8,
        depth: int = 4,
    ):
        super().__init__()
        self.image_shape, self.kinds, self.shapes = image_shape, kinds, shapes
        self.share, self.width, self.depth = share, width, depth
        bank = lesion_shapes(tuple(shapes), tuple(image_shape)) if shapes else None
        self.corrupt = Corruption(kinds, share, bank)
        self.network = UNet(image_shape, width, depth)
        nn.init.constant_(self.network.out.bias, torch.tensor(EXPECTED).logit().item())  # no steps to unlearn one half

    def forward(self, images: Tensor) -> Tensor:
        """The logits f(x), `(B, 1, H, W)` to the same; outside the brain they mean nothing."""
        return self.network(images)

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`cross_entropy` (nats a brain pixel) and `dice` (0 to 1) of the outlines of fresh corruptions."""
        corrupted, masks = self.corrupt(images)
        brain, truth, logits = (images > 0).float(), masks.float(), self(corrupted).float()
        loss = F.binary_cross_entropy_with_logits(logits, truth, weight=brain, reduction="sum")
        p = torch.sigmoid(logits) * brain
        overlap, total = (x.sum((1, 2, 3)) for x in (p * truth, p + truth))  # (B,)
        return {
            "cross_entropy": loss / brain.sum().clamp(min=1),
            "dice": (1 - (2 * overlap + 1) / (total + 1)).mean(),
        }

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam, learning rate 2e-3: a network with group normalisation bears it, and the budget is short."""
        return [torch.optim.Adam(self.parameters(), lr=2e-3, fused=True)]

    @torch.no_grad()
    def anomaly_map(self, images: Tensor) -> Tensor:
        """s(f(x)), 0 to 1, in the brain, and 0 outside: `(B, 1, H, W)` to `(B, H, W)`."""
        return (torch.sigmoid(self(images).float()) * (images > 0))[:, 0]
