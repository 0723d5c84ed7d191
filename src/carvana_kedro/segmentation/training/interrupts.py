"""Ctrl-C and SIGTERM, remembered until there is a good moment to leave."""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from carvana_kedro.errors import UserError

logger = logging.getLogger(__name__)


class TrainingInterruptedError(UserError):
    """Work was saved and left because a signal asked for it. The message says how to go on."""


class Interrupts:
    """Remembers SIGINT and SIGTERM while its block runs; a second signal acts as it would without it.

    In another thread than the main one, where Python gives no signals, it does nothing.

    >>> with Interrupts() as interrupted:
    ...     interrupted()
    False
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._received = False
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Tell whether a signal has come."""
        return self._received

    def __enter__(self) -> Self:
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in self._SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let signals act as before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        self.__exit__(None, None, None)
        logger.warning(
            "%s: finishing the step and saving. Once more leaves at once.", signal.Signals(number).name
        )
