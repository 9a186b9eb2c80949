"""Trained detectors on disk: train once, load ever after."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import linecache
import os
import sys
import textwrap
import types
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.files import atomic_write, data_folder, sha256
from course_lib.runtime import choose_device
from course_lib.training import describe_part, fingerprint, fit

if TYPE_CHECKING:
    import pandas as pd

    from course_lib.images.slices import SliceSet

CHECKED = ("weights.safetensors", "history.json")
FORMAT = 1  # raise it when a change of the training loop makes stored weights obsolete


def load_or_train(
    detector: Detector,
    slices: SliceSet | Tensor,
    *,
    steps: int = 800,
    batch_size: int = 32,
    seed: int = 0,
    device: str = "cpu",
    fast: bool = False,
    checkpoint_every: int = 200,
    progress: bool = True,
    folder: str | Path | None = None,
) -> tuple[Detector, pd.DataFrame]:
    """The detector trained on `slices`, from the store if it is there, else trained now and stored.

    `detector` serves as a description and is left as it is: a new one of its class and hyper-parameters is built
    under `torch.manual_seed(seed)`, so that its initial weights depend on the seed alone. It is found again by its
    class and the class's code (comments and docstrings left out), its hyper-parameters, the slices' content and the
    budget. A hyper-parameter may itself be a trained detector, which the new one shares: then its weights count too.
    A training that was killed goes on from its last checkpoint; two kernels that ask for the same detector train it
    once; an entry that is damaged is named in a warning and trained anew.

    Args:
        folder: the store; default `store` in the data folder.
        (the others): as in `training.fit`.

    Returns:
        The detector, in evaluation mode on `device`, and the history of its training.
    """
    # A dependency of torch. The system frees the lock when its process dies, so that none is left behind.
    from filelock import FileLock, Timeout

    budget = {"steps": steps, "batch_size": batch_size, "seed": seed, "fast": fast}
    entry, description = find_entry(detector, slices, budget, folder)
    entry.mkdir(parents=True, exist_ok=True)
    fresh = rebuild(detector, seed)
    lock = FileLock(entry / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process is training {entry.name}; waiting for it.", flush=True)
        lock.acquire()
    try:
        history = load(fresh, entry)
        if history is None:
            options = {**budget, "device": device, "checkpoint_every": checkpoint_every, "progress": progress}
            history = fit(fresh, slices, checkpoint=entry / "checkpoint.pt", **options)
            save(fresh, history, entry, description)
    finally:
        lock.release()
    return fresh.to(choose_device(device)).eval(), history


def load_or_train_all(
    detectors: Mapping[str, Detector],
    slices: SliceSet | Tensor,
    seeds: Iterable[int],
    *,
    workers: int | None = None,
    **options,
) -> dict[str, list[tuple[Detector, pd.DataFrame]]]:
    """`load_or_train` for every detector and seed, several trainings at a time.

    On the CPU each worker is a process with one thread. Two of them use two cores better than one training with two
    threads does, above all on a busy machine, where a training's threads wait for each other at every layer; and with
    one thread the weights are the same on any number of cores. On a GPU, and for a class that was defined in a
    notebook (other processes do not know it), the trainings run one after another in this process.

    Args:
        detectors: descriptions by name, as for `load_or_train`.
        slices, options: as for `load_or_train`.
        seeds: each detector is trained once with each.
        workers: processes; as many as cores when not given.

    Returns:
        For each name, the trained detector and its history for each seed.
    """
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky import get_reusable_executor

    seeds = list(seeds)
    own = choose_device(options.get("device", "cpu")).type == "cpu"
    known = [detector for detector in detectors.values() if own and type(detector).__module__ != "__main__"]
    every = [(detector, seed) for detector in known for seed in seeds]
    jobs = [(detector, seed) for detector, seed in every if not is_stored(detector, slices, seed=seed, **options)]
    if jobs:
        with parallel_config("loky", n_jobs=workers or os.cpu_count() or 1, inner_max_num_threads=1):
            Parallel()(delayed(_train_elsewhere)(detector, slices, seed, options) for detector, seed in jobs)
        get_reusable_executor().shutdown()  # idle workers would keep their memory
    return {
        name: [load_or_train(detector, slices, seed=seed, **options) for seed in seeds]
        for name, detector in detectors.items()
    }


def _train_elsewhere(detector: Detector, slices: SliceSet | Tensor, seed: int, options: dict) -> None:
    """Train and store in a worker process; the caller reads the store."""
    load_or_train(detector, slices, seed=seed, **{**options, "progress": False})


def find_entry(detector: Detector, slices: SliceSet | Tensor, budget: dict, folder: str | Path | None):
    """Where a detector's entry is or will be, and its description."""
    description = describe(detector, slices, budget)
    return Path(folder or data_folder() / "store") / entry_name(description), description


def is_stored(
    detector: Detector,
    slices: SliceSet | Tensor,
    *,
    steps: int = 800,
    batch_size: int = 32,
    seed: int = 0,
    fast: bool = False,
    folder: str | Path | None = None,
    **_,
) -> bool:
    """Whether `load_or_train` with the same arguments would find an entry (whole or damaged)."""
    budget = {"steps": steps, "batch_size": batch_size, "seed": seed, "fast": fast}
    return (find_entry(detector, slices, budget, folder)[0] / "meta.json").exists()


