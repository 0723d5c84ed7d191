"""From stored photographs to batches of tensors."""

import copy
import hashlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Generic, Protocol, Self, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.geometry import Geometry, Size

logger = logging.getLogger(__name__)

T = TypeVar("T")

Batch = tuple[Tensor, Tensor, Tensor]
"""Positions (N,) int64, images (N, h, w, 3) uint8 and targets (N, h, w) uint8, 255 for all car."""


class ImageSource(Protocol):
    """What reads photographs and masks."""

    def size(self, image_id: str) -> Size:
        """Return the photograph's own (height, width)."""

    def read_image(self, image_id: str, at_least: Size | None = None) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB, perhaps a smaller picture that is still good for `at_least`."""

    def read_mask(self, image_id: str) -> np.ndarray:
        """Return (H, W) uint8 of 0 and 1."""


class Rows(Protocol):
    """An array (n, k) uint8, or what can be indexed like one."""

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        """Return some of it."""


Fill = Callable[[NDArray[np.uint8]], None]
Keep = Callable[[str, tuple[int, int], Fill], Rows]
"""`keep(key, shape, fill)` returns rows of this shape that `fill` has filled, now or earlier under the same key."""


class Samples:
    """Images and targets at a network's output size, read when asked.

    Args:
        source: where they are read.
        image_ids: which, in this order.
        geometry: what they are fitted to.
    """

    def __init__(self, source: ImageSource, image_ids: Sequence[str], geometry: Geometry) -> None:
        """Nothing is read yet."""
        self.source = source
        # A list's strings would be copied to every worker, page by page, as it counts its references to them.
        self.image_ids = np.array(image_ids, dtype=np.str_)
        self.geometry = geometry

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def __getitem__(self, position: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read one image (h, w, 3) uint8 and its target (h, w) uint8.

        Raises:
            UserError: one of them cannot be read.
        """
        image_id = str(self.image_ids[position])
        with naming(image_id):
            image = self.source.read_image(image_id, at_least=self.geometry.output_size)
            mask = self.source.read_mask(image_id)
            return self.geometry.fit_image(image), self.geometry.fit_mask(mask)

    def read(self, positions: Iterable[int]) -> Batch:
        """Read a batch, one image after the other.

        Raises:
            UserError: an image or a mask cannot be read.
        """
        order, images, targets = zip(*((position, *self[position]) for position in positions), strict=True)
        return torch.tensor(order), torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets))

    @property
    def nbytes(self) -> int:
        """Bytes that all images and targets take."""
        height, width = self.geometry.output_size
        return len(self) * height * width * 4


def in_memory(key: str, shape: tuple[int, int], fill: Fill) -> NDArray[np.uint8]:
    """Keep pixels in this process."""
    rows = np.empty(shape, np.uint8)
    fill(rows)
    return rows


class CachedSamples:
    """Samples that are all read beforehand and kept, decoded and resized.

    Args:
        samples: what to read.
        keep: what keeps them: a row for each, its image before its target. A file's key need only name the source.

    Raises:
        UserError: an image or a mask cannot be read.
    """

    def __init__(self, samples: Samples, keep: Keep = in_memory) -> None:
        """Read what is not kept yet, in threads: OpenCV and Pillow decode outside Python's lock."""
        self.image_ids = samples.image_ids
        self._size = samples.geometry.output_size
        logger.info("Keeping %d images decoded: %.1f MB", len(samples), samples.nbytes / 1e6)
        height, width = self._size
        which = repr((self._size, self.image_ids.tolist()))
        key = hashlib.sha256(which.encode(errors="surrogatepass")).hexdigest()[:16]
        self._rows = keep(key, (len(samples), height * width * 4), partial(_fill, samples))
        self._places = np.arange(len(samples))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def subset(self, image_ids: Sequence[str]) -> Self:
        """Return some of the samples, in this order, kept where they are."""
        place_of = {image_id: place for place, image_id in enumerate(self.image_ids.tolist())}
        part = copy.copy(self)
        part.image_ids = np.array(image_ids, dtype=np.str_)
        part._places = self._places[[place_of[image_id] for image_id in image_ids]]
        return part

    def read(self, positions: Iterable[int]) -> Batch:
        """Return a batch."""
        order = np.fromiter(positions, np.int64)
        places = self._places[order]
        height, width = self._size
        end = height * width * 3
        images = self._rows[places, :end].reshape(-1, height, width, 3)
        targets = self._rows[places, end:].reshape(-1, height, width)
        return torch.from_numpy(order), torch.from_numpy(images), torch.from_numpy(targets)

    @property
    def in_memory(self) -> bool:
        """Whether they lie in this process."""
        return isinstance(self._rows, np.ndarray)


