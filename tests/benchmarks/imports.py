"""What importing the course costs over importing torch: CPU seconds and peak memory, each in a process of its own.

Run: `python tests/benchmarks/imports.py`. The smallest of three is printed, the cases interleaved.
"""

from __future__ import annotations

import os
import subprocess
import sys

TARGET_SECONDS, TARGET_MIB = 0.3, 30
OURS = {
    "course_lib": "import course_lib",
    "training, store": "import course_lib.training, course_lib.store",
    "all detectors": (
        "import course_lib.detectors.autoencoder, course_lib.detectors.pca, course_lib.detectors.zscore, "
        "course_lib.detectors.intensity, course_lib.detectors.positional_gaussian, course_lib.training, "
        "course_lib.store, course_lib.images.augment"
    ),
    "a lesson's imports": (
        "import course_lib.training, course_lib.store, course_lib.maps, course_lib.evaluation, course_lib.images.slices"
    ),
}
PEERS = {
    "pandas": "import pandas",
    "MONAI nets": "import monai.networks.nets",
    "TorchIO": "import torchio",
    "pythae models": "import pythae.models",
}
COST = "\nimport resource; r = resource.getrusage(resource.RUSAGE_SELF); print(r.ru_utime + r.ru_stime, r.ru_maxrss)"


def cost(statement: str) -> tuple[float, float] | None:
    """CPU seconds and MiB of a fresh interpreter that runs the statement; None if it fails."""
    command = [sys.executable, "-W", "ignore", "-c", statement + COST]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        return None
    seconds, kib = done.stdout.split()[-2:]
    return float(seconds), float(kib) / (1024 if sys.platform.startswith("linux") else 2**20)


def main() -> None:
    """Print the table."""
    cases = {"torch": "import torch"}
    for name, statement in {**OURS, **PEERS}.items():
        # The course's own import comes first, as in a lesson, so that the settings are made before torch.
        cases[name] = f"{statement}\nimport torch" if name in OURS else f"import torch\n{statement}"
    best: dict[str, tuple[float, float]] = {}
    for _ in range(3):
        for name, statement in cases.items():
            measured = cost(statement)
            if measured:
                old = best.get(name, measured)
                best[name] = (min(old[0], measured[0]), min(old[1], measured[1]))
    seconds, mib = best["torch"]
    print(f"{'torch':22s} {seconds:6.2f} s {mib:6.0f} MiB")
    for name in cases:
        if name == "torch":
            continue
        if name not in best:
            print(f"{name:22s} not importable: left out")
            continue
        over, more = best[name][0] - seconds, best[name][1] - mib
        within = over <= TARGET_SECONDS and more <= TARGET_MIB
        verdict = ("within the budget" if within else "OVER THE BUDGET") if name in OURS else ""
        print(f"{name:22s} {over:+6.2f} s {more:+6.0f} MiB over torch  {verdict}")
    print(f"budget: {TARGET_SECONDS} s, {TARGET_MIB} MiB over torch")


if __name__ == "__main__":
    main()
