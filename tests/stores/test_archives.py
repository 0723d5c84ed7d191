import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carvana_kedro.errors import UserError
from carvana_kedro.stores.archives import (
    DamagedArchiveError,
    find_folder,
    find_table,
    find_unpacked,
    read_rows,
    read_table,
    unpack,
)
from carvana_kedro.stores.locks import locked

A, B = "00087a6bd4dc_01.jpg", "00087a6bd4dc_02.jpg"
# Unpacks an archive, and kills itself when an audit event occurs for a path with this ending for the Nth time.
KILLED = """
import os, signal, sys
from pathlib import Path
from carvana_kedro.stores.archives import unpack
archive, unpacked, event, ending, times = sys.argv[1:]
met = 0
def watch(name, arguments):
    global met
    if name == event and str(arguments[0]).endswith(ending):
        met += 1
        if met == int(times):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
unpack(Path(archive), Path(unpacked))
"""


def _zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _many(path: Path, count: int, size: int = 5000) -> Path:
    """An archive of `count` images of `size` random bytes."""
    random = np.random.default_rng(0)
    names = [f"train/{n // 16:012x}_{n % 16 + 1:02d}.jpg" for n in range(count)]
    return _zip(path / "train.zip", {name: random.bytes(size) for name in names})


def _images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def _members(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {Path(name).name: opened.read(name) for name in opened.namelist()}


def _written(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each file: a rewritten file has other values."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def _without_locks(folder: Path) -> list[Path]:
    """The content of a folder without the lock files, which stay there."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def test_archives_are_unpacked_once(archives: Path, tmp_path: Path) -> None:
    folder = unpack(archives / "train.zip", tmp_path)
    assert _images(folder) == _members(archives / "train.zip")
    before = _written(folder)
    assert unpack(archives / "train.zip", tmp_path) == folder
    assert _written(folder) == before
    assert _without_locks(tmp_path) == [folder]


def test_the_manifest_lists_the_unpacked_files(archives: Path, tmp_path: Path) -> None:
    content = (archives / "train_masks.zip").read_bytes()
    manifest = json.loads((unpack(archives / "train_masks.zip", tmp_path) / "manifest.json").read_text())
    assert manifest == {
        "archive": "train_masks.zip",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "files": {name: len(mask) for name, mask in _members(archives / "train_masks.zip").items()},
    }
    known = unpack(archives / "train.zip", tmp_path, sha256="already known")
    assert json.loads((known / "manifest.json").read_text())["sha256"] == "already known"


def test_another_archive_of_the_same_name_has_another_folder(tmp_path: Path) -> None:
    one = unpack(_zip(tmp_path / "train.zip", {f"train/{A}": b"1"}), tmp_path / "unpacked")
    two = unpack(_zip(tmp_path / "train.zip", {f"train/{A}": b"2"}), tmp_path / "unpacked")
    assert (one / A).read_bytes() == b"1"
    assert (two / A).read_bytes() == b"2"


names = st.builds("{:012x}_{:02d}.jpg".format, st.integers(0, 16**12 - 1), st.integers(1, 16))


@given(images=st.dictionaries(names, st.binary(max_size=200), min_size=1), deflated=st.booleans())
@settings(deadline=None, max_examples=30)
def test_unpacked_images_equal_the_packed_ones(images: dict[str, bytes], deflated: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        members = {f"train/{name}": content for name, content in images.items()}
        compression = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
        archive = _zip(Path(folder) / "train.zip", members, compression)
        assert _images(unpack(archive, Path(folder) / "unpacked")) == images


def _entry(name: str, **attributes: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("placeholder")
    entry.filename = name  # set later because the constructor normalizes it
    for attribute, value in attributes.items():
        setattr(entry, attribute, value)
    return entry


def _mode(kind: int) -> int:
    return (kind | 0o777) << 16


# Entries as (name, content, attributes when written, false attributes in the central directory).
Attributes = dict[str, int]
UNSAFE: dict[str, tuple[str, bytes, Attributes, Attributes]] = {
    "parent": ("../a.jpg", b"1", {}, {}),
    "parent within": (f"train/../../{B}", b"1", {}, {}),
    "parent of a folder": ("train/../../b/", b"", {}, {}),
    "parent for Finder": ("__MACOSX/../../a.jpg", b"1", {}, {}),
    "absolute": (f"/tmp/{B}", b"1", {}, {}),
    "backslash": (f"train\\..\\{B}", b"1", {}, {}),
    "drive": (f"C:/{B}", b"1", {}, {}),
    "zero byte": (f"train/{B}\0.sh", b"1", {}, {}),
    "symlink": (f"train/{B}", b"/etc/passwd", {"external_attr": _mode(stat.S_IFLNK)}, {}),
    "fifo": (f"train/{B}", b"", {"external_attr": _mode(stat.S_IFIFO)}, {}),
    "device": (f"train/{B}", b"", {"external_attr": _mode(stat.S_IFCHR)}, {}),
    "another folder": (f"test/{B}", b"1", {}, {}),
    "folder below": (f"train/b/{B}", b"1", {}, {}),
    "no folder": (B, b"1", {}, {}),
    "program": ("train/a.sh", b"1", {}, {}),
    "view 17": ("train/00087a6bd4dc_17.jpg", b"1", {}, {}),
    "line end": (f"train/{B}\n", b"1", {}, {}),
    "mask": ("train/00087a6bd4dc_02_mask.gif", b"1", {}, {}),
    "manifest": ("train/manifest.json", b"{}", {}, {}),
    "twice": (f"train/{A}", b"2", {}, {}),
    "encrypted": (f"train/{B}", b"1", {}, {"flag_bits": 0x1}),
    "strongly encrypted": (f"train/{B}", b"1", {}, {"flag_bits": 0x41}),
    "lzma": (f"train/{B}", b"1", {"compress_type": zipfile.ZIP_LZMA}, {}),
    "bomb": (f"train/{B}", bytes(2 << 20), {"compress_type": zipfile.ZIP_DEFLATED}, {}),
    "huge": (f"train/{B}", b"1", {}, {"file_size": 65 << 20, "compress_size": 65 << 20}),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_unsafe_archives_are_rejected_before_anything_is_written(tmp_path: Path, kind: str) -> None:
    name, content, attributes, false_attributes = UNSAFE[kind]
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names
        archive.writestr(f"train/{A}", b"1")
        archive.writestr(_entry(name, **attributes), content, attributes.get("compress_type"))
        for attribute, value in false_attributes.items():
            setattr(archive.infolist()[-1], attribute, value)
    with pytest.raises(UserError) as raised:
        unpack(tmp_path / "train.zip", tmp_path / "unpacked")
    assert not isinstance(raised.value, DamagedArchiveError)
    for message in (str(tmp_path / "train.zip"), repr(name), "Nothing was unpacked"):
        assert message in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["train.zip"]


def test_many_small_zip_bombs_are_rejected_together(tmp_path: Path) -> None:
    members = {f"train/{n:012x}_01.jpg": bytes(1 << 20) for n in range(70)}
    archive = _zip(tmp_path / "train.zip", members, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"train\.zip would unpack to 73\.4 MB.*Nothing was unpacked"):
        unpack(archive, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_an_archive_without_images_is_rejected(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "train.zip", {"train/": b"", "train/.DS_Store": b"1"})
    with pytest.raises(UserError, match=r"train\.zip contains no image in a folder train/"):
        unpack(archive, tmp_path / "unpacked")


def test_masks_must_have_names_of_masks(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "train_masks.zip", {f"train_masks/{A}": b"1"})
    with pytest.raises(UserError, match=r"<12 hex digits>_<01\.\.16>_mask\.gif"):
        unpack(archive, tmp_path / "unpacked")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_is_an_error_and_complete_files_are_kept(tmp_path: Path, compression: int) -> None:
    random = np.random.default_rng(0)
    members = {f"train/{name}": random.integers(0, 16, 10_000, np.uint8).tobytes() for name in (A, B)}
    archive = _zip(tmp_path / "train.zip", members, compression)
    whole = archive.read_bytes()
    flipped = bytearray(whole)
    for position in range(len(whole) - 2100, len(whole) - 2000):  # in the second image
        flipped[position] ^= 0xFF
    for content in (whole[: len(whole) // 2], b"", b"no zip", bytes(flipped)):
        archive.write_bytes(content)
        with pytest.raises(DamagedArchiveError, match=r"train\.zip is damaged .* Download it again"):
            unpack(archive, tmp_path / "unpacked")
    (part,) = _without_locks(tmp_path / "unpacked")
    before = _written(part)
    archive.write_bytes(whole)
    folder = unpack(archive, tmp_path / "unpacked")
    assert _images(folder) == _members(archive)
    assert _written(folder)[A] == before[A]


def test_a_member_shorter_than_its_declared_size_is_damaged(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"train/{A}", b"1234")
        archive.infolist()[0].file_size = 5  # its checksum is right
    with pytest.raises(DamagedArchiveError, match="has 4 bytes, not 5"):
        unpack(tmp_path / "train.zip", tmp_path / "unpacked")


@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)
)
@settings(deadline=None, max_examples=150)
def test_corrupted_bytes_are_detected_or_harmless(flips: list[tuple[float, int]]) -> None:
    images = {A: b"some text " * 8, B: b"other text" * 8}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        members = {f"train/{image}": content for image, content in images.items()}
        archive = _zip(folder / "train.zip", members, zipfile.ZIP_DEFLATED)
        content = bytearray(archive.read_bytes())
        for place, bits in flips:
            content[int(place * len(content))] ^= bits
        archive.write_bytes(content)
        try:
            unpacked = _images(unpack(archive, folder / "unpacked"))
        except UserError:
            assert find_unpacked(folder / "unpacked", "train") is None
        else:
            # The changed bytes may be another valid name in both places of the archive, or another number of entries.
            assert set(unpacked.values()) <= set(images.values())


def test_entries_of_the_macos_finder_are_skipped(tmp_path: Path) -> None:
    members = {"train/": b"", f"train/{A}": b"1", "train/.DS_Store": b"1", f"__MACOSX/train/._{A}": b"1"}
    folder = unpack(_zip(tmp_path / "train.zip", members), tmp_path / "unpacked")
    assert _images(folder) == {A: b"1"}


def test_several_processes_can_unpack_at_once(tmp_path: Path) -> None:
    archive = _many(tmp_path, 300)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        folders = set(pool.map(unpack, [archive] * 6, [tmp_path / "unpacked"] * 6))
    assert set(_without_locks(tmp_path / "unpacked")) == folders
    assert _images(folders.pop()) == _members(archive)


def test_a_process_that_waited_does_not_unpack_again(tmp_path: Path) -> None:
    archive = _many(tmp_path, 8)
    folder = unpack(archive, tmp_path / "unpacked")
    aside = folder.rename(tmp_path / "aside")
    before = _written(aside)
    program = "import sys; from pathlib import Path; from carvana_kedro.stores.archives import unpack\n"
    program += "unpack(Path(sys.argv[1]), Path(sys.argv[2]))"
    arguments = (str(archive), str(tmp_path / "unpacked"))
    with locked(folder):
        other = subprocess.Popen([sys.executable, "-c", program, *arguments])
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
        aside.rename(folder)
    assert other.wait(10) == 0
    assert _written(folder) == before


@pytest.mark.parametrize(
    ("event", "ending", "times"),
    [
        ("open", ".jpg", 1),
        ("open", ".jpg", 150),
        ("open", ".jpg", 300),
        ("os.rename", ".part", 1),  # the manifest
        ("os.rename", ".part", 2),  # the folder
    ],
)
def test_a_killed_run_is_resumed(tmp_path: Path, event: str, ending: str, times: int) -> None:
    archive = _many(tmp_path, 300)
    arguments = (str(archive), str(tmp_path / "unpacked"), event, ending, str(times))
    assert subprocess.run([sys.executable, "-c", KILLED, *arguments]).returncode == -signal.SIGKILL
    (part,) = _without_locks(tmp_path / "unpacked")
    assert part.suffix == ".part"
    before = {name: when for name, when in _written(part).items() if name.endswith(".jpg")}
    assert len(before) == (times - 1 if event == "open" else 300)
    folder = unpack(archive, tmp_path / "unpacked")
    assert _images(folder) == _members(archive)
    assert {name: _written(folder)[name] for name in before} == before
    assert _without_locks(tmp_path / "unpacked") == [folder]


def test_only_complete_files_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = _many(tmp_path, 8)
    folder = unpack(archive, tmp_path / "unpacked")
    part = folder.rename(f"{folder}.part")
    short, wrong, linked, *whole = sorted(path for path in part.glob("*.jpg"))
    before = _written(part)
    elsewhere = tmp_path / "elsewhere.jpg"
    elsewhere.write_bytes(linked.read_bytes())
    short.write_bytes(short.read_bytes()[:-1])
    wrong.write_bytes(b"x" + wrong.read_bytes()[1:])
    linked.unlink()
    linked.symlink_to(elsewhere)
    (part / "stranger.jpg").touch()
    (part / "folder" / "in").mkdir(parents=True)
    with caplog.at_level("INFO"):
        assert unpack(archive, tmp_path / "unpacked") == folder
    assert f"Unpacking {archive}: 8 images, 5 of them already unpacked" in caplog.text
    assert _images(folder) == _members(archive)
    assert {path.name: _written(folder)[path.name] for path in whole} == {
        path.name: before[path.name] for path in whole
    }
    assert not (folder / linked.name).is_symlink()
    assert elsewhere.read_bytes() == (folder / linked.name).read_bytes()


def _remove_an_image(folder: Path) -> None:
    next(folder.glob("*.jpg")).unlink()


def _cut_an_image(folder: Path) -> None:
    os.truncate(next(folder.glob("*.jpg")), 10)


def _remove_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _break_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files": [')


def _take_another_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1, 2]")


@pytest.mark.parametrize("leftover", [False, True])
@pytest.mark.parametrize(
    "harm",
    [_remove_an_image, _cut_an_image, _remove_the_manifest, _break_the_manifest, _take_another_manifest],
)
def test_an_incomplete_folder_is_completed(
    tmp_path: Path, harm: Callable[[Path], None], leftover: bool
) -> None:
    archive = _many(tmp_path, 8)
    folder = unpack(archive, tmp_path / "unpacked")
    before = _written(folder)
    harm(folder)
    if leftover:
        shutil.copytree(folder, f"{folder}.part")
    assert find_unpacked(tmp_path / "unpacked", "train") is None
    assert unpack(archive, tmp_path / "unpacked") == folder
    assert _images(folder) == _members(archive)
    kept = [name for name, when in _written(folder).items() if before[name] == when]
    assert len(kept) >= 7
    assert find_unpacked(tmp_path / "unpacked", "train") == folder
    assert _without_locks(tmp_path / "unpacked") == [folder]


def test_the_newest_complete_folder_is_found_without_its_archive(tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    assert find_unpacked(unpacked, "train") is None
    one = unpack(_many(tmp_path, 1), unpacked)
    two = unpack(_many(tmp_path, 2), unpacked)
    (tmp_path / "train.zip").unlink()
    os.utime(two / "manifest.json", (0, 0))
    assert find_unpacked(unpacked, "train") == one
    os.utime(one / "manifest.json", (-1, -1))
    assert find_unpacked(unpacked, "train") == two
    _cut_an_image(two)
    assert find_unpacked(unpacked, "train") == one
    assert find_unpacked(unpacked, "train_hq") is None
    shutil.copytree(one, unpacked / "train_hq-0123456789ab")
    assert find_unpacked(unpacked, "train") == one
    one.rename(f"{one}.part")
    assert find_unpacked(unpacked, "train") is None


def test_a_full_disk_is_an_error_and_the_next_run_resumes(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "train.zip", {f"train/{A}": bytes(10_000), f"train/{B}": os.urandom(200_000)})

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    program = (
        "import sys; from pathlib import Path; from carvana_kedro.errors import UserError\n"
        "from carvana_kedro.stores.archives import unpack\n"
        "try: unpack(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except UserError as error: sys.exit(str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(archive), str(tmp_path / "unpacked")],
        preexec_fn=limit_files,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"{archive} cannot be unpacked into" in done.stderr
    assert "File too large" in done.stderr
    assert "Files that are already unpacked are kept." in done.stderr
    (part,) = _without_locks(tmp_path / "unpacked")
    before = _written(part)
    folder = unpack(archive, tmp_path / "unpacked")
    assert _images(folder) == _members(archive)
    assert _written(folder)[A] == before[A]


def test_free_space_is_checked_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _many(tmp_path, 10)
    needed: list[int] = []
    monkeypatch.setattr(
        "carvana_kedro.stores.archives.require_space", lambda folder, size, purpose: needed.append(size)
    )
    folder = unpack(archive, tmp_path / "unpacked")
    _remove_an_image(folder)
    unpack(archive, tmp_path / "unpacked")
    assert needed == [10 * 8192, 8192]  # 5000 bytes take two blocks


def test_a_complete_folder_is_used_without_writing(tmp_path: Path) -> None:
    archive = _many(tmp_path, 1)
    folder = unpack(archive, tmp_path / "unpacked")
    lock = tmp_path / "unpacked" / f".{folder.name}.lock"
    lock.unlink()
    assert unpack(archive, tmp_path / "unpacked") == folder
    assert not lock.exists()  # it could not be created on a read-only disk


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,mask\na.jpg,1 2\n", "should have the columns img,rle_mask, not 'image,mask'"),
        ("img,rle_mask\na.jpg,1 2\na.jpg,\n", r"line 3: 'a\.jpg' appears twice"),
        ("img,rle_mask\na.jpg,1 2,3\n", "line 2: 3 fields instead of 2"),
        ("", "should have the columns"),
    ],
)
def test_errors_name_the_wrong_table(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "solution.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        list(read_table(tmp_path, "solution") or ())
    (tmp_path / "solution.csv").write_bytes(b"img,rle_mask\n\xff\xfe")
    with pytest.raises(UserError, match=r"solution\.csv is damaged"):
        list(read_table(tmp_path, "solution") or ())


def test_folders_are_used_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "train" / "train").mkdir(parents=True)
    assert find_folder(tmp_path, ("train",), tmp_path / "never") == tmp_path / "train" / "train"
    (tmp_path / "train_hq").mkdir()
    assert find_folder(tmp_path, ("train_hq", "train"), tmp_path / "never") == tmp_path / "train_hq"
    assert not (tmp_path / "never").exists()


def test_an_empty_folder_does_not_hide_the_archive(archives: Path, tmp_path: Path) -> None:
    shutil.copy(archives / "train.zip", tmp_path)
    (tmp_path / "train").mkdir()
    assert len(list(find_folder(tmp_path, ("train",), tmp_path / "unpacked").glob("*.jpg"))) == 16


def test_the_error_for_a_missing_folder_lists_the_existing_files(tmp_path: Path) -> None:
    (tmp_path / "trian.zip").touch()
    with pytest.raises(UserError, match=r"should hold train_hq/ or .*train\.zip, but holds: trian\.zip"):
        find_folder(tmp_path, ("train_hq", "train"), tmp_path / "never")
    with pytest.raises(UserError, match="does not exist"):
        find_folder(tmp_path / "nowhere", ("train",), tmp_path / "never")


def test_tables_are_read_from_csv_and_zip(archives: Path, tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "plain.csv").write_text("img,rle_mask\na.jpg,1 2\n", encoding)
        assert list(read_table(tmp_path, "plain") or ()) == [("a", "1 2")]
    assert read_table(tmp_path, "other") is None
    assert len(list(read_table(archives, "sample_submission") or ())) == 4
    (tmp_path / "bad.csv.zip").write_bytes(b"not a zip")
    with pytest.raises(UserError, match=r"bad\.csv\.zip is damaged"):
        list(read_table(tmp_path, "bad") or ())


def test_a_csv_file_is_preferred_to_its_archive(archives: Path, tmp_path: Path) -> None:
    assert find_table(tmp_path, "solution") is None
    shutil.copy(archives / "solution.csv.zip", tmp_path)
    assert find_table(tmp_path, "solution") == tmp_path / "solution.csv.zip"
    rows = list(read_rows(tmp_path / "solution.csv.zip"))
    assert rows == list(read_table(archives, "solution") or ())
    (tmp_path / "solution.csv").write_text("img,rle_mask\na.jpg,1 2\n")
    assert find_table(tmp_path, "solution") == tmp_path / "solution.csv"
    assert list(read_rows(tmp_path / "solution.csv")) == [("a", "1 2")]


@pytest.mark.parametrize(
    ("members", "attributes", "message"),
    [
        ({}, {}, "contains it 0 times"),
        ({"t.csv": b"", "t.csv/": b"", "__MACOSX/._t.csv": b""}, {}, "should have the columns"),
        ({"other.csv": b""}, {}, r"holds 'other\.csv': only t\.csv is allowed"),
        ({"t.csv": b"", "more.txt": b""}, {}, r"holds 'more\.txt': only t\.csv is allowed"),
        ({"../t.csv": b""}, {}, r"holds '\.\./t\.csv': its path leads out of the folder"),
        ({"t.csv": b""}, {"external_attr": _mode(stat.S_IFLNK)}, r"holds 't\.csv': it is not a regular file"),
        ({"t.csv": b""}, {"flag_bits": 1}, r"holds 't\.csv': it is encrypted"),
        ({"t.csv": b"1"}, {"file_size": 17 << 20}, r"holds 't\.csv': it would unpack to more than 200 times"),
        (
            {"t.csv": b"1"},
            {"file_size": 5 << 30, "compress_size": 5 << 30},
            r"holds 't\.csv': its size is 5\.4 GB",
        ),
    ],
)
def test_unsafe_tables_are_rejected(
    tmp_path: Path, members: dict[str, bytes], attributes: dict[str, int], message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for attribute, value in attributes.items():
            setattr(archive.infolist()[0], attribute, value)
    with pytest.raises(UserError, match=message) as raised:
        list(read_rows(tmp_path / "t.csv.zip"))
    assert not isinstance(raised.value, DamagedArchiveError)
    assert "t.csv.zip" in str(raised.value)


def test_damaged_tables_are_errors(archives: Path, tmp_path: Path) -> None:
    whole = (archives / "solution.csv.zip").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (b"", whole[:-30], bytes(flipped)):
        (tmp_path / "solution.csv.zip").write_bytes(content)
        with pytest.raises(DamagedArchiveError, match=r"solution\.csv\.zip is damaged"):
            list(read_rows(tmp_path / "solution.csv.zip"))