class Reader(Generic[T]):
    """Reads one batch after another, in worker processes or in this one.

    Workers live as long as the reader does. Only one row of batches is read at a time: asking for another ends the
    one before.

    Args:
        read: positions of images to a batch.
        image_ids: of all images.
        workers: processes; 0 reads in this one.
        pin_memory: whether tensors lie where a GPU can fetch them while it computes.
    """

    def __init__(
        self,
        read: Callable[[Iterable[int]], T],
        image_ids: NDArray[np.str_],
        workers: int,
        *,
        pin_memory: bool = False,
    ) -> None:
        """Start nothing yet."""
        self._pin_memory = pin_memory
        self._read = read
        self._image_ids = image_ids
        self._workers = workers
        self._order: list[NDArray[np.int64]] = []
        self._loader: DataLoader[Any] | None = None

    def __call__(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[T]:
        """Yield the batch of each array of positions, in order.

        Raises:
            UserError: an image cannot be read, or a worker was killed.
        """
        self._order[:] = batches
        try:
            for batch in self._iterator():
                if isinstance(batch, UserError):
                    raise UserError(str(batch)) from batch
                yield batch
            return
        except Exception as error:
            dead = [] if isinstance(error, UserError) else self._dead()
            # Nothing may hold the loader now, no error's traceback either, so that its workers end at once: the garbage
            # collector would take their queues apart first, and torch then wait 5 seconds for each of them.
            self._loader = None
            if not dead:
                raise
        names = ", ".join(self._image_ids[position] if position >= 0 else "no image" for position in dead)
        raise UserError(
            f"A process that reads images was killed or crashed (at {names}). Most often memory has run out: set "
            "`workers` to less, or to 0, and in a container allow more shared memory (docker run --shm-size). "
            "If it is always the same image, its file makes the decoder crash: take it away."
        )

    def _iterator(self) -> Iterator[Any]:
        if self._loader is None:
            # A worker's process and the position that it is at, or -1: the only witness of one that was killed.
            self._at = torch.full((self._workers, 2), -1).share_memory_()
            self._loader = DataLoader(
                _Batchwise(self._read, self._at),
                batch_size=None,  # what is sampled are whole batches
                sampler=self._order,
                num_workers=self._workers,
                persistent_workers=self._workers > 0,
                pin_memory=self._pin_memory,
                worker_init_fn=partial(_begin, self._at),
                generator=torch.Generator(),  # or every iterator would draw a number from the training's own
            )
        if threading.current_thread() is not threading.main_thread():
            return iter(self._loader)
        # Torch's handler raises as soon as a worker dies, in whatever line the program is just then. Without it
        # the batch that never comes is noticed here.
        before = signal.getsignal(signal.SIGCHLD)
        try:
            return iter(self._loader)
        finally:
            signal.signal(signal.SIGCHLD, before)

    def _dead(self) -> list[int]:
        """Return what each dead worker was at."""
        # One that is being killed refuses connections some time before it has ended.
        processes = multiprocessing.active_children()
        ending = wait([process.sentinel for process in processes], timeout=1)
        for process in processes:
            if process.sentinel in ending:
                process.join()
        alive = {process.pid for process in multiprocessing.active_children()}
        return [position for pid, position in self._at.tolist() if pid >= 0 and pid not in alive]


class Batches:
    """Batches of images and targets, epoch by epoch.

    The order is a function of (seed, epoch) alone: nothing has to be remembered to go on in the middle of a run.
    A seed means training: shuffled, and an incomplete last batch is left out, unless it is the only one.

    Args:
        samples: what to read.
        batch_size: images in a batch.
        seed: of the shuffling; None keeps the order and every image.
        workers: processes that read; 0 reads in this one.
        pin_memory: whether a batch lies where a GPU can fetch it while it computes.
    """

    def __init__(
        self,
        samples: Samples | CachedSamples,
        batch_size: int,
        *,
        seed: int | None = None,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """Nothing is read yet."""
        self.image_ids = samples.image_ids
        self.batch_size = batch_size
        self.seed = seed
        # What lies in memory is sooner copied than handed over by another process.
        here = isinstance(samples, CachedSamples) and samples.in_memory
        self._reader = Reader(samples.read, samples.image_ids, 0 if here else workers, pin_memory=pin_memory)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        full, rest = divmod(len(self.image_ids), self.batch_size)
        return full if self._drops_last else full + bool(rest)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from batch `start` on; this ends an epoch that is still under way.

        Raises:
            UserError: an image cannot be read, or a worker was killed.
        """
        order = np.arange(len(self.image_ids))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, number)).permutation(order)
        size = self.batch_size
        return self._reader([order[size * batch : size * (batch + 1)] for batch in range(start, len(self))])

    @property
    def images(self) -> int:
        """Number of images in an epoch."""
        return len(self) * self.batch_size if self._drops_last else len(self.image_ids)

    @property
    def _drops_last(self) -> bool:
        return self.seed is not None and len(self.image_ids) >= self.batch_size


@contextmanager
def naming(image_id: str) -> Iterator[None]:
    """Turn what goes wrong while an image is read into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{image_id} cannot be read: {type(error).__name__}: {error}") from error


class _Batchwise(Dataset[T | UserError]):
    """Batches by their positions. Errors are returned: torch would put a worker's traceback into their text."""

    def __init__(self, read: Callable[[Iterable[int]], T], at: Tensor) -> None:
        self.read = read
        self.at = at

    def __getitem__(self, positions: NDArray[np.int64]) -> T | UserError:
        try:
            return self.read(self._noted(positions.tolist()))
        except UserError as error:
            return error

    def _noted(self, positions: list[int]) -> Iterator[int]:
        worker = get_worker_info()
        for position in positions:
            if worker:
                self.at[worker.id, 1] = position
            yield position
        if worker:
            self.at[worker.id, 1] = -1


def _begin(at: Tensor, worker: int) -> None:
    """Prepare a worker process."""
    # Ctrl-C goes to the whole process group, but is for the parent to answer, which then ends its workers by SIGTERM
    # and may have handlers of its own, inherited here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Not 1: that would wait for OpenCV's threads to end, which a fork leaves behind. Torch sees to its own.
    cv2.setNumThreads(0)
    at[worker, 0] = os.getpid()


def _fill(samples: Samples, rows: NDArray[np.uint8]) -> None:
    def read(position: int) -> None:
        image, target = samples[position]
        rows[position, : image.size] = image.ravel()
        rows[position, image.size :] = target.ravel()

    count = len(samples)
    with ThreadPoolExecutor() as threads:
        done = threads.map(read, range(count))
        for _ in tqdm(done, "Decoding", count, unit=" images", leave=False, disable=None):
            pass
