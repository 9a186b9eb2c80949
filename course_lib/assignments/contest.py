"""A student's detector, out of a notebook, for the leaderboard: it trains and maps in the sandbox, and is judged here.

What goes in: healthy training slices, then images to map. What comes out: maps. Neither the held-out people's masks nor
the secret that they are drawn from are anywhere near the student's process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from course_lib.assignments import submission
from course_lib.assignments.limits import Limits
from course_lib.assignments.proxy import Handle, Remote, StudentGone
from course_lib.assignments.sandbox import SandboxUnavailable
from course_lib.assignments.student import Nursery, StudentProcess
from course_lib.errors import BadInput

TRAIN = "train_for_the_board"
_CODE = f'''
def {TRAIN}(kind, images, steps, seed, broken):
    """Make a detector, look whether it keeps the contract, train it."""
    import inspect
    import torch
    from course_lib.contract import broken_promises
    from course_lib.training import fit

    shape = {{"image_shape": tuple(images.shape[2:])}} if "image_shape" in inspect.signature(kind).parameters else {{}}
    torch.manual_seed(seed)
    detector = kind(**shape)
    broken += broken_promises(detector, images[:12])
    if not broken:
        fit(detector, images, steps=steps, batch_size=16, seed=seed, progress=False)
    return detector, broken
'''


class SandboxedDetector:
    """What `evaluation.predict` needs of a detector that lives in another process.

    Args:
        remote, handle: of that process, and of the detector in it.
    """

    def __init__(self, remote: Remote, handle: Handle):
        self.remote, self.handle = remote, handle

    def anomaly_map(self, images: Tensor) -> Tensor:
        """`(B, 1, H, W)` to `(B, H, W)`.

        Raises:
            BadInput: the student's code raises, ends, or gives no tensor of numbers.
        """
        self.remote.restart_clock()
        try:
            maps = self.handle.anomaly_map(images)
        except Exception as error:  # whatever the student's code raises
            raise BadInput(f"anomaly_map: {type(error).__name__}: {error}", field="detector") from error
        if not isinstance(maps, Tensor) or not (maps.is_floating_point() or maps.dtype in (torch.int64, torch.int32)):
            raise BadInput(f"anomaly_map gives no tensor of numbers, but {type(maps).__name__}.", field="detector")
        return maps.detach().float()


@contextmanager
def trained_in_sandbox(
    notebook: str | Path,
    kind: str,
    images: Tensor,
    *,
    nursery: Nursery | None,
    steps: int = 600,
    seed: int = 0,
    limits: Limits | None = None,
) -> Iterator[SandboxedDetector]:
    """Run a student's notebook in the sandbox, train its class there, and lend the detector out.

    Args:
        notebook: the student's; its cells are run in order, an error in one does not stop the next.
        kind: the class's name.
        images: healthy training slices `(N, 1, H, W)`.
        nursery: where the sandbox is forked, made before anything secret was read; None to run without one.
        steps, seed: of the training, in batches of 16; the same for all who enter.
        limits: `cell_seconds` is the limit of each cell, and of the training.

    Raises:
        BadInput: the notebook cannot be read, there is no such class, it breaks the contract, or it fails.
        SandboxUnavailable: this computer has no namespaces for us, or no memory or disk for one more sandbox.
    """
    path = Path(notebook)
    cells = [cell for cell in submission.read(path, path.parent).cells if cell["cell_type"] == "code"]
    limits = limits or Limits(cell_seconds=900, total_seconds=3600)
    try:
        process = StudentProcess(limits, nursery)
    except RuntimeError as error:  # it did not start; nothing was entered
        raise SandboxUnavailable(str(error)) from error
    try:
        failed = ""
        for number, cell in enumerate(cells, 1):
            answer = process.run(cell["source"], limits.cell_seconds)
            if answer["status"] != "ok" and not failed:
                failed = f" Its code cell {number} ended with {answer['status']}."
        process.run(_CODE, limits.cell_seconds)
        remote = process.serve()
        yield SandboxedDetector(remote, _train(remote, path, kind, images, steps, seed, failed))
    except StudentGone as error:
        raise BadInput(f"its code ended its process: {error}.", file=path) from None
    finally:
        process.close()


def _train(remote: Remote, path: Path, kind: str, images: Tensor, steps: int, seed: int, failed: str) -> Handle:
    try:
        found, train = remote.ask("get", name=kind), remote.ask("get", name=TRAIN)
    except Exception as error:
        raise BadInput(f"it defines no {kind}.{failed}", file=path, field="--detector") from error
    remote.restart_clock()
    try:
        detector, broken = train(found, images, steps, seed, [])
    except StudentGone:
        raise
    except Exception as error:  # whatever the student's code raises
        raise BadInput(f"{kind} cannot be trained: {type(error).__name__}: {error}", file=path) from error
    if broken:
        raise BadInput(f"{kind} breaks the contract: {broken[0]}", file=path)
    if not isinstance(detector, Handle):
        raise BadInput(f"{kind} is no class of a detector.", file=path)
    return detector
