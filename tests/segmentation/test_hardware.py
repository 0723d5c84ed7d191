import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation import hardware
from carvana_kedro.segmentation.hardware import (
    Hardware,
    choose_device,
    choose_precision,
    is_out_of_memory,
    measured_peak,
    mixed_precision,
    training_flop,
    usable_workers,
    workers_within_shared_memory,
)


def test_auto_chooses_the_first_available_device() -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == best


def test_an_unavailable_device_is_refused() -> None:
    # No machine has both CUDA and MPS.
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match=rf"device={absent}: .*Available: .*cpu"):
        choose_device(absent)


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_convolutions_run_in_the_chosen_precision(name: str, dtype: torch.dtype) -> None:
    device = torch.device("cpu")
    assert choose_precision(name, device) == dtype  # type: ignore[arg-type]
    with mixed_precision(device, dtype):
        assert torch.nn.Conv2d(1, 1, 1)(torch.zeros(1, 1, 4, 4)).dtype == dtype


def test_the_number_of_workers_is_limited_to_the_number_of_cpus() -> None:
    assert usable_workers(0) == 0
    assert usable_workers(1) == 1
    assert 1 <= usable_workers(10_000) < 10_000


def test_several_processes_divide_the_workers_and_each_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carvana_kedro.segmentation.hardware.usable_cores", lambda: 8 // 4)  # its share
    assert [usable_workers(count, 4) for count in (0, 1, 4, 8, 100)] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("free", "expected"),
    [(None, 8), (10**10, 8), (180_300_000, 8), (180_000_000, 7), (64_000_000, 2), (40_000_000, 0), (0, 0)],
)
def test_only_as_many_workers_read_as_their_batches_fit_in_the_shared_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free: int | None, expected: int
) -> None:
    monkeypatch.setattr(hardware, "free_shared_memory", lambda: free)
    assert workers_within_shared_memory(8, 10_000_000) == expected
    assert workers_within_shared_memory(0, 10_000_000) == 0
    if expected == 8:
        assert caplog.messages == []
    else:
        (message,) = caplog.messages
        assert f"continuing with num_workers={expected}" in message
        assert "docker run --shm-size=1g" in message


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_is_bfloat16_on_a_recent_gpu() -> None:
    assert choose_precision("auto", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize("precision", ["float16", "tf32"])
def test_precisions_that_require_cuda_are_refused_on_the_cpu(precision: str) -> None:
    with pytest.raises(UserError, match=rf"precision={precision} requires device=cuda, not cpu"):
        Hardware.choose("cpu", precision)  # type: ignore[arg-type]


def test_every_automatic_choice_can_be_overridden() -> None:
    auto = Hardware.choose("cpu")
    assert (auto.channels_last, auto.compile, auto.fused) == (True, False, True)
    other = Hardware.choose("cpu", "float32", channels_last=False, compile=True, fused=False)
    assert str(other) == "cpu in float32, contiguous, compile"
    assert str(Hardware.choose("cpu", "bfloat16")) == "cpu in bfloat16, channels_last, fused"


def test_a_network_is_placed_in_the_chosen_memory_format() -> None:
    for channels_last in (True, False):
        network = Hardware.choose("cpu", channels_last=channels_last).place(torch.nn.Conv2d(8, 8, 3))
        assert network.weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_training_flop_of_a_convolution() -> None:
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    forward = 2 * 3 * 8 * 9 * 10 * 20
    # The backward pass computes only the gradient of the weights, which costs as much as the forward pass.
    assert training_flop(convolution, (10, 20)) == 2 * forward
    assert next(convolution.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("convolution", "macs"),
    [
        (partial(torch.nn.Conv2d, groups=4), 8 * 4 * 9 * 10 * 20),
        (partial(torch.nn.ConvTranspose2d, groups=1), 16 * 8 * 9 * 10 * 20),
    ],
)
def test_training_flop_of_convolutions_with_groups_and_transposed_ones(
    convolution: Callable[..., torch.nn.Module], macs: int
) -> None:
    first = torch.nn.Conv2d(3, 16, 1, bias=False)
    network = torch.nn.Sequential(first, convolution(16, 8, 3, padding=1, bias=False))
    assert training_flop(network, (10, 20)) == 2 * (2 * 3 * 16 * 10 * 20) + 3 * (2 * macs)


def test_the_measured_peak_is_plausible() -> None:
    assert 1e8 < measured_peak(Hardware.choose("cpu", "float32")) < 1e15


def test_out_of_memory_errors_are_recognized() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    code = """
import resource, torch
from carvana_kedro.segmentation.hardware import keeping_freed_memory
block = keeping_freed_memory()
block.__enter__()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 23)  # 8,192 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(faults) < 20 * 8192 / 2
