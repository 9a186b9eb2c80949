"""Does a detector keep the contract? A list of what it breaks, in words, before any training is wasted on it."""

from __future__ import annotations

import copy
import io

import torch
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.training import fit

STEPS = 3  # of the trial training


def broken_promises(detector: Detector, images: Tensor) -> list[str]:
    """What a detector does that would make its numbers wrong, or that would stop a benchmark; empty if nothing.

    A copy is trained for three steps on `images`, and looked at. The detector itself stays as it is.

    Args:
        detector: untrained or trained.
        images: healthy slices `(N, 1, H, W)`, 8 or more, with their zeros outside the brain.
    """
    if not isinstance(detector, Detector):
        return ["it is no subclass of course_lib.detectors.base.Detector."]
    try:
        rebuilt = type(detector)(**detector.hyperparameters())
        trial = copy.deepcopy(detector)
        with torch.random.fork_rng():
            fit(trial, images.clone(), steps=STEPS, batch_size=4, progress=False)
        return _promises(trial, rebuilt, images)
    except Exception as error:  # a student's class may raise anything
        return [f"{type(error).__name__}: {error}"]


def _promises(detector: Detector, rebuilt: Detector, images: Tensor) -> list[str]:
    """What is wrong with a trained detector; `rebuilt` is a new one with its hyper-parameters."""
    images = images.clone()  # the caller's stay as they are, whatever a detector does
    batch = images[:4].clone()
    maps = detector.anomaly_map(batch)
    if maps.shape != (4, *images.shape[2:]):
        return [f"anomaly_map gives {tuple(maps.shape)} for images {tuple(batch.shape)}; it has to be (B, H, W)."]
    found = []
    if not torch.equal(batch, images[:4]):
        found.append("anomaly_map changes the images that it is given: the next detector would see others.")
    if maps.requires_grad:
        found.append("anomaly_map keeps a graph for gradients, and the memory fills: put it under torch.no_grad().")
    maps = maps.detach()
    if not maps.isfinite().all():
        found.append("the map is NaN or infinite somewhere.")
    if not torch.equal(maps, detector.anomaly_map(images[:4]).detach()):
        found.append("the same images give another map the second time: draw noise from a generator of your own.")
    alone = torch.cat([detector.anomaly_map(image[None]).detach() for image in images[:4]])
    if not torch.allclose(maps, alone, rtol=1e-3, atol=1e-4):
        found.append("an image's map depends on the others in its batch: no statistics of a batch at test time.")
    scores = detector.anomaly_score(images[:4])
    if scores.shape != (4,) or not scores.isfinite().all():
        found.append("anomaly_score has to give one finite number for each image, (B,).")
    return found + _state(detector, rebuilt, images[:4], maps)


def _state(detector: Detector, rebuilt: Detector, images: Tensor, maps: Tensor) -> list[str]:
    """Whether the weights that a store keeps are all that the detector has learnt."""
    content = io.BytesIO()
    torch.save(detector.state_dict(), content)
    content.seek(0)
    rebuilt.load_state_dict(torch.load(content, weights_only=True))
    if not torch.allclose(rebuilt.eval().anomaly_map(images).detach(), maps, rtol=1e-4, atol=1e-5):
        return ["after saving and loading it gives another map: what it learns belongs into parameters or buffers."]
    return []
