"""Starts the processes that train together on this machine, and starts them again when one of them has died.

PyTorch's elastic launcher does the work. This module decides when it may start the processes again, and carries their
log lines, errors and steps to the process that has started them (the parent).
"""

import gc
import logging
import logging.handlers
import os
import pickle
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection
from types import FrameType, ModuleType, TracebackType
from typing import Any, NoReturn, Self, TypeVar

import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException
from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.heartbeat import Heartbeat, within
from carvana_kedro.segmentation.training.distributed import (
    BACKEND,
    LostProcessError,
    World,
    noticing_lost_processes,
    portable,
)
from carvana_kedro.segmentation.training.interrupts import Interrupts, TrainingInterruptedError
from carvana_kedro.stores.machine import share_machine
from carvana_kedro.stores.processes import end_with_parent, interrupts_blocked

T = TypeVar("T")

logger = logging.getLogger(__name__)

_NAME = "carvana_kedro"
"""What the processes of several machines find each other by, and the name of the rendezvous of this module."""

_LOST, _FAILED = 75, 70
"""Exit codes of a process that lost the others, and of one whose error the parent knows."""

_SIOCGIFADDR = 0x8915
"""Linux's request for the address of a network interface."""

_JOINING = 600.0
"""Seconds that a process waits for the others to start, as long as the launcher waits for other machines."""

_LARGEST_MESSAGE = 100_000
"""Bytes. A datagram arrives whole or not at all, even if its sender is killed; the system limits its size."""


