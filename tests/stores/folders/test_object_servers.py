"""Folders in object stores, with stand-ins on the loopback interface. `make stores` runs these tests."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from carvana_kedro.stores.folders import Folder, open_folder
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards
from processes import killed_afterwards
from standin_stores import SECRET, SERVERS, StandInStore, do_not_wait, fault_of

# Each program gets the address of a folder, the folder for temporary files, and the credentials.
BEGIN = """
import json, logging, sys, time
from carvana_kedro.stores.folders import open_folder
logging.basicConfig(stream=sys.stdout, format="%(message)s")
logging.getLogger("carvana_kedro").setLevel("INFO")
address, scratch, credentials = sys.argv[1:]
folder = open_folder(address, scratch=scratch, credentials=json.loads(credentials))
"""

# Writes half of a file, and waits to be killed.
WRITER = """
with folder.write("file") as part:
    part.write_bytes(bytes(1_000_000))
    print("written", flush=True)
    time.sleep(60)
"""

# Prints "held" once it has the lock, and ends when its standard input is closed.
HOLDER = """
print("asking", flush=True)
with folder.locked("run"):
    print("held", flush=True)
    sys.stdin.read()
"""

# Adds 1 to the number in a file, again and again. Without a lock, updates of two such processes are lost.
COUNTER = """
for _ in range(8):
    with folder.locked("number"):
        folder.put("number", b"%d" % (int(folder.read("number")) + 1))
