"""The one training loop of the course."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.errors import BadInput
from course_lib.files import atomic_write
from course_lib.runtime import choose_device, has_fast_bfloat16

if TYPE_CHECKING:
    import pandas as pd

    from course_lib.images.slices import SliceSet

LARGEST_GRADIENT = 1.0  # norm, over the parameters of one optimizer


def fit(
    detector: Detector,
    slices: SliceSet | Tensor,
    *,
    steps: int = 800,
    batch_size: int = 32,
    seed: int = 0,
    device: str = "cpu",
    fast: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 200,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a detector on healthy slices; it ends in evaluation mode. A detector with a closed form is fitted at once.

    The batches, and torch's random numbers within a step, depend on `(seed, step)` alone. So the weights, the
    optimizers' state and the step are all that a checkpoint needs, and on one thread a run that was killed and
    started again ends with the same bits as one that was not. At most `checkpoint_every` steps are lost.

    Args:
        detector: trained in place.
        slices: healthy training slices, a `SliceSet` or a tensor `(N, 1, H, W)`.
        steps: updates in all, those before an interruption included.
        batch_size: images a step.
        seed: of the order of the images and of the random numbers. Initial weights were drawn before.
        device: "cpu", "cuda", ..., or "auto".
        fast: bfloat16 arithmetic where the device has it, and channels-last memory. About half the time; losses
            and weights stay in float32.
        checkpoint: a file to go on from if it is there, and to write to. A damaged one is named and not used.
        checkpoint_every: steps between two checkpoints.
        progress: show a progress bar.

    Returns:
        The history: columns `step` (from 1), one for each loss, `seconds` (since the start, interruptions left out).

    Raises:
        FloatingPointError: a loss is not finite; names the step and the loss.
        BadInput: there are no slices, or the checkpoint belongs to another run or is past `steps`.
    """
    if len(slices) == 0:
        raise BadInput("no slices to train on.", field="slices")
    device = choose_device(device)
    if hasattr(detector, "fit"):
        return _fit_closed_form(detector, slices, device, seed)
    run = _Run(detector, slices, batch_size=batch_size, seed=seed, device=device, fast=fast)
    if checkpoint is not None:
        run.resume(Path(checkpoint), steps)
    with torch.random.fork_rng(), _bar(run.step, steps, detector, progress) as bar:
        while run.step < steps:
            losses = run.advance()
            bar.update()
            bar.set_postfix({name: f"{loss:.2e}" for name, loss in losses.items()}, refresh=False)
            if checkpoint is not None and (run.step % checkpoint_every == 0 or run.step == steps):
                run.save(Path(checkpoint))
    detector.to(memory_format=torch.contiguous_format).eval()
    return history_table(run.history)


