"""Notices processes that are lost without a word: no power, no network, or stopped.

The connection to a process that ends is closed, which the others notice at once. In these cases it stays open.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

Lose = Callable[[str], NoReturn]
"""Ends this process because another one is lost. It receives the reason, and may be called in any thread."""

_LEAVING = 30.0
"""Seconds that a process has to end by itself after another one has ended: as many as the launcher allows."""


class Heartbeat:
    """Exchanges messages with all processes every few seconds, in a thread, whatever else they do.

    So a process may wait for another one without limit, as long as that one is alive: it may decode images, or wait for
    a lock. All processes create a heartbeat together, and end it together.

    Args:
        silence: Seconds without a message after which a process is lost.
        lose: Called then. It is called too if this process is still running half a minute after another one has ended.
    """

    def __init__(self, silence: float, lose: Lose) -> None:
        """Connect with the other processes, and start the thread."""
        self._silence, self._lose = silence, lose
        self._ending = threading.Event()
        # A group of its own: messages of a group must not mix, and this one has a time limit.
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=silence))
        assert isinstance(group, dist.ProcessGroup)  # every process is a member
        self._group = group
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait until all processes call this method, and stop."""
        self._ending.set()
        self._thread.join()

    def _beat(self) -> None:
        ended = torch.tensor([0])
        while not ended:
            self._ending.wait(self._silence / 36)
            ended = torch.tensor([int(self._ending.is_set())])
            try:
                dist.all_reduce(ended, dist.ReduceOp.MIN, self._group)
            except RuntimeError as error:
                if "Timed out" in str(error):  # gloo has no class of its own for it
                    self._lose(
                        f"no sign of life for {self._silence:.0f} seconds: the process was stopped, or its machine or "
                        "the network has failed"
                    )
                time.sleep(_LEAVING)
                self._lose(str(error)[:200])


@contextmanager
def within(seconds: float, lose: Lose) -> Iterator[None]:
    """Take the other processes for lost if the block takes longer."""
    timer = threading.Timer(seconds, lose, [f"not all processes have started within {seconds:.0f} seconds"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
