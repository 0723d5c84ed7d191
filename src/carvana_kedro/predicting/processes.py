"""Several processes of this machine that predict shards, each on its own GPU or with its share of the cores."""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Literal

import cv2
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.predicting.work import Job, Work
from carvana_kedro.segmentation.hardware import choose_device
from carvana_kedro.segmentation.prediction import onnx
from carvana_kedro.stores.machine import share_cores, usable_cores
from carvana_kedro.stores.predictions import Shard
from carvana_kedro.stores.processes import end_with_parent

logger = logging.getLogger(__name__)

_PATIENCE = 10  # seconds that a process which has finished its work has to end by itself
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def number_of_processes(devices: int | Literal["auto"], device: str, engine: str = "torch") -> int:
    """Return how many processes predict.

    Args:
        devices: Their number; `auto`: one for each GPU, and one on a CPU.
        device: Of `Predictor`.
        engine: Of `Predictor`.

    Raises:
        UserError: There are fewer GPUs, or the machine does not have the device.
    """
    if devices == 1:
        return 1
    kind = _kind_of_device(device, engine)
    gpus = torch.cuda.device_count() if kind == "cuda" else 1
    if devices == "auto":
        return gpus
    if kind != "cpu" and devices > gpus:
        raise UserError(
            f"inference.devices={devices}: PyTorch finds only {gpus} on this machine (device={kind}). Choose at most "
            f"{gpus}, or auto for all."
        )
    return devices


def _kind_of_device(device: str, engine: str) -> str:
    if engine == "onnxruntime":
        return onnx.choose_device(device)
    return choose_device(device).type  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Surroundings:
    """What is different in a process from the one that started it.

    Attributes:
        processes: How many share the machine.
        threads: In which PyTorch computes.
        gpu: What CUDA_VISIBLE_DEVICES becomes, so that this GPU is the only one; None: it stays.
        level: Of the log.
    """

    processes: int
    threads: int
    gpu: str | None
    level: int


@dataclass
class _Rank:
    """A started process, as the one that started it sees it."""

    process: SpawnProcess
    connection: Connection


@contextmanager
def started(
    work: Work, jobs: Mapping[int, Job], count: int, on_image: Callable[[], object]
) -> Iterator[Iterator[tuple[int, Shard]]]:
    """Start processes that predict shards, and wait until they are ready. They end with the block.

    Shards are dealt by number. The processes log through this one, which needs no signal handlers: Ctrl-C raises an
    error here, and if this process is killed, the others notice that it has ended.

    Args:
        work: What the shards are predicted with.
        jobs: The images of each shard, by its number.
        count: Number of processes.
        on_image: Called after each image, in this process.

    Yields:
        An iterator over the numbers of the shards and the shards, each as soon as it is written. The processes begin
        when the iteration begins.

    Raises:
        UserError: As `Work.build_predictor` and `predict` in a process; or a process was killed.
    """
    ranks: list[_Rank] = []
    finished = False
    logger.info("Starting %d processes that predict", count)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # what training has left belongs to this process, and would be missing in the others
    try:
        with _start_method_kept(), _interrupts_blocked():
            for rank in range(count):
                ranks.append(_start(rank, count, work))
        # Not with multiprocessing's own pickler, with which torch would move the weights to shared memory.
        content = pickle.dumps(work)
        _send([(rank, content) for rank in ranks])
        messages = _messages(ranks)
        for _ in ranks:
            next(messages)  # it is ready
        yield _results(ranks, jobs, messages, on_image)
        finished = True
    finally:
        for each in ranks:
            if finished:
                each.process.join(_PATIENCE)
            each.process.kill()
        for each in ranks:
            each.process.join()
            each.process.close()
            each.connection.close()


def _start(rank: int, count: int, work: Work) -> _Rank:
    """Start the process of a rank, without its work: it takes seconds to be able to receive it."""
    on_gpu = _kind_of_device(work.predictor["device"], work.predictor["engine"]) == "cuda"
    surroundings = _Surroundings(
        processes=count,
        threads=_threads(torch.get_num_threads(), count),
        gpu=_visible_gpus()[rank] if on_gpu else None,
        level=logging.getLogger(__package__).getEffectiveLevel(),
    )
    context = multiprocessing.get_context("spawn")  # a process with CUDA or threads must not be forked
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_predict, args=(theirs, surroundings), name=f"predict-{rank}", daemon=False
    )
    process.start()
    theirs.close()  # so that the end of the process ends the connection
    return _Rank(process, ours)


