"""The command line, in each process: `torchrun --nproc-per-node 2 -m course_lib.distributed AE`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from course_lib.detectors.base import Detector
from course_lib.distributed.group import process_group
from course_lib.distributed.training import train
from course_lib.errors import BadInput
from course_lib.files import output_folder

if TYPE_CHECKING:
    import pandas as pd


def make_detector(name: str, shape: tuple[int, int], steps: int, given: dict[str, object], seed: int) -> Detector:
    """A detector by its name in `course_lib.contenders`, or by "module:Class" or "file.py:Class" and arguments.

    Raises:
        BadInput: there is none, or it takes no such argument.
    """
    from course_lib.benchmark import check_detector, find_class
    from course_lib.contenders import contenders

    torch.manual_seed(seed)
    if ":" in name:
        check_detector({"class": name, **given})
        kind = find_class(name)
        try:
            return kind(shape, **given)
        except TypeError as error:
            raise BadInput(f"{kind.__name__} cannot be made so ({error}).", field="detector") from error
    known = contenders(shape, steps)
    if name not in known or given:
        cause = f"{name} has its own arguments." if name in known else f"no detector is called {name!r}."
        raise BadInput(cause, field="detector", remedy=f"There are: {', '.join(known)}, and module:Class with -p.")
    return known[name]


def save(detector: Detector, history: pd.DataFrame, slices, budget: dict, folder: Path) -> Path:
    """Write weights, history and description in the store's format, but not into the store.

    The store promises that an entry is what one process would have trained, bit for bit; this is equal up to
    rounding at best. `course_lib.store.load(detector, folder)` reads it.
    """
    from course_lib import store

    shared = {"processes": dist.get_world_size(), "backend": dist.get_backend()}
    description = store.describe(detector, slices, budget) | {"distributed": shared}
    entry = folder / store.entry_name(description)
    entry.mkdir(parents=True, exist_ok=True)
    store.save(detector, history, entry, description)
    return entry


def main(arguments: list[str] | None = None) -> None:
    """The command line, in each process."""
    options = _parse(arguments)
    try:
        with process_group(options.device) as device:
            _main(options, device)
    except (BadInput, FloatingPointError) as error:
        sys.exit(f"{error}" if os.environ.get("RANK", "0") == "0" else 1)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="torchrun ... -m course_lib.distributed", description="Train on several GPUs."
    )
    parser.add_argument("detector", help="a name of course_lib.contenders, or module:Class or file.py:Class")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="its arguments")
    parser.add_argument("--data", default="atlas", help="atlas, stroke, or a folder of prepare_folder")
    parser.add_argument("--profile", default="quick", help="quick, standard or full")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=32, help="of all processes together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--output", type=Path, help="default: output/distributed")
    return parser.parse_args(arguments)


def _main(options: argparse.Namespace, device: torch.device) -> None:
    rank = dist.get_rank()
    train_slices = _open(options, rank)
    given = {name: _value(value) for name, value in options.p}
    detector = make_detector(options.detector, train_slices.image_shape, options.steps, given, options.seed)
    budget = {"steps": options.steps, "batch_size": options.batch_size, "seed": options.seed}
    history = train(detector, train_slices, device=device, progress=sys.stderr.isatty(), **budget)
    if rank == 0:
        entry = save(detector, history, train_slices, budget, options.output or output_folder() / "distributed")
        last = ", ".join(f"{name} {value:.4g}" for name, value in history.iloc[-1].items() if name != "step")
        print(f"{dist.get_world_size()} processes ({dist.get_backend()}), step {options.steps}: {last}\n{entry}")


def _open(options: argparse.Namespace, rank: int):
    """The healthy training slices; the first process makes what has to be made, and the others wait for it."""
    from data_scripts import open_slices

    for turn in (rank == 0, rank != 0):
        if turn:
            slices = open_slices(options.data, options.profile, progress=False)
        dist.barrier()
    return slices.select("split == 'train' and family == 'healthy'")


def _value(text: str):
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    main()
