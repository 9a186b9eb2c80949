"""kill -9 at random points of trainings: are the resumed weights those of an uninterrupted run, bit for bit?

Run: `python tests/benchmarks/kill_resume.py [--times 20]`. Ends with an error unless all are equal.
With `--train FOLDER` it is the training that gets killed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, EVERY = 300, 20


def train(folder: Path) -> None:
    """One training of a small auto-encoder through the store; writes its weights' digest."""
    import torch

    from course_lib.detectors.autoencoder import DenseAE
    from course_lib.store import load_or_train

    torch.set_num_threads(1)
    images = torch.rand(200, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25

    class Announced(DenseAE):
        """Says when its first step begins, so that the kill falls into the training and not into the imports."""

        def training_losses(self, images):
            if not hasattr(self, "announced"):
                self.announced = True
                print("training", flush=True)
            return super().training_losses(images)

    detector = Announced((32, 32), latent=16, channels=(8, 16, 16, 16))
    trained, history = load_or_train(
        detector, images, steps=STEPS, batch_size=16, checkpoint_every=EVERY, progress=False, folder=folder / "store"
    )
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in trained.state_dict().values()))
    digest.update(history.drop(columns="seconds").to_csv(index=False).encode())
    (folder / "digest").write_text(digest.hexdigest())


def start(folder: Path) -> subprocess.Popen:
    """The training as a process of its own, waited for until its first step."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, __file__, "--train", str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def step_reached(folder: Path) -> int:
    """The step of the checkpoint that a killed training left behind; 0 if there is none."""
    from course_lib.training import read_checkpoint

    found = list((folder / "store").glob("*/checkpoint.pt"))
    return read_checkpoint(found[0])["step"] if found else 0


def main(times: int, seed: int) -> None:
    """Kill and resume `times` trainings, each killed once at a random moment; print each and the count."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        process = start(root / "whole")
        began = time.perf_counter()
        process.communicate()
        length = time.perf_counter() - began
        expected = (root / "whole" / "digest").read_text()
        equal = 0
        for i in range(times):
            folder = root / f"killed{i}"
            while True:  # again if the training was over before its time had come
                process = start(folder)
                time.sleep(moments.uniform(0.0, 1.0) * length)
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    break
                process.communicate()
                folder = root / f"killed{i}b{moments.random()}"
            step = step_reached(folder)
            process = start(folder)
            process.communicate()
            same = (folder / "digest").read_text() == expected
            equal += same
            print(f"killed after step {step:3d} of {STEPS} was saved: {'equal' if same else 'DIFFERENT'}", flush=True)
    print(f"{equal} of {times} bit-equal")
    if equal < times:
        sys.exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.train:
        options.train.mkdir(parents=True, exist_ok=True)
        train(options.train)
    else:
        main(options.times, options.seed)
