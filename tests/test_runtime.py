"""Process settings, seeds, devices, and what importing the course costs."""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from course_lib import runtime

LOOK = """
import json, os, sys
import course_lib
print(json.dumps({"policy": os.environ.get("OMP_WAIT_POLICY"), "torch": "torch" in sys.modules}))
"""


def fresh(code: str, **environment: str) -> dict:
    """Run code in a new interpreter; what it prints last, as JSON."""
    ours = ("OMP_WAIT_POLICY", "LEARNING_NORMAL_TUNE")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_course_sets_the_policy_before_torch():
    assert fresh(LOOK) == {"policy": "passive", "torch": False}


def test_a_policy_that_is_set_is_kept_and_tuning_can_be_switched_off():
    assert fresh(LOOK, OMP_WAIT_POLICY="active")["policy"] == "active"
    assert fresh(LOOK, LEARNING_NORMAL_TUNE="0")["policy"] is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_glibc_takes_the_thresholds():
    assert runtime.tune_allocator()


def test_elsewhere_the_allocator_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not runtime.tune_allocator()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))  # musl
    assert not runtime.tune_allocator()


def test_seeds_reach_all_generators():
    def draw():
        runtime.seed_everything(7)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw() == draw()


def test_devices():
    assert runtime.choose_device("cpu") == torch.device("cpu")
    assert runtime.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert runtime.has_fast_bfloat16("cpu") in (True, False)
    assert runtime.has_fast_bfloat16("meta") is False


def test_the_modules_of_a_lesson_import_no_slow_library_by_themselves():
    """The budget is 0.3 s and 30 MiB over torch: benchmarks/imports.py measures it; this keeps its causes out."""
    code = """
import json, sys, torch
before = set(sys.modules)
import course_lib.training, course_lib.store
import course_lib.detectors.autoencoder, course_lib.detectors.pca
import course_lib.detectors.positional_gaussian, course_lib.detectors.zscore, course_lib.images.augment
new = set(sys.modules) - before
print(json.dumps(sorted(n for n in new if n in ("pandas", "sklearn", "scipy", "matplotlib", "tqdm", "nibabel"))))
"""
    assert fresh(code) == []