def run_in_processes(
    function: Callable[..., T],
    *arguments: Any,
    devices: int,
    nodes: int = 1,
    rendezvous: str | None = None,
    max_restarts: int = 3,
    silence: float = 180.0,
) -> T:
    """Call a function in several processes (ranks) that form PyTorch's default process group.

    If a rank dies, all are started again; the function should then go on from what it has saved. An error of a rank
    ends all of them, and is raised here. Within the function, `stop_requested` tells of SIGINT and SIGTERM, and
    `report_step` tells this process how far training is. Log lines of the first rank are handled here; the others log
    nothing.

    Args:
        function: Called as `function(world, *arguments)`. It must be importable, and the arguments picklable.
        devices: Number of ranks on this machine. With CUDA, the current device of each is its own GPU.
        nodes: Number of machines that call this function together.
        rendezvous: `HOST:PORT` of one of them, where they meet. Not needed for one machine.
        max_restarts: How often all ranks are started again.
        silence: Seconds after which a rank that gives no sign of life is taken for lost: its machine has no power, for
            example, or the network is gone. A rank that computes or waits does give them.

    Returns:
        The result of the first rank; on other machines that of their own first rank.

    Raises:
        UserError: This is not the main thread, ranks died too often, or the other machines did not come; or it is the
            error of a rank.
        TrainingInterruptedError: This process received SIGINT or SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UserError(
            "Training in several processes must be started by the main thread, because Python delivers signals only to "
            "it. Run without --runner ThreadRunner, or set model_training.devices=1."
        )
    call = pickle.dumps((function, arguments))
    with _Launch(devices, nodes, rendezvous, max_restarts) as launch:
        result: T = launch.run(call, silence)
    return result


class _Launch:
    """One call of `run_in_processes`, in the parent."""

    def __init__(self, devices: int, nodes: int, rendezvous: str | None, max_restarts: int) -> None:
        self._devices = devices
        self._nodes = nodes
        self._rendezvous = rendezvous
        self._max_restarts = max_restarts
        self._starts = 0
        self._error: Exception | None = None
        self._died: ProcessExitedException | None = None
        self._lost = ""
        self._steps = _Steps()
        self._stop, self._stopper = Pipe(duplex=False)
        self._interrupted = Interrupts(then=self._request_stop)
        self._is_joining = False
        self._incoming, self._outgoing = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._outgoing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _LARGEST_MESSAGE)
        self._synced = threading.Event()
        self._thread = threading.Thread(target=self._receive, name="ranks", daemon=True)

    def __enter__(self) -> Self:
        """Start to listen to the ranks."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Handle what the ranks have sent, and stop listening."""
        self._outgoing.send(b"")
        self._thread.join()
        for end in (self._incoming, self._outgoing, self._stop, self._stopper):
            end.close()

    def run(self, call: bytes, silence: float) -> Any:
        """Run the ranks to their end."""
        # Imported here: a training in one process needs none of it.
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous import RendezvousError, rendezvous_handler_registry
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        rendezvous_handler_registry.register(_NAME, _Rendezvous)  # type: ignore[arg-type]
        address, is_host = _own_address(self._rendezvous)
        config = LaunchConfig(
            min_nodes=self._nodes,
            max_nodes=self._nodes,
            nproc_per_node=self._devices,
            run_id=_NAME,
            rdzv_backend=_NAME,
            rdzv_endpoint=self._rendezvous or f"{address}:0",
            rdzv_configs={
                "check": self._check,
                "joining": self._joining,
                **({"is_host": True} if is_host else {}),
            },
            local_addr=address,
            max_restarts=self._max_restarts,
            logs_specs=DefaultLogsSpecs(log_dir=os.devnull),  # otherwise it leaves a folder behind
            # None of its own: this module handles SIGINT and SIGTERM, and with nohup SIGHUP is to be ignored.
            signals_to_handle="",
            shutdown_timeout=1,  # seconds until the ranks are killed at a second signal
        )
        with (
            _as_before(),
            self._interrupted,
            _log_of_torch(self._note_death),
            tempfile.TemporaryFile() as file,
        ):
            os.environ |= _environment(address)
            file.write(call)
            file.flush()
            try:
                launch = elastic_launch(config, _run_rank)
                results = launch(_FileContent(file.fileno()), _levels(), self._outgoing, self._stop, silence)
            except ChildFailedError:  # no restart is left
                self._sync()
                self._stop_for_good(f"model_training.max_restarts={self._max_restarts} is used up")
            except RendezvousError as error:
                self._sync()
                self._raise_error()
                first_line = str(error).partition("\n")[0]
                raise UserError(
                    f"The {self._nodes} machines of model_training.nodes did not meet at model_training.rendezvous="
                    f"{self._rendezvous}, or one of them has ended or lost its connection: see its output. Start the "
                    "same command on all of them: it resumes from the last checkpoint, if there is one. "
                    f"({type(error).__name__}: {first_line})"
                ) from error
        if self._interrupted():
            raise TrainingInterruptedError(
                "Training is finished and saved, but the run was interrupted after it. The same command resumes it."
            )
        return results[min(results)]

    def _check(self) -> None:
        """Raise an error if the ranks should not be started (again)."""
        self._sync()
        self._raise_error()
        self._starts += 1
        if self._starts > 2 and not self._steps.made:
            self._stop_for_good("it has made no step since the last restart")
        if self._starts > 1:
            logger.warning(
                "%s. All processes start again (restart %d of %d), from the last checkpoint.",
                self._death(), self._starts - 1, self._max_restarts,
            )  # fmt: skip
            self._steps.restart()
        self._died, self._lost = None, ""

    def _stop_for_good(self, reason: str) -> NoReturn:
        self._raise_error()
        advice = "Often memory was too small: lower model_training.num_workers or batch_size."
        if self._died is None or self._died.exit_code == _LOST:
            advice = "See whether the other processes, their machines and the network are well."
        raise UserError(
            f"{self._death()}, and {reason}: training stops. {advice} The same command resumes from the last "
            "checkpoint."
        )

    def _raise_error(self) -> None:
        """Raise the error of a rank, or that of an interruption, if there is one."""
        if self._error is not None:
            raise self._error
        if self._interrupted():
            raise TrainingInterruptedError("Training was interrupted. The same command continues it.")

    def _death(self) -> str:
        """Return, as the beginning of a sentence, which rank died and how."""
        if self._died is None:
            return "A process on another machine was lost"
        code, name = self._died.exit_code, self._died.signal_name
        here = " on this machine" if self._nodes > 1 else ""
        rank = f"Process {self._died.error_index + 1} of {self._devices}{here}"
        if code == _LOST:
            return f"{rank} has lost the connection to another one ({self._lost})"
        return f"{rank} was killed by {name}" if name else f"{rank} has ended with exit code {code}"

    def _note_death(self, record: logging.LogRecord) -> None:
        error = record.exc_info and record.exc_info[1]
        if isinstance(error, ProcessExitedException):
            self._died = error

    def _request_stop(self) -> None:
        """Tell the ranks to stop: their end of the pipe notices that this one is closed."""
        self._stopper.close()
        if self._is_joining:  # there are no ranks yet, and other machines may come late
            self._raise_error()

    @contextmanager
    def _joining(self) -> Iterator[None]:
        self._is_joining = True
        try:
            yield
        finally:
            self._is_joining = False

    def _receive(self) -> None:
        while message := self._incoming.recv(2 * _LARGEST_MESSAGE):
            try:
                self._handle(*pickle.loads(message))
            except Exception:  # the thread must go on: `_sync` waits for it
                logger.exception("A message of a training process cannot be handled")

    def _handle(self, kind: str, content: Any) -> None:
        if kind == "log":
            target = logging.getLogger(content.name)
            if target.isEnabledFor(content.levelno):
                target.handle(content)
        elif kind == "step":
            self._steps.add(content)
        elif kind == "error":
            self._note_error(*content)
        elif kind == "lost":
            self._lost = self._lost or content  # of the rank that has noticed it first
        elif kind == "sync":
            self._synced.set()

    def _note_error(self, rank: int, error: Exception, text: str) -> None:
        if self._error is None or (isinstance(error, UserError) and not isinstance(self._error, UserError)):
            self._error = error
        if not isinstance(error, UserError):
            logger.error("Process %d failed:\n%s", rank + 1, text)

    def _sync(self) -> None:
        """Wait until everything that the ranks have sent so far is handled."""
        self._synced.clear()
        _send(self._outgoing, ("sync", None))
        self._synced.wait()


