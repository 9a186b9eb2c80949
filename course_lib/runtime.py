"""Process settings: what makes torch fast on small, busy machines, cores, seeds, and the choice of a device."""

from __future__ import annotations

import ctypes
import os
import platform
import random
import sys

MMAP_THRESHOLD = 32 * 2**20  # bytes; the largest value that 64-bit glibc accepts
TRIM_THRESHOLD = 512 * 2**20  # bytes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def tune() -> None:
    """Set what has to be set before torch is imported; `LEARNING_NORMAL_TUNE=0` switches it off.

    - `OMP_WAIT_POLICY=passive`: idle threads sleep. The default is to spin, and on a busy machine each of a training
      step's barriers then waits for a spinning thread to be given a core. A value that is already set is kept.
    - glibc's `mallopt` (Linux): blocks up to 32 MiB come from the heap, and up to 512 MiB of freed heap are kept. By
      default each activation of some MiB is a fresh `mmap`, whose pages the kernel clears one by one in every step.
    """
    if os.environ.get("LEARNING_NORMAL_TUNE", "1") == "0":
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    tune_allocator()


def tune_allocator() -> bool:
    """Set glibc's two thresholds; True if glibc took them, False (and nothing done) where there is no glibc."""
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    taken = [libc.mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD), libc.mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)]
    return all(taken)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of `random`, NumPy and torch (all devices)."""
    import numpy as np  # here and below, so that importing the course imports neither NumPy nor torch
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def choose_device(device: str = "auto"):
    """The `torch.device` of that name; `"auto"` is the GPU where CUDA finds one, else the CPU.

    Apple's `"mps"` has to be asked for by name: not all of the course's operations exist there.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def has_fast_bfloat16(device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere bfloat16 is slower than float32."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() in ("x86_64", "AMD64"):  # oneDNN takes bfloat16 on any AVX-512, and emulates it on most
        known = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
        return any(ask() for ask in known if ask)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
