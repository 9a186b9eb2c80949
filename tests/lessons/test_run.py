"""Each way in which a notebook can go wrong, planted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from course_lib.errors import BadInput
from course_lib.lessons import run as runner
from course_lib.lessons.memory import PeakMemory
from course_lib.lessons.run import LessonFailed, run

ERRORS = {
    "a cell": "1 / 0",
    "an Output widget": "import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    1 / 0\nout",
    "interact": "from ipywidgets import interact\ninteract(lambda x: 1 / x, x=(0, 1, 1))",
    "a widget that moved": "from ipywidgets import interactive\n"
    "view = interactive(lambda x: 1 / x, x=(0, 5, 1))\ndisplay(view)\nview.children[0].value = 0",
}


@pytest.mark.parametrize("where", ERRORS)
def test_an_error_fails_the_run_wherever_it_hides(notebook, tmp_path, where):
    target = tmp_path / "out" / "done.ipynb"
    with pytest.raises(LessonFailed, match="ZeroDivisionError") as failure:
        run(notebook(ERRORS[where]), target, cell_seconds=60)
    assert not target.exists()
    assert failure.value.notebook == target.with_suffix(".failed.ipynb")
    assert failure.value.notebook.exists()


def test_parameters_reach_the_notebook_and_only_a_whole_run_is_kept(notebook, tmp_path):
    seen = []
    executed = run(
        notebook("print(rate, fast, seed, profile)"),
        tmp_path / "done.ipynb",
        {"rate": "1e-3", "fast": "true", "seed": 4, "profile": "quick"},
        on_cell=lambda index, cell: seen.append(index),
    )
    assert executed.cells[-1].outputs[0]["text"] == "0.001 True 4 quick\n"
    assert seen[-1] == len(executed.cells) - 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done.ipynb", "toy.ipynb"]


def test_a_wrong_value_is_refused_before_anything_runs(notebook, tmp_path):
    started = time.perf_counter()
    with pytest.raises(BadInput, match="profile is quick"):
        run(notebook("1 / 0"), tmp_path / "done.ipynb", {"profile": "fast"})
    assert time.perf_counter() - started < 2
    assert not list(tmp_path.glob("done*"))


def test_a_kernel_that_dies_is_a_failure(notebook, tmp_path):
    with pytest.raises(LessonFailed, match="the kernel died"):
        run(notebook("import os\nos._exit(1)", "print('never')"), tmp_path / "done.ipynb")


def test_a_cell_that_never_ends_is_stopped(notebook, tmp_path):
    with pytest.raises(LessonFailed, match="longer than 2 seconds"):
        run(notebook("while True:\n    pass"), tmp_path / "done.ipynb", cell_seconds=2)


def test_a_lesson_cannot_leave_early(notebook, tmp_path):
    """papermill takes exit(0) for success."""
    with pytest.raises(LessonFailed, match="SystemExit"):
        run(notebook("raise SystemExit(0)", "1 / 0"), tmp_path / "done.ipynb")


def test_an_old_result_stays_when_a_new_run_fails(notebook, tmp_path):
    run(notebook("print(1)"), tmp_path / "done.ipynb")
    with pytest.raises(LessonFailed):
        run(notebook("1 / 0"), tmp_path / "done.ipynb")
    assert "1 / 0" not in (tmp_path / "done.ipynb").read_text()


def test_no_notebook_and_no_notebook_at_all(tmp_path):
    with pytest.raises(BadInput, match="not built"):
        run(tmp_path / "none.ipynb", tmp_path / "done.ipynb")
    (tmp_path / "half.ipynb").write_text('{"cells": [')
    with pytest.raises(BadInput, match="no notebook"):
        run(tmp_path / "half.ipynb", tmp_path / "done.ipynb")


def test_a_kernel_that_does_not_start_gets_one_more_try(notebook, tmp_path, monkeypatch):
    import papermill

    tries, real = [], papermill.execute_notebook

    def flaky(*args, **kwargs):
        tries.append(kwargs["config"].KernelManager.get("ip"))
        if len(tries) == 1:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return real(*args, **kwargs)

    monkeypatch.setattr(papermill, "execute_notebook", flaky)
    run(notebook("print(1)"), tmp_path / "done.ipynb")
    assert len(tries) == 2
    assert os.name != "posix" or tries[0] != tries[1]
    tries.clear()
    monkeypatch.setattr(runner, "START_TRIES", 1)
    with pytest.raises(LessonFailed, match="kernel_info"):
        run(notebook("print(1)"), tmp_path / "done.ipynb")


def test_runs_side_by_side_do_not_share_sockets(notebook, tmp_path):
    source = notebook("print(seed)")
    with ThreadPoolExecutor(3) as pool:
        done = pool.map(lambda seed: run(source, tmp_path / f"{seed}.ipynb", {"seed": seed}), range(3))
    assert [executed.cells[-1].outputs[0]["text"] for executed in done] == ["0\n", "1\n", "2\n"]


def test_memory_of_the_kernel_is_seen(notebook, tmp_path):
    source = notebook("block = bytearray(200 * 2**20)\nimport time\ntime.sleep(0.5)\ndel block")
    with PeakMemory() as memory:
        run(source, tmp_path / "done.ipynb")
    assert 200 < memory.mib < 600


def command(*words: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "course_lib.lessons.run", *words], capture_output=True, text=True, **kwargs
    )


def test_command_line(notebook, tmp_path):
    source, target = notebook("print(rate)"), tmp_path / "done.ipynb"
    (tmp_path / "values.yaml").write_text("rate: 1e-3\nseed: 2\n")
    done = command(str(source), "-f", str(tmp_path / "values.yaml"), "-p", "seed", "3", "--output", str(target))
    assert done.returncode == 0, done.stderr
    assert "rate = 0.001" in target.read_text()
    assert "seed = 3" in target.read_text()
    refused = command(str(source), "-p", "profile", "fast")
    assert refused.returncode == 1
    assert refused.stderr.strip() == "[parameters] profile is quick, standard, full, not 'fast'."
    assert "rate: float = 0.01  learning rate" in command(str(source), "--list").stdout


def test_an_idle_kernel_whose_word_was_lost_is_asked_once_more(notebook, tmp_path):
    """A cell that waits without computing, as a client does for a lost message, runs again; this one then ends."""
    mark = tmp_path / "seen"
    cell = f"import pathlib, time\nmark = pathlib.Path({str(mark)!r})\n"
    cell += "if not mark.exists():\n    mark.touch()\n    time.sleep(60)"
    run(notebook(cell), tmp_path / "done.ipynb", cell_seconds=10)
    assert mark.exists() and (tmp_path / "done.ipynb").exists()


def test_a_large_viewer_is_not_stored_and_a_small_widget_is(notebook, tmp_path):
    cell = """
import anywidget
from IPython.display import display


class Large(anywidget.AnyWidget):
    _esm = "export default {};" + "/" * 3_000_000


class Small(anywidget.AnyWidget):
    _esm = "export default {};"


display(Large(), Small())
"""
    executed = run(notebook(cell), tmp_path / "done.ipynb")
    programs = [
        model["state"].get("_esm")
        for model in executed.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
        if model["model_module"] == "anywidget"
    ]
    assert sorted(programs, key=str) == sorted([None, "export default {};"], key=str)
    assert (tmp_path / "done.ipynb").stat().st_size < 100_000


def test_what_is_driven_is_driven_after_all_cells(notebook, tmp_path):
    executed = run(notebook("print(1)"), tmp_path / "done.ipynb", drive=True)
    assert executed.cells[-1].outputs[0]["text"].strip() == "no explorer"
    assert len(run(notebook("print(1)"), tmp_path / "plain.ipynb").cells) == len(executed.cells) - 1
