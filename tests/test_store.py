"""The store: trained once, found again, never trusted blindly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from torch import nn

from course_lib import store
from course_lib.detectors.autoencoder import DenseAE
from course_lib.detectors.base import Detector
from course_lib.detectors.blocks import Down
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.zscore import PixelZScore
from course_lib.store import code_of, load_or_train, source_digest

trainings = []  # one entry for each training step that any test takes


class Small(Detector):
    def __init__(self, width: int = 4):
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(Down(1, width), nn.Dropout(0.1), nn.ConvTranspose2d(width, 1, 4, 2, 1))

    def training_losses(self, images):
        trainings.append(self.width)
        return {"squares": (self.layers(images) - images).square().mean()}

    def anomaly_map(self, images):
        return (self.layers(images) - images).abs()[:, 0]


@pytest.fixture
def images():
    return torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def get(images, tmp_path):
    """load_or_train in a folder of its own; also tells how many steps were taken."""

    def call(detector=None, slices=images, **options):
        trainings.clear()
        options = {"steps": 6, "batch_size": 4, "progress": False, "folder": tmp_path, **options}
        trained, history = load_or_train(detector or Small(), slices, **options)
        return trained, history, len(trainings)

    return call


@pytest.fixture
def entry(get, tmp_path):
    """The folder of a stored detector."""
    get()
    (found,) = tmp_path.iterdir()
    return found


def same_weights(one, other) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_second_call_loads_what_the_first_trained(get):
    first, history, steps = get()
    second, same_history, none = get()
    assert (steps, none) == (6, 0)
    assert same_weights(first, second) and same_history.equals(history)
    assert not second.training


def test_the_description_is_left_alone_and_its_weights_do_not_matter(get, tmp_path):
    torch.manual_seed(1)
    one = Small()
    before = {name: value.clone() for name, value in one.state_dict().items()}
    trained, _, _ = get(one)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    torch.manual_seed(2)
    again, _, _ = get(Small(), folder=tmp_path / "elsewhere")
    assert trained is not one and same_weights(trained, again)


@pytest.mark.parametrize(
    "change", [{"steps": 7}, {"seed": 1}, {"batch_size": 5}, {"fast": True}, {"detector": Small(5)}], ids=str
)
def test_whatever_changes_the_result_changes_the_key(get, change):
    get()
    assert get(**change)[2] > 0
    assert get()[2] == 0 and get(**change)[2] == 0  # both are kept


def test_other_slices_change_the_key(get, images):
    get()
    assert get(slices=images[:19])[2] == 6


def test_a_closed_form_is_stored_whatever_the_budget(get, images, tmp_path):
    first, _, _ = get(PixelZScore((16, 16), levels=1), steps=5)
    second, _, _ = get(PixelZScore((16, 16), levels=1), steps=9)
    assert torch.equal(first.anomaly_map(images), second.anomaly_map(images))
    get(IntensityThreshold())  # no weights at all
    assert len(list(tmp_path.iterdir())) == 2


def damage(path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "bit":
        content[-5] ^= 1
    path.unlink()
    if how != "missing":
        path.write_bytes(bytes(content[: len(content) // 2] if how == "half" else content))


@pytest.mark.parametrize("how", ["bit", "half", "missing"])
@pytest.mark.parametrize("name", ["weights.safetensors", "history.json"])
def test_damage_is_named_and_the_detector_trained_again(get, entry, name, how):
    before, _, _ = get()
    damage(entry / name, how)
    with pytest.warns(UserWarning, match=rf"{entry.name} is damaged: .*{name}"):
        after, _, steps = get()
    assert steps == 6 and same_weights(before, after)
    assert get()[2] == 0


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"sha256": {}}'])
def test_a_damaged_description_is_named_too(get, entry, content):
    (entry / "meta.json").write_text(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert get()[2] == 6
    assert get()[2] == 0


def test_an_entry_without_its_description_is_not_complete(get, entry):
    (entry / "meta.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get()[2] == 6


def test_an_entry_says_what_it_is(entry):
    meta = json.loads((entry / "meta.json").read_text())
    assert meta["detector"].endswith("Small") and meta["hyperparameters"] == {"width": 4}
    assert meta["budget"] == {"steps": 6, "batch_size": 4, "seed": 0, "fast": False}
    assert sorted(child.name for child in entry.iterdir() if child.name != "lock") == [
        "history.json",
        "meta.json",
        "weights.safetensors",
    ]


def test_an_interrupted_training_goes_on(get, monkeypatch):
    original = Small.training_losses

    def interrupted(self, images):
        if len(trainings) == 5:
            raise KeyboardInterrupt
        return original(self, images)

    options = {"steps": 8, "checkpoint_every": 2}
    monkeypatch.setattr(store, "source_digest", lambda detector: "the same class")
    expected, _, _ = get(seed=3, **options)
    monkeypatch.setattr(store, "source_digest", lambda detector: "the same class, another entry")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Small, "training_losses", interrupted)
        get(seed=3, **options)
    resumed, history, steps = get(seed=3, **options)
    assert steps == 4 and len(history) == 8  # from the checkpoint after step 4
    assert same_weights(resumed, expected)


# ---- the key's code -------------------------------------------------------------------------------------------------


def define(source: str, name: str = "Student", filename: str | None = None) -> type:
    """A class from source text, as a notebook cell defines one when `filename` is given."""
    import linecache

    source = textwrap.dedent(source)
    if filename:
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    namespace = {"Detector": Detector, "nn": nn, "__name__": "__main__"}
    exec(compile(source, filename or "<nowhere>", "exec"), namespace)
    return namespace[name]


PLAIN = """
x = 1
class Student(Detector):
    def anomaly_map(self, images):
        return images[:, 0] * 2
