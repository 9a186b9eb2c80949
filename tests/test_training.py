"""The loop: what it sees, what it keeps, and that an interruption changes nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from course_lib.detectors.base import Detector
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.errors import BadInput
from course_lib.training import LARGEST_GRADIENT, batch_indices, fingerprint, fit, read_checkpoint

KILLED = Path(__file__).parent / "benchmarks" / "kill_resume.py"


class Toy(Detector):
    """A denoising convolution with batch normalisation and dropout: all the state and randomness a loop can lose."""

    def __init__(self, width: int = 4, factor: float = 1.0):
        super().__init__()
        self.width, self.factor = width, factor
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(width, 1, 1)
        )

    def training_losses(self, images):
        noisy = images + 0.1 * torch.randn_like(images)
        return {"squares": (self.layers(noisy) - images).square().mean() * self.factor}

    def anomaly_map(self, images):
        return (self.layers(images) - images).abs()[:, 0]


def toy(**options) -> Toy:
    torch.manual_seed(0)
    return Toy(**options)


@pytest.fixture
def images():
    return torch.rand(50, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def one_thread():
    """Bits are compared, so sums must be taken in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def run(images, **options):
    detector = toy(**{name: options.pop(name) for name in ("width", "factor") if name in options})
    history = fit(detector, images, **{"steps": 20, "batch_size": 8, "progress": False, **options})
    return detector, history


def test_the_history_has_a_row_for_each_step(images):
    detector, history = run(images)
    assert list(history.columns) == ["step", "squares", "seconds"]
    assert history["step"].tolist() == list(range(1, 21))
    assert history["seconds"].is_monotonic_increasing and history["seconds"].iloc[0] > 0
    assert not detector.training


def test_one_seed_gives_one_result_whatever_the_global_generators_say(images):
    torch.manual_seed(1)
    one, _ = run(images)
    torch.manual_seed(2)
    np.random.seed(3)
    same, _ = run(images)
    other, _ = run(images, seed=1)
    assert same_weights(one, same) and not same_weights(one, other)


def test_the_callers_random_numbers_are_left_alone(images):
    detector = toy()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(detector, images, steps=3, batch_size=4, progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_every_image_comes_once_before_any_comes_twice():
    stream = np.concatenate([batch_indices(50, 8, seed=0, step=step) for step in range(25)])
    for epoch in range(4):
        assert sorted(stream[50 * epoch : 50 * (epoch + 1)]) == list(range(50))
    assert not np.array_equal(stream[:50], stream[50:100])
    assert len(batch_indices(3, 8, seed=0, step=0)) == 8  # fewer images than a batch


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("stop", [1, 7, 19])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(images, tmp_path, stop, fast):
    whole, whole_history = run(images, fast=fast)
    run(images, steps=stop, checkpoint=tmp_path / "c.pt", fast=fast)
    resumed, history = run(images, checkpoint=tmp_path / "c.pt", fast=fast)
    assert same_weights(whole, resumed)
    assert history.drop(columns="seconds").equals(whole_history.drop(columns="seconds"))
    assert history["seconds"].is_monotonic_increasing


def test_two_optimizers_and_their_state_are_resumed(images, tmp_path):
    class Pair(Toy):
        def configure_optimizers(self):
            first, last = self.layers[0], self.layers[-1]
            return [torch.optim.Adam(first.parameters()), torch.optim.SGD(last.parameters(), lr=0.1, momentum=0.9)]

        def training_step(self, images, optimizers):
            for optimizer in optimizers:
                optimizer.zero_grad()
                loss = self.training_losses(images)["squares"]
                loss.backward()
                optimizer.step()
            return {"squares": loss.detach(), "double": 2 * loss.detach()}

    def trained(steps, checkpoint=None):
        torch.manual_seed(0)
        detector = Pair()
        history = fit(detector, images, steps=steps, batch_size=8, checkpoint=checkpoint, progress=False)
        return detector, history

    whole, _ = trained(10)
    trained(4, tmp_path / "c.pt")
    resumed, history = trained(10, tmp_path / "c.pt")
    assert same_weights(whole, resumed)
    assert (history["double"] == 2 * history["squares"]).all()


@pytest.mark.parametrize("damage", ["half", "bit", "empty"])
def test_a_damaged_checkpoint_is_named_and_training_starts_again(images, tmp_path, damage):
    path = tmp_path / "c.pt"
    whole, _ = run(images)
    run(images, steps=10, checkpoint=path)
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content) if damage == "bit" else bytes(content[: len(content) // 2 * (damage == "half")]))
    with pytest.warns(UserWarning, match="c.pt is damaged"):
        again, history = run(images, checkpoint=path)
    assert same_weights(whole, again) and len(history) == 20


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 4}, {"width": 4, "factor": 2.0}, {"fast": True}])
def test_a_checkpoint_of_another_run_is_refused(images, tmp_path, change):
    run(images, steps=4, checkpoint=tmp_path / "c.pt")
    with pytest.raises(BadInput, match="another training") as refused:
        run(images, checkpoint=tmp_path / "c.pt", **change)
    assert refused.value.file == tmp_path / "c.pt"
    with pytest.raises(BadInput, match="slices differ"):
        run(images + 0.1, checkpoint=tmp_path / "c.pt")