class _Steps:
    """The steps that the ranks report, and what a restart costs."""

    def __init__(self) -> None:
        self._times: dict[int, float] = {}  # when the steps were made, the last time
        self._last: int | None = None
        self._before: int | None = None
        self._resumed: int | None = None
        self.made = False

    def restart(self) -> None:
        """Note that the ranks start again."""
        self._before = self._last
        self._resumed, self.made = None, False

    def add(self, steps: int) -> None:
        """Note that a run has made so many steps. The first report after a start is where it begins."""
        now = time.monotonic()
        self._last = steps
        if self._resumed is None:
            self._resumed = steps
            self._times.setdefault(steps, now)
            return
        if self._before is not None and not self.made:
            since = self._times.get(self._resumed, now)
            lost = max(0, self._before - self._resumed)
            logger.info(
                "Training goes on. The restart has cost %.0f seconds and %d steps.", now - since, lost
            )
        self.made = True
        self._times[steps] = now


@contextmanager
def _as_before() -> Iterator[None]:
    """Undo within this process what starting the ranks needs, or leaves behind."""
    environment = os.environ.copy()
    main = sys.modules["__main__"]
    # Ranks would import the program that was started, and with it Kedro, which configures logging: a log file that is
    # opened again would be emptied.
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        with interrupts_blocked():  # this process still receives it, in the thread that listens to the ranks
            yield
    finally:
        sys.modules["__main__"] = main
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ |= environment


class _TorchLog(logging.Handler):
    """Takes what the launcher logs, instead of the terminal: tracebacks of what is said in other words."""

    def __init__(self, note: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record)


