"""One training step of each contender of part 3: our loop, exact and fast, beside the same updates in a bare loop.

96 x 96, batch 16. The bare loop makes the method's own updates with torch as it comes: plain Adam, float32, none of the
course's settings. Ours is a whole step of `course_lib.training`: batch selection, seeds, clipping, checks and history
included. Each candidate runs in a process of its own on one thread, in turns. Methods with a schedule are measured in
the phase that most of their steps are in. Run: `python tests/benchmarks/part3_step.py [TIMES]`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch
from _timing import compare, machine

from course_lib.contenders import BATCH, PRECISE, contenders
from course_lib.training import _Run

SHAPE, STEPS = (96, 96), 800
TARGETS = {"exact": 1.0, "fast": 0.58}  # of the bare loop's CPU time
WAYS = ("bare", *TARGETS)


def heads(count: int) -> torch.Tensor:
    """Discs with noise, `(count, 1, 96, 96)`, 0 outside: what the masks of the losses need."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    disc = ((x - 48).square() + (y - 48).square()).sqrt() < 36
    return disc * (0.5 + 0.1 * torch.randn(count, 1, 96, 96)).clamp(min=0.01)


def detector(name: str):
    """A new contender, its counter set past the warm-up and before the last phase."""
    torch.manual_seed(0)
    made = contenders(SHAPE, STEPS)[name]
    if hasattr(made, "step"):
        made.step.fill_(STEPS * 3 // 5)
    return made


def bare_step(name: str):
    """The method's updates as anyone would write the loop around them."""
    made, images = detector(name), heads(BATCH)
    optimizers = [plain(optimizer) for optimizer in made.configure_optimizers()]
    made.train()

    def step():
        losses = made.training_step(images, optimizers)
        return {key: value.item() for key, value in losses.items()}

    return step


def plain(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same optimizer without the fused kernel."""
    kept = ("params", "lr", "betas", "eps", "amsgrad")
    groups = [{key: group[key] for key in kept} for group in optimizer.param_groups]
    return type(optimizer)(groups)


def our_step(name: str, fast: bool):
    """A step of our loop, on twice as many images as a batch."""
    run = _Run(detector(name), heads(2 * BATCH), batch_size=BATCH, seed=0, device=torch.device("cpu"), fast=fast)

    def step():
        with torch.random.fork_rng():
            run.advance()

    return step


def measure(name: str, way: str) -> float:
    """CPU seconds of one step in a process of its own: ours with the course's settings, the bare loop without."""
    environment = {**os.environ, "LEARNING_NORMAL_TUNE": str(int(way != "bare")), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, "--step", name, way]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(times: int) -> None:
    """Print the table: the smallest of `times` processes each, in turns."""
    print(machine())
    print(f"{'':16s}" + "".join(f"{way:>18s}" for way in WAYS) + "   used")
    for name, made in contenders(SHAPE, STEPS).items():
        best = dict.fromkeys(WAYS, float("inf"))
        for _ in range(times):
            for way in WAYS:
                best[way] = min(best[way], measure(name, way))
        cells = "".join(f"{1e3 * best[way]:8.1f} ms x {best[way] / best['bare']:.2f}" for way in WAYS)
        missed = [way for way, target in TARGETS.items() if best[way] / best["bare"] > target]
        used = "exact" if isinstance(made, PRECISE) else "fast"
        print(f"{name:16s}{cells}   {used}{'; MISSED: ' + ', '.join(missed) if missed else ''}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--step"]:
        name, way = sys.argv[2], sys.argv[3]
        step = bare_step(name) if way == "bare" else our_step(name, fast=way == "fast")
        print(json.dumps(compare({name: step}, rounds=2, seconds=0.8)[name]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 3)
