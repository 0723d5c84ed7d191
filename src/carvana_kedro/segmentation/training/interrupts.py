"""Records SIGINT (Ctrl-C) and SIGTERM, so that training can save its state before it stops."""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from carvana_kedro.errors import UserError

logger = logging.getLogger(__name__)


class TrainingInterruptedError(UserError):
    """Training saved its state and stopped because of a signal. The message says how to resume."""


class Interrupts:
    """Context manager that records SIGINT and SIGTERM. A second signal is handled as it would be outside of the block.

    Outside the main thread, where Python does not deliver signals, it does nothing.

    Args:
        then: Called at the first signal.

    >>> with Interrupts() as interrupted:
    ...     interrupted()
    False
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self._then = then
        self._received = False
        self._previous_handlers: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Return whether a signal was received."""
        return self._received

    def __enter__(self) -> Self:
        """Install the signal handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {
                number: signal.signal(number, self._record) for number in self._SIGNALS
            }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous signal handlers."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        self._restore()  # for the second signal
        logger.warning(
            "%s: finishing the step and saving. A second signal stops at once.", signal.Signals(number).name
        )
        self._then()
