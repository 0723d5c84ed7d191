import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data import cache
from carvana_kedro.segmentation.data.cache import Cache, CacheName, choose_cache, on_device
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.data.samples import CachedSamples, Samples
from carvana_kedro.stores import machine
from carvana_kedro.stores.images.competition import ImageStore

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GEOMETRY = Geometry((5, 7), (5, 7))


class NumberedImages:
    """An image and a mask of random pixels per id; counts how often each is read."""

    def __init__(self) -> None:
        self.reads: list[str] = []

    def size(self, image_id: str) -> tuple[int, int]:
        return 5, 7

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        self.reads.append(image_id)
        return np.random.default_rng(int(image_id)).integers(0, 256, (5, 7, 3), np.uint8)

    def read_mask(self, image_id: str) -> np.ndarray:
        return np.random.default_rng(int(image_id)).integers(0, 2, (5, 7), np.uint8)


def _ids(count: int) -> list[str]:
    return [str(number) for number in range(count)]


@pytest.fixture
def pretend_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int | None], None]:
    def pretend(of_device: int, of_machine: int | None) -> None:
        monkeypatch.setattr(cache, "free_memory", lambda device: of_device)
        monkeypatch.setattr(cache, "available_memory", lambda: of_machine)

    return pretend


@pytest.mark.parametrize(
    ("device", "of_device", "of_machine", "choice"),
    [
        (GPU, 1001, 0, "device"),
        (GPU, 1000, 501, "memory"),
        (GPU, 1000, 500, "none"),
        (GPU, 0, None, "none"),
        (CPU, 10**9, 1001, "memory"),
        (CPU, 10**9, 1000, "none"),
        (CPU, 10**9, None, "none"),
    ],
)
def test_auto_prefers_the_device_then_the_memory_of_the_machine(
    pretend_memory: Callable[[int, int | None], None],
    caplog: pytest.LogCaptureFixture,
    device: torch.device,
    of_device: int,
    of_machine: int | None,
    choice: str,
) -> None:
    caplog.set_level("INFO")
    pretend_memory(of_device, of_machine)
    assert choose_cache(400, device) == choice
    (message,) = caplog.messages
    assert message.startswith(f"cache=auto: {choice}. Decoded, the images take 400 B of ")


@pytest.mark.parametrize(("of_machine", "choice"), [(2001, "memory"), (2000, "none")])
def test_auto_counts_the_memory_of_every_process(
    pretend_memory: Callable[[int, int | None], None], of_machine: int, choice: str
) -> None:
    pretend_memory(0, of_machine)
    assert choose_cache(400, CPU, processes=2) == choice


@pytest.mark.parametrize("name", ["memory", "device"])
def test_a_cache_in_memory_needs_it_for_every_process_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, name: CacheName
) -> None:
    arguments = NumberedImages(), _ids(4), GEOMETRY, CPU
    needed = Samples(*arguments[:3]).nbytes
    monkeypatch.setattr(machine, "available_memory", lambda: 2 * needed - 1)
    assert Cache(name, processes=1).choose(*arguments) == name
    with pytest.raises(UserError, match="memory in each of 2 processes needs"):
        Cache(name, processes=2).choose(*arguments)
    monkeypatch.setattr(machine, "available_memory", lambda: 2 * needed)
    assert Cache(name, processes=2).choose(*arguments) == name
    assert arguments[0].reads == []


@pytest.mark.parametrize("name", ["auto", "none", "memory", "memmap", "device"])
@pytest.mark.parametrize("count", [1, 9])
def test_every_cache_has_the_pixels_of_the_source(name: CacheName, count: int) -> None:
    source = NumberedImages()
    everything = Cache(name).samples(source, _ids(count), GEOMETRY, CPU)
    assert isinstance(everything, Samples) == (name == "none")
    order = [*reversed(_ids(count)), "0"]  # another order, one of them twice
    positions, images, targets = everything.subset(order).read([0, count])
    assert positions.tolist() == [0, count]
    for number, image_id in enumerate((order[0], order[count])):
        assert np.array_equal(images[number], source.read_image(image_id))
        assert np.array_equal(targets[number], 255 * source.read_mask(image_id))


