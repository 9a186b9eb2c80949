from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """tests/run_all.py with three quick stages in a folder of its own."""
    spec = importlib.util.spec_from_file_location("run_all", Path(__file__).with_name("run_all.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OUTPUT", tmp_path)
    monkeypatch.setattr(module, "STAMP", tmp_path / "stages.json")
    says = {name: [sys.executable, "-c", f"print('I am {name}')"] for name in ("one", "two", "three")}
    says["two"][-1] += "; print('=== 12 passed in 0.1s ===')"
    monkeypatch.setattr(module, "stages", lambda: says)
    monkeypatch.setattr(module, "tree_digest", lambda: "tree")
    return module


def test_all_stages_run_and_the_closing_line_is_pytest_s(runner, capfd):
    runner.main()
    out = capfd.readouterr().out
    assert all(f"I am {name}" in out for name in ("one", "two", "three"))
    assert "=== 12 passed in 0.1s ===" in out.partition("in short")[2]
    assert not runner.STAMP.exists()


def test_a_killed_run_goes_on_at_its_stage(runner, capfd):
    runner.write_state({"tree": "tree", "done": {"one": ["one ok"]}})
    runner.main()
    out = capfd.readouterr().out
    assert "I am one" not in out
    assert "I am two" in out


@pytest.mark.parametrize("state", ['{"tree": "another", "done": {"one": []}}', "{half"])
def test_another_tree_or_a_damaged_stamp_starts_anew(runner, capfd, state):
    runner.STAMP.write_text(state)
    runner.main()
    assert "I am one" in capfd.readouterr().out


def test_a_failed_stage_fails_the_run_after_the_others(runner, capfd, monkeypatch):
    stages = runner.stages() | {"two": [sys.executable, "-c", "raise SystemExit(1)"]}
    monkeypatch.setattr(runner, "stages", lambda: stages)
    with pytest.raises(SystemExit, match="FAILED: two"):
        runner.main()
    assert "I am three" in capfd.readouterr().out
    assert not runner.STAMP.exists()


def test_no_executed_lessons_is_a_failure(runner):
    assert runner.run([sys.executable, "-m", "pytest", "--nbval-lax", "*"]) == (1, [])


@pytest.mark.parametrize(("broken", "code"), [("", 0), ("2.ipynb", 3), ("3.ipynb", 3)])
def test_executed_lessons_are_dealt_out_and_any_failure_counts(runner, broken, code):
    folder = runner.OUTPUT / "quick" / "lessons"
    folder.mkdir(parents=True)
    for name in ("1.ipynb", "2.ipynb", "3.ipynb", "4.failed.ipynb", "5.running.ipynb"):
        (folder / name).touch()
    script = "import sys; from pathlib import Path; names = [Path(a).name for a in sys.argv[1:]]; "
    script += f"print('=== 1 passed in', *names, '==='); sys.exit(3 * ({broken!r} in names))"
    found, summary = runner.run([sys.executable, "-c", script, "*"])
    assert found == code
    assert summary == ["=== 1 passed in 1.ipynb 3.ipynb ===", "=== 1 passed in 2.ipynb ==="]


def test_the_dear_lessons_are_shared_out(runner):
    assert runner.minutes() == {}
    (runner.OUTPUT / "quick").mkdir()
    (runner.OUTPUT / "quick" / "cost.csv").write_text('name,title,minutes\n1,"a, b",2.0\n2,c,5.0\n4,d,2.5\n')
    assert runner.minutes() == {"1": 2.0, "2": 5.0, "4": 2.5}
    files = [f"x/{number}.ipynb" for number in (1, 2, 3, 4)]
    assert runner.halves(files, runner.minutes()) == (["x/2.ipynb"], ["x/4.ipynb", "x/1.ipynb", "x/3.ipynb"])


def test_what_one_process_prints_does_not_stop_the_other(runner, capfd, monkeypatch):
    """The second prints more than a pipe holds, then the first waits for its last word."""
    word = runner.OUTPUT / "word"
    first = f"import time, pathlib\nwhile not pathlib.Path({str(word)!r}).exists(): time.sleep(0.05)\nprint('first')"
    second = f"print('x' * 200_000)\nopen({str(word)!r}, 'w').close()"
    monkeypatch.setattr(runner, "dealt", lambda command: [[sys.executable, "-c", text] for text in (first, second)])
    assert runner.run([]) == (0, [])
    assert capfd.readouterr().out == f"first\n{'x' * 200_000}\n"


def test_every_file_of_tests_is_dealt_out_once(runner):
    first, second = runner.dealt([sys.executable, "-m", "pytest", "tests"])
    files = first[3:] + second[3:]
    assert sorted(files) == sorted(str(p.relative_to(runner.ROOT)) for p in runner.ROOT.glob("tests/**/test_*.py"))
    assert "tests/test_run_all.py" in files and abs(len(first) - len(second)) <= 1


def test_stage_names_and_stamp(runner):
    runner.write_state({"tree": "tree", "done": {"one": ["x"]}})
    assert json.loads(runner.STAMP.read_text())["done"] == {"one": ["x"]}
