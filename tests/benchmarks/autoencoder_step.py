"""One auto-encoder training step at one architecture: our loop, bare torch, and the wrappers of pythae and MONAI.

Four stride-2 levels of 32, 64, 128, 128 channels, latent 128, MSE, Adam: 64 x 64 at batch 32, 128 x 128 at batch 16.
Ours is a whole step of `course_lib.training`: batch selection, seeds, clipping, checks and history included.
Each candidate runs in a process of its own on one thread, in turns: ours with the course's settings, the others with
torch as it comes. Run: `python tests/benchmarks/autoencoder_step.py`. Missing packages are left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch
import torch.nn.functional as F
from _timing import compare, machine
from torch import nn

from course_lib.detectors.base import Detector
from course_lib.training import _Run

LATENT, WIDTHS = 128, (32, 64, 128, 128)
SHAPES = ((32, 64), (16, 128))  # batch, side
EXACT_TARGET, FAST_TARGET = 1.0, 0.58  # of bare torch's CPU time


def encoder() -> nn.Sequential:
    """Convolution 4 x 4 stride 2, batch norm, ReLU, four times."""
    layers, before = [], 1
    for width in WIDTHS:
        layers += [nn.Conv2d(before, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    return nn.Sequential(*layers)


def decoder() -> nn.Sequential:
    """The mirror, with a sigmoid at the end."""
    layers, widths = [], (*reversed(WIDTHS), 1)
    for before, after in zip(widths, widths[1:], strict=False):
        layers.append(nn.ConvTranspose2d(before, after, 4, 2, 1))
        layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)] if after > 1 else [nn.Sigmoid()]
    return nn.Sequential(*layers)


class Net(nn.Module):
    """The bare network."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side // 16
        code = WIDTHS[-1] * self.side**2
        self.encoder, self.decoder = encoder(), decoder()
        self.to_code, self.from_code = nn.Linear(code, LATENT), nn.Linear(LATENT, code)

    def forward(self, images):
        """`(B, 1, S, S)` to the same."""
        code = self.to_code(self.encoder(images).flatten(1))
        return self.decoder(self.from_code(code).view(-1, WIDTHS[-1], self.side, self.side))


class Ours(Detector):
    """The same network as a detector."""

    def __init__(self, side: int):
        super().__init__()
        self.side, self.net = side, Net(side)

    def training_losses(self, images):
        """The mean squared error."""
        return {"reconstruction": F.mse_loss(self.net(images).float(), images)}


def loop(module: nn.Module, loss, images, **options):
    """A step as anyone would write it."""
    optimizer = torch.optim.Adam(module.parameters(), 1e-3, **options)
    module.train()

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss(module, images).backward()
        optimizer.step()

    return step


def fast_loop(module: nn.Module, images):
    """The fast mode as anyone would write it: bfloat16 autocast, channels-last, fused Adam."""
    module, images = (thing.to(memory_format=torch.channels_last) for thing in (module, images))

    def loss(module, images):
        with torch.autocast("cpu", torch.bfloat16):
            reconstruction = module(images)
        return F.mse_loss(reconstruction.float(), images)

    return loop(module, loss, images, fused=True)


def ours(side: int, images, fast: bool):
    """A step of our loop, on twice as many images as a batch."""
    data = torch.cat([images, images.flip(0)])
    run = _Run(Ours(side), data, batch_size=len(images), seed=0, device=torch.device("cpu"), fast=fast)

    def step():
        with torch.random.fork_rng():
            run.advance()

    return step


def pythae_step(side: int, images):
    """The same nets inside pythae's AE."""
    from pythae.models import AE, AEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    small = side // 16
    code = WIDTHS[-1] * small**2

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.net, self.linear = encoder(), nn.Linear(code, LATENT)

        def forward(self, x):
            return ModelOutput(embedding=self.linear(self.net(x).flatten(1)))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.linear, self.net = nn.Linear(LATENT, code), decoder()

        def forward(self, z):
            return ModelOutput(reconstruction=self.net(self.linear(z).view(-1, WIDTHS[-1], small, small)))

    wrapped = AE(AEConfig(input_dim=(1, side, side), latent_dim=LATENT), encoder=Encoder(), decoder=Decoder())
    return loop(wrapped, lambda module, images: module({"data": images}).loss, images)


def monai_step(side: int, images):
    """MONAI's AutoEncoder of the same widths and depth (its nets have fewer multiplications)."""
    from monai.networks.nets import AutoEncoder

    return loop(AutoEncoder(2, 1, 1, channels=WIDTHS, strides=(2, 2, 2, 2)), mse, images)


def mse(module: nn.Module, images):
    """The mean squared error of a module's reconstruction."""
    return F.mse_loss(module(images), images)


STEPS = {
    "bare torch": lambda side, images: loop(Net(side), mse, images),
    "bare torch, fused Adam": lambda side, images: loop(Net(side), mse, images, fused=True),
    "bare torch, fast": lambda side, images: fast_loop(Net(side), images),
    "pythae AE": pythae_step,
    "MONAI AutoEncoder": monai_step,
    "ours": lambda side, images: ours(side, images, fast=False),
    "ours, fast": lambda side, images: ours(side, images, fast=True),
}


def measure(name: str, batch: int, side: int) -> float | None:
    """CPU seconds of one step in a process of its own: ours with the course's settings, the others without."""
    environment = {**os.environ, "LEARNING_NORMAL_TUNE": str(int("ours" in name)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, "--step", name, str(batch), str(side)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr:
        return None
    done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def main(times: int) -> None:
    """Print the table for both shapes: the smallest of `times` processes each, in turns."""
    print(machine())
    for batch, side in SHAPES:
        best: dict[str, float] = {}
        for _ in range(times):
            for name in STEPS:
                value = measure(name, batch, side)
                if value is not None:
                    best[name] = min(best.get(name, value), value)
        for name in STEPS:
            figures = f"{1e3 * best[name]:7.1f} ms  x {best[name] / best['bare torch']:.2f}" if name in best else "  -"
            print(f"{side:4d} {name:24s} {figures}")
        for name, target in (("ours", EXACT_TARGET), ("ours, fast", FAST_TARGET)):
            ratio = best[name] / best["bare torch"]
            print(
                f"{side:4d} {name}: {ratio:.2f} <= {target}: {'reached' if ratio <= target else 'MISSED'}", flush=True
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--step"]:
        name, batch, side = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        torch.manual_seed(0)
        step = STEPS[name](side, torch.rand(batch, 1, side, side))
        print(json.dumps(compare({name: step}, rounds=2, seconds=0.8)[name]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 3)
