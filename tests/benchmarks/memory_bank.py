"""Coreset and search of the memory bank beside anomalib, scikit-learn's neighbours and plain torch.

65,536 patches of 64 channels, a coreset of 1 % (655), then 8,192 queries in a bank of 10 % (6,553). CPU seconds on one
thread, the smallest of some rounds in turns (anomalib's coreset once: it takes minutes). Peers are optional: those that
cannot be imported are named. Run: `python tests/benchmarks/memory_bank.py [FOLDER_WITH_A_TORCHVISION_SHIM ...]`; the
folders are put on the path, e.g. one with anomalib, and one whose `tvshim` makes torchvision importable.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"  # before anything that starts threads

import torch
from _timing import compare, machine

from course_lib.detectors.memory_bank import coreset, nearest

COUNT, CHANNELS, CENTRES, BANK, QUERIES = 65_536, 64, 655, 6_553, 8_192
CORESET_TARGET = 40.0  # times as quick as anomalib
SEARCH_TARGET = 1.0  # times as quick as anomalib


def patches(count: int, seed: int) -> torch.Tensor:
    """Clusters with noise, `(count, 64)`."""
    centres = torch.randn(512, CHANNELS, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    noise = 0.5 * torch.randn(count, CHANNELS, generator=generator)
    return centres[torch.randint(512, (count,), generator=generator)] + noise


def peer(name: str) -> object | None:
    """A module, or None with a line that says why it is missing."""
    try:
        return importlib.import_module(name)
    except Exception as problem:  # a peer may fail in any way; the benchmark goes on without it
        print(f"{name} is not measured: {type(problem).__name__}: {problem}"[:160])
        return None


def anomalib_coreset(features: torch.Tensor) -> Callable[[], object] | None:
    """anomalib's greedy selection of 1 %, without its progress bar."""
    module = peer("anomalib.models.components.sampling.k_center_greedy")
    if module is None:
        return None
    module.tqdm = lambda items, **_: items
    return lambda: module.KCenterGreedy(features, CENTRES / COUNT).select_coreset_idxs()


def searches(queries: torch.Tensor, bank: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The nearest neighbour of each query, by us and by others."""
    from sklearn.neighbors import NearestNeighbors

    brute = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank.numpy())
    found = {
        "ours": lambda: nearest(queries, bank),
        "torch.cdist": lambda: torch.cat([torch.cdist(part, bank).amin(1) for part in queries.split(2048)]),
        "sklearn neighbours": lambda: brute.kneighbors(queries.numpy()),
    }
    module = peer("anomalib.models.image.patchcore.torch_model")
    if module is not None:
        model = module.PatchcoreModel

        class Bank:
            memory_bank, training, euclidean_dist = bank, False, staticmethod(model.euclidean_dist)

        found["anomalib"] = lambda: model.nearest_neighbors(Bank(), embedding=queries, n_neighbors=1)
    return found


def radius(features: torch.Tensor, chosen) -> float:
    """The covering radius of a choice."""
    return float(nearest(features, features[torch.as_tensor(chosen)]).max())


def report_coreset() -> None:
    """Print CPU seconds and covering radii."""
    features, other = patches(COUNT, 1), None
    ours = compare({"ours": lambda: coreset(features, CENTRES)}, rounds=3, seconds=0.1)["ours"]
    print(
        f"coreset, {CENTRES} of {COUNT:,}: ours {ours:.2f} s, radius {radius(features, coreset(features, CENTRES)):.2f}"
    )
    theirs = anomalib_coreset(features)
    if theirs is not None:
        started = time.process_time()
        chosen = theirs()
        other = time.process_time() - started
        times = other / ours
        verdict = "" if times >= CORESET_TARGET else f"; MISSED: {CORESET_TARGET:.0f}"
        print(
            f"  anomalib {other:.2f} s, radius {radius(features, chosen):.2f}: "
            f"ours is {times:.0f} times as quick{verdict}"
        )


def report_search() -> None:
    """Print CPU seconds of each search and the largest difference from ours."""
    queries, bank = patches(QUERIES, 2), patches(BANK, 3)
    ways = searches(queries, bank)
    expected, taken = nearest(queries, bank), compare(ways, rounds=4, seconds=0.2)
    print(f"search, {QUERIES:,} in {BANK:,}:")
    for name, seconds in taken.items():
        found = ways[name]()
        found = torch.as_tensor(found[0] if isinstance(found, tuple) else found).flatten()
        off = float((found - expected).abs().max())
        times = seconds / taken["ours"]
        short = name == "anomalib" and times < SEARCH_TARGET
        missed = f"; MISSED: {SEARCH_TARGET:.0f}" if short else ""
        print(f"  {name:20s}{seconds:7.3f} s, {times:5.2f} x ours, differs by {off:.1e}{missed}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.path[:0] = sys.argv[1:]
    print(machine())
    peer("tvshim")
    report_coreset()
    report_search()
