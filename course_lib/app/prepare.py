"""What the app shows: the scores of a few detectors, made once and kept in the data folder."""

from __future__ import annotations

from pathlib import Path

from course_lib.files import data_folder


def prepared_folder(data: str, profile: str) -> Path:
    """Where the prepared scores of a data set lie."""
    name = data if data in ("atlas", "stroke") else Path(data).resolve().name
    return data_folder() / "app" / f"{name}-{profile}"


def prepare(data: str, profile: str, *, progress: bool = True) -> Path:
    """Score the test slices of a data set with three detectors, and keep the scores; returns their folder.

    Brightness, the positional Gaussian and a dense auto-encoder: one that needs no training, one with a closed form,
    one network. The network comes from the store if a lesson has trained it.

    Args:
        data: "atlas", "stroke", or the folder of a prepared data set.
        profile: how much of the atlas cohort, and how long the network trains.
        progress: show a bar.

    Raises:
        BadInput: the data set is not there, or has no healthy validation persons or no lesion.
    """
    from course_lib.detectors.autoencoder import DenseAE  # here: the page itself has no need of torch
    from course_lib.detectors.intensity import IntensityThreshold
    from course_lib.detectors.positional_gaussian import PositionalGaussian
    from course_lib.evaluation import predict
    from course_lib.store import load_or_train
    from course_lib.training import fit
    from course_lib.widgets.threshold.state import ThresholdState
    from course_lib.widgets.threshold.store import save_state
    from data_scripts import open_slices

    slices = open_slices(data, profile, progress=progress)
    train = slices.select("split == 'train' and family == 'healthy'")
    validation = slices.select("split == 'val' and family == 'healthy'")
    test = slices.select("split == 'test'")
    gaussian = PositionalGaussian(slices.image_shape, levels=train.table["z_mm"].nunique())
    fit(gaussian, train, progress=False)
    steps = {"quick": 150, "standard": 800, "full": 5000}[profile]  # as lesson 2.1, which shares the store
    network, _ = load_or_train(
        DenseAE(slices.image_shape, latent=16), train, steps=steps, batch_size=16, fast=True, progress=progress
    )
    detectors = {
        "brightness": (IntensityThreshold(), [("smooth", 1)]),
        "positional Gaussian": (gaussian, []),
        "auto-encoder": (network, [("rim", 2), ("median", 3)]),
    }
    units = {
        "brightness": "smoothed intensity (0.125 = 1 s.d.)",
        "positional Gaussian": "distance (s.d.)",
        "auto-encoder": "residual, median 3",
    }
    scored = [
        {name: predict(detector, part, steps, name=name) for name, (detector, steps) in detectors.items()}
        for part in (test, validation)
    ]
    folder = prepared_folder(data, profile)
    save_state(ThresholdState(*scored, test.images, unit=units), folder)
    return folder
