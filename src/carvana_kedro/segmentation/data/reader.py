"""Reads batches in worker processes or in the current process."""

import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.hardware import workers_within_shared_memory
from carvana_kedro.stores.processes import end_with_parent

T = TypeVar("T")


class Reader(Generic[T]):
    """Reads batches in worker processes or in the current process.

    The worker processes live as long as the reader. A reader reads one sequence of batches at a time: a new call ends
    the previous one.

    Args:
        read: Function that reads the images at the given positions and returns a batch.
        image_ids: Ids of all images, for error messages.
        num_workers: Number of worker processes; 0 reads in the current process. There are fewer, and a warning, if the
            shared memory cannot hold their batches.
        image_nbytes: Bytes of one image in a batch.
        pin_memory: Whether tensors are placed in pinned memory, which speeds up the copy to a GPU.
    """

    def __init__(
        self,
        read: Callable[[Iterable[int]], T],
        image_ids: NDArray[np.str_],
        num_workers: int,
        *,
        image_nbytes: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """Store the arguments; the first call starts the workers."""
        self._pin_memory = pin_memory
        self._read = read
        self._image_ids = image_ids
        self._num_workers = num_workers
        self._image_nbytes = image_nbytes
        self._order: list[NDArray[np.int64]] = []
        self._loader: DataLoader[Any] | None = None

    def __call__(self, batches: Sequence[NDArray[np.int64]]) -> Generator[T]:
        """Read batches in the given order.

        Args:
            batches: Positions of the images of each batch, one array `(N,)` per batch.

        Yields:
            What `read` returns for each array.

        Raises:
            UserError: An image cannot be read, a worker process was killed, or the shared memory is full.
        """
        self._order[:] = batches
        try:
            for batch in self._iterator():
                if isinstance(batch, UserError):
                    raise UserError(str(batch)) from batch
                yield batch
            return
        except Exception as error:
            dead = [] if isinstance(error, UserError) else self._positions_of_dead_workers()
            # Release the last reference to the loader here, outside of any traceback, so that its workers end at once.
            # The garbage collector might destroy their queues first; torch would then wait 5 seconds per worker.
            self._loader = None
            if not dead:
                raise
        names = ", ".join(self._image_ids[position] if position >= 0 else "none" for position in dead)
        raise UserError(
            f"A process that reads images was killed or crashed (image: {names}). The usual cause is too little "
            "memory: lower the parameter `num_workers`, or set it to 0; in a container, allow more shared memory "
            "(docker run --shm-size). If it is always the same image, its file crashes the decoder: remove the file."
        )

    def _iterator(self) -> Iterator[Any]:
        """Return an iterator over the batches. The first call creates the loader."""
        if self._loader is None:
            largest = max(map(len, self._order), default=0) * self._image_nbytes
            num_workers = workers_within_shared_memory(self._num_workers, largest)
            # One row per worker: its process id, and the position it is reading or -1. Shared memory survives a worker
            # that is killed, so it tells which image the worker was reading.
            with _shared_memory_errors():
                self._workers = torch.full((num_workers, 2), -1).share_memory_()
            self._loader = DataLoader(
                _BatchDataset(self._read, self._workers),
                batch_size=None,  # each item of the data set is a whole batch
                sampler=self._order,
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                pin_memory=self._pin_memory,
                worker_init_fn=partial(_init_worker, self._workers),
                generator=torch.Generator(),  # otherwise every iterator draws from the global generator
            )
        if threading.current_thread() is not threading.main_thread() or not hasattr(
            signal, "SIGCHLD"
        ):  # Windows
            with _shared_memory_errors():
                return iter(self._loader)
        # Torch installs a SIGCHLD handler that raises as soon as a worker dies, wherever the main thread is at that
        # moment. Restore the previous handler: the loader also raises when it waits for a batch of a dead worker.
        previous_handler = signal.getsignal(signal.SIGCHLD)
        try:
            with _shared_memory_errors():
                return iter(self._loader)
        finally:
            signal.signal(signal.SIGCHLD, previous_handler)

    def _positions_of_dead_workers(self) -> list[int]:
        """Return the position that each dead worker was reading, or -1 if it was reading none."""
        # A worker that is being killed refuses connections shortly before its process ends: wait for the end.
        processes = multiprocessing.active_children()
        ended = wait([process.sentinel for process in processes], timeout=1)
        for process in processes:
            if process.sentinel in ended:
                process.join()
        alive = {process.pid for process in multiprocessing.active_children()}
        return [position for pid, position in self._workers.tolist() if pid >= 0 and pid not in alive]


class _BatchDataset(Dataset[T | UserError]):
    """Data set whose items are whole batches.

    A `UserError` is returned instead of raised: torch would add the worker's traceback to its message.
    """

    def __init__(self, read: Callable[[Iterable[int]], T], workers: Tensor) -> None:
        self.read = read
        self.workers = workers

    def __getitem__(self, positions: NDArray[np.int64]) -> T | UserError:
        try:
            batch = self.read(self._recorded(positions.tolist()))
            if get_worker_info():
                _share(batch)
            return batch
        except UserError as error:
            return error

    def _recorded(self, positions: list[int]) -> Iterator[int]:
        """Yield the positions and record which one this worker is reading."""
        worker = get_worker_info()
        for position in positions:
            if worker:
                self.workers[worker.id, 1] = position
            yield position
        if worker:
            self.workers[worker.id, 1] = -1


def _share(batch: object) -> None:
    """Move the tensors of a batch into shared memory.

    Torch would do the same in a thread of the worker, where an error is printed and the parent waits forever.

    Raises:
        UserError: The shared memory is full.
    """
    with _shared_memory_errors():
        for value in batch if isinstance(batch, tuple) else (batch,):
            if isinstance(value, Tensor):
                value.share_memory_()


@contextmanager
def _shared_memory_errors() -> Iterator[None]:
    """Convert errors of shared memory, semaphores and new processes to a `UserError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"The processes that read images cannot pass on their batches: {error}. Lower the parameter `num_workers`, "
            "or set it to 0; in a container, allow more shared memory (docker run --shm-size=2g)."
        ) from error


def _end_worker(error: Exception, item: object) -> None:
    """End a worker that cannot send a batch. The parent notices that, but it would wait forever for the batch."""
    os._exit(1)


def _init_worker(workers: Tensor, worker: int) -> None:
    """Set the signal handlers and threads of a worker process and record its process id."""
    # Ctrl-C reaches the whole process group. The parent handles it and ends its workers by SIGTERM; the worker must
    # not run the handlers that it inherited from the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Not 1: OpenCV would wait for threads of the parent, which do not exist after a fork. Torch sets its own threads.
    cv2.setNumThreads(0)
    end_with_parent()  # torch looks for the parent only between batches
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    workers[worker, 0] = os.getpid()
