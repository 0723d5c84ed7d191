"""Folders in Amazon S3, with a stand-in on the loopback interface. `make s3` runs these tests."""

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

from carvana_kedro.errors import UserError
from carvana_kedro.stores.folders import Folder, open_folder
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards
from processes import killed_afterwards
from standin_s3 import NEEDS_S3, SECRET, StandInS3

pytestmark = NEEDS_S3

# Each program gets the address of a folder, the folder for temporary files, and the credentials.
BEGIN = """
import json, logging, sys, time
from carvana_kedro.stores.folders import open_folder
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
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

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(s3: StandInS3, in_s3: Folder, tmp_path: Path) -> Iterator[Start]:
    """`start(program)` starts a program with the folder."""
    with killed_afterwards() as processes:

        def call(program: str, temporary: str = "temporary") -> subprocess.Popen[str]:
            # Each has a folder of its own for copies; those for temporary files, with the locks, may be one.
            scratch, folder = tmp_path / f"scratch{len(processes)}", tmp_path / temporary
            folder.mkdir(exist_ok=True)
            arguments = [str(in_s3), str(scratch), json.dumps(s3.options)]
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


def _message(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        action()
    message = str(raised.value)
    assert "\n" not in message and SECRET not in message
    return message


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


def test_a_missing_bucket_is_told(s3: StandInS3, tmp_path: Path) -> None:
    folder = open_folder("s3://no-bucket/data", scratch=tmp_path, credentials=s3.options)
    for action in _actions(folder):
        assert re.fullmatch(
            r"s3://no-bucket/\S+ cannot be (read|written|renamed): the bucket s3://no-bucket does not exist\. Create "
            r"it, or correct the name: --params data_root=ADDRESS",
            _message(action),
        )
    assert not list(tmp_path.rglob("*.part"))


def test_wrong_keys_are_told(s3: StandInS3, tmp_path: Path) -> None:
    folder = open_folder(f"s3://{s3.bucket()}/data", scratch=tmp_path, credentials=s3.options)
    s3.check_keys(True)
    try:
        for action in _actions(folder):
            message = _message(action)
            assert message.startswith(str(folder))
            assert "Check the key, and what it may do. Put it under `storage` in" in message
    finally:
        s3.check_keys(False)
    _write(folder)


def test_missing_keys_are_told(s3: StandInS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = {"client_kwargs": s3.options["client_kwargs"]}
    folder = open_folder("s3://bucket/data", scratch=tmp_path, credentials=options)
    assert "Unable to locate credentials. Check the key" in _message(lambda: folder.read("a"))


def test_keys_of_the_environment_are_used(
    s3: StandInS3, in_s3: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_s3.put("a", b"content")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    assert open_folder(str(in_s3), scratch=tmp_path / "other").read("a") == b"content"


def test_a_wrong_entry_is_told(s3: StandInS3, tmp_path: Path) -> None:
    options = {**s3.options, "no_such_option": SECRET}
    folder = open_folder("s3://bucket/data", scratch=tmp_path, credentials=options)
    message = _message(lambda: folder.read("a"))
    assert "no_such_option" in message
    assert "Check the entries below `storage` in conf/local/credentials.yml" in message


def test_a_server_that_does_not_answer_is_told(s3: StandInS3, tmp_path: Path) -> None:
    options = {
        **s3.options,
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1"},
    }
    options["config_kwargs"] = {"retries": {"max_attempts": 0}}
    folder = open_folder("s3://bucket/data", scratch=tmp_path, credentials=options)
    for action in _actions(folder):
        assert "Could not connect to the endpoint URL" in (message := _message(action))
        assert message.endswith(
            "Check the connection to the store and its address, and run the same command again."
        )
    assert not list(tmp_path.rglob("*.part"))


def test_secrets_are_not_shown(s3: StandInS3, in_s3: Folder) -> None:
    assert SECRET not in f"{in_s3} {in_s3!r} {in_s3.folder('a')!r} {in_s3.address('a')}"


def test_an_image_is_one_request(s3: StandInS3, in_s3: Folder) -> None:
    in_s3.put("first", b"")
    before = len(s3.requests())
    in_s3.put("masks/a.png", b"content")
    in_s3.read("masks/a.png")
    write, read = s3.requests()[before:]
    assert re.fullmatch(r"PUT /\S+/data/masks/a\.png", write)
    assert re.fullmatch(r"GET /\S+/data/masks/a\.png", read)


def test_a_browser_shows_a_report(s3: StandInS3, in_s3: Folder) -> None:
    in_s3.put("put.html", b"<p>")
    with in_s3.write("written.html") as part:
        part.write_text("<p>")
    with in_s3.directory() as path:
        (path / "copied.html").write_text("<p>")
    in_s3.rename("put.html", "renamed.html")
    files = fsspec.filesystem("s3", **s3.options)
    for name in ("written", "copied", "renamed"):
        assert files.info(in_s3.address(f"{name}.html"))["ContentType"] == "text/html"


def test_a_shard_is_two_requests(s3: StandInS3, in_s3: Folder) -> None:
    shards = PredictionShards(in_s3)
    shards.write("key", 0, [])
    before = len(s3.requests())
    shards.write("key", 1, [])
    description, rows = s3.requests()[before:]
    assert re.fullmatch(r"PUT /\S+/data/key/00001-\S+\.json", description)
    assert re.fullmatch(r"PUT /\S+/data/key/00001-\S+\.csv", rows)


def test_a_resume_lists_images_instead_of_asking_for_each(s3: StandInS3, in_s3: Folder) -> None:
    images, mask = PredictedImages(in_s3), np.eye(8, dtype=bool)
    seals = {images.name("masks", image): images.write("masks", image, mask) for image in ("a", "b/c", "d")}
    before = len(s3.requests())
    assert images.are_intact(seals, seals, images.list(["masks"]))
    (request,) = s3.requests()[before:]
    assert re.fullmatch(r"GET /\S+\?list-type=2\S*", request)


def test_a_large_file_appears_whole_too(in_s3: Folder) -> None:
    """More than 100 MB are sent in parts, which the store joins in the end."""
    with in_s3.write("large") as part, part.open("wb") as file:
        file.truncate(110_000_000)
    found = in_s3.stat("large")
    assert found is not None and found.size == 110_000_000
    assert "-" in found.version  # of several parts
    assert in_s3.local("large").stat().st_size == 110_000_000


def test_a_killed_writer_leaves_no_object(start: Start, in_s3: Folder, tmp_path: Path) -> None:
    writer = start(WRITER)
    assert _line(writer) == "written"
    (part,) = (tmp_path / "scratch0").rglob("*.part")
    assert part.stat().st_size == 1_000_000
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert in_s3.list("**/*") == {}
    open_folder(str(in_s3), scratch=tmp_path / "scratch0").sweep()
    assert not part.exists()


@pytest.mark.parametrize("temporary", ["temporary", "another"])
@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_a_process_waits_until_the_holder_ends(start: Start, in_s3: Folder, end: str, temporary: str) -> None:
    first = start(HOLDER)
    assert [_line(first), _line(first)] == ["asking", "held"]
    second = start(HOLDER, temporary)
    assert [_line(second), _line(second)] == ["asking", f"Waiting for another run that uses {in_s3}/run"]
    assert [*in_s3.list("*")] == [".run.lock"]
    with pytest.raises(subprocess.TimeoutExpired):  # it would end at once if it had the lock
        second.communicate(timeout=1)
    if end == "ends":
        first.communicate()
    else:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert second.wait(30) == 0
    assert in_s3.list("*") == {}


def test_two_processes_never_hold_the_lock_at_once(start: Start, in_s3: Folder) -> None:
    killed = start(HOLDER.replace("run", "number"))
    assert [_line(killed), _line(killed)] == ["asking", "held"]
    killed.kill()
    killed.wait()
    in_s3.put("number", b"0")
    counters = [start(COUNTER) for _ in range(2)]
    assert [process.wait(120) for process in counters] == [0, 0]
    assert in_s3.read("number") == b"16"
