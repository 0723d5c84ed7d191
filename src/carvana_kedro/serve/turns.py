"""One photograph is in progress at a time; a bounded number waits."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from carvana_kedro.serve.limits import RefusedError

T = TypeVar("T")


class Turns:
    """The queue of the server.

    Attributes:
        present: Requests that have a place.
        working: Whether a photograph is in progress.
        stopping: Whether the server stops: the work in progress is finished, and no other begins.
    """

    def __init__(self, most: int) -> None:
        """Create an empty queue of `most` places."""
        self.present = 0
        self.working = False
        self.stopping = False
        self._most = most
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "cut")
        self._seconds = 1.0  # that a photograph takes, as a running mean

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue, from before the body of a request is read until its answer is sent.

        Raises:
            RefusedError: There is none, or the server stops.
        """
        self._check_stopping()
        if self.present >= self._most:
            wait = math.ceil(self.present * self._seconds)
            waiting = "1 photograph is" if self.present == 1 else f"{self.present} photographs are"
            raise RefusedError(503, f"{waiting} waiting already. Try again later.", wait)
        self.present += 1
        try:
            yield
        finally:
            self.present -= 1

    async def work(self, function: Callable[[], T], is_gone: Callable[[], Awaitable[bool]]) -> T:
        """Call a function in the thread for work when it is its turn, and return its result.

        Args:
            function: The work.
            is_gone: Returns whether the client has closed the connection, so that the work is not needed.

        Raises:
            RefusedError: The server stops, or the client is gone.
        """
        await self._turn.acquire()
        try:
            self._check_stopping()
            if await is_gone():
                raise RefusedError(400, "The client closed the connection.")
            result = asyncio.get_running_loop().run_in_executor(self._thread, self._timed, function)
        except BaseException:
            self._turn.release()
            raise
        # Also if the request is given up, the next one waits until the thread is free.
        result.add_done_callback(lambda _: self._turn.release())
        return await asyncio.shield(result)

    def _timed(self, function: Callable[[], T]) -> T:
        start = time.monotonic()
        self.working = True
        try:
            return function()
        finally:
            self.working = False
            self._seconds += 0.2 * (time.monotonic() - start - self._seconds)

    def _check_stopping(self) -> None:
        if self.stopping:
            raise RefusedError(503, "The server is stopping.", 10)
