import multiprocessing
import os
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.stores.archives import find_folder, read_table, unpack


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_archives_are_unpacked_once(archives: Path, tmp_path: Path) -> None:
    folder = unpack(archives / "train.zip", tmp_path)
    assert len(list(folder.glob("*.jpg"))) == 16
    with zipfile.ZipFile(archives / "train.zip") as archive:
        for member in archive.infolist():
            assert (folder / Path(member.filename).name).read_bytes() == archive.read(member)
    before = folder.stat().st_mtime_ns
    assert unpack(archives / "train.zip", tmp_path) == folder
    assert folder.stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == [folder]


def test_another_archive_of_the_same_name_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    one = unpack(_zip(tmp_path / "train.zip", {"train/a.jpg": b"1"}), tmp_path / "unpacked")
    two = unpack(_zip(tmp_path / "train.zip", {"train/a.jpg": b"2"}), tmp_path / "unpacked")
    assert (one / "a.jpg").read_bytes() == b"1"
    assert (two / "a.jpg").read_bytes() == b"2"


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/a.jpg", "train/../../a.jpg", "train/b/a.jpg", "a.jpg", "train/a.sh"]
)
def test_members_that_do_not_belong_are_refused(tmp_path: Path, name: str) -> None:
    archive = _zip(tmp_path / "train.zip", {"train/good.jpg": b"1", name: b"1"})
    with pytest.raises(UserError, match="only images in the folder train/ belong there"):
        unpack(archive, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "train.zip", "w", compression) as archive:
        archive.writestr("train/a.jpg", np.random.default_rng(0).integers(0, 16, 10_000, np.uint8).tobytes())
    content = bytearray((tmp_path / "train.zip").read_bytes())
    for position in range(2000, 2100):
        content[position] ^= 0xFF
    (tmp_path / "train.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"train\.zip is damaged"):
        unpack(tmp_path / "train.zip", tmp_path / "unpacked")
    (tmp_path / "train.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"train\.zip is damaged"):
        unpack(tmp_path / "train.zip", tmp_path / "unpacked")
    assert not list((tmp_path / "unpacked").iterdir())


def test_what_finder_adds_is_passed_over(tmp_path: Path) -> None:
    members = {"train/a.jpg": b"1", "train/.DS_Store": b"1", "__MACOSX/train/._a.jpg": b"1"}
    folder = unpack(_zip(tmp_path / "train.zip", members), tmp_path / "unpacked")
    assert [path.name for path in folder.iterdir()] == ["a.jpg"]


def test_two_runs_may_unpack_at_once(archives: Path, tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        folders = set(pool.map(unpack, [archives / "train.zip"] * 8, [tmp_path] * 8))
    assert set(tmp_path.iterdir()) == folders
    assert len(list(folders.pop().iterdir())) == 16


def test_what_a_killed_run_has_left_goes_away(archives: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old.part", tmp_path / "new.part"
    for folder in (old, new):
        folder.mkdir()
        (folder / "a.jpg").touch()
    os.utime(old, (0, 0))
    unpack(archives / "train.zip", tmp_path)
    assert not old.exists()
    assert new.exists()  # another run may be at work in it


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("image,mask\na.jpg,1 2\n", "should have the columns img,rle_mask, not 'image,mask'"),
        ("img,rle_mask\na.jpg,1 2\na.jpg,\n", r"line 3: a\.jpg is there twice"),
        ("img,rle_mask\na.jpg,1 2,3\n", "line 2: 3 fields instead of 2"),
        ("", "should have the columns"),
    ],
)
def test_wrong_tables_are_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "solution.csv").write_text(content)
    with pytest.raises(UserError, match=told):
        list(read_table(tmp_path, "solution") or ())
    (tmp_path / "solution.csv").write_bytes(b"img,rle_mask\n\xff\xfe")
    with pytest.raises(UserError, match=r"solution\.csv is damaged"):
        list(read_table(tmp_path, "solution") or ())


def test_folders_are_used_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "train" / "train").mkdir(parents=True)
    assert find_folder(tmp_path, ("train",), tmp_path / "never") == tmp_path / "train" / "train"
    (tmp_path / "train_hq").mkdir()
    assert find_folder(tmp_path, ("train_hq", "train"), tmp_path / "never") == tmp_path / "train_hq"
    assert not (tmp_path / "never").exists()


def test_what_is_missing_is_named_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "trian.zip").touch()
    with pytest.raises(UserError, match=r"Neither train_hq/ or .*train\.zip is in .*which holds: trian\.zip"):
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
