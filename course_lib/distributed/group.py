"""The processes of one training, as torchrun has started them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from course_lib.errors import BadInput

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # that torchrun sets
MINUTES = 10  # that a process waits for another one


@contextmanager
def process_group(device: str = "auto") -> Iterator[torch.device]:
    """Join the processes that torchrun has started; yields this one's device.

    Args:
        device: "auto" (GPUs where there is one for each process), "cpu" or "cuda". GPUs talk by nccl, CPUs by gloo.

    Raises:
        BadInput: torchrun did not start this process, the others cannot be reached, or a GPU is missing.
    """
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        remedy = "Start it with `torchrun --nproc-per-node 2 -m course_lib.distributed ...`."
        raise BadInput(f"torchrun's {', '.join(missing)} are not set.", field="environment", remedy=remedy)
    place = _device(device, int(os.environ["LOCAL_RANK"]))
    try:
        backend = "nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=MINUTES))
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise BadInput(f"the other processes cannot be reached at {where} ({error}).", field="environment") from error
    try:
        yield place
    finally:
        dist.destroy_process_group()


def _device(device: str, local_rank: int) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise BadInput(f"device is auto, cpu or cuda, not {device!r}.", field="device")
    count, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cuda" and max(here, local_rank + 1) > count:  # all processes refuse, so that the first one says why
        remedy = f"Start {count} processes here (--nproc-per-node {count})." if count else "Use --device cpu."
        cause = f"{max(here, local_rank + 1)} processes of this computer find {count} GPUs."
        raise BadInput(cause, field="device", remedy=remedy)
    if device == "cpu" or count < here:
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
