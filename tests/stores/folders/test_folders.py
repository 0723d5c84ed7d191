"""What a store may expect of a folder, wherever it is."""

import errno
import pickle
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.stores.folders import DiskFolder, Folder, Stat, is_address, open_file, open_folder
from carvana_kedro.stores.folders.object_faults import asking
from carvana_kedro.stores.folders.objects import ObjectFolder

NAMES = (
    "run.json", ".hidden.png", "a/run.json", "b/run.json", "b/c/run.json", "b/last-000000002.pt",
    "b/last-000000010.pt", "b/last-000000010.damaged", "bb/run.json", "masks/a [1]?*.png", "masks/x/y/\u8eca.png",
)  # fmt: skip
PATTERNS = ("*", "[!.]*", "*/run.json", "b/last-*.pt", "b/last-0*2.pt", "masks/**/*", "**/run.json", "*/*-*.pt", "z/*",
            "run.json", "b", "b/c/*")  # fmt: skip


def _files(folder: Folder) -> set[str]:
    return {name for name in folder.list("**/*") if not name.endswith(".lock")}


def test_a_file_is_read_as_it_was_written(folder: Folder) -> None:
    with folder.write("a/b c.bin") as part:
        part.write_bytes(b"\x00whole\xff")
    assert folder.read("a/b c.bin") == folder.folder("a").read("b c.bin") == b"\x00whole\xff"
    assert folder.local("a/b c.bin").read_bytes() == b"\x00whole\xff"
    assert folder.local("a/b c.bin").name == "b c.bin"
    assert _files(folder) == {"a/b c.bin"}


def test_a_later_file_replaces_an_earlier_one(folder: Folder) -> None:
    versions = {folder.put("a", b"one"), folder.put("a", b"two")}
    assert len(versions) == 2
    assert folder.read("a") == folder.local("a").read_bytes() == b"two"
    folder.put("a", b"")
    assert folder.read("a") == folder.local("a").read_bytes() == b""


def test_an_error_in_the_block_leaves_nothing(folder: Folder, tmp_path: Path) -> None:
    folder.put("there", b"before")
    for name in ("there", "new"):
        with pytest.raises(RuntimeError, match="out of luck"), folder.write(name) as part:
            part.write_bytes(b"half")
            raise RuntimeError("out of luck")
    assert _files(folder) == {"there"}
    assert folder.read("there") == b"before"
    assert not list(tmp_path.rglob("*.part"))


def test_a_missing_file_is_not_found(folder: Folder) -> None:
    folder.put("a/b", b"")
    for name in ("missing", "a/missing", "x/y"):
        assert folder.stat(name) is None
        for read in (folder.read, folder.local):
            with pytest.raises(FileNotFoundError):
                read(name)
        folder.remove(name)


def test_a_version_is_that_of_the_content(folder: Folder) -> None:
    began = time.time()
    version = folder.put("a", b"content")
    found = folder.stat("a")
    assert isinstance(found, Stat)
    assert (found.size, found.version) == (7, version)
    assert abs(found.modified - began) < 60
    listed = folder.list("*")["a"]
    assert (listed.size, listed.version) == (7, version)
    assert abs(listed.modified - found.modified) < 1  # a HEAD request of S3 tells whole seconds
    folder.put("b", b"other")
    assert folder.stat("a") == found


def test_patterns_match_as_those_of_a_path(folder: Folder, tmp_path: Path) -> None:
    reference = DiskFolder(tmp_path / "reference")
    for name in NAMES:
        reference.put(name, b"")
        folder.put(name, b"")
    for pattern in PATTERNS:
        assert [*folder.list(pattern)] == [*reference.list(pattern)], pattern
    assert [*folder.folder("b").list("*")] == [*reference.folder("b").list("*")]
    assert folder.folder("nowhere").list("**/*") == {}


def test_names_with_the_characters_of_patterns_are_names(folder: Folder) -> None:
    for name in ("[ab].png", "a.png", "*.png"):
        folder.put(name, name.encode())
    folder.rename("*.png", "?.png")
    folder.remove("[ab].png")
    assert [*folder.list("*")] == ["?.png", "a.png"]
    assert folder.read("?.png") == b"*.png"


def test_a_renamed_file_replaces_an_earlier_one(folder: Folder) -> None:
    folder.put("a", b"a")
    folder.put("b", b"b")
    folder.rename("a", "b")
    assert ([*folder.list("*")], folder.read("b")) == (["b"], b"a")


def test_a_lock_can_be_taken_again(folder: Folder) -> None:
    for name in ("", "run", "run"):
        with folder.locked(name):
            folder.put("run/a", b"")
    with pytest.raises(RuntimeError, match="out of luck"), folder.locked("run"):
        raise RuntimeError("out of luck")
    with folder.locked("run"):
        assert [*folder.folder("run").list("*")] == ["a"]


def test_a_directory_is_kept_also_after_an_error(folder: Folder) -> None:
    events = folder.folder("events")
    with events.directory("run") as path:
        path.mkdir(parents=True, exist_ok=True)
        (path / "first").write_text("1")
    assert events.read("run/first") == b"1"
    with pytest.raises(RuntimeError), events.directory() as path:
        assert (path / "run" / "first").read_text() == "1"
        (path / "run" / "second").write_text("22")
        raise RuntimeError
    assert [*events.list("**/*")] == ["run/first", "run/second"]


