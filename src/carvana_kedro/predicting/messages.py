"""Processes that do work for this one: how they start, what they tell, and how their log and errors get here."""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NoReturn

from carvana_kedro.errors import UserError
from carvana_kedro.stores.processes import interrupts_blocked

# In seconds.
_PATIENCE = 10  # a process that has finished its work, or whose connection has ended, has to end by itself
_ENDS_WITHIN = 20  # a process that was told to end


@dataclass
class Worker:
    """A started process, as the one that started it sees it."""

    process: SpawnProcess
    connection: Connection

    @classmethod
    def start(cls, main: Callable[..., object], *args: object, name: str) -> "Worker":
        """Start a process; `started` calls it. Its log comes here, and so does the error if it fails: see `messages`.

        Args:
            main: Its main function. It is called with its `Parent`, which is this process, and the other arguments.
            args: The other arguments.
            name: Of the process.
        """
        level = logging.getLogger(__package__).getEffectiveLevel()
        context = multiprocessing.get_context("spawn")  # a process with CUDA or threads must not be forked
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, level, main, args), name=name, daemon=False)
        with _start_method_kept():
            process.start()
        theirs.close()  # so that the end of the process ends the connection
        return cls(process, ours)

    def send(self, content: bytes) -> None:
        """Send bytes. If the process has ended, `messages` says why."""
        with suppress(OSError):
            self.connection.send_bytes(content)

    def close(self) -> None:
        """Release what the process holds here. If it has not ended some time after it was told to, it is killed."""
        self.process.join(_ENDS_WITHIN)
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


@contextmanager
def started(
    start: Callable[[int], Worker], count: int, content: bytes, died: Callable[[str], UserError]
) -> Iterator[tuple[list[Worker], Iterator[tuple[str, Any]]]]:
    """Start processes, send them their work, and wait until all are ready. They end with the block.

    Args:
        start: Starts the process of a number.
        count: Number of processes.
        content: The work, pickled.
        died: See `messages`.

    Yields:
        The processes, and what they tell: see `messages`.
    """
    workers: list[Worker] = []
    finished = False
    try:
        with interrupts_blocked():
            for number in range(count):
                workers.append(start(number))
        for each in workers:  # now, because they take seconds to be able to receive it
            each.send(content)
        found = messages(workers, died)
        for _ in workers:
            next(found)  # it is ready
        yield workers, found
        finished = True
    finally:
        for each in workers:
            if finished:
                each.process.join(_PATIENCE)
            each.process.terminate()
        for each in workers:
            each.close()


def messages(workers: Sequence[Worker], died: Callable[[str], UserError]) -> Iterator[tuple[str, Any]]:
    """Yield what processes tell, until all have finished. Their log goes to the log of this one.

    Args:
        workers: The processes.
        died: Returns the error for a process that ended before its work, from the cause, such as "was killed by
            SIGKILL".

    Raises:
        Exception: What was raised in a process.
        UserError: A process died.
    """
    working = {worker.connection: worker.process for worker in workers}
    logged: set[tuple[str, str]] = set()
    while working:
        for connection in wait(list(working)):
            assert isinstance(connection, Connection)
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):
                raise died(_cause(working[connection])) from None
            if kind == "log":
                _log(content, logged)
            elif kind == "error":
                raise content
            elif kind == "finished":
                del working[connection]
            else:
                yield kind, content


class Parent:
    """The way to the process that started this one. Several threads may use it.

    Args:
        connection: To that process.

    Attributes:
        gone: Called with the exit status when that process has ended, to end this one.
    """

    def __init__(self, connection: Connection) -> None:
        self.gone: Callable[[int], NoReturn] = os._exit
        self._connection = connection
        self._lock = threading.Lock()

    def receive(self) -> Any:
        """Wait for what the parent sends."""
        try:
            return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            self.gone(1)

    def tell(self, kind: str, content: Any = None) -> None:
        """Send a message."""
        message = pickle.dumps((kind, content))
        with self._lock:
            try:
                self._connection.send_bytes(message)
            except OSError:
                self.gone(1)

    def log_here(self, level: int) -> None:
        """Let the parent log what this process logs, from this level on."""
        root = logging.getLogger()
        root.handlers[:] = [_LogOfParent(self)]  # type: ignore[arg-type]
        root.setLevel(level)
        logging.captureWarnings(True)


def _work(connection: Connection, level: int, main: Callable[..., object], args: Sequence[object]) -> None:
    """Call the main function of a process, in that process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = Parent(connection)
    parent.log_here(level)
    try:
        main(parent, *args)
    except BaseException as error:
        parent.tell("error", for_parent(error))
    else:
        parent.tell("finished")


class _LogOfParent(QueueHandler):
    """Sends log records to the parent."""

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.tell("log", record)  # type: ignore[attr-defined]


def for_parent(error: BaseException) -> BaseException:
    """Return an error that the parent can raise, with the traceback of this process unless it is the user's."""
    copy: BaseException
    if isinstance(error, UserError):
        copy = UserError(str(error))
        for note in getattr(error, "__notes__", ()):
            copy.add_note(note)
        return copy
    text = "".join(traceback.format_exception(error))
    copy = RuntimeError(repr(error))  # a SystemExit would end the parent, perhaps as a success
    if isinstance(error, Exception):
        with suppress(Exception):  # any error may need other arguments than it keeps
            copy = pickle.loads(pickle.dumps(error))
    copy.add_note(f"In a process that predicts:\n{text}")
    return copy


def _log(record: logging.LogRecord, logged: set[tuple[str, str]]) -> None:
    """Log what a process has logged. The information that several give, as when they start, is logged once."""
    logger, key = logging.getLogger(record.name), (record.name, record.getMessage())
    if not logger.isEnabledFor(record.levelno) or key in logged:
        return
    if record.levelno <= logging.INFO:
        logged.add(key)
    logger.handle(record)


def _cause(process: SpawnProcess) -> str:
    process.join(_PATIENCE)
    code = process.exitcode or 0
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"


@contextmanager
def _start_method_kept() -> Iterator[None]:
    """Leave open how processes are started by default, if it is open. Starting one would decide it."""
    before = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        if before is None:
            multiprocessing.set_start_method(None, force=True)
