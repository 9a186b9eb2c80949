"""The intensity threshold: brightness itself as the anomaly."""

from __future__ import annotations

from torch import Tensor

from course_lib.detectors.base import Detector


class IntensityThreshold(Detector):
    """The map is the image: bright is anomalous. The baseline that a method has to beat.

    Meissen, Kaissis, Rueckert, Challenging current semi-supervised anomaly segmentation methods for brain MRI (2021):
    in FLAIR images it beat most published auto-encoders, because their benchmarks' lesions are bright.
    """

    def fit(self, images: Tensor) -> IntensityThreshold:
        """Nothing to learn; the method is there so that all detectors are trained in one way."""
        return self

    def anomaly_map(self, images: Tensor) -> Tensor:
        """The intensity, `(B, 1, H, W)` to `(B, H, W)`; 0 outside the brain."""
        return images[:, 0]
