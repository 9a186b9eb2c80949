"""Several detectors of one kind, asked together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_lib.detectors.base import Detector


class Ensemble(Detector):
    """The mean of the members' maps, scores and pseudo-healthy images; nothing of its own is trained.

    Args:
        members: trained detectors, at least one.
    """

    def __init__(self, members: Sequence[Detector]):
        super().__init__()
        if not len(members):
            raise ValueError("an ensemble needs a member.")
        self.members = nn.ModuleList(members)

    @torch.no_grad()
    def anomaly_map(self, images: Tensor) -> Tensor:
        """A = mean of A_pi: `(B, 1, H, W)` to `(B, H, W)`."""
        return torch.stack([member.anomaly_map(images) for member in self.members]).mean(0)

    @torch.no_grad()
    def anomaly_score(self, images: Tensor) -> Tensor:
        """The mean of the members' scores: `(B, 1, H, W)` to `(B,)`."""
        return torch.stack([member.anomaly_score(images) for member in self.members]).mean(0)

    @torch.no_grad()
    def pseudo_healthy(self, images: Tensor) -> Tensor:
        """The mean of the members' pseudo-healthy images, `(B, 1, H, W)`."""
        return torch.stack([member.pseudo_healthy(images) for member in self.members]).mean(0)