def _threads(threads: int, count: int) -> int:
    """Return how many threads each process gets of those that one process would use: its share, but not one of several.

    With one thread, PyTorch has other code for convolutions of 1 x 1, and their sums differ in the last bit. From two
    threads on, their number does not change a result.
    """
    return max(min(threads, 2), threads // count)


def _visible_gpus() -> list[str]:
    """Return how CUDA_VISIBLE_DEVICES calls each of the GPUs that PyTorch finds."""
    named = os.environ.get(_VISIBLE)
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT, and let it be blocked in processes that are started: Ctrl-C reaches the whole process group."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _start_method_kept() -> Iterator[None]:
    """Leave open how processes are started by default, if it is open. Starting one would decide it."""
    before = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        if before is None:
            multiprocessing.set_start_method(None, force=True)


def _send(contents: Sequence[tuple[_Rank, bytes]]) -> None:
    for rank, content in contents:
        with suppress(OSError):  # the process has ended: `_messages` says why
            rank.connection.send_bytes(content)


def _results(
    ranks: Sequence[_Rank],
    jobs: Mapping[int, Job],
    messages: Iterator[tuple[str, Any]],
    on_image: Callable[[], object],
) -> Iterator[tuple[int, Shard]]:
    """Deal the shards to the processes, and yield those that are written."""
    numbers = list(jobs)
    dealt = [{number: jobs[number] for number in numbers[rank :: len(ranks)]} for rank in range(len(ranks))]
    _send([(rank, pickle.dumps(part)) for rank, part in zip(ranks, dealt, strict=True)])
    for kind, content in messages:
        if kind == "image":
            on_image()
        else:
            yield content


def _messages(ranks: Sequence[_Rank]) -> Iterator[tuple[str, Any]]:
    """Yield what the processes report, until all have finished. Their log goes to the log of this one.

    Raises:
        Exception: What was raised in a process.
        UserError: A process was killed.
    """
    working = {rank.connection: rank.process for rank in ranks}
    logged: set[tuple[str, str]] = set()
    while working:
        for connection in wait(list(working)):
            assert isinstance(connection, Connection)
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):
                raise _death(working[connection], len(ranks)) from None
            if kind == "log":
                _log(content, logged)
            elif kind == "error":
                raise content
            elif kind == "finished":
                del working[connection]
            else:
                yield kind, content


def _log(record: logging.LogRecord, logged: set[tuple[str, str]]) -> None:
    """Log what a process has logged. What several say is logged once."""
    logger, key = logging.getLogger(record.name), (record.name, record.getMessage())
    if key not in logged and logger.isEnabledFor(record.levelno):
        logged.add(key)
        logger.handle(record)


def _death(process: SpawnProcess, count: int) -> UserError:
    process.join(_PATIENCE)
    code = process.exitcode or 0
    cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    return UserError(
        f"One of the {count} processes that predict {cause}. The usual cause is too little memory: lower "
        "inference.batch_size or inference.devices. Finished shards are kept: the same command continues."
    )


def _predict(connection: Connection, surroundings: _Surroundings) -> None:
    """Do the work that the parent sends: the main function of a process."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = _Parent(connection)
    try:
        _settle(surroundings, parent)
        work: Work = parent.receive()
        predictor = work.build_predictor()
        parent.tell("ready")
        jobs: Mapping[int, Job] = parent.receive()
        for result in work.run(predictor, jobs, on_image=lambda: parent.tell("image")):
            parent.tell("shard", result)
    except BaseException as error:
        parent.tell("error", _for_parent(error))
    else:
        parent.tell("finished")


class _Parent:
    """The way to the process that started this one, for several threads. Once that has ended, this one ends too."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def receive(self) -> Any:
        """Wait for what the parent sends."""
        try:
            return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)

    def tell(self, kind: str, content: Any = None) -> None:
        """Send a message."""
        message = pickle.dumps((kind, content))
        with self._lock:
            try:
                self._connection.send_bytes(message)
            except OSError:
                os._exit(1)


class _LogOfParent(QueueHandler):
    """Sends log records to the parent."""

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.tell("log", record)  # type: ignore[attr-defined]


def _settle(surroundings: _Surroundings, parent: _Parent) -> None:
    """Take this process's share of the machine, and log through the parent."""
    if surroundings.gpu is not None:
        os.environ[_VISIBLE] = surroundings.gpu  # before CUDA starts
    share_cores(surroundings.processes)
    torch.set_num_threads(surroundings.threads)
    cv2.setNumThreads(usable_cores())
    root = logging.getLogger()
    root.handlers[:] = [_LogOfParent(parent)]  # type: ignore[arg-type]
    root.setLevel(surroundings.level)
    logging.captureWarnings(True)


def _for_parent(error: BaseException) -> BaseException:
    """Return an error that the parent can raise, with the traceback of this process unless it is the user's."""
    if isinstance(error, UserError):
        return UserError(str(error))
    text = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # any error may need other arguments than it keeps
        copy = RuntimeError(repr(error))
    copy.add_note(f"In a process that predicts:\n{text}")
    return copy
