"""Reads batches, in worker processes or in this one."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
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

T = TypeVar("T")


class Reader(Generic[T]):
    """Reads one batch after another, in worker processes or in this one.

    Workers live as long as the reader does. Only one row of batches is read at a time: asking for another ends the
    one before.

    Args:
        read: positions of images to a batch.
        image_ids: of all images.
        num_workers: processes; 0 reads in this one.
        pin_memory: whether tensors lie where a GPU can fetch them while it computes.
    """

    def __init__(
        self,
        read: Callable[[Iterable[int]], T],
        image_ids: NDArray[np.str_],
        num_workers: int,
        *,
        pin_memory: bool = False,
    ) -> None:
        """Start nothing yet."""
        self._pin_memory = pin_memory
        self._read = read
        self._image_ids = image_ids
        self._workers = num_workers
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
            "`num_workers` to less, or to 0, and in a container allow more shared memory (docker run --shm-size). "
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
