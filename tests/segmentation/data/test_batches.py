import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.data.reader import Reader
from carvana_kedro.segmentation.data.samples import Batch, CachedSamples, Samples, in_memory
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.pixel_cache import PixelCache
from processes import is_running, wait_until_ended

GEOMETRY = Geometry((32, 48), (32, 48))
IDS = [f"car_{number:02}" for number in range(12)]


@dataclass
class SyntheticImages:
    """Images of one color each; `before[image_id]()` is called before that image is read."""

    before: dict[str, Callable[[], object]] = field(default_factory=dict)

    def size(self, image_id: str) -> tuple[int, int]:
        return 64, 96

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        self.before.get(image_id, lambda: None)()
        return np.full((64, 96, 3), IDS.index(image_id), np.uint8)

    def read_mask(self, image_id: str) -> np.ndarray:
        return np.full((64, 96), IDS.index(image_id) % 2, np.uint8)


@pytest.fixture
def samples(training_images: ImageStore) -> Samples:
    return Samples(training_images, training_images.ids()[:10], GEOMETRY)


@pytest.fixture(autouse=True)
def check_that_workers_have_ended() -> Iterator[None]:
    yield
    for child in multiprocessing.active_children():
        child.join(10)
        assert not child.is_alive()


def _synthetic(before: dict[str, Callable[[], object]] | None = None) -> Samples:
    return Samples(SyntheticImages(before or {}), IDS, GEOMETRY)


def _positions(batches: Batches, epoch: int, start: int = 0) -> list[int]:
    return torch.cat([positions for positions, _, _ in batches.epoch(epoch, start)]).tolist()


def _assert_same(expected: list[Batch], actual: list[Batch]) -> None:
    assert len(expected) == len(actual) > 0
    for one, other in zip(expected, actual, strict=True):
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _fail(error: Exception) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_sample_is_the_resized_image_and_mask(samples: Samples, training_images: ImageStore) -> None:
    image, target = samples[3]
    image_id = training_images.ids()[3]
    assert samples.image_ids[3] == image_id
    assert np.array_equal(image, GEOMETRY.fit_image(training_images.read_image(image_id, (32, 48))))
    assert np.array_equal(target, GEOMETRY.fit_mask(training_images.read_mask(image_id)))


def test_batches_are_uint8(samples: Samples) -> None:
    _, images, targets = next(iter(Batches(samples, 4).epoch(1)))
    assert (images.shape, images.dtype) == ((4, 32, 48, 3), torch.uint8)
    assert (targets.shape, targets.dtype) == ((4, 32, 48), torch.uint8)


def test_without_a_seed_all_images_are_read_in_order(samples: Samples) -> None:
    batches = Batches(samples, 4)
    assert _positions(batches, 1) == list(range(10))
    assert len(batches) == len(list(batches.epoch(1))) == 3


def test_the_order_depends_only_on_seed_and_epoch(samples: Samples) -> None:
    batches = Batches(CachedSamples(samples), 5, seed=1)
    first = _positions(batches, 1)
    assert sorted(first) == list(range(10))
    assert first == _positions(Batches(samples, 5, seed=1), 1)
    assert first != _positions(batches, 2)
    assert first != _positions(Batches(samples, 5, seed=2), 1)


