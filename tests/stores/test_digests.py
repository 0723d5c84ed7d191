import hashlib
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.stores import digests
from carvana_kedro.stores.digests import Digests, fingerprint


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


@pytest.fixture
def no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember files at once, as if they had not changed for seconds."""
    monkeypatch.setattr(digests, "_TICK_NS", -(1 << 62))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    paths = [folder / f"{number}.bin" for number in range(5)]
    for path in paths:
        path.write_bytes(path.name.encode())
    time.sleep(0.05)  # longer than a tick of the kernel's clock
    return paths


EXPECTED = [_sha256(f"{number}.bin".encode()) for number in range(5)]


def _never(path: Path) -> None:
    raise AssertionError(f"{path} was read")


@given(contents=st.lists(st.binary(max_size=100), max_size=5))
def test_digests_are_of_the_content(contents: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("contents")
    paths = [folder / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert Digests(folder / "memory").of(paths) == [_sha256(content) for content in contents]


@pytest.mark.usefixtures("no_tick")
def test_unchanged_files_are_not_read_again(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Digests(tmp_path / "not yet" / "memory")
    assert first.of(files) == EXPECTED
    monkeypatch.setattr(digests, "_read", _never)
    assert first.of(files) == EXPECTED
    assert Digests(tmp_path / "not yet" / "memory").of(files[::-1]) == EXPECTED[::-1]
    assert pickle.loads(pickle.dumps(first)).of(files) == EXPECTED
    with pytest.raises(AssertionError, match="was read"):
        Digests().of(files)


def test_construction_opens_nothing(tmp_path: Path) -> None:
    assert Digests(tmp_path / "memory").of([]) == []
    assert list(tmp_path.iterdir()) == []


def _rewrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _rewrite_and_restore_times(path: Path, content: bytes) -> None:
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _replace_by_one_of_the_same_time(path: Path, content: bytes) -> None:
    times = path.stat()
    other = path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(other, path)


def _link_elsewhere(path: Path, content: bytes) -> None:
    target = path.with_name("target")
    target.write_bytes(content)
    path.unlink()
    path.symlink_to(target)


CHANGES = [_rewrite, _rewrite_and_restore_times, _replace_by_one_of_the_same_time, _link_elsewhere]


@pytest.mark.usefixtures("no_tick")
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_equal_size_is_noticed(
    files: list[Path], tmp_path: Path, change: Callable[[Path, bytes], None]
) -> None:
    kept = Digests(tmp_path / "memory")
    assert kept.of(files) == EXPECTED
    change(files[2], b"2.BIN")
    expected = [*EXPECTED[:2], _sha256(b"2.BIN"), *EXPECTED[3:]]
    assert kept.of(files) == Digests(tmp_path / "memory").of(files) == expected


@pytest.mark.usefixtures("no_tick")
def test_swapped_contents_are_noticed(files: list[Path], tmp_path: Path) -> None:
    kept = Digests(tmp_path / "memory")
    kept.of(files)
    files[0].rename(tmp_path / "between")
    files[1].rename(files[0])
    (tmp_path / "between").rename(files[1])
    assert (
        kept.of(files) == Digests(tmp_path / "memory").of(files) == [EXPECTED[1], EXPECTED[0], *EXPECTED[2:]]
    )


def test_a_file_that_has_just_changed_is_not_remembered(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within the same tick of the clock would leave the same times."""
    kept = Digests(tmp_path / "memory")
    assert kept.of(files) == EXPECTED
    monkeypatch.setattr(digests, "state_of", lambda found: "the same")
    files[0].write_bytes(b"0.BIN")
    assert kept.of(files)[0] == Digests(tmp_path / "memory").of(files)[0] == _sha256(b"0.BIN")


def test_what_cannot_be_read_has_no_digest_until_it_can(files: list[Path], tmp_path: Path) -> None:
    memory = Digests(tmp_path / "memory")
    files[0].unlink()
    files[1].unlink()
    files[1].mkdir()
    files[2].unlink()
    os.mkfifo(files[2])
    files[3].unlink()
    files[3].symlink_to("nowhere")
    assert memory.of(files) == ["", "", "", "", EXPECTED[4]]
    files[0].write_bytes(b"0.bin")
    assert memory.of(files[:1]) == EXPECTED[:1]


