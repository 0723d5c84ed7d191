"""Worker processes that end with their parent, and threads that compute results in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import TypeVar

from carvana_kedro.stores.machine import usable_cores

S = TypeVar("S")
T = TypeVar("T")


def end_with_parent() -> None:
    """End this worker process as soon as its parent has ended, even if the parent was killed.

    Call it in a process that `multiprocessing` started. Without it, a worker of a killed parent waits forever for its
    next task, or for a read that does not return.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for, args=(parent.sentinel,), daemon=True).start()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block SIGINT, and let it be blocked in processes that are started: Ctrl-C reaches the whole process group.

    Otherwise Ctrl-C would end them with a traceback while they start.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # when it starts later, it unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for(parent: int) -> None:
    wait([parent])
    os._exit(1)  # without cleaning up: nobody is left to receive a result


def map_in_threads(
    function: Callable[[S], T],
    items: Iterable[S],
    *,
    size: Callable[[S], int],
    limit: int,
    prepare: Callable[[], object] | None = None,
    threads: int | None = None,
) -> Iterator[T]:
    """Yield the result of a function for every item, in order.

    Items are taken ahead of their results: up to two per thread, as long as their sizes fit into the limit. If the next
    item cannot be taken, the results of the earlier ones are yielded before the error is raised. If the function fails
    or the iteration ends early, the results in progress are completed, and the others are dropped.

    Args:
        function: Called in the threads. It gains from them where it releases the GIL, as OpenCV, NumPy and zlib do.
        items: Its arguments. They are taken in the thread that iterates.
        size: Returns the size of an item.
        limit: Largest sum of sizes in progress. An item that is larger is processed alone.
        prepare: Called once in each thread.
        threads: Their number; None: one per usable core.
    """
    threads = threads or usable_cores()
    pool = ThreadPoolExecutor(threads, initializer=prepare)
    waiting: deque[tuple[Future[T], int]] = deque()
    try:
        remaining = iter(items)
        while True:
            try:
                item = next(remaining)
            except StopIteration:
                break
            except Exception:
                while waiting:
                    yield waiting.popleft()[0].result()
                raise
            needed = size(item)
            while waiting and (
                len(waiting) >= 2 * threads or needed + sum(taken for _, taken in waiting) > limit
            ):
                yield waiting.popleft()[0].result()
            waiting.append((pool.submit(function, item), needed))
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)
