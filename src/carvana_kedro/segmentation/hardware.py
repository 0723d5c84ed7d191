"""Selection of device and precision. Every setting has an automatic choice that a parameter can override."""

import copy
import ctypes
import importlib.util
import logging
import mmap
import os
import shutil
import sysconfig
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from carvana_kedro.errors import UserError
from carvana_kedro.stores.machine import format_size, free_shared_memory, processes_here, usable_cores

logger = logging.getLogger(__name__)

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PrecisionName = Literal["auto", "bfloat16", "float16", "tf32", "float32"]
Switch = Literal["auto"] | bool

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Hardware:
    """A device and the settings it is used with.

    Attributes:
        device: Device to compute on.
        precision: Dtype of the convolutions. Weights, BatchNorm statistics and the loss are always float32.
        channels_last: Whether tensors use the channels_last memory format, which is faster on most hardware.
        compile: Whether to compile the network with `torch.compile`.
        fused: Whether to use the fused implementation of the optimizer, if it has one.
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
        """Return the given settings, with the fastest choice for every setting that is `auto`.

        This also sets global options of cuDNN.

        Args:
            device: `cpu`, `cuda`, `mps` or `auto`.
            precision: `bfloat16`, `float16`, `tf32`, `float32` or `auto`.
            channels_last: See `Hardware`.
            compile: See `Hardware`.
            fused: See `Hardware`.

        Raises:
            UserError: The device is not available, or it does not support the precision.
        """
        chosen = choose_device(device)
        on_mps = chosen.type == "mps"
        # On CPUs, compiled networks train more slowly.
        compiles = chosen.type == "cuda" and _triton_works(chosen)
        if chosen.type == "cuda":
            torch.backends.cudnn.benchmark = True  # worth it: all batches have the same shape
        return cls(
            device=chosen,
            precision=choose_precision(precision, chosen),
            channels_last=not on_mps if channels_last == "auto" else channels_last,
            compile=compiles if compile == "auto" else compile,
            fused=not on_mps if fused == "auto" else fused,
        )

    def place(self, network: Network) -> Network:
        """Move a network to the device, set its memory format and compile it in place, so that parameter names stay."""
        network = network.to(self.device).to(memory_format=self.memory_format)
        if self.compile:
            network.compile(dynamic=False)
        return network

    @property
    def asynchronous(self) -> bool:
        """Whether the CPU can go on while the device computes, and read results later."""
        return self.device.type == "cuda"

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of weights and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def busy(self) -> bool:
        """Return whether the device is still computing. This is always False for devices other than CUDA."""
        return self.device.type == "cuda" and not torch.cuda.current_stream(self.device).query()

    def autocast(self) -> AbstractContextManager[None]:
        """Return the autocast context for the precision."""
        return mixed_precision(self.device, self.precision)

    def __str__(self) -> str:
        """Return the settings in one line, for the log."""
        precision = str(self.precision).removeprefix("torch.")
        if self.precision == torch.float32 and self.device.type == "cuda" and torch.backends.cudnn.allow_tf32:
            precision = "tf32"
        layout = "channels_last" if self.channels_last else "contiguous"
        switches = [name for name in ("compile", "fused") if getattr(self, name)]
        return ", ".join([f"{self.device} in {precision}", layout, *switches])


def choose_device(name: DeviceName = "auto") -> torch.device:
    """Return a device.

    Args:
        name: `cpu`, `cuda`, `mps`, or `auto` for the first available one of CUDA, MPS and CPU.

    Raises:
        UserError: The device is not available.
    """
    is_available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if is_available[device])
    if not is_available.get(name):
        available = ", ".join(device for device in is_available if is_available[device])
        raise UserError(
            f"device={name}: PyTorch finds no such device on this machine. Available: {available}."
        )
    return torch.device(name)


def choose_precision(name: PrecisionName, device: torch.device) -> torch.dtype:
    """Return the dtype of the convolutions. On CUDA, this also allows or forbids TF32 globally.

    Args:
        name: `auto` is bfloat16 on hardware that supports it natively, otherwise float32. On CUDA, convolutions and
            matrix products in float32 use TF32 unless the name is `float32`. `float16` is never chosen automatically:
            its small range requires loss scaling, which this package supports only on CUDA.
        device: Device that the convolutions run on.

    Raises:
        UserError: The name is `float16` or `tf32` and the device is not CUDA.
    """
    if name in ("float16", "tf32") and device.type != "cuda":
        raise UserError(f"precision={name} requires device=cuda, not {device}. Choose precision=auto.")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name != "float32"
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name, torch.float32)


def mixed_precision(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """Return the autocast context for a precision; it is disabled for float32."""
    enabled = precision != torch.float32
    return torch.autocast(device.type, dtype=precision if enabled else torch.bfloat16, enabled=enabled)


def usable_workers(num_workers: int, processes: int = 1) -> int:
    """Return how many workers read images: at most one per usable core.

    Args:
        num_workers: Number that is asked for.
        processes: Number of processes that divide the workers among them. Each gets one at least, if any are asked for.
    """
    return max(min(num_workers // processes, usable_cores()), min(num_workers, 1))


def workers_within_shared_memory(num_workers: int, batch_nbytes: int) -> int:
    """Return how many processes can pass their batches through the free shared memory: at most `num_workers`.

    Args:
        num_workers: Number of processes that are asked for. If fewer fit, a warning says how to allow more.
        batch_nbytes: Bytes of the largest batch.
    """
    free = free_shared_memory()
    # PyTorch reads two batches ahead per process, and this process works on up to two. Files take whole pages.
    size = batch_nbytes + 4 * mmap.PAGESIZE
    if free is None or not num_workers or (2 * num_workers + 2) * size <= free:
        return num_workers
    fitting = max(0, free // size - 2) // 2
    count = processes_here()
    needed = (2 * num_workers + 2) * size * count
    logger.warning(
        "Only %s of shared memory (/dev/shm) is free, but %d processes that read images need %s: continuing with "
        "num_workers=%d. In a container, allow more shared memory: docker run --shm-size=%dg",
        format_size(free * count), num_workers * count, format_size(needed), fitting * count, needed // 10**9 + 1,
    )  # fmt: skip
    return fitting


def training_flop(network: nn.Module, input_size: tuple[int, int]) -> float:
    """Return the number of floating-point operations of a forward and backward pass for one image.

    A multiply-add counts as two operations. The count uses PyTorch's meta device, which does not compute anything.

    Args:
        network: Network; it is not modified.
        input_size: (H, W) of the image.
    """
    meta_network = copy.deepcopy(network).to("meta").train()
    formulas = {torch.ops.aten.convolution_backward: _backward_flop}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        # Two images, because BatchNorm cannot train on a single value per channel (one image of 1 x 1 features).
        meta_network(torch.empty(2, 3, *input_size, device="meta")).sum().backward()
    return counter.get_total_flops() / 2


def _backward_flop(gradient: list[int], features: list[int], weight: list[int], *rest: Any, **_: Any) -> int:
    """Count the gradients of a convolution, each as much as its forward pass.

    PyTorch's own formula counts the gradient of the weights as if there was one group.
    """
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, output_mask = rest
    return sum(output_mask[:2]) * conv_flop_count(features, weight, gradient, transposed)


@cache
def measured_peak(hardware: Hardware) -> float:
    """Return the measured peak of the device: the floating-point operations per second of a large matrix product.

    It is measured once a process: half a second on the CPU, and the same for every fold.
    """
    size = 8192 if hardware.device.type == "cuda" else 1536
    matrix = torch.randn(size, size, device=hardware.device).to(hardware.precision)
    fastest = float("inf")
    for _ in range(6):  # the first runs warm up the device
        started = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits until the device has finished
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let this process keep the memory of freed tensors within the block. It has an effect with glibc only.

    By default, glibc returns the memory of large tensors to the system, and each training step on the CPU asks for the
    same memory again. The system clears every page of it, which takes 7 to 15 % of the step.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, malloc_trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        yield
        return
    mallopt(_M_MMAP_MAX, 0)  # large blocks come from the heap too
    mallopt(_M_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        mallopt(_M_MMAP_MAX, 65536)  # the default of both
        mallopt(_M_TRIM_THRESHOLD, 128 * 1024)
        malloc_trim(0)


def free_memory(device: torch.device) -> int:
    """Return the bytes of a GPU's memory that this process can still use."""
    free, _ = torch.cuda.mem_get_info(device)
    # PyTorch keeps memory that was freed, and uses it again.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a GPU or the CPU ran out of memory."""
    # The CPU allocator and NVIDIA's libraries raise a plain RuntimeError.
    texts = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def _triton_works(device: torch.device) -> bool:
    """Return whether torch.compile can build kernels for this GPU. Slim containers, for example, have no C compiler."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return (
        importlib.util.find_spec("triton") is not None
        and compiler is not None
        and header.is_file()
        and torch.cuda.get_device_capability(device) >= (7, 0)
    )


def _has_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware computes in bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # CPUs with only AVX2 emulate bfloat16, which is slower than float32. PyTorch has no public function for this check.
    return device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