def test_with_a_seed_an_incomplete_batch_is_dropped_unless_it_is_the_only_one(samples: Samples) -> None:
    assert [len(Batches(samples, size, seed=1)) for size in (3, 4, 10, 11)] == [3, 2, 1, 1]
    for size in (3, 4, 10, 11):
        batches = Batches(samples, size, seed=1)
        assert len(list(batches.epoch(1))) == len(batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_can_be_resumed_in_the_middle(num_workers: int) -> None:
    batches = Batches(_synthetic(), 3, seed=1, num_workers=num_workers)
    whole = list(batches.epoch(5))
    _assert_same(whole[2:], list(Batches(_synthetic(), 3, seed=1, num_workers=num_workers).epoch(5, start=2)))
    assert list(batches.epoch(5, start=len(batches))) == []


def test_workers_read_the_same_batches_as_the_current_process(samples: Samples) -> None:
    in_process, in_workers = Batches(samples, 4, seed=1), Batches(samples, 4, seed=1, num_workers=2)
    for epoch in (1, 2):
        _assert_same(list(in_process.epoch(epoch)), list(in_workers.epoch(epoch)))


def test_workers_are_reused_even_if_the_previous_epoch_did_not_finish() -> None:
    batches = Batches(_synthetic(), 2, seed=1, num_workers=2)
    unfinished = batches.epoch(1)
    next(unfinished)
    workers = {child.pid for child in multiprocessing.active_children()}
    assert len(workers) == 2
    assert _positions(batches, 2) == _positions(Batches(_synthetic(), 2, seed=1), 2)
    next(batches.epoch(3))
    del unfinished  # it must not own workers
    assert _positions(batches, 1, 4) == _positions(Batches(_synthetic(), 2, seed=1), 1)[8:]
    assert {child.pid for child in multiprocessing.active_children()} == workers


def test_reading_does_not_use_the_global_random_generator() -> None:
    before = torch.get_rng_state()
    for num_workers in (0, 1):
        list(Batches(_synthetic(), 4, seed=1, num_workers=num_workers).epoch(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_image_ids_are_one_array() -> None:
    # Reference counts of a list's strings would copy its memory pages into every worker.
    samples = _synthetic()
    assert samples.image_ids.tolist() == Batches(samples, 2).image_ids.tolist() == IDS
    assert isinstance(Batches(samples, 2).image_ids, np.ndarray)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_error_names_the_image_that_cannot_be_read(num_workers: int) -> None:
    before = {
        "car_05": _fail(UserError("car_05.jpg is missing.")),
        "car_06": _fail(ValueError("odd")),
        "car_07": _fail(MemoryError()),
    }
    batches = Batches(_synthetic(before), 1, num_workers=num_workers)
    messages = [
        "car_05.jpg is missing.",
        "car_06 cannot be read: ValueError: odd",
        "car_07 cannot be read: MemoryError: ",
    ]
    for start, message in enumerate(messages, 5):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            list(batches.epoch(1, start))
        assert multiprocessing.active_children() == []
    # The batches can still be used.
    assert _positions(batches, 1, 8) == [8, 9, 10, 11]


def test_the_error_names_the_image_of_a_worker_that_was_killed() -> None:
    batches = Batches(_synthetic({"car_04": _die}), 2, num_workers=2)
    with pytest.raises(
        UserError, match=r"killed or crashed \(image: car_04\).*memory.*`num_workers`"
    ) as raised:
        list(batches.epoch(1))
    assert raised.value.__traceback__ is not None
    assert multiprocessing.active_children() == []  # although the error is still referenced


def test_the_death_of_a_worker_raises_only_when_the_next_batch_is_requested() -> None:
    batches = Batches(_synthetic(), 3, num_workers=1)
    epoch = batches.epoch(1)
    next(epoch)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    time.sleep(0.5)  # until the worker is idle
    os.kill(worker.pid, signal.SIGKILL)
    for _ in range(50):
        time.sleep(0.01)  # torch's signal handler would raise here
    with pytest.raises(UserError, match=r"killed or crashed \(image: none\)"):
        list(epoch)
    assert multiprocessing.active_children() == []
    assert _positions(batches, 2) == list(range(12))


def test_workers_ignore_sigint_and_end_on_sigterm(tmp_path: Path) -> None:
    def check_handlers(image_id: str) -> None:
        actions = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        (tmp_path / image_id).write_text(str(actions == [signal.SIG_IGN, signal.SIG_DFL]))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        batches = Batches(_synthetic({"car_00": partial(check_handlers, "car_00")}), 4, num_workers=1)
        assert _positions(batches, 1) == list(range(12))
        assert (tmp_path / "car_00").read_text() == "True"
        (worker,) = multiprocessing.active_children()
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


PARENT = """
import multiprocessing, sys, time
import cv2, numpy as np
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.samples import Samples
from carvana_kedro.segmentation.data.geometry import Geometry

class Source:
    def read_image(self, image_id, at_least=None):
        large = np.zeros((4000, 4000, 3), np.uint8)
        return cv2.cvtColor(cv2.resize(large, (1000, 1000), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    def read_mask(self, image_id):
        assert cv2.getNumThreads() == 1
        return np.zeros((1000, 1000), np.uint8)

# Start OpenCV's threads before the fork.
cv2.setNumThreads(4)
Source().read_image("")
batches = Batches(Samples(Source(), ["a"] * 500, Geometry((8, 8), (8, 8))), 2, seed=1, num_workers=2)
epoch = batches.epoch(1)
next(epoch)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""

STUCK = """
        import os, pathlib
        pathlib.Path(sys.argv[1], str(os.getpid())).touch()
        time.sleep(600)
"""


def test_workers_end_when_their_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        assert all(is_running(pid) for pid in workers)
        parent.kill()
    wait_until_ended(workers)


def test_workers_end_with_their_parent_even_if_a_read_does_not_return(tmp_path: Path) -> None:
    script = PARENT.replace(
        "    def read_mask(self, image_id):", "    def read_mask(self, image_id):\n" + STUCK
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) as parent:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2:
            assert time.monotonic() < deadline, "the workers did not start"
            time.sleep(0.1)
        parent.kill()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    wait_until_ended(workers)


def test_shared_memory_is_released_after_every_batch() -> None:
    batches = Batches(_synthetic(), 2, seed=1, num_workers=2)
    list(batches.epoch(1))
    open_files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for epoch in range(2, 12):
        next(batches.epoch(epoch))
        list(batches.epoch(epoch))
    assert len(os.listdir("/proc/self/fd")) <= open_files + 2  # noqa: PTH208


SMALL_SHARED_MEMORY = """
import sys
import numpy as np, torch
from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.reader import Reader

def read(positions):
    order = list(positions)
    return torch.tensor(order), torch.zeros(len(order), 100_000, dtype=torch.uint8)

reader = Reader(read, np.array(["a"] * 64), 2, image_nbytes=int(sys.argv[1]))
try:
    print(torch.cat([order for order, _ in reader(np.arange(64).reshape(16, 4))]).tolist() == list(range(64)))
except UserError as error:
    print(error)
"""


def _in_small_shared_memory(image_nbytes: int) -> subprocess.CompletedProcess[str]:
    """Read batches of 0.4 MB in 2 workers, with 1 MB of shared memory."""
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    namespace = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    return subprocess.run(
        [*namespace, sys.executable, "-c", SMALL_SHARED_MEMORY, str(image_nbytes)],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def test_batches_that_do_not_fit_in_the_shared_memory_are_read_in_this_process() -> None:
    done = _in_small_shared_memory(100_000)
    assert done.stdout == "True\n"
    assert "Only 1.0 MB of shared memory" in done.stderr
    assert "docker run --shm-size=1g" in done.stderr


def test_shared_memory_that_runs_full_is_an_error() -> None:
    done = _in_small_shared_memory(0)  # as if another process had filled it after the check
    assert "No space left on device" in done.stdout
    assert "`num_workers`, or set it to 0; in a container" in done.stdout
    assert "docker run --shm-size" in done.stdout


def test_a_worker_that_cannot_send_its_batch_is_an_error() -> None:
    reader = Reader(lambda positions: (lambda: 1, list(positions)), np.array(IDS), 2)  # cannot be pickled
    with pytest.raises(UserError, match="killed or crashed"):
        list(reader([np.arange(2)] * 3))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("where", ["memory", "file"])
def test_cached_samples_give_the_same_batches(
    samples: Samples, tmp_path: Path, where: str, num_workers: int
) -> None:
    cache = PixelCache(tmp_path)
    cached = (
        CachedSamples(samples, partial(cache.rows, "source")) if where == "file" else CachedSamples(samples)
    )
    batches = Batches(cached, 4, seed=1, num_workers=num_workers)
    _assert_same(list(Batches(samples, 4, seed=1).epoch(1)), list(batches.epoch(1)))
    # Samples in memory are read without workers, which would only copy them back and forth.
    assert len(multiprocessing.active_children()) == (num_workers if where == "file" else 0)
    (_, images, targets), *_ = batches.epoch(1)
    assert images[0].is_contiguous()
    assert targets[0].is_contiguous()


def test_batches_for_a_gpu_are_gathered_into_pinned_memory(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(Batches(CachedSamples(samples), 4, seed=1).epoch(1))
    empty, pinned = torch.empty, []

    def without_pinning(*size: int, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        tensor = empty(*size, **options)
        pinned.extend([tensor] * pin_memory)
        return tensor

    batches = Batches(CachedSamples(samples), 4, seed=1, pin_memory=True)
    monkeypatch.setattr(torch, "empty", without_pinning)
    found = list(batches.epoch(1))
    _assert_same(expected, found)
    parts = [part for _, *batch in found for part in batch]
    assert [part.data_ptr() for part in parts] == [part.data_ptr() for part in pinned]
    assert all(part.is_contiguous() for part in parts)  # otherwise they would be copied again


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cached_batches_for_a_gpu_are_in_pinned_memory(samples: Samples) -> None:
    expected = list(Batches(samples, 4, seed=1).epoch(1))
    found = list(Batches(CachedSamples(samples), 4, seed=1, pin_memory=True).epoch(1))
    _assert_same(expected, found)
    assert all(part.is_pinned() for _, *batch in found for part in batch)


def test_a_memory_mapped_cache_is_pickled_without_its_pixels(samples: Samples, tmp_path: Path) -> None:
    cached = CachedSamples(samples, partial(PixelCache(tmp_path).rows, "source"))
    content = pickle.dumps(cached)
    assert len(content) < samples.nbytes / 10
    _assert_same([cached.read([3, 1])], [pickle.loads(content).read([3, 1])])


def test_the_size_of_the_cache_is_logged_before_images_are_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    logged: list[str] = []
    before = {"car_00": lambda: logged.extend(caplog.messages), "car_03": _fail(ValueError("odd"))}
    samples = _synthetic(before)
    with pytest.raises(UserError, match="car_03 cannot be read: ValueError: odd"):
        CachedSamples(samples)
    assert logged == caplog.messages == ["Caching 12 decoded images: 0.1 MB"]
    assert samples.nbytes == 12 * 32 * 48 * 4


def test_other_images_and_other_sizes_have_other_cache_files(tmp_path: Path) -> None:
    keep = partial(PixelCache(tmp_path).rows, "source")
    choices = [(IDS, (32, 48)), (IDS[::-1], (32, 48)), (IDS[:6], (32, 48)), (IDS, (48, 32))]
    for ids, size in choices * 2:
        samples = Samples(SyntheticImages(), ids, Geometry(size, size))
        _assert_same([samples.read([0, 5])], [CachedSamples(samples, keep).read([0, 5])])
    assert len(list(tmp_path.glob("*.npy"))) == len(choices)
    # Cached images are not read again.
    CachedSamples(_synthetic({"car_00": _fail(ValueError())}), keep)


def test_images_that_do_not_fit_in_memory_are_refused_before_they_are_read() -> None:
    def fill(rows: object) -> None:
        raise AssertionError("the rows were allocated")

    with pytest.raises(UserError, match=r"Keeping the images in memory needs .* TB, but only"):
        in_memory("key", (1 << 30, 1 << 20), fill)