"""
COMMENTED = """
class Student(Detector):
    '''A docstring.'''

    def anomaly_map(self, images):
        '''Another.'''
        return images[:, 0] * 2  # and a comment
"""
CHANGED = PLAIN.replace("* 2", "* 3")


@pytest.mark.parametrize("cell", [True, False], ids=["cell", "no source"])
def test_comments_and_docstrings_do_not_count_and_code_does(cell):
    plain, commented, changed = (
        code_of(define(text, filename=f"<cell {i}>" if cell else None))
        for i, text in enumerate((PLAIN, COMMENTED, CHANGED))
    )
    assert plain != changed
    if cell:
        assert plain == commented


def test_the_last_definition_of_a_name_counts():
    both = PLAIN + CHANGED
    assert code_of(define(both, filename="<both>")) == code_of(define(CHANGED, filename="<changed>"))


def test_base_classes_and_layers_belong_to_the_code():
    source = """
    class Layer(nn.Module):
        def forward(self, x):
            return x * 2

    class Base(Detector):
        def anomaly_map(self, images):
            return images[:, 0]

    class Student(Base):
        def __init__(self):
            super().__init__()
            self.layer = Layer()
    """
    plain = source_digest(define(source, filename="<a>")())
    assert plain == source_digest(define(source, filename="<b>")())
    assert plain != source_digest(define(source.replace("x * 2", "x * 3"), filename="<c>")())
    assert plain != source_digest(define(source.replace("[:, 0]", "[:, 0] ** 2"), filename="<d>")())


def test_a_class_of_a_notebook_cell_is_stored_and_found_again(tmp_path):
    from IPython.core.interactiveshell import InteractiveShell

    cell = """
    import torch
    from course_lib.detectors.base import Detector
    from course_lib.store import load_or_train

    class Mine(Detector):
        def __init__(self, width=2):
            super().__init__()
            self.width = width
            self.layer = torch.nn.Conv2d(1, 1, width + 1, padding="same")

        def training_losses(self, images):
            losses.append(1)
            return {"squares": (self.layer(images) - images).square().mean()}
    """
    shell = InteractiveShell()  # not the singleton: nothing is left behind
    call = f"load_or_train(Mine(), torch.ones(4, 1, 8, 8), steps=3, folder={str(tmp_path)!r}, progress=False)"
    counts = []
    for text in (cell, cell + "        # a comment", cell.replace("(images) - images", "(images) - 2 * images")):
        for line in (textwrap.dedent(text), "losses = []", call):
            shell.run_cell(line).raise_error()
        counts.append(len(shell.user_ns["losses"]))
    assert counts == [3, 0, 3]


# ---- two kernels ----------------------------------------------------------------------------------------------------

KERNEL = """
import sys, time
from pathlib import Path
import torch
from course_lib.detectors.autoencoder import SpatialAE
from course_lib.store import load_or_train

torch.set_num_threads(1)
mark = Path(sys.argv[2])

class Slow(SpatialAE):
    def training_losses(self, images):
        with mark.open("a") as stream:
            stream.write("x")
        time.sleep(0.1)
        return super().training_losses(images)

images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
print("ready", flush=True)
sys.stdin.readline()
trained, _ = load_or_train(Slow((16, 16)), images, steps=12, batch_size=4, folder=sys.argv[1], progress=False)
print(sum(p.double().abs().sum().item() for p in trained.parameters()))
"""


def test_two_processes_train_one_detector_once(tmp_path):
    script = tmp_path / "kernel.py"
    script.write_text(KERNEL)
    command = [sys.executable, str(script), str(tmp_path / "store"), str(tmp_path / "mark")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert (tmp_path / "mark").read_text() == "x" * 12  # trained once
    assert answers[0][-1] == answers[1][-1]
    waited = [line for lines in answers for line in lines if "waiting for it" in line]
    assert len(waited) == 1


def test_the_lock_of_a_dead_process_is_no_obstacle(get, entry):
    (entry / "lock").write_text("4711")
    assert get()[2] == 0


def test_many_trainings_give_what_each_alone_gives(tmp_path):
    """On one thread the weights do not depend on which process trained them; each is stored once."""
    images = torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    recipes = {"wide": DenseAE((16, 16), latent=4, depth=2), "narrow": DenseAE((16, 16), latent=2, depth=2)}
    budget = {"steps": 6, "batch_size": 4, "progress": False}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        together = store.load_or_train_all(recipes, images, [0, 1], workers=2, folder=tmp_path / "a", **budget)
        for name, recipe in recipes.items():
            for seed, (detector, history) in zip([0, 1], together[name], strict=True):
                alone, own = store.load_or_train(recipe, images, seed=seed, folder=tmp_path / "b", **budget)
                for one, other in zip(detector.state_dict().values(), alone.state_dict().values(), strict=True):
                    assert torch.equal(one, other)
                assert history["reconstruction"].tolist() == own["reconstruction"].tolist()
    finally:
        torch.set_num_threads(threads)
    assert len(list((tmp_path / "a").glob("*/meta.json"))) == 4
