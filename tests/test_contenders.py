"""The contenders: what each gets of one budget, and that all can be trained, scored and stored with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from course_lib.contenders import BATCH, contenders, train_contenders
from course_lib.detectors.reconstruction import Reconstruction

SHAPE = (32, 32)
STEPS = 20


def images(count: int = 48) -> torch.Tensor:
    """Smooth discs with noise, `(N, 1, 32, 32)`."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    radius = 9 + 3 * torch.rand(count, 1, 1, 1)
    disc = ((x - 16).square() + (y - 16).square()).sqrt() < radius
    return disc * (0.5 + 0.1 * torch.rand(count, 1, 32, 32))


@pytest.mark.parametrize("steps", [20, 100, 150, 800])
def test_every_schedule_fits_into_the_steps(steps):
    made = contenders(SHAPE, steps)
    gpnd = made["GPND"]
    assert gpnd.adversarial + -(-gpnd.sample // BATCH) <= steps
    assert 0 < made["Glow hierarchy"].general_steps < steps
    assert 0 < made["OCGAN"].mining_from < steps
    assert 0 < made["Soft-IntroVAE"].warm_up < steps
    assert 0 < made["MorphAEus"].start < made["MorphAEus"].ramp == steps


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="20 or more"):
        contenders(SHAPE, 19)


def test_all_are_trained_stored_and_found_again(tmp_path):
    some = images()
    recipes = contenders(SHAPE, STEPS)
    first = train_contenders(recipes, some, [0], steps=STEPS, folder=tmp_path, workers=1)
    assert list(first) == list(recipes)
    written = sorted(path.stat().st_mtime_ns for path in tmp_path.glob("*/weights.safetensors"))
    again = train_contenders(recipes, some, [0], steps=STEPS, folder=tmp_path, workers=1)
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.glob("*/weights.safetensors")) == written
    for name, [(detector, history)] in first.items():
        maps, scores = detector.anomaly_map(some[:4]), detector.anomaly_score(some[:4])
        assert len(history) == STEPS
        assert maps.shape == (4, *SHAPE) and torch.isfinite(maps).all() and torch.isfinite(scores).all(), name
        np.testing.assert_array_equal(again[name][0][0].anomaly_score(some[:4]).detach(), scores.detach())
        assert isinstance(detector, Reconstruction) or name == "Glow hierarchy"
