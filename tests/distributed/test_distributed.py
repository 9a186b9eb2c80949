"""Two processes train what one process trains; what they cannot share is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from course_lib import store
from course_lib.detectors.autoencoder import DenseAE
from course_lib.distributed import process_group
from course_lib.distributed.__main__ import main, make_detector
from course_lib.errors import BadInput
from course_lib.images.anatomy import template
from course_lib.training import fit
from data_scripts.prepare_folder import prepare_folder

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
HERE = Path(__file__).parent


def run_two(*arguments) -> str:
    """Two processes by torchrun, with gloo; returns what they print."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    options = {"env": environment, "capture_output": True, "text": True, "timeout": 240}
    done = subprocess.run([*TORCHRUN, *map(str, arguments)], **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def together():
    specification = importlib.util.spec_from_file_location("together", HERE / "together.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run_two(HERE / "together.py", folder)
    return json.loads((folder / "outcome.json").read_text())


@pytest.mark.parametrize("name", ["Small", "Alternating"])
def test_two_processes_have_the_loss_curve_and_the_weights_of_one(together, outcome, name):
    """Through DistributedDataParallel, and with a step of its own; batch normalisation included."""
    detector = together.make(name)
    history = fit(detector, together.images(), **together.OPTIONS)
    found = pd.DataFrame(outcome[name]["history"])
    losses = [column for column in history if column != "seconds"]
    assert losses == [column for column in found if column != "seconds"] and len(found) == together.STEPS
    np.testing.assert_allclose(found[losses], history[losses], rtol=1e-9)
    for key, value in detector.state_dict().items():
        np.testing.assert_allclose(outcome[name]["state"][key], value, rtol=1e-7, atol=1e-9, err_msg=key)
    assert outcome[name]["equal"]


def test_random_numbers_differ_between_processes(together, outcome):
    """The mean of two draws is recorded; with equal seeds it would be one process's draw."""
    history = fit(together.make("Noisy"), together.images(), **together.OPTIONS)
    found = np.array(outcome["Noisy"]["history"]["draw"])
    assert not np.isclose(found, history["draw"], atol=1e-3).any() and found.std() > 0.05


def test_what_cannot_be_shared_is_refused(outcome):
    assert "Learns sets mean_seen from the images that it sees" in outcome["Learns"]["error"]
    assert "Closed is fitted in closed form" in outcome["Closed"]["error"]
    assert "batches of 7 cannot be shared evenly by 2 processes" in outcome["odd batch"]["error"]


def test_the_command_trains_and_saves_what_the_store_can_read(tmp_path):
    atlas = template()
    for n in range(4):
        noise = np.random.default_rng(n).normal(0, 3, atlas.t1.shape)
        path = tmp_path / "in" / f"sub-{n}_FLAIR.nii.gz"
        path.parent.mkdir(exist_ok=True)
        image = np.where(atlas.brain, 100 * atlas.t1 + 50 + noise, 0).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, atlas.affine), path)
    (tmp_path / "who.tsv").write_text("participant_id\tsplit\n0\ttrain\n1\ttrain\n2\ttrain\n3\tval\n")
    options = {"register": False, "progress": False, "participants": tmp_path / "who.tsv"}
    prepare_folder(tmp_path / "in", out=tmp_path / "mine", **options)
    command = ["-m", "course_lib.distributed", "course_lib.detectors.autoencoder:DenseAE", "-p", "latent", "4"]
    command += ["-p", "channels", "[4, 4, 4, 4]", "--data", tmp_path / "mine", "--steps", "3", "--batch-size", "4"]
    said = run_two(*command, "--output", tmp_path / "out")
    assert "2 processes (gloo), step 3" in said
    [entry] = (tmp_path / "out").iterdir()
    assert json.loads((entry / "meta.json").read_text())["distributed"] == {"processes": 2, "backend": "gloo"}
    detector = DenseAE((96, 96), latent=4, channels=(4, 4, 4, 4))
    history = store.load(detector, entry)
    assert len(history) == 3 and detector.state_dict()["encoder.0.0.1.num_batches_tracked"] == 3


def test_without_torchrun_one_sentence_says_how_to_start(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["AE"])
    assert "torchrun's RANK, WORLD_SIZE, LOCAL_RANK" in str(ended.value.code) and "Start it with" in str(
        ended.value.code
    )


def test_a_missing_gpu_is_named(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(BadInput, match="find 0 GPUs. Use --device cpu"), process_group("cuda"):
        pass
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # also the first process, which has one, says it
    with pytest.raises(BadInput, match="3 processes of this computer find 2 GPUs. Start 2"), process_group("cuda"):
        pass
    with pytest.raises(BadInput, match="device is auto, cpu or cuda, not 'tpu'"), process_group("tpu"):
        pass


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("AEE", {}, "no detector is called 'AEE'"),
        ("AE", {"latent": 3}, "AE has its own arguments"),
        ("course_lib.detectors.autoencoder:DenseAE", {"deep": 3}, "DenseAE takes no deep"),
        ("course_lib.detectors.autoencoder:Dense", {}, "cannot be imported"),
    ],
)
def test_detectors_that_are_not_there(name, given, said):
    with pytest.raises(BadInput, match=said):
        make_detector(name, (32, 32), 100, given, 0)