@pytest.mark.usefixtures("no_tick")
def test_a_transient_error_is_not_remembered(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    memory = Digests(tmp_path / "memory")
    with monkeypatch.context() as disk:
        disk.setattr(digests.hashlib, "file_digest", fail)
        assert memory.of(files) == [""] * 5
    assert memory.of(files) == EXPECTED


def test_names_may_be_invalid_unicode(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.write_bytes(b"content")
    assert Digests(tmp_path / "memory").of([path]) == [_sha256(b"content")]


@contextmanager
def _other_content(memory: Path) -> Iterator[None]:
    memory.write_bytes(b"not a database" * 1000)
    yield


@contextmanager
def _cut(memory: Path) -> Iterator[None]:
    memory.write_bytes(memory.read_bytes()[:3000])
    yield


@contextmanager
def _zeros(memory: Path) -> Iterator[None]:
    memory.write_bytes(memory.read_bytes()[:100] + bytes(memory.stat().st_size - 100))
    yield


@contextmanager
def _another_table(memory: Path) -> Iterator[None]:
    memory.unlink()
    with closing(sqlite3.connect(memory)) as database, database:
        database.execute("CREATE TABLE files (name TEXT)")
    yield


@contextmanager
def _folder(memory: Path) -> Iterator[None]:
    memory.unlink()
    memory.mkdir()
    yield


@contextmanager
def _below_a_file(memory: Path) -> Iterator[None]:
    shutil.rmtree(memory.parent)
    memory.parent.write_text("a file")
    yield


@contextmanager
def _locked(memory: Path) -> Iterator[None]:
    with closing(sqlite3.connect(memory, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


SPOILERS = [_other_content, _cut, _zeros, _another_table, _folder, _below_a_file, _locked]


@pytest.mark.usefixtures("no_tick")
@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_memory_that_cannot_be_used_is_only_slow(
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], Iterator[None]],
) -> None:
    monkeypatch.setattr(digests, "_LOCK_SECONDS", 0.1)
    path = tmp_path / "memory" / "digests.sqlite"
    Digests(path).of(files)
    with spoil(path):
        memory = Digests(path)
        assert memory.of(files) == memory.of(files) == EXPECTED
    (warning,) = caplog.messages
    assert str(path) in warning
    assert "every run reads all files" in warning


@pytest.mark.usefixtures("no_tick")
@pytest.mark.parametrize("column", ["digest", "seal"])
def test_a_damaged_row_is_not_believed(files: list[Path], tmp_path: Path, column: str) -> None:
    path = tmp_path / "memory"
    Digests(path).of(files)
    for value in ("'0' || substr({}, 2)", "NULL", "X'00'", "7"):
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(f"UPDATE files SET {column} = " + value.format(column))
        assert Digests(path).of(files) == EXPECTED


FULL = """
import resource, sys
from pathlib import Path
from carvana_kedro.stores import digests
digests._TICK_NS = -(1 << 62)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
files = sorted(Path(sys.argv[1]).iterdir())
print(*digests.Digests(Path(sys.argv[2])).of(files))
"""


def test_a_full_disk_is_only_slow(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(2000):
        (folder / f"{number:04}").write_bytes(b"%d" % number)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), str(tmp_path / "memory")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [_sha256(b"%d" % number) for number in range(2000)]
    assert "memory cannot be used" in done.stderr


@pytest.mark.usefixtures("no_tick")
def test_an_interrupted_call_keeps_what_it_has_read(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = digests._read

    def interrupt(path: Path) -> object:
        if path == files[4]:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(digests, "_WINDOW", 2)
    monkeypatch.setattr(digests, "_read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Digests(tmp_path / "memory").of(files)
    monkeypatch.setattr(digests, "_read", _never)
    assert Digests(tmp_path / "memory").of(files[:4]) == EXPECTED[:4]


AT_ONCE = """
import logging, sys
from pathlib import Path
from carvana_kedro.stores import digests
logging.basicConfig(level="WARNING")
digests._TICK_NS = -(1 << 62)
digests._WINDOW = 20
files = sorted(Path(sys.argv[1]).iterdir())
sys.stdin.readline()
print(*digests.Digests(Path(sys.argv[2])).of(files))
"""


def test_several_processes_use_one_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number:04}").write_bytes(b"%d" % number)
    expected = [_sha256(b"%d" % number) for number in range(400)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, str(folder), str(tmp_path / "memory")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        found, errors = process.communicate()
        assert found.split() == expected
        assert errors == ""
    monkeypatch.setattr(digests, "_read", _never)
    assert Digests(tmp_path / "memory").of(sorted(folder.iterdir())) == expected


@given(facts=st.lists(st.tuples(st.text(), st.text()), max_size=4), other=st.tuples(st.text(), st.text()))
def test_a_fingerprint_depends_on_every_fact_and_not_on_their_order(
    facts: list[tuple[str, ...]], other: tuple[str, str]
) -> None:
    assert fingerprint(reversed(facts)) == fingerprint(facts)
    assert fingerprint([*facts, other]) != fingerprint(facts)
