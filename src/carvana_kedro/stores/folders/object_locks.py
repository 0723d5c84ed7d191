"""Locks in an object store, between processes of one or several machines."""

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

from carvana_kedro.errors import UserError
from carvana_kedro.stores.locks import locked

logger = logging.getLogger(__name__)

_ASKS_EVERY = 1.0  # seconds

_held: set[str] = set()
"""Tokens of the locks of this process."""


class ObjectStore(Protocol):
    """What a lock needs of an object store."""

    def create(self, name: str, content: bytes) -> bool: ...  # noqa: D102
    def read(self, name: str) -> bytes: ...  # noqa: D102
    def remove(self, name: str) -> None: ...  # noqa: D102
    def address(self, name: str) -> str: ...  # noqa: D102


class Owner(NamedTuple):
    """The process that holds a lock.

    Attributes:
        host: Name of its machine.
        machine: Since when the machine runs, and which of its containers this is: as far as it tells (Linux does).
        pid: Of the process.
        started: When the process was started: an operating system uses its id again.
        since: When it took the lock.
        token: Tells two locks of one process apart.
    """

    host: str
    machine: str
    pid: int
    started: str
    since: str
    token: str

    @classmethod
    def here(cls) -> "Owner":
        """Return this process."""
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return cls(platform.node(), _machine(), os.getpid(), _started(os.getpid()) or "", now, uuid4().hex)

    def is_near(self, other: "Owner") -> bool:
        """Return whether another owner is on the same machine, so that its process can be looked for.

        Without `machine` nothing is known: two machines may have one name.
        """
        return bool(self.machine) and (self.host, self.machine) == (other.host, other.machine)

    def is_alive(self) -> bool:
        """Return whether a process of this machine still holds its lock."""
        if (self.pid, self.started) == (os.getpid(), _started(os.getpid())):
            return self.token in _held  # else it could not be removed when it was released
        try:
            os.kill(self.pid, 0)
        except PermissionError:  # of another user; /proc may hide it
            return _started(self.pid) in (None, self.started)
        except OSError:
            return False
        return _started(self.pid) == self.started


@contextmanager
def locked_object(store: ObjectStore, name: str, folders: Collection[Path]) -> Iterator[None]:
    """Hold the lock of a file or folder in an object store while the block runs.

    The lock is the object `.<name>.lock`, which names its owner. Only one process can create it. A process of the same
    machine waits for the owner, and takes the lock over if the owner was killed. It cannot see whether a process of
    another machine still runs, and stops.

    Args:
        store: Folder of the object.
        name: Name of the file or folder. It need not exist.
        folders: Folders on a disk. Processes of this machine that share one of them wait there without requests.

    Raises:
        UserError: A process of another machine holds the lock, or the store cannot create an object conditionally.
    """
    what, lock = store.address(name).rstrip("/"), f".{name}.lock" if name else ".lock"
    local = f"locks/{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    with ExitStack() as waiting:
        # First among the processes of this machine: they wait without requests, and only one takes a lock over.
        for folder in sorted({*folders}):
            waiting.enter_context(locked(folder / local, what))
        owner = Owner.here()
        try:
            _acquire(store, lock, what, owner)
        except BaseException:  # Ctrl-C, for example: the object may be there already
            with suppress(UserError):
                if _holder(store, lock, what) == owner:
                    store.remove(lock)
            raise
        _held.add(owner.token)
        try:
            yield
        finally:
            _held.discard(owner.token)
            _release(store, lock, owner)


def _acquire(store: ObjectStore, lock: str, what: str, owner: Owner) -> None:
    waits = False
    while (holder := _holder(store, lock, what)) != owner:  # it is, if the answer to `create` was lost
        if holder is None:
            if store.create(lock, _content(owner)):
                break
        elif not holder.is_near(owner):
            raise UserError(
                f"Process {holder.pid} on the machine {holder.host} uses {what} since {holder.since}. Wait until it "
                f"has ended. If it does not run any more, remove the object {store.address(lock)}, and run again."
            )
        elif not holder.is_alive():
            logger.info("Process %d, which used %s, has ended. Its lock is taken over.", holder.pid, what)
            store.remove(lock)
        else:  # of another user, or with another folder for temporary files
            if not waits:
                logger.info("Waiting for another run that uses %s", what)
            waits = True
            time.sleep(_ASKS_EVERY)
    if store.create(lock, _content(owner)):
        store.remove(lock)
        raise UserError(
            f"The store of {what} replaces an object that is there, although it is told not to (If-None-Match). Two "
            "runs could use the same folder at once. Keep the data in another store, or on a disk."
        )


def _release(store: ObjectStore, lock: str, owner: Owner) -> None:
    address = store.address(lock)
    try:
        if _holder(store, lock, address) == owner:
            store.remove(lock)
        else:
            logger.warning("%s was removed or replaced while this process held it.", address)
    except UserError as error:  # the block may have ended well
        logger.warning("%s stays: %s", address, error)


def _content(owner: Owner) -> bytes:
    return json.dumps(owner._asdict(), indent=2).encode()


def _holder(store: ObjectStore, lock: str, what: str) -> Owner | None:
    """Return the owner of a lock; None: nobody has it."""
    try:
        return Owner(**json.loads(store.read(lock)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{store.address(lock)} is not a lock of this project. If no other run uses {what}, remove this object."
        ) from error


def _machine() -> str:
    """Return what tells this start of the machine, and this container on it, from others."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _started(pid: int) -> str | None:
    """Return when a process was started, as far as the machine tells (Linux does); None: it does not run."""
    try:
        state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else facts[18]  # in ticks since the machine was started
    except OSError:
        return None
