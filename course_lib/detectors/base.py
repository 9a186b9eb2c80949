"""The contract: what every detector of the course, and every detector of a student, can do."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn


class Detector(nn.Module):
    """A model of healthy images that says how far an image, and each of its pixels, is from healthy.

    Images are `(B, 1, H, W)` float tensors: 0 outside the brain, positive inside it, the brain's median at 0.5 and
    one robust standard deviation equal to 1/8 (`course_lib.images.volumes.normalise`).

    A detector that is trained by gradient steps defines `training_losses` (or, for adversarial methods,
    `training_step`) and `configure_optimizers`; one with a closed form defines `fit(images)` instead. All define
    `anomaly_map`. A subclass stores each constructor argument under its own name, as scikit-learn's estimators do:
    `hyperparameters` reads them back.
    """

    def __init__(self):
        super().__init__()  # takes no arguments, so that a subclass without a constructor has no hyper-parameters

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """The scalar losses of one batch `(B, 1, H, W)`, by name; their sum is minimised."""
        raise NotImplementedError(f"{type(self).__name__} defines neither training_losses nor training_step.")

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One update from one batch `(B, 1, H, W)`; returns the losses, detached.

        The default takes the sum of `training_losses` one step down. An adversarial method writes its own updates.
        """
        (optimizer,) = optimizers
        optimizer.zero_grad(set_to_none=True)
        losses = self.training_losses(images)
        with torch.autocast(images.device.type, enabled=False):  # autocast is for the forward pass alone
            sum(losses.values()).backward()
            optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers that `training_step` is given. Default: Adam, learning rate 1e-3, over all parameters."""
        return [torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """The anomaly of each pixel: `(B, 1, H, W)` to `(B, H, W)`, higher is more anomalous, any range."""
        raise NotImplementedError(f"{type(self).__name__} defines no anomaly_map.")

    def anomaly_score(self, images: Tensor) -> Tensor:
        """The anomaly of each image: `(B, 1, H, W)` to `(B,)`, higher is more anomalous.

        Default: the mean of the map over the brain, that is over the pixels where the image is above 0.
        """
        brain = images[:, 0] > 0  # (B, H, W)
        anomaly = self.anomaly_map(images) * brain
        return anomaly.sum((1, 2)) / brain.sum((1, 2)).clamp(min=1)

    def pseudo_healthy(self, images: Tensor) -> Tensor:
        """The image as it would look if it were healthy: `(B, 1, H, W)` to `(B, 1, H, W)`."""
        raise NotImplementedError(f"{type(self).__name__} makes no pseudo-healthy image.")

    def hyperparameters(self) -> dict[str, object]:
        """The constructor's arguments as they were given, by name.

        Raises:
            AttributeError: the constructor did not store one of its arguments under the argument's own name.
        """
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise AttributeError(
                f"{type(self).__name__}.__init__ must store {missing} as attributes of the same names, "
                "so that the detector can be saved, found again and rebuilt."
            )
        return {name: getattr(self, name) for name in names}
