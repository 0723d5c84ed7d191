"""Locks in object stores, as far as one process shows them. `test_object_servers.py` has those of several processes."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.stores.folders import Folder
from carvana_kedro.stores.folders.object_locks import Owner
from carvana_kedro.stores.folders.objects import ObjectFolder

LOCK = ".run.lock"


def _leave(folder: Folder, owner: Owner) -> None:
    folder.put(LOCK, json.dumps(owner._asdict()).encode())


def _ended() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_the_lock_names_its_owner_and_goes_with_it(in_memory: Folder) -> None:
    with in_memory.locked("run"):
        owner = Owner(**json.loads(in_memory.read(LOCK)))
        assert (owner.pid, owner.host) == (os.getpid(), Owner.here().host)
        assert owner.is_alive() and owner.is_near(Owner.here())
    assert in_memory.list("*") == {}


@pytest.mark.parametrize("change", [{"host": "other"}, {"machine": "started again"}])
def test_a_process_of_another_machine_is_not_waited_for(in_memory: Folder, change: dict[str, str]) -> None:
    _leave(in_memory, Owner.here()._replace(pid=123, since="2026-11-28 09:00:00 UTC", **change))
    with pytest.raises(UserError) as raised, in_memory.locked("run"):
        pass
    host = change.get("host", Owner.here().host)
    assert str(raised.value) == (
        f"Process 123 on the machine {host} uses {in_memory}/run since 2026-11-28 09:00:00 UTC. Wait until it has "
        f"ended. If it does not run any more, remove the object {in_memory}/.run.lock, and run again."
    )
    assert [*in_memory.list("*")] == [LOCK]


@pytest.mark.parametrize("left", ["process", "id"])
def test_what_a_killed_process_left_is_taken_over(
    in_memory: Folder, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Its id may belong to another process by now: here to this one.
    gone = {"pid": _ended()} if left == "process" else {"started": "1"}
    _leave(in_memory, Owner.here()._replace(**gone))
    with caplog.at_level(logging.INFO), in_memory.locked("run"):
        assert Owner(**json.loads(in_memory.read(LOCK))).is_alive()
    assert f"which used {in_memory}/run, has ended. Its lock is taken over." in caplog.text
    assert in_memory.list("*") == {}


def test_a_lock_that_this_process_could_not_remove_is_taken_over(in_memory: Folder) -> None:
    _leave(in_memory, Owner.here())  # this process runs, but does not hold it
    with in_memory.locked("run"):
        pass
    assert in_memory.list("*") == {}


def test_a_process_that_the_machine_hides_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = Owner.here()._replace(pid=_ended())
    assert not hidden.is_alive()

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert hidden.is_alive()


def test_machines_that_tell_only_their_name_are_not_taken_for_one() -> None:
    nameless = Owner.here()._replace(machine="")
    assert not nameless.is_near(nameless)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"pid": 1}', b"[]", b"\xff"])
def test_a_damaged_lock_is_told(in_memory: Folder, content: bytes) -> None:
    in_memory.put(LOCK, content)
    with (
        pytest.raises(
            UserError, match=r"/\.run\.lock is not a lock of this project\. If no other run uses .*/run,"
        ),
        in_memory.locked("run"),
    ):
        pass
    assert in_memory.read(LOCK) == content


class Forgetful(ObjectFolder):
    """A store that replaces an object although it is told not to."""

    def create(self, name: str, content: bytes) -> bool:
        self.put(name, content)
        return True


def test_a_store_without_conditional_writes_is_refused(tmp_path: Path, in_memory: Folder) -> None:
    folder = Forgetful(str(in_memory), tmp_path)
    with (
        pytest.raises(UserError, match=r"The store of memory://.*/run replaces an object"),
        folder.locked("run"),
    ):
        pass
    assert folder.list("*") == {}


class Stopped(ObjectFolder):
    """A store that is asked again when Ctrl-C is pressed, just after the lock is there."""

    def create(self, name: str, content: bytes) -> bool:
        if super().create(name, content):
            return True
        raise KeyboardInterrupt


def test_ctrl_c_leaves_no_lock_that_has_just_been_taken(tmp_path: Path, in_memory: Folder) -> None:
    folder = Stopped(str(in_memory), tmp_path)
    with pytest.raises(KeyboardInterrupt), folder.locked("run"):
        pass
    assert folder.list("*") == {}


class Interrupted(ObjectFolder):
    """A store whose answers to `create` are lost, so that the request is repeated."""

    def create(self, name: str, content: bytes) -> bool:
        super().create(name, content)
        return super().create(name, content)


def test_a_lost_answer_is_no_other_owner(tmp_path: Path, in_memory: Folder) -> None:
    folder = Interrupted(str(in_memory), tmp_path)
    with folder.locked("run"):
        assert [*folder.list("*")] == [LOCK]
    assert folder.list("*") == {}


def test_a_lock_of_another_process_is_not_removed_at_the_end(
    in_memory: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    with in_memory.locked("run"):
        _leave(in_memory, Owner.here())
    assert [*in_memory.list("*")] == [LOCK]
    assert f"{in_memory}/.run.lock was removed or replaced while this process held it." in caplog.text


def test_the_lock_of_a_bucket_is_in_it(in_memory: Folder, tmp_path: Path) -> None:
    bucket = ObjectFolder(str(in_memory).rpartition("/")[0], tmp_path)
    with bucket.locked():
        assert [*bucket.list("*")] == [".lock"]
    with in_memory.locked():
        assert [*bucket.list("*")] == [".data.lock"]
