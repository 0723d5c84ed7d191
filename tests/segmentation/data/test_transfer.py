from contextlib import contextmanager
from typing import Any

import pytest
import torch

from carvana_kedro.segmentation.data.transfer import Upload, copy_async

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_a_tensor_that_is_on_the_device_is_not_copied() -> None:
    tensor = torch.arange(3)
    assert copy_async(tensor, CPU) is tensor
    assert Upload(CPU)(tensor, tensor)[1] is tensor


class Stream:
    """Stands for a CUDA stream: it remembers what was submitted to it."""

    def __init__(self) -> None:
        self.submitted: list[str] = []

    def wait_stream(self, other: "Stream") -> None:
        self.submitted.append(f"wait for {', '.join(other.submitted)}")


class Pinned:
    """Stands for a tensor: copies are submitted to the current stream, and their memory belongs to it."""

    device = CPU

    def __init__(self, name: str, streams: list[Stream]) -> None:
        self.name, self.streams = name, streams

    def to(self, device: torch.device, *, non_blocking: bool) -> Any:
        assert non_blocking
        self.streams[-1].submitted.append(f"copy {self.name}")
        return Copied(self.streams[-1])


class Copied:
    device = GPU

    def __init__(self, owner: Stream) -> None:
        self.owner = owner
        self.used_on: list[Stream] = []

    def record_stream(self, stream: Stream) -> None:
        self.used_on.append(stream)


def test_a_gpu_receives_batches_on_another_stream_and_the_computation_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computing, copying = Stream(), Stream()
    streams = [computing]

    @contextmanager
    def within(stream: Stream) -> Any:
        streams.append(stream)
        yield
        streams.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copying)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[-1])
    upload: Any = Upload(GPU)
    computing.submitted.append("compute")
    copies = upload(Pinned("images", streams), Pinned("targets", streams))
    assert copying.submitted == ["copy images", "copy targets"]
    assert computing.submitted == ["compute", "wait for copy images, copy targets"]
    for copied in copies:  # the memory is not used again before the computation has ended
        assert copied.owner is copying
        assert copied.used_on == [computing]


@pytest.mark.gpu
@needs_gpu
def test_batches_arrive_whole_on_a_busy_gpu() -> None:
    upload, work = Upload(GPU), torch.randn(2048, 2048, device=GPU)
    for number in range(50):
        for _ in range(5):
            work = (work @ work).tanh()
        pinned = torch.empty(4_000_000, dtype=torch.uint8, pin_memory=True)
        pinned.fill_(number)
        (batch,) = upload(pinned)
        del pinned  # the next one must not be written into the same memory too early
        small = copy_async(torch.tensor([number]), GPU)
        assert bool((batch == small).all())
