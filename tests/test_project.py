"""The project's own files agree with each other and with the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def by_name(requirements: list[str]) -> dict[str, str]:
    parsed = [Requirement(line) for line in requirements]
    return {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in parsed}


def all_requirements() -> dict[str, str]:
    return by_name([*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)])


def test_conda_environment_is_the_project_list():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    assert {re.split("[=<>]", line)[0] for line in conda} == {"python", "pip"}
    assert pip[-1] == "-e ."
    assert by_name(pip[:-1]) == all_requirements()


def test_every_direct_dependency_has_a_known_good_version_in_its_range():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert {canonicalize_name(pin.name) for pin in pinned} == set(all_requirements())
    ranges = all_requirements()
    for pin in pinned:
        (exact,) = pin.specifier
        assert exact.operator == "=="
        allowed = Requirement(f"x{ranges[canonicalize_name(pin.name)]}").specifier
        assert allowed.contains(exact.version), pin


def test_every_dependency_says_what_it_is_for():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = re.findall(r'^  "[A-Za-z].*[<>=~].*$', text, flags=re.MULTILINE)
    assert len(lines) == len(PROJECT["dependencies"]) + sum(map(len, EXTRAS.values()))
    assert [line for line in lines if not re.search(r"# \w+", line)] == []


def imports_of(folder: str) -> set[str]:
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"course_lib", "data_scripts"}


def test_what_the_library_imports_is_declared():
    """Not what happens to be installed because something else needs it."""
    carried = {"IPython", "traitlets"}  # ipykernel's own interface
    distributions = packages_distributions()
    names = (imports_of("course_lib") | imports_of("data_scripts")) - carried
    needed = {canonicalize_name(distributions.get(name, [name])[0]) for name in names}
    assert needed <= set(all_requirements())


def test_no_machine_and_no_index_is_named():
    text = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout
    if not text:
        pytest.skip("not a clone")
    hosts = re.compile(r"download\.pytorch\.org|pypi\.(org|python)|/root/|/home/\w+/")
    found = []
    for name in filter(None, text.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or path.suffix in (".npz", ".png", ".gz") or not path.is_file():
            continue
        if hosts.search(path.read_text(encoding="utf-8", errors="ignore")):
            found.append(name)
    assert found == []


def test_make_help_lists_the_commands():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    if shown.returncode == 127:
        pytest.skip("no make")
    assert all(f"make {name}" in shown.stdout for name in ("course", "test", "lab", "notebooks", "benchmarks", "clean"))


def test_ci_runs_make_test():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[-1] == "exec make test"
