"""Which commands make the environment, without running them."""

from __future__ import annotations

import sys

import pytest

from course_lib.lessons import environment


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes an environment on a pretended machine and returns the commands."""

    def make(system="Linux", uv=True, borrowed=True, gpu=False, index=True, installed="", half=False) -> list[str]:
        commands = []

        def run(command, *, quiet=False, **_):
            text = " ".join(command)
            commands.append(text)
            if "import sys, pip" in text:
                return not half
            if text.endswith(" install --quiet uv"):
                return borrowed
            return index or "--torch-backend" not in text

        (tmp_path / "bin").mkdir(exist_ok=True)
        environment.python_of(tmp_path).parent.mkdir(exist_ok=True)
        environment.python_of(tmp_path).touch()
        monkeypatch.setattr(environment, "run", run)
        monkeypatch.setattr(environment, "find_uv", lambda: ["uv"] if uv else [])
        monkeypatch.setattr(environment, "has_nvidia_gpu", lambda: gpu)
        monkeypatch.setattr(environment, "torch_version", lambda python: installed)
        monkeypatch.setattr(environment.platform, "system", lambda: system)
        environment.make(tmp_path, "dev")
        assert (tmp_path / "complete").exists()
        return [command for command in commands if "import sys, pip" not in command]

    return make


def test_linux_without_a_gpu_gets_the_cpu_build(machine):
    torch, course = machine()
    assert torch.startswith("uv pip install")
    assert "--torch-backend=cpu" in torch
    assert course.startswith("uv pip install")
    assert course.endswith("[dev]")


def test_linux_with_a_gpu_gets_the_build_for_it(machine):
    assert "--torch-backend=auto" in machine(gpu=True)[0]


def test_uv_is_borrowed_where_it_is_missing(machine):
    borrow, torch, _ = machine(uv=False)
    assert "pip install --quiet uv" in borrow
    assert "-m uv pip install" in torch


def test_without_uv_pip_does_all(machine):
    _, torch, course = machine(uv=False, borrowed=False)
    assert "-m pip install" in torch
    assert torch.endswith(" torch")
    assert "-m pip install" in course


def test_where_the_index_of_cpu_builds_is_out_of_reach_pip_stands_in(machine, capsys):
    tried, torch, _ = machine(index=False)
    assert "--torch-backend=cpu" in tried
    assert "-m pip install" in torch
    assert "cannot be reached" in capsys.readouterr().out


def test_other_systems_take_the_usual_build(machine):
    torch, _ = machine(system="Darwin", uv=False)
    assert "-m pip install" in torch
    assert "backend" not in torch


def test_a_run_that_was_killed_goes_on(machine):
    (course,) = machine(installed=f"{environment.pinned('torch')}+cpu")
    assert course.endswith("[dev]")
    assert "-m venv" in machine(half=True)[0]


def test_a_step_that_fails_is_named(tmp_path):
    with pytest.raises(SystemExit, match="Run the same command again"):
        environment.call([sys.executable, "-c", "raise SystemExit(3)"])
