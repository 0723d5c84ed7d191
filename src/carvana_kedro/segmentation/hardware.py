"""What to compute on, and in which precision."""

import os
from contextlib import AbstractContextManager
from typing import Literal

import torch

from carvana_kedro.errors import UserError


def choose_device(name: Literal["auto", "cpu", "cuda", "mps"] = "auto") -> torch.device:
    """Return the named device, or the best there is.

    Raises:
        UserError: the machine has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[name]:
        present = ", ".join(device for device, is_there in there.items() if is_there)
        raise UserError(f"device={name}: this machine has none that PyTorch can use. There is: {present}.")
    return torch.device(name)


def choose_precision(name: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """Return the dtype that convolutions run in; `auto` is bfloat16 where the hardware computes in it."""
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def mixed_precision(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """Return the autocast context for a precision; it does nothing for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)


def usable_workers(workers: int) -> int:
    """Return how many processes to read images in: no more than this one may use processors."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(workers, processors)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # AVX2 machines emulate bfloat16, slower than float32. PyTorch offers no public question for this.
    return device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