@contextmanager
def _log_of_torch(note: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Call a function for what the launcher logs, and show nothing of it."""
    handler = _TorchLog(note)
    loggers = [
        logging.getLogger(name)
        for name in ("torch.distributed", "torch.multiprocessing", "torchelastic-events-null")
    ]
    before = [(each.handlers, each.propagate) for each in loggers]
    for each in loggers:
        each.handlers, each.propagate = [handler], False
    try:
        yield
    finally:
        for each, (handlers, propagate) in zip(loggers, before, strict=True):
            each.handlers, each.propagate = handlers, propagate


def _environment(address: str) -> dict[str, str]:
    """Return the variables that the ranks, and the launcher, should see."""
    defaults = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # no warnings of lost connections, for example
    # By itself gloo takes the address that this machine's name stands for: in /etc/hosts often 127.0.1.1.
    if interface := _interface(address):
        defaults["GLOO_SOCKET_IFNAME"] = interface
    return {
        **{name: value for name, value in defaults.items() if name not in os.environ},
        # After a restart the ranks would find keys of their predecessors: https://github.com/pytorch/pytorch/issues/135712
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


def _interface(address: str) -> str | None:
    """Return the network interface that has an address of this machine, or None if the system does not say."""
    import fcntl  # Windows does not have it

    names = [name for _, name in socket.if_nameindex()]
    for name in names:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            found = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return next((name for name in names if name.startswith("lo") and address.startswith("127.")), None)


def _own_address(rendezvous: str | None) -> tuple[str, bool]:
    """Return the address of this machine at which that of the rendezvous finds it, and whether it is that machine.

    PyTorch does not recognize the rendezvous by an address that this machine's name does not stand for. For a loopback
    address, which every machine has, PyTorch decides.
    """
    if rendezvous is None:
        return "127.0.0.1", False
    host, _, port = rendezvous.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, int(port)))  # sends nothing
            own, other = probe.getsockname()[0], probe.getpeername()[0]
            return own, own == other and not own.startswith("127.")
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"model_training.rendezvous={rendezvous} cannot be reached ({error}). It should be HOST:PORT of one of the "
            "machines, the same on all of them."
        ) from error


class _FileContent:
    """Becomes the content of an open file in a rank.

    Arguments of a process pass through a pipe, which holds 64 KB. If the process were killed before it reads them, this
    one would wait for ever.
    """

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _content, (reduction.DupFd(self._number),)


def _content(duplicate: Any) -> bytes:
    number = duplicate.detach()
    try:
        size = os.fstat(number).st_size
        return os.pread(number, size, 0)  # not read(): the ranks share the position in the file
    finally:
        os.close(number)


class _Rendezvous:
    """PyTorch's rendezvous of machines, with a check before each start of the ranks.

    The launcher asks a rendezvous before each start, and offers no other way to prevent one.
    """

    def __init__(self, parameters: Any) -> None:
        from torch.distributed.elastic.rendezvous import RendezvousConnectionError
        from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

        self._check, self._joining = (parameters.config.pop(name) for name in ("check", "joining"))
        parameters.backend = "c10d"
        try:
            self._handler = get_rendezvous_handler(parameters)
        except RendezvousConnectionError:
            if not parameters.config.pop("is_host", False):
                raise
            self._handler = get_rendezvous_handler(parameters)  # another process of this machine is the host

    def next_rendezvous(self) -> Any:
        self._check()
        with self._joining():
            return self._handler.next_rendezvous()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)


class _Rank:
    """What a rank knows of its parent."""

    current: "_Rank | None" = None

    def __init__(self, outgoing: socket.socket, stop: Connection) -> None:
        self._outgoing = outgoing
        self._stop = stop
        self.terminated = False

    def stop_requested(self) -> bool:
        return self.terminated or self._stop.poll()

    def send(self, kind: str, content: Any) -> None:
        _send(self._outgoing, (kind, content))

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM. It does not count how often: a scheduler sends it to all processes, and the launcher too."""
        self.terminated = True

    def log_to_parent(self, levels: dict[str, int]) -> None:
        """Let the parent handle the log lines and warnings of the first rank, and drop those of the others."""
        logging.captureWarnings(True)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        logging.getLogger().handlers[:] = [_ToParent(self)]
        if os.environ["RANK"] != "0":
            logging.disable()

    def lose(self, reason: str) -> NoReturn:
        """End this process, in any thread, because another one is lost."""
        self.send("lost", reason)
        os._exit(_LOST)

    def leave(self, error: Exception) -> NoReturn:
        """End this process because of an error. Destructors of torch would wait for ranks that are gone."""
        if _has_lost_another(error):
            # Another rank is the reason. The launcher should find that one first, and then ends this one by SIGTERM.
            reason = str(error)[:200]
            if hasattr(signal, "alarm"):  # not on Windows
                signal.alarm(30)  # a destructor of torch might wait for ranks that are gone
            _release(error)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if not self.terminated:
                time.sleep(3)
            self.lose(reason)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        text = "".join(traceback.format_exception(error))
        self.send(
            "error",
            (int(os.environ["RANK"]), portable(error, _LARGEST_MESSAGE // 4), text[-_LARGEST_MESSAGE // 4 :]),
        )
        _release(error)
        os._exit(_FAILED)


class _ToParent(logging.handlers.QueueHandler):
    def __init__(self, rank: _Rank) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._rank = rank

    def enqueue(self, record: logging.LogRecord) -> None:
        record.msg = record.msg[: _LARGEST_MESSAGE // 4]
        self._rank.send("log", record)


def stop_requested() -> bool:
    """Return, in a rank, whether training should stop: this rank or its parent has received a signal."""
    return _Rank.current is not None and _Rank.current.stop_requested()


def report_step(steps: int) -> None:
    """Tell the parent how many steps a run has made; the first time where it begins. Call it in all ranks."""
    if _Rank.current is not None and os.environ["LOCAL_RANK"] == "0":
        _Rank.current.send("step", steps)


def _run_rank(
    call: bytes, levels: dict[str, int], outgoing: socket.socket, stop: Connection, silence: float
) -> Any:
    """Call the function in a rank."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent tells this one
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # By default it creates a semaphore, which would be reported as leaked if this rank is killed or ends with an error.
    tqdm.set_lock(threading.RLock())
    _Rank.current = rank = _Rank(outgoing, stop)
    rank.log_to_parent(levels)
    if rank.stop_requested():  # nothing is lost yet
        os._exit(_LOST)
    try:
        function, arguments = pickle.loads(call)
        with noticing_lost_processes(), within(_JOINING, rank.lose):
            _join_group()
            heartbeat = Heartbeat(silence, rank.lose)
        signal.signal(signal.SIGTERM, rank.terminate)
        result = function(World.current(), *arguments)
    except Exception as error:
        rank.leave(error)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if rank.terminated:  # most likely by the launcher, since another rank has died
        os._exit(_LOST)
    heartbeat.end()
    dist.destroy_process_group()
    return result


def _join_group() -> None:
    """Create the process group of all ranks, and take this rank's share of the machine."""
    has_gpus = torch.cuda.is_available()
    if has_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    local_size = int(os.environ["LOCAL_WORLD_SIZE"])
    torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
    share_machine(local_size)
    # No time limit, nearly: one rank may wait for a lock, draw or decode while the others wait for it. See `Heartbeat`.
    dist.init_process_group(BACKEND if has_gpus else "gloo", timeout=timedelta(weeks=52))


def _release(error: BaseException | None) -> None:
    """Release what the frames of an error hold. Semaphores of data loaders would be reported as leaked otherwise."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    gc.collect()


def _has_lost_another(error: BaseException | None) -> bool:
    """Return whether an error, or what led to it, means that another rank is gone."""
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, LostProcessError | dist.DistError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _levels() -> dict[str, int]:
    """Return the levels of all loggers."""
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    return {each.name: each.level for each in loggers if isinstance(each, logging.Logger)}


def _send(outgoing: socket.socket, message: Any) -> None:
    with suppress(OSError):  # the parent is gone
        outgoing.send(pickle.dumps(message))