def test_an_earlier_file_of_a_directory_does_not_replace_that_of_another_machine(in_memory: Folder) -> None:
    with in_memory.directory("export") as path:
        (path / "model").write_text("earlier, and longer")
    in_memory.put("export/model", b"later")
    with in_memory.directory("export") as path:
        (path / "manifest").write_text("1")
    assert in_memory.read("export/model") == b"later"
    in_memory.remove("export/manifest")  # as if this process had been killed before it was uploaded
    with in_memory.directory("export"):
        pass
    assert [*in_memory.list("**/*")] == ["export/manifest", "export/model"]


class Unreachable(ObjectFolder):
    """A store that takes nothing."""

    def _upload(self, path: Path, before: Mapping[str, str]) -> None:
        raise UserError("the store does not answer")


def test_the_error_of_a_directory_is_that_of_the_block(
    in_memory: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Unreachable(str(in_memory), tmp_path)
    with pytest.raises(RuntimeError, match="the cause"), folder.directory():
        raise RuntimeError("the cause")
    assert "the store does not answer" in caplog.text
    with pytest.raises(UserError, match="does not answer"), folder.directory():
        pass


def test_a_full_disk_of_copies_is_no_fault_of_the_store() -> None:
    with pytest.raises(OSError, match="full"), asking("s3://bucket/a", "read", {}):
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(UserError, match="s3://bucket/a cannot be read"), asking("s3://bucket/a", "read", {}):
        raise OSError(errno.ECONNRESET, "reset")


def test_a_folder_can_be_sent_to_another_process(folder: Folder) -> None:
    folder.put("b/c", b"in b")
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert pickle.loads(pickle.dumps(folder.folder("b"))).read("c") == b"in b"


def test_addresses_and_paths_are_told_apart(tmp_path: Path) -> None:
    assert is_address("s3://bucket/a") and not is_address(tmp_path)
    assert open_folder(str(tmp_path)) == DiskFolder(tmp_path)
    assert open_file(tmp_path / "a.pt") == (DiskFolder(tmp_path), "a.pt")
    folder, name = open_file("memory://bucket/a/b.pt", scratch=tmp_path)
    assert (str(folder), name) == ("memory://bucket/a", "b.pt")
    assert str(open_folder("memory://bucket/a/", scratch=tmp_path)) == "memory://bucket/a"


@pytest.mark.parametrize("address", ["ftp://server/a", "s3://", "s3:///", "://a"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(
        UserError, match=rf"^{re.escape(address)} is not an address of a folder\. Write s3://"
    ):
        open_folder(address)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        UserError, match=r's3://b/a needs the package s3fs: pip install "carvana-kedro\[s3\]"'
    ):
        open_folder("s3://b/a")


def test_a_copy_is_downloaded_once_for_each_version(in_memory: Folder, tmp_path: Path) -> None:
    in_memory.put("a.txt", b"one")
    first = in_memory.local("a.txt")
    assert in_memory.local("a.txt") == first
    in_memory.put("a.txt", b"two")
    second = in_memory.local("a.txt")
    assert second.read_bytes() == b"two"
    assert not first.exists()
    assert [path.name for path in (tmp_path / "scratch" / "copies").rglob("*.txt")] == ["a.txt"]


def test_the_copy_of_a_removed_object_is_removed(in_memory: Folder, tmp_path: Path) -> None:
    for name in ("a", "b"):
        in_memory.put(name, b"content")
        in_memory.local(name)
    in_memory.rename("a", "c")
    in_memory.remove("b")
    assert not [path for path in (tmp_path / "scratch" / "copies").rglob("*") if path.is_file()]


def test_a_copy_of_a_known_version_is_not_asked_for_again(
    in_memory: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory.put("a", b"one")
    known = in_memory.list("*")["a"]
    copy = in_memory.local("a", known)
    in_memory.put("a", b"two")
    with monkeypatch.context() as patch:
        patch.setattr(ObjectFolder, "_asking", None)
        assert in_memory.local("a", known) == copy
    assert copy.read_bytes() == b"one"
    shutil.rmtree(tmp_path / "scratch")
    with pytest.raises(UserError, match=rf"^{in_memory}/a changed while it was read\. Run again\.$"):
        in_memory.local("a", known)
    assert in_memory.local("a", in_memory.list("*")["a"]).read_bytes() == b"two"
    in_memory.remove("a")
    shutil.rmtree(tmp_path / "scratch")
    with pytest.raises(FileNotFoundError):
        in_memory.local("a", known)


def test_temporary_files_of_killed_processes_are_removed(in_memory: Folder, tmp_path: Path) -> None:
    left = tmp_path / "scratch" / "parts" / ".1a2b3c4d.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    with in_memory.write("a") as part:
        part.write_bytes(b"")
        left.write_bytes(b"half")
        in_memory.sweep()
        assert part.exists() and not left.exists()


def test_links_that_lead_nowhere_are_not_listed(tmp_path: Path) -> None:
    folder = DiskFolder(tmp_path)
    folder.put("a", b"content")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "broken").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "through a file").symlink_to("a/b")
    assert [*folder.list("*")] == ["a", "link"]