def test_a_checkpoint_past_the_steps_asked_for_is_refused_and_kept(images, tmp_path):
    path = tmp_path / "c.pt"
    run(images, steps=10, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(BadInput, match="at step 10, and 5 steps") as refused:
        run(images, steps=5, checkpoint=path)
    assert refused.value.file == path and path.read_bytes() == before


def test_a_checkpoint_is_written_every_so_many_steps_and_at_the_end(images, tmp_path):
    path, seen = tmp_path / "c.pt", []

    class Watching(Toy):
        def training_step(self, images, optimizers):
            seen.append(read_checkpoint(path)["step"] if path.exists() else 0)
            return super().training_step(images, optimizers)

    fit(Watching(), images, steps=8, batch_size=4, checkpoint=path, checkpoint_every=3, progress=False)
    assert seen == [0, 0, 0, 3, 3, 3, 6, 6]
    assert read_checkpoint(path)["step"] == 8
    assert sorted(child.name for child in tmp_path.iterdir()) == ["c.pt"]  # no part of a file left


def test_an_interrupt_leaves_a_usable_checkpoint(images, tmp_path):
    class Interrupted(Toy):
        def training_step(self, images, optimizers):
            if optimizers[0].state and next(iter(optimizers[0].state.values()))["step"] == 12 and not self.resumed:
                raise KeyboardInterrupt
            return super().training_step(images, optimizers)

    def trained(resumed, checkpoint):
        torch.manual_seed(0)
        detector = Interrupted()
        detector.resumed = resumed
        options = {"steps": 20, "batch_size": 8, "checkpoint_every": 5, "progress": False}
        fit(detector, images, checkpoint=checkpoint, **options)
        return detector

    with pytest.raises(KeyboardInterrupt):
        trained(False, tmp_path / "c.pt")
    assert read_checkpoint(tmp_path / "c.pt")["step"] == 10
    assert same_weights(trained(True, tmp_path / "c.pt"), trained(True, tmp_path / "other.pt"))


def test_a_loss_that_is_not_finite_is_named_with_its_step(images):
    class Exploding(Toy):
        def training_losses(self, images):
            losses = super().training_losses(images)
            factor = float("nan") if getattr(self, "calls", 0) == 3 else 1.0
            self.calls = getattr(self, "calls", 0) + 1
            return {"fine": losses["squares"], "bad": losses["squares"] * factor}

    with pytest.raises(FloatingPointError, match="step 4: the loss 'bad' of Exploding is nan"):
        fit(Exploding(), images, steps=10, batch_size=4, progress=False)


def test_gradients_are_clipped_before_each_update(images):
    norms = []

    class Steep(Toy):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)

            def record(optimizer, args, kwargs):
                norms.append(torch.cat([p.grad.flatten() for p in self.parameters()]).norm().item())

            optimizer.register_step_post_hook(record)
            return [optimizer]

    torch.manual_seed(0)
    fit(Steep(factor=1e4), images, steps=3, batch_size=4, progress=False)
    assert norms == pytest.approx([LARGEST_GRADIENT] * 3, rel=1e-3)


def test_losses_are_float32_and_weights_come_back_in_the_usual_layout_after_fast_training(images):
    seen = []

    class Recording(Toy):
        def training_losses(self, images):
            losses = super().training_losses(images)
            seen.append((losses["squares"].dtype, images.is_contiguous(memory_format=torch.channels_last)))
            return losses

    detector = Recording()
    fit(detector, images, steps=2, batch_size=4, fast=True, progress=False)
    assert seen == [(torch.float32, True)] * 2
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in detector.parameters())


def test_fast_and_exact_training_agree_roughly(images):
    _, exact = run(images, steps=60)
    _, fast = run(images, steps=60, fast=True)
    assert fast["squares"].tail(10).mean() == pytest.approx(exact["squares"].tail(10).mean(), rel=0.05)


def test_a_closed_form_is_fitted_once_on_all_images(images):
    class Mean(IntensityThreshold):
        def fit(self, images):
            self.seen = images
            return self

    detector = Mean()
    history = fit(detector, images, progress=False)
    assert torch.equal(detector.seen, images) and len(history) == 1 and not detector.training


def test_anything_with_batches_a_length_and_a_fingerprint_can_be_trained_on(images):
    class Slices:
        fingerprint = "abc"

        def __len__(self):
            return len(images)

        def batch(self, indices):
            assert isinstance(indices, np.ndarray)
            return images[indices]

    from_slices, _ = run(Slices())
    from_tensor, _ = run(images)
    assert same_weights(from_slices, from_tensor)
    assert fingerprint(Slices()) == "abc" and fingerprint(images) != fingerprint(images + 1)


def test_no_slices_are_refused(images):
    with pytest.raises(BadInput, match="no slices"):
        run(images[:0])


def test_a_bar_shows_the_progress_unless_it_is_switched_off(images, capfd):
    run(images, progress=True)
    assert "Toy" in capfd.readouterr().err
    run(images, progress=False)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9 is POSIX's")
def test_killed_three_times_and_still_the_same_bits(tmp_path):
    """The full twenty are in benchmarks/kill_resume.py."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(KILLED), "--train"]
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True)
    killed = 0
    moments = random.Random(0)
    while True:
        process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment, stdout=subprocess.PIPE)
        if killed < 3:
            process.stdout.readline()  # the training has begun
            time.sleep(moments.uniform(0.05, 0.4))
            process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        killed += 1
    assert killed == 3
    assert (tmp_path / "whole" / "digest").read_text() == (tmp_path / "killed" / "digest").read_text()


def test_a_hyperparameter_that_is_no_plain_value_can_be_trained_with():
    class Odd(Detector):
        def __init__(self, kind=torch.float32):
            super().__init__()
            self.kind, self.layer = kind, torch.nn.Conv2d(1, 1, 3, padding=1)

        def training_losses(self, images):
            return {"squares": (self.layer(images) - images).square().mean()}

    history = fit(Odd(), torch.rand(8, 1, 8, 8), steps=2, batch_size=4, progress=False)
    assert len(history) == 2