@pytest.mark.parametrize("name", ["memory", "device"])
def test_runs_with_the_same_images_share_what_was_decoded(name: CacheName) -> None:
    source, shared = NumberedImages(), Cache(name)
    first = shared.samples(source, _ids(4), GEOMETRY, CPU)
    assert shared.samples(source, _ids(4), GEOMETRY, CPU) is first
    assert sorted(source.reads) == _ids(4)
    other = shared.samples(source, _ids(3), GEOMETRY, CPU)
    assert len(other) == 3


def test_the_choice_of_auto_holds_for_all_runs_that_share_the_cache(
    pretend_memory: Callable[[int, int | None], None],
) -> None:
    shared = Cache("auto")
    pretend_memory(0, 10**9)
    first = shared.samples(NumberedImages(), _ids(4), GEOMETRY, CPU)
    pretend_memory(0, 0)  # the images take the memory now
    assert isinstance(first, CachedSamples)
    assert shared.samples(NumberedImages(), _ids(4), GEOMETRY, CPU) is first


def test_the_memory_is_free_when_the_cache_is_gone() -> None:
    shared = Cache("memory")
    samples = shared.samples(NumberedImages(), _ids(4), GEOMETRY, CPU)
    assert isinstance(samples, CachedSamples)
    rows, part = weakref.ref(samples._rows), samples.subset(["1"])
    gc.disable()
    try:
        del shared, samples
        assert rows() is not None
        del part
        assert rows() is None
    finally:
        gc.enable()


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 200))
def test_a_device_is_filled_in_chunks_of_a_bounded_size(count: int, length: int, chunk: int) -> None:
    expected = np.random.default_rng(0).integers(0, 256, (count, length), np.uint8)
    sizes = []

    def fill(rows: np.ndarray, first: int = 0) -> None:
        sizes.append(rows.nbytes)
        rows[:] = expected[first : first + len(rows)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_CHUNK", chunk)
        rows = on_device(CPU, "key", (count, length), fill)
    assert np.array_equal(rows.numpy(), expected)
    assert max(sizes) <= max(chunk, length)


def test_decoding_in_chunks_gives_the_same_samples(
    training_images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = Samples(training_images, training_images.ids()[:7], Geometry((33, 47), (33, 47)))
    monkeypatch.setattr(cache, "_CHUNK", 3 * samples.image_nbytes)
    kept = CachedSamples(samples, lambda *arguments: on_device(CPU, *arguments))
    for one, other in zip(samples.read(range(7)), kept.read(range(7)), strict=True):
        assert torch.equal(one, other)


def test_a_device_without_enough_memory_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cache, "free_memory", lambda device: 5_000_000_000)
    monkeypatch.setattr(torch, "empty", refuse)
    message = (
        r"memory of cuda:0 needs 14\.0 GB, but only 5\.0 GB is free.*cache=memory.*cache=auto.*input_size"
    )
    with pytest.raises(UserError, match=message):
        on_device(GPU, "key", (5000, 2_800_000), lambda rows, first=0: None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_keeps_and_gathers_the_samples(training_images: ImageStore) -> None:
    samples = Samples(training_images, training_images.ids()[:7], Geometry((33, 47), (33, 47)))
    kept = Cache("device").samples(training_images, samples.image_ids.tolist(), samples.geometry, GPU)
    for _, *expected in (samples.read([6, 0, 6]),):
        positions, *gathered = kept.read([6, 0, 6])
        assert positions.device == CPU
        for one, other in zip(expected, gathered, strict=True):
            assert other.device == GPU
            assert torch.equal(one, other.cpu())
    with pytest.raises(UserError, match="cache=memory"):
        on_device(GPU, "key", (1 << 20, 1 << 30), lambda rows, first=0: None)
