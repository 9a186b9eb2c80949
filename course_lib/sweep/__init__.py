"""Many runs of lessons and detectors on all cores, or on a cluster: `python -m course_lib.sweep GRID.yaml`.

`sweep.run(grid)` is the same from Python. See `course_lib.sweep.grid` for what a grid may say, `course_lib.sweep.sweep`
for how it is done, `course_lib.sweep.folders` for what a run leaves behind, `course_lib.sweep.cluster` for computers.
"""

from importlib import import_module

_PLACES = {"run": "sweep", "PROVENANCE": "tables", "read_results": "tables", "read_runs": "tables"}
__all__ = sorted(_PLACES)


def __getattr__(name: str):
    """Import what is asked for only then: the processes that do the runs need little of it, and start the sooner."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
