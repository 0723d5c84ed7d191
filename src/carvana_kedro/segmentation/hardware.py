"""What to compute on, and how: every choice is made by itself, and can be made otherwise."""

import copy
import importlib.util
import os
import shutil
import sysconfig
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from carvana_kedro.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PrecisionName = Literal["auto", "bfloat16", "float16", "tf32", "float32"]
Switch = Literal["auto"] | bool

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Hardware:
    """A device and how it is used.

    Attributes:
        device: what to compute on.
        precision: dtype of the convolutions; weights, statistics and the loss are float32.
        channels_last: whether pictures lie in memory pixel by pixel, as convolutions on most hardware want them.
        compile: whether torch.compile makes kernels for the network.
        fused: whether the optimizer takes its step in one kernel, if it has one.
    """

    device: torch.device
    precision: torch.dtype
    channels_last: bool
    compile: bool
    fused: bool

    @classmethod
    def choose(
        cls,
        device: DeviceName = "auto",
        precision: PrecisionName = "auto",
        *,
        channels_last: Switch = "auto",
        compile: Switch = "auto",
        fused: Switch = "auto",
    ) -> Self:
        """Return what is fastest here, or what is asked for.

        Raises:
            UserError: the machine has no such device, or the device no such precision.
        """
        chosen = choose_device(device)
        on_mps = chosen.type == "mps"
        # Compiling makes training on CPUs slower.
        compiles = chosen.type == "cuda" and _triton_works(chosen)
        if chosen.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all batches have one shape: trying all its ways pays
        return cls(
            device=chosen,
            precision=choose_precision(precision, chosen),
            channels_last=not on_mps if channels_last == "auto" else channels_last,
            compile=compiles if compile == "auto" else compile,
            fused=not on_mps if fused == "auto" else fused,
        )

    def place(self, network: Network) -> Network:
        """Move a network to the device, in the layout and compiled as chosen; its parameters keep their names."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        network = network.to(self.device).to(memory_format=layout)
        if self.compile:
            network.compile(dynamic=False)
        return network

    def busy(self) -> bool:
        """Tell whether the device is still computing; a CPU never is when one can ask."""
        return self.device.type == "cuda" and not torch.cuda.current_stream(self.device).query()

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the network runs in the precision."""
        return mixed_precision(self.device, self.precision)

    def __str__(self) -> str:
        """Spell the choices in a line."""
        precision = str(self.precision).removeprefix("torch.")
        if self.precision == torch.float32 and self.device.type == "cuda" and _tf32():
            precision = "tf32"
        layout = "channels_last" if self.channels_last else "contiguous"
        switches = [name for name in ("compile", "fused") if getattr(self, name)]
        return ", ".join([f"{self.device} in {precision}", layout, *switches])


def choose_device(name: DeviceName = "auto") -> torch.device:
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


def choose_precision(name: PrecisionName, device: torch.device) -> torch.dtype:
    """Return the dtype that convolutions run in.

    `auto` is bfloat16 where the hardware computes in it, and float32 elsewhere. On CUDA, float32 is rounded to TF32
    inside of convolutions unless it was asked for by name. float16 is for whoever asks for it: its small range needs
    the loss scaled, which only CUDA is used with here.

    Raises:
        UserError: float16 or tf32 on another device than CUDA.
    """
    if name in ("float16", "tf32") and device.type != "cuda":
        raise UserError(f"precision={name} is for cuda, and this run is on {device}: leave it at auto.")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name != "float32"
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name, torch.float32)


def mixed_precision(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """Return the autocast context for a precision; it does nothing for float32."""
    enabled = precision != torch.float32
    return torch.autocast(device.type, dtype=precision if enabled else torch.bfloat16, enabled=enabled)


def usable_workers(num_workers: int) -> int:
    """Return how many processes to read images in: no more than this one may use processors."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(num_workers, processors)


def training_flop(network: nn.Module, input_size: tuple[int, int]) -> float:
    """Return the floating-point operations of a forward and a backward pass, for an image of (H, W).

    Counted on PyTorch's meta device, which computes nothing; a multiply-add is two.
    """
    shadow = copy.deepcopy(network).to("meta").train()
    with FlopCounterMode(display=False) as counter:
        # Two images: BatchNorm cannot learn from one if its features are a single pixel.
        shadow(torch.empty(2, 3, *input_size, device="meta")).sum().backward()
    return counter.get_total_flops() / 2


def measured_peak(hardware: Hardware) -> float:
    """Return the floating-point operations a second of a large matrix product: what the arithmetic is held against."""
    size = 8192 if hardware.device.type == "cuda" else 1536
    matrix = torch.randn(size, size, device=hardware.device).to(hardware.precision)
    fastest = float("inf")
    for _ in range(6):  # the first ones warm up
        started = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for the device
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a GPU or on the CPU."""
    # The CPU's allocator and NVIDIA's libraries raise a plain RuntimeError.
    texts = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def _triton_works(device: torch.device) -> bool:
    """Tell whether torch.compile can make kernels for this GPU: slim containers, for one, lack the C compiler."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return (
        importlib.util.find_spec("triton") is not None
        and compiler is not None
        and header.is_file()
        and torch.cuda.get_device_capability(device) >= (7, 0)
    )


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # AVX2 machines emulate bfloat16, slower than float32. PyTorch offers no public question for this.
    return device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def _tf32() -> bool:
    return bool(torch.backends.cudnn.allow_tf32)
