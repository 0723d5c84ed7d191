"""Worker processes that end with their parent."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """End this worker process as soon as its parent has ended, even if the parent was killed.

    Call it in a process that `multiprocessing` started. Without it, a worker of a killed parent waits forever for its
    next task, or for a read that does not return.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for, args=(parent.sentinel,), daemon=True).start()


def _wait_for(parent: int) -> None:
    wait([parent])
    os._exit(1)  # without cleaning up: nobody is left to receive a result