"""

ON_S3 = pytest.mark.parametrize("server", SERVERS[:1], indirect=True)
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(server: StandInStore, in_store: Folder, tmp_path: Path) -> Iterator[Start]:
    """`start(program)` starts a program with the folder."""
    with killed_afterwards() as processes:

        def call(program: str, temporary: str = "temporary", scratch: str = "") -> subprocess.Popen[str]:
            # By default each has a folder of its own for copies, and all have one for temporary files. Both hold locks.
            copies, folder = tmp_path / (scratch or f"scratch{len(processes)}"), tmp_path / temporary
            folder.mkdir(exist_ok=True)
            arguments = [str(in_store), str(copies), json.dumps(server.options)]
            command = [sys.executable, "-c", BEGIN + program, *arguments]
            environment = os.environ | {"TMPDIR": str(folder)}
            processes.append(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
                )
            )
            return processes[-1]

        yield call


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _actions(folder: Folder) -> list[Callable[[], object]]:
    """Return what asks the store, in each way."""
    return [
        lambda: folder.put("a", b""),
        lambda: folder.read("a"),
        lambda: folder.local("a"),
        lambda: folder.stat("a"),
        lambda: folder.list("*"),
        lambda: folder.rename("a", "b"),
        lambda: folder.locked("a").__enter__(),
        lambda: _write(folder),
    ]


def _write(folder: Folder) -> None:
    with folder.write("a") as part:
        part.write_bytes(b"content")


def test_a_missing_bucket_is_told(server: StandInStore, tmp_path: Path) -> None:
    folder = open_folder(f"{server.scheme}://no-bucket/data", scratch=tmp_path, credentials=server.options)
    for action in _actions(folder):
        assert re.fullmatch(
            r"(\w+)://no-bucket/\S+ cannot be (read|written|renamed): the bucket \1://no-bucket does not exist\. "
            r"Create it, or correct the address\.",
            fault_of(action),
        )
    assert not list(tmp_path.rglob("*.part"))


def test_wrong_keys_are_told(server: StandInStore, tmp_path: Path) -> None:
    address = f"{server.scheme}://{server.bucket()}/data"
    with server.refusing() as options:
        folder = open_folder(address, scratch=tmp_path, credentials=options)
        for action in _actions(folder):
            message = fault_of(action)
            assert message.startswith(str(folder))
            assert "Check the key, and what it may do. Put it under `storage` in" in message
            assert server.scheme == "s3" or ": nobody does not have access to the object. " in message
    _write(open_folder(address, scratch=tmp_path, credentials=server.options))


def test_a_wrong_entry_is_told(server: StandInStore, tmp_path: Path) -> None:
    # Each library refuses the entry that it does not understand; gcsfs takes those that it does not know.
    options = server.options | {"no_such_option": SECRET, "token": {"type": SECRET}}
    folder = open_folder(f"{server.scheme}://bucket/data", scratch=tmp_path, credentials=options)
    message = fault_of(lambda: folder.read("a"))
    assert "Check the entries below `storage` in conf/local/credentials.yml" in message
    assert server.scheme == "gs" or "no_such_option" in message


def test_a_server_that_does_not_answer_is_told(
    server: StandInStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_not_wait(monkeypatch)
    address = f"{server.scheme}://bucket/data"
    folder = open_folder(address, scratch=tmp_path, credentials=server.unreachable())
    for action in _actions(folder):
        assert re.search("(Could not|Cannot) connect to", message := fault_of(action))
        assert message.endswith(
            "Check the connection to the store and its address, and run the same command again."
        )
    assert not list(tmp_path.rglob("*.part"))


def test_secrets_are_not_shown(in_store: Folder) -> None:
    assert SECRET not in f"{in_store} {in_store!r} {in_store.folder('a')!r} {in_store.address('a')}"


def test_an_image_is_one_request(server: StandInStore, in_store: Folder) -> None:
    in_store.put("first", b"")
    before = len(server.requests())
    in_store.put("masks/a.png", b"content")
    in_store.read("masks/a.png")
    write, read = server.requests()[before:]
    assert re.fullmatch(r"PUT /\S+/data/masks/a\.png|POST /upload/storage/v1/b/\S+", write)
    assert re.match(r"GET /\S+", read)


def test_contents_of_all_bytes_are_kept(in_store: Folder) -> None:
    """The stand-ins too: gcp-storage-emulator alone loses a carriage return at the end."""
    for end in (b"", b"\r", b"\n", b"\r\n", b"--", b"\x00"):
        content = bytes(range(256)) + b"\n--==0==" + end
        in_store.put("a", content)
        assert in_store.read("a") == content


@ON_S3
def test_a_browser_shows_a_report(server: StandInStore, in_store: Folder) -> None:
    in_store.put("put.html", b"<p>")
    with in_store.write("written.html") as part:
        part.write_text("<p>")
    with in_store.directory() as path:
        (path / "copied.html").write_text("<p>")
    in_store.rename("put.html", "renamed.html")
    files = fsspec.filesystem("s3", **server.options)
    for name in ("written", "copied", "renamed"):
        assert files.info(in_store.address(f"{name}.html"))["ContentType"] == "text/html"


@ON_S3
def test_a_shard_is_two_requests(server: StandInStore, in_store: Folder) -> None:
    shards = PredictionShards(in_store)
    shards.write("key", 0, [])
    before = len(server.requests())
    shards.write("key", 1, [])
    description, rows = server.requests()[before:]
    assert re.fullmatch(r"PUT /\S+/data/key/00001-\S+\.json", description)
    assert re.fullmatch(r"PUT /\S+/data/key/00001-\S+\.csv", rows)


@ON_S3
def test_a_resume_lists_images_instead_of_asking_for_each(server: StandInStore, in_store: Folder) -> None:
    images, mask = PredictedImages(in_store), np.eye(8, dtype=bool)
    seals = {images.name("masks", image): images.write("masks", image, mask) for image in ("a", "b/c", "d")}
    before = len(server.requests())
    assert images.are_intact(seals, seals, images.list(["masks"]))
    (request,) = server.requests()[before:]
    assert re.fullmatch(r"GET /\S+\?list-type=2\S*", request)


def test_a_large_file_appears_whole_too(server: StandInStore, in_store: Folder) -> None:
    """More than 100 MB are sent in parts, which the store joins in the end."""
    with in_store.write("large") as part, part.open("wb") as file:
        file.truncate(110_000_000)
    found = in_store.stat("large")
    assert found is not None and found.size == 110_000_000
    assert server.scheme == "gs" or "-" in found.version  # so S3 names what was sent in parts
    assert in_store.local("large").stat().st_size == 110_000_000


def test_a_killed_writer_leaves_no_object(start: Start, in_store: Folder, tmp_path: Path) -> None:
    writer = start(WRITER)
    assert _line(writer) == "written"
    (part,) = (tmp_path / "scratch0").rglob("*.part")
    assert part.stat().st_size == 1_000_000
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert in_store.list("**/*") == {}
    open_folder(str(in_store), scratch=tmp_path / "scratch0").sweep()
    assert not part.exists()


@pytest.mark.parametrize("temporary", ["temporary", "another"])
@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_a_process_waits_until_the_holder_ends(
    start: Start, in_store: Folder, end: str, temporary: str
) -> None:
    first = start(HOLDER)
    assert [_line(first), _line(first)] == ["asking", "held"]
    second = start(HOLDER, temporary)
    assert [_line(second), _line(second)] == ["asking", f"Waiting for another run that uses {in_store}/run"]
    assert [*in_store.list("*")] == [".run.lock"]
    with pytest.raises(subprocess.TimeoutExpired):  # it would end at once if it had the lock
        second.communicate(timeout=1)
    if end == "ends":
        first.communicate()
    else:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert second.wait(30) == 0
    assert in_store.list("*") == {}


@pytest.mark.parametrize("shared", ["temporary", "scratch"])
def test_two_processes_never_hold_the_lock_at_once(start: Start, in_store: Folder, shared: str) -> None:
    killed = start(HOLDER.replace("run", "number"))
    assert [_line(killed), _line(killed)] == ["asking", "held"]
    killed.kill()
    killed.wait()
    in_store.put("number", b"0")
    folders = ["one", "another"] if shared == "scratch" else ["temporary"] * 2
    counters = [start(COUNTER, folder, shared if shared == "scratch" else "") for folder in folders]
    assert [process.wait(120) for process in counters] == [0, 0]
    assert in_store.read("number") == b"16"
