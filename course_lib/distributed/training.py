"""One training by several processes, each with its share of every batch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from course_lib.detectors.base import Detector
from course_lib.distributed.batch_norm import batch_norm_shared
from course_lib.errors import BadInput
from course_lib.training import batch_indices, clip_gradients, history_table, mix_seeds, take_batch

if TYPE_CHECKING:
    import pandas as pd

    from course_lib.images.slices import SliceSet

CHECK_EVERY = 100  # steps between two looks at whether all processes still hold the same detector


def train(
    detector: Detector,
    slices: SliceSet | Tensor,
    *,
    steps: int = 800,
    batch_size: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Train a detector together with the other processes; all end with the same weights, in evaluation mode.

    Args:
        detector: with the same hyper-parameters everywhere; the first process's initial weights are taken by all.
        slices: all healthy training slices, the same everywhere: `(N, 1, H, W)` or a `SliceSet`.
        steps: updates.
        batch_size: images a step, of all processes together; a multiple of their number.
        seed: of the order of the images and of the random numbers.
        device: this process's.
        progress: show a bar, in the first process.

    Returns:
        The history, as of `training.fit`: columns `step`, each loss as the mean over the whole batch, `seconds`.

    Raises:
        BadInput: the batch cannot be shared evenly, or the detector cannot be trained so.
        FloatingPointError: a loss is not finite; names the step and the loss.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    _check(detector, slices, batch_size, world)
    detector.to(device).train()
    for value in detector.state_dict().values():
        dist.broadcast(value, src=0)
    optimizers = detector.configure_optimizers()
    for optimizer in optimizers:
        if not _has_default_step(detector):
            optimizer.register_step_pre_hook(_average_gradients)
        optimizer.register_step_pre_hook(clip_gradients)
    history: dict[str, list[float]] = {"step": [], "seconds": []}
    started = time.perf_counter()
    with ExitStack() as stack:
        for context in (torch.random.fork_rng(), batch_norm_shared(detector), _losses_shared(detector)):
            stack.enter_context(context)
        bar = stack.enter_context(_bar(detector, steps, progress and rank == 0))
        for step in range(steps):
            mine = batch_indices(len(slices), batch_size, seed, step)[rank::world]
            torch.manual_seed(mix_seeds(seed, step) if world == 1 else mix_seeds(mix_seeds(seed, step), rank))
            losses = detector.training_step(take_batch(slices, mine).to(device), optimizers)
            _record(history, detector, step, losses, time.perf_counter() - started)
            if step == 0 or step + 1 == steps or (step + 1) % CHECK_EVERY == 0:
                _check_equal(detector)
            bar.update()
    detector.eval()
    return history_table(history)


def _check(detector: Detector, slices: SliceSet | Tensor, batch_size: int, world: int) -> None:
    name = type(detector).__name__
    if len(slices) == 0:
        raise BadInput("no slices to train on.", field="slices")
    if hasattr(detector, "fit"):
        raise BadInput(f"{name} is fitted in closed form: one process does it.", field="detector")
    if batch_size < world or batch_size % world:
        cause = f"batches of {batch_size} cannot be shared evenly by {world} processes."
        raise BadInput(cause, field="batch_size", remedy=f"Take a multiple of {world}.")


def _has_default_step(detector: Detector) -> bool:
    return type(detector).training_step is Detector.training_step


class _Losses(nn.Module):
    """What DistributedDataParallel wraps: a module whose forward pass is the detector's losses."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The losses of a share `(B / n, 1, H, W)` of a batch."""
        return type(self.detector).training_losses(self.detector, images)


@contextmanager
def _losses_shared(detector: Detector) -> Iterator[None]:
    """While the block runs, a default step's losses come from DistributedDataParallel."""
    if not _has_default_step(detector):
        yield
        return
    shared = DistributedDataParallel(_Losses(detector))
    # Past nn.Module's own __setattr__, which would make the wrapper a part of what it wraps.
    object.__setattr__(detector, "training_losses", shared)
    try:
        yield
    finally:
        object.__delattr__(detector, "training_losses")


def _average_gradients(optimizer: torch.optim.Optimizer, *_) -> None:
    """Average the gradients that this optimizer is about to use over all processes, in one message."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, average in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(average.view_as(gradient))


def _record(history: dict, detector: Detector, step: int, losses: dict[str, Tensor], seconds: float) -> None:
    """Add the losses' means over all processes to the history."""
    values = torch.stack([torch.as_tensor(loss, dtype=torch.float64).cpu() for loss in losses.values()])
    values = values.to(next(detector.parameters()).device)
    dist.all_reduce(values)
    means = dict(zip(losses, (values / dist.get_world_size()).tolist(), strict=True))
    for name, loss in means.items():
        if not math.isfinite(loss):
            raise FloatingPointError(f"step {step + 1}: the loss '{name}' of {type(detector).__name__} is {loss}.")
    for name, value in {"step": step + 1, "seconds": seconds, **means}.items():
        history.setdefault(name, []).append(value)


def _check_equal(detector: Detector) -> None:
    """Raise BadInput, in all processes, if they do not hold the same detector."""
    state = detector.state_dict()
    sums = torch.stack([_checksum(value) for value in state.values()])
    lowest, highest = sums.clone(), sums.clone()
    dist.all_reduce(lowest, dist.ReduceOp.MIN)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    differing = [name for name, same in zip(state, (lowest == highest).tolist(), strict=True) if not same]
    if differing:
        several = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise BadInput(
            f"{type(detector).__name__} sets {', '.join(differing[:3])}{several} from the images that it sees: every "
            "process would hold another detector.",
            field="detector",
            remedy="Train it in one process (`course_lib.training.fit`).",
        )


def _checksum(value: Tensor) -> Tensor:
    """A float64 number that tells tensors apart: a sum with weights, so that swapped entries count."""
    flat = value.detach().flatten().to(torch.float64)
    return (flat * torch.linspace(1, 2, len(flat), dtype=torch.float64, device=flat.device)).nan_to_num().sum()


def _bar(detector: Detector, steps: int, progress: bool):
    from tqdm.auto import tqdm

    return tqdm(total=steps, desc=type(detector).__name__, unit="step", disable=not progress, mininterval=0.5)
