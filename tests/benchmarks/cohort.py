"""CPU seconds a subject of the atlas cohort, its files included, and milliseconds of a live insertion into a slice.

    python tests/benchmarks/cohort.py [--repeats 3]

One thread, `time.process_time`. Budget: 0.25 s a subject on average over the cohort's families, 50 ms a slice.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from course_lib.images import anatomy, artefacts, pathology
from course_lib.images.lattice import axial_slices
from course_lib.images.volumes import normalise
from data_scripts import make_atlas_cohort as cohort


def subject_seconds(repeats: int) -> dict[str, float]:
    """Median CPU seconds to simulate and write one subject, by family."""
    families = ("healthy", *pathology.FAMILIES, *artefacts.ARTEFACTS)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        cohort.make_subject(Path(folder), 0, "sub-testhealthy001")  # reads the template
        for family in families:
            times = []
            for index in range(1, repeats + 1):
                start = time.process_time()
                cohort.make_subject(Path(folder), 0, f"sub-test{family}{index:03d}")
                times.append(time.process_time() - start)
            seconds[family] = float(np.median(times))
    return seconds


def slice_milliseconds(repeats: int) -> dict[str, float]:
    """Median CPU milliseconds to put each family into one 96 x 96 slice, tissue guessed from the image."""
    subject = anatomy.healthy_subject(np.random.default_rng(0))
    image = axial_slices(normalise(subject.image, subject.brain), subject.affine, [18])[18]
    times: dict[str, float] = {}
    for family in (*pathology.FAMILIES, *artefacts.ARTEFACTS):
        insert = pathology.insert if family in pathology.FAMILIES else artefacts.corrupt
        measured = []
        for seed in range(3 * repeats):
            start = time.process_time()
            insert(image, family, np.random.default_rng(seed))
            measured.append(1000 * (time.process_time() - start))
        times[family] = float(np.median(measured))
    return times


def main() -> None:
    """Print both tables, and the mean over the standard profile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    start = time.process_time()
    anatomy.template()
    print(f"reading the template, once a process: {time.process_time() - start:.2f} CPU s")
    seconds, milliseconds = subject_seconds(repeats), slice_milliseconds(repeats)
    print(f"{'family':14s} {'s a subject':>12s} {'ms a slice':>12s}")
    for family, value in seconds.items():
        print(f"{family:14s} {value:12.3f} {milliseconds.get(family, float('nan')):12.2f}")
    mean = cohort.cohort_plan("standard")["family"].map(seconds).mean()
    print(f"mean over the standard cohort: {mean:.3f} CPU s a subject (budget 0.25)")


if __name__ == "__main__":
    main()
