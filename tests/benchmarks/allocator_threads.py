"""What the process settings of `course_lib.runtime` are worth: one training step with and without each of them.

A 64 x 64 auto-encoder step at batch 32, in fresh processes, on a quiet machine and on one that is kept busy by as many
spinning processes as there are cores. Run: `python tests/benchmarks/allocator_threads.py`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

SETTINGS = {
    "plain torch": {"policy": False, "allocator": False},
    "passive waiting": {"policy": True, "allocator": False},
    "allocator": {"policy": False, "allocator": True},
    "both (the course)": {"policy": True, "allocator": True},
}
STEPS = 15
ROUNDS = 2


def measure(threads: int, allocator: bool) -> None:
    """In a process of its own: the times of some steps, printed as JSON."""
    os.environ["LEARNING_NORMAL_TUNE"] = "0"
    from course_lib import runtime

    if allocator:
        runtime.tune_allocator()
    import torch
    from autoencoder_step import Net, loop
    from torch.nn.functional import mse_loss

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step = loop(Net(64), lambda m, x: mse_loss(m(x), x), torch.rand(32, 1, 64, 64), fused=True)
    step()
    walls, cpus = [], []
    import resource

    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(STEPS):
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "wall": statistics.median(walls),
                "cpu": min(cpus),
                "faults": (usage.ru_minflt - faults) / STEPS,
                "mib": usage.ru_maxrss / 1024,
            }
        )
    )


def in_a_process(threads: int, policy: bool, allocator: bool) -> dict:
    """`measure` under these settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "GOMP_"))}
    if policy:
        environment["OMP_WAIT_POLICY"] = "passive"
    command = [sys.executable, "-W", "ignore", __file__, "--measure", str(threads), str(int(allocator))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(title: str, thread_counts: tuple[int, ...]) -> None:
    """Measure all settings, interleaved, and print the best round of each."""
    best: dict[tuple[int, str], dict] = {}
    for _ in range(ROUNDS):
        for threads in thread_counts:
            for name, setting in SETTINGS.items():
                found = in_a_process(threads, **setting)
                old = best.get((threads, name), found)
                best[threads, name] = {key: min(old[key], found[key]) for key in found}
    print(f"{title} (load {os.getloadavg()[0]:.1f})")
    for (threads, name), found in best.items():
        print(
            f"  {threads} thread(s) {name:20s} wall {1e3 * found['wall']:7.1f} ms  CPU {1e3 * found['cpu']:7.1f} ms  "
            f"page faults {found['faults']:8,.0f}  peak {found['mib']:5.0f} MiB",
            flush=True,
        )


def main() -> None:
    """Print the two tables."""
    threads = (1, 2)
    table("as the machine is", threads)
    # A spinning process ends by itself when this script is gone, however it ended.
    spin = [sys.executable, "-c", "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"]
    busy = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 2)]
    try:
        table(f"with {len(busy)} spinning processes beside", threads)
    finally:
        for process in busy:
            process.kill()
            process.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(int(sys.argv[2]), sys.argv[3] == "1")
    else:
        main()