def rebuild(detector: Detector, seed: int) -> Detector:
    """A new detector of the same class and hyper-parameters, its weights drawn under `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return type(detector)(**detector.hyperparameters())


def save(detector: Detector, history: pd.DataFrame, entry: Path, description: dict) -> None:
    """Write an entry: `weights.safetensors`, `history.json`, and last `meta.json`, whose presence makes it complete."""
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().clone().contiguous() for name, value in detector.state_dict().items()}
    (entry / "meta.json").unlink(missing_ok=True)
    with atomic_write(entry / "weights.safetensors") as part:
        save_file(weights, part)
    with atomic_write(entry / "history.json") as part:
        part.write_text(json.dumps(history.to_dict("list")) + "\n")
    digests = {name: sha256(entry / name) for name in CHECKED}
    with atomic_write(entry / "meta.json") as part:
        part.write_text(json.dumps({**description, "sha256": digests}, indent=2) + "\n")
    (entry / "checkpoint.pt").unlink(missing_ok=True)


def load(detector: Detector, entry: Path) -> pd.DataFrame | None:
    """Put the stored weights into `detector`; returns the history, or None if there is no entry or a damaged one."""
    import pandas as pd
    from safetensors.torch import load_file

    if not (entry / "meta.json").exists():
        return None
    damage = find_damage(entry)
    if damage:
        warnings.warn(f"The stored detector {entry} is damaged: {damage}. It is trained again.", stacklevel=3)
        return None
    detector.load_state_dict(load_file(entry / "weights.safetensors"))
    return pd.DataFrame(json.loads((entry / "history.json").read_text()))


def find_damage(entry: Path) -> str:
    """What is wrong with an entry, in words; empty if all its files have the digests that `meta.json` gives."""
    try:
        digests = json.loads((entry / "meta.json").read_text())["sha256"]
    except (ValueError, KeyError, TypeError):
        return "meta.json cannot be read"
    for name in CHECKED:
        if not (entry / name).exists():
            return f"{name} is missing"
        if sha256(entry / name) != digests.get(name):
            return f"the SHA-256 of {name} differs"
    return ""


def describe(detector: Detector, slices: SliceSet | Tensor, budget: dict) -> dict:
    """All that a trained detector depends on, as plain values.

    Raises:
        TypeError: a hyper-parameter cannot be written as JSON.
    """
    description = {
        "format": FORMAT,
        "detector": f"{type(detector).__module__}.{type(detector).__qualname__}",
        "source": source_digest(detector),
        "hyperparameters": detector.hyperparameters(),
        "slices": fingerprint(slices),
        "budget": budget if not hasattr(detector, "fit") else {"seed": budget["seed"]},  # a closed form has no steps
    }
    return json.loads(json.dumps(description, sort_keys=True, default=describe_part))


def entry_name(description: dict) -> str:
    """The folder of an entry: the class's name and the start of the description's SHA-256."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    return f"{description['detector'].rpartition('.')[2]}-{digest[:16]}"


def source_digest(detector: Detector) -> str:
    """The SHA-256 of the code of the detector's class, of its bases and of its layers' classes.

    Of a class in a module, the whole module counts, with the helpers and constants that the class uses; of a class in
    a notebook, the class alone.
    """
    classes = {cls for module in detector.modules() for cls in type(module).__mro__}
    library = ("torch", "builtins")
    ours = [cls for cls in classes if cls.__module__.partition(".")[0] not in library]
    files = {cls.__module__ for cls in ours if cls.__module__ != "__main__"}
    codes = {name: without_comments(inspect.getsource(sys.modules[name])) for name in files if _has_source(name)}
    alone = [cls for cls in ours if cls.__module__ not in codes]
    codes |= {f"{cls.__module__}.{cls.__qualname__}": code_of(cls) for cls in alone}
    return hashlib.sha256("\n".join(f"# {name}\n{codes[name]}" for name in sorted(codes)).encode()).hexdigest()


def _has_source(module: str) -> bool:
    try:
        return bool(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, KeyError):
        return False


def code_of(cls: type) -> str:
    """A class's code without comments and docstrings; of a class whose source is nowhere, its byte code's digest."""
    source = _source(cls)
    if source is None:
        return _bytecode_digest(cls)
    return without_comments(source)


def without_comments(source: str) -> str:
    """Python code without comments and docstrings, in one layout."""
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _source(cls: type) -> str | None:
    """The text of a class, also of one that was defined in a notebook cell, or None.

    `inspect.getsource` finds classes by their module's file, which a notebook has not; but its methods know their cell.
    """
    functions = [value for value in vars(cls).values() if isinstance(value, types.FunctionType)]
    for function in functions:
        lines = linecache.getlines(function.__code__.co_filename)
        if not lines:
            continue
        for node in ast.walk(ast.parse("".join(lines))):
            is_it = isinstance(node, ast.ClassDef) and node.name == cls.__name__
            if is_it and node.lineno <= function.__code__.co_firstlineno <= node.end_lineno:
                return "".join(lines[node.lineno - 1 : node.end_lineno])
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return None


def _bytecode_digest(cls: type) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(vars(cls).items(), key=lambda item: item[0]):
        if isinstance(value, types.FunctionType):
            digest.update(name.encode())
            _add_code(digest, value.__code__)
    return digest.hexdigest()


def _add_code(digest, code: types.CodeType) -> None:
    digest.update(code.co_code + repr(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _add_code(digest, constant)
        else:
            digest.update(repr(constant).encode())
