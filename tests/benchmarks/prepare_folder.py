"""prepare_folder on 10, 100 and 1000 scans: is its time linear, and its memory flat?

Run: `python tests/benchmarks/prepare_folder.py [--counts 10 100 1000] [--workers 2]`. The scans are small (48 x 48 x 48
voxels of 2 mm) with given brain masks and without registration, so that what is measured is the machinery.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil

SIDE = 48  # voxels
INTERVAL = 0.2  # seconds between two looks at the memory


def make_scans(folder: Path, count: int) -> None:
    """Write `count` small heads, a ball of brain each, and their brain masks."""
    axes = np.indices((SIDE, SIDE, SIDE)) - (SIDE - 1) / 2
    ball = (axes**2).sum(0) < (0.45 * SIDE) ** 2
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -SIDE
    for kind in ("images", "brains"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for n in range(count):
        noise = np.random.default_rng(n).normal(100, 10, ball.shape)
        image = nibabel.Nifti1Image(np.where(ball, noise, 0).astype(np.int16), affine)
        nibabel.save(image, folder / "images" / f"sub-{n:04d}_FLAIR.nii.gz")
        nibabel.save(nibabel.Nifti1Image(ball.astype(np.uint8), affine), folder / "brains" / f"sub-{n:04d}_mask.nii.gz")


def measure(folder: Path, workers: int) -> dict[str, float]:
    """Prepare a folder of `make_scans`.

    Returns:
        Seconds, processor seconds of all processes, and the peaks in MiB of the command and of its largest worker.
    """
    command = [sys.executable, "-m", "data_scripts.prepare_folder", str(folder / "images"), "--no-register"]
    command += ["--brains", str(folder / "brains"), "--out", str(folder / "out"), "--workers", str(workers)]
    started, peak = time.perf_counter(), {"parent": 0.0, "worker": 0.0}
    spent: dict[int, float] = {}
    log = open(folder / "log.txt", "w")
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            for kind, processes in (("parent", [watched]), ("worker", _children(watched))):
                peak[kind] = max([peak[kind], *map(_mib, processes)])
                spent |= {one.pid: max(spent.get(one.pid, 0.0), _seconds(one)) for one in processes}
            time.sleep(INTERVAL)
    assert process.returncode == 0, (folder / "log.txt").read_text()
    return {"seconds": time.perf_counter() - started, "cpu": sum(spent.values())} | peak


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _mib(process: psutil.Process) -> float:
    try:
        return process.memory_info().rss / 2**20
    except psutil.Error:
        return 0.0


def _seconds(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:2])
    except psutil.Error:
        return 0.0


def main(counts: list[int], workers: int) -> None:
    """Print the table."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {workers} workers")
    print("scans  seconds  processor s  ms of it for each more  MiB command  MiB a worker  refused   load")
    before = (0, 0.0)
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            make_scans(Path(name), count)
            found = measure(Path(name), workers)
            refused = (Path(name) / "log.txt").read_text().count("refused:")
            each = 1000 * (found["cpu"] - before[1]) / (count - before[0])
            before = (count, found["cpu"])
            sizes = f"{found['parent']:11.0f}  {found['worker']:12.0f}"
            times = f"{found['seconds']:7.1f}  {found['cpu']:11.1f}  {each:22.0f}"
            text = f"{count:5}  {times}  {sizes}  {refused:7}  {os.getloadavg()[0]:5.1f}"
            print(text, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    main(options.counts, options.workers)
