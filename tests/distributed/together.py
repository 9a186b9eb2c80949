"""What the tests' processes do: each training of `TRAININGS`, by all of them; the first one writes what came out.

`torchrun --nproc-per-node 2 together.py FOLDER`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from course_lib.detectors.base import Detector
from course_lib.errors import BadInput

STEPS, BATCH = 12, 8
OPTIONS = {"steps": STEPS, "batch_size": BATCH, "seed": 3, "progress": False}


def images() -> Tensor:
    """Healthy images of the tests, `(27, 1, 16, 16)` float64: the batches of 8 run over the end of an epoch."""
    return torch.rand(27, 1, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.5 + 0.25


class Small(Detector):
    """An auto-encoder with batch normalisation and the default step."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.SiLU(), nn.Flatten(), nn.Linear(588, 256))

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        rebuilt = self.layers(images).view_as(images)
        return {"l2": (rebuilt - images).square().mean(), "l1": 0.1 * (rebuilt - images).abs().mean()}


class Alternating(Small):
    """Two optimizers with an update each, the second after what the first has changed."""

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(self.layers[:2].parameters(), lr=1e-2),
            torch.optim.SGD(self.layers[4:].parameters(), 1),
        ]

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        found = {}
        for name, optimizer in zip("ab", optimizers, strict=True):
            optimizer.zero_grad()
            loss = sum(self.training_losses(images).values())
            loss.backward()
            optimizer.step()
            found[name] = loss.detach()
        return found


class Learns(Small):
    """It keeps a moving average of the images that it sees."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean_seen", torch.zeros(1))

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        self.mean_seen.lerp_(images.mean().to(self.mean_seen), 0.1)
        return super().training_losses(images)


class Noisy(Small):
    """Its loss is a random number."""

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        losses = super().training_losses(images)
        return losses | {"draw": torch.rand((), dtype=images.dtype) + 0 * losses["l1"]}


class Closed(Small):
    """It has a closed form."""

    def fit(self, images: Tensor) -> None:
        raise AssertionError("nobody may call it")


def make(name: str) -> Detector:
    """A detector of this file in float64, its initial weights always the same ones."""
    torch.manual_seed(5)
    return globals()[name]().double()


def main(folder: Path) -> None:
    """All trainings; the outcome is `folder/outcome.json`."""
    from course_lib.distributed import process_group, train

    outcome = {}
    with process_group("cpu") as device:
        for name in ("Small", "Alternating", "Noisy", "Learns", "Closed"):
            detector = make(name)
            if dist.get_rank() == 1:
                for parameter in detector.parameters():  # the first process's weights are taken by all
                    parameter.data.add_(1.0)
            try:
                history = train(detector, images(), device=device, **OPTIONS)
                weights = torch.cat([p.detach().flatten() for p in detector.parameters()])
                gathered = [torch.empty_like(weights) for _ in range(dist.get_world_size())]
                dist.all_gather(gathered, weights)
                state = {key: value.tolist() for key, value in detector.state_dict().items()}
                equal = all(torch.equal(weights, other) for other in gathered)
                outcome[name] = {"history": history.to_dict("list"), "state": state, "equal": equal}
            except BadInput as error:
                outcome[name] = {"error": str(error)}
        try:
            train(make("Small"), images(), device=device, **(OPTIONS | {"batch_size": 7}))
        except BadInput as error:
            outcome["odd batch"] = {"error": str(error)}
        if dist.get_rank() == 0:
            (folder / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