class _Run:
    """The state of one training: detector, optimizers, step and history."""

    def __init__(self, detector, slices, *, batch_size: int, seed: int, device: torch.device, fast: bool):
        self.detector = detector.to(device).train()
        self.slices, self.batch_size, self.seed, self.device = slices, batch_size, seed, device
        self.layout = torch.channels_last if fast else torch.contiguous_format
        self.bfloat16 = fast and has_fast_bfloat16(device)
        detector.to(memory_format=self.layout)
        self.optimizers = detector.configure_optimizers()
        for optimizer in self.optimizers:
            optimizer.register_step_pre_hook(clip_gradients)
        self.step = 0
        self.history: dict[str, list[float]] = {"step": [], "seconds": []}
        self.identity = {
            "detector": f"{type(detector).__module__}.{type(detector).__qualname__}",
            "hyperparameters": json.dumps(detector.hyperparameters(), sort_keys=True, default=_plain),
            "slices": fingerprint(slices),
            "batch_size": batch_size,
            "seed": seed,
            "fast": fast,
            "bfloat16": self.bfloat16,
        }

    def advance(self) -> dict[str, float]:
        """Take one step and record it; returns the losses."""
        started = time.perf_counter()
        images = take_batch(self.slices, batch_indices(len(self.slices), self.batch_size, self.seed, self.step))
        images = images.to(self.device, memory_format=self.layout)  # (B, 1, H, W)
        torch.manual_seed(mix_seeds(self.seed, self.step))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            losses = self.detector.training_step(images, self.optimizers)
        losses = {name: float(loss) for name, loss in losses.items()}
        self.step += 1
        for name, loss in losses.items():
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"step {self.step}: the loss '{name}' of {type(self.detector).__name__} is {loss}. "
                    "A smaller learning rate, or a look at the images, may help."
                )
        before = self.history["seconds"][-1] if self.history["seconds"] else 0.0
        record = {"step": self.step, "seconds": before + time.perf_counter() - started, **losses}
        for name, value in record.items():
            self.history.setdefault(name, []).append(value)
        return losses

    def save(self, path: Path) -> None:
        """Write the checkpoint: a line with the SHA-256 of the rest, then torch's own format. Whole or not at all."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "history": self.history,
            "weights": self.detector.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        content = io.BytesIO()
        torch.save(state, content)
        with atomic_write(path) as part:
            part.write_bytes(_digest(content.getvalue()) + content.getvalue())

    def resume(self, path: Path, steps: int) -> None:
        """Take over the state in `path`, if the file is there and whole."""
        state = read_checkpoint(path)
        if state is None:
            return
        differing = [name for name, value in self.identity.items() if state["identity"].get(name) != value]
        if differing:
            raise BadInput(
                f"this checkpoint is of another training (its {', '.join(differing)} differ).",
                file=path,
                remedy="Choose another checkpoint file, or delete this one.",
            )
        if state["step"] > steps:
            raise BadInput(
                f"this checkpoint is at step {state['step']}, and {steps} steps were asked for.",
                file=path,
                remedy="Ask for at least as many steps, or choose another checkpoint file.",
            )
        self.detector.load_state_dict(state["weights"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.history = state["step"], state["history"]


def read_checkpoint(path: Path) -> dict | None:
    """The state in a checkpoint file; None if there is no file, or, with a warning that names it, a damaged one."""
    if not path.exists():
        return None
    content = path.read_bytes()
    digest, body = content[:65], content[65:]
    if digest != _digest(body):
        warnings.warn(f"The checkpoint {path} is damaged (its SHA-256 differs). Training starts again.", stacklevel=4)
        return None
    return torch.load(io.BytesIO(body), weights_only=True)  # tensors and plain values only: nothing is executed


def batch_indices(images: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Which images are in the batch of a step (from 0): a window on a stream of one random permutation after another.

    Every image comes once before any comes twice. A pure function of its arguments.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(positions, images)
    order = {int(epoch): np.random.default_rng([seed, int(epoch)]).permutation(images) for epoch in np.unique(epochs)}
    return np.array([order[int(epoch)][place] for epoch, place in zip(epochs, places, strict=True)])


def fingerprint(slices: SliceSet | Tensor) -> str:
    """A SHA-256 of the images' content."""
    return tensor_digest(slices) if isinstance(slices, Tensor) else slices.fingerprint


def tensor_digest(values: Tensor) -> str:
    """A SHA-256 of a tensor's type, shape and content."""
    content = values.detach().cpu().contiguous().numpy()
    return hashlib.sha256(str((content.dtype, content.shape)).encode() + content.tobytes()).hexdigest()


def describe_part(part: object) -> dict:
    """A trained detector that is a hyper-parameter of another one, as plain values: class, its own, digest of weights.

    Raises:
        TypeError: it is something else that JSON cannot hold.
    """
    if not isinstance(part, Detector):
        raise TypeError(f"a hyper-parameter of type {type(part).__name__} cannot be written as JSON.")
    weights = "".join(name + tensor_digest(value) for name, value in sorted(part.state_dict().items()))
    return {
        "detector": f"{type(part).__module__}.{type(part).__qualname__}",
        "hyperparameters": part.hyperparameters(),
        "weights": hashlib.sha256(weights.encode()).hexdigest(),
    }


def _plain(value: object) -> object:
    """A hyper-parameter that JSON cannot hold, for a checkpoint's identity: anything may be trained, if not stored."""
    return describe_part(value) if isinstance(value, Detector) else repr(value)


def _fit_closed_form(detector: Detector, slices: SliceSet | Tensor, device: torch.device, seed: int) -> pd.DataFrame:
    started = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector.cpu().fit(take_batch(slices, np.arange(len(slices))).cpu())
    detector.to(device).eval()
    return history_table({"step": [1], "seconds": [time.perf_counter() - started]})


def take_batch(slices: SliceSet | Tensor, indices: np.ndarray) -> Tensor:
    """Some images, `(B, 1, H, W)`."""
    return slices[torch.from_numpy(indices)] if isinstance(slices, Tensor) else slices.batch(indices)


def clip_gradients(optimizer: torch.optim.Optimizer, *_) -> None:
    """Shrink the gradient over an optimizer's parameters to the norm `LARGEST_GRADIENT`; a hook before its step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)


def mix_seeds(seed: int, step: int) -> int:
    """One 63-bit seed out of two numbers."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def _bar(start: int, steps: int, detector: Detector, progress: bool):
    # Imported where it is used, as pandas is below: importing the course stays quick.
    from tqdm.auto import tqdm

    name = type(detector).__name__
    return tqdm(total=steps, initial=start, desc=name, unit="step", leave=False, disable=not progress, mininterval=0.5)


def history_table(history: dict[str, list[float]]) -> pd.DataFrame:
    """The history as a table: `step`, the losses, `seconds`."""
    import pandas as pd

    losses = [name for name in history if name not in ("step", "seconds")]
    return pd.DataFrame(history)[["step", *losses, "seconds"]]
