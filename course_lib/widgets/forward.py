"""Asking a detector without changing it, and without asking twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def asking(detector: nn.Module) -> Iterator[torch.device]:
    """Evaluation and inference mode inside; afterwards the detector, and each part, is in the mode it was in.

    One thread: on one slice at a time the others cost more than they help.

    Yields:
        Where the detector's parameters or buffers are, and its images have to go.
    """
    tensors = [*detector.parameters(), *detector.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    training = [part for part in detector.modules() if part.training]  # none, as a rule: `eval` takes milliseconds
    for part in training:
        part.training = False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            yield device
    finally:
        torch.set_num_threads(threads)
        for part in training:
            part.training = True


@contextmanager
def remembering(detector, images: torch.Tensor) -> Iterator[None]:
    """Inside, `pseudo_healthy` of these images is computed once: most maps begin with it, and it takes most time."""
    whole, made = detector.pseudo_healthy, []

    def remembered(asked: torch.Tensor) -> torch.Tensor:
        if asked is not images:
            return whole(asked)
        if not made:
            made.append(whole(asked))
        return made[0]

    detector.pseudo_healthy = remembered
    try:
        yield
    finally:
        del detector.pseudo_healthy
