"""On real patients the baselines reach what is known of them; skipped where the scans are absent."""

import numpy as np
import pytest

from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.evaluation import predict
from course_lib.metrics.curves import rank_metrics
from course_lib.training import fit
from data_scripts import open_slices


@pytest.fixture(scope="module")
def patients(shared_data):
    slices = open_slices(shared_data / "stroke" / "stroke_flair_axial.npz")
    ill = slices.select("split == 'test' and family == 'stroke' and lesion_px >= 50")
    return slices.select("split == 'train' and family == 'healthy'"), ill


def pooled(detector, slices, steps=()):
    scores = predict(detector, slices, steps)
    brains = np.asarray(slices.brains)
    return rank_metrics(scores.maps[brains], np.asarray(slices.masks)[brains])


def test_brightness_and_the_positional_gaussian_reach_the_known_level(patients):
    calm, ill = patients
    brightness = pooled(IntensityThreshold(), ill, [("smooth", 1)])
    gaussian = PositionalGaussian(ill.image_shape, levels=1, side="bright")
    fit(gaussian, calm, progress=False)
    positional = pooled(gaussian, ill)
    assert brightness.ap >= 0.49 and brightness.best_dice >= 0.53
    assert positional.ap >= 0.58 and positional.best_dice >= 0.59
