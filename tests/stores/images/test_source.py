"""What holds for every kind of source."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.image_index import check_source, index_images
from carvana_kedro.stores import digests
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.folder import FolderStore
from carvana_kedro.stores.images.source import ImageSource

IDS = [f"0123456789ab_{view:02}" for view in range(1, 5)]


class Folders(NamedTuple):
    """A source in two folders, with files whose sizes do not depend on what they show."""

    root: Path
    opened: Callable[[Path, Digests], ImageSource]
    image_type: str
    mask_type: str

    def open(self, root: Path | None = None) -> ImageSource:
        return self.opened(root or self.root, Digests(self.root.parent / "digests.sqlite"))

    def image(self, number: int) -> Path:
        return self.root / f"images/{IDS[number]}{self.image_type}"

    def mask(self, number: int) -> Path:
        return self.root / f"masks/{IDS[number]}_mask{self.mask_type}"


def _picture(path: Path, seed: int) -> None:
    """Write an image. A comment makes all jpg and png files of one folder equally long."""
    pixels = np.random.default_rng(seed).integers(256, size=(32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "TIFF" if path.suffix == ".tif" else "JPEG", quality=100)
    with path.open("ab") as file:
        if path.suffix == ".jpg":
            file.write(bytes(20_000 - path.stat().st_size - 2) + b"\xff\xd9")


def _mask(path: Path, shift: int) -> None:
    """Write a mask of a square. Its size does not depend on where the square is."""
    mask = np.zeros((32, 48), np.uint8)
    mask[8:16, 8 + shift : 16 + shift] = 255
    Image.fromarray(mask).save(path)
    if path.suffix == ".gif":
        with path.open("ab") as file:
            file.write(bytes(5_000 - path.stat().st_size))


SOURCES = {
    "competition": (
        lambda root, memory: ImageStore(root / "images", root / "masks", digests=memory),
        ".jpg",
        ".gif",
    ),
    "folder": (
        lambda root, memory: FolderStore(root / "images", root / "masks", "_mask", digests=memory),
        ".tif",
        ".bmp",
    ),
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setattr(digests, "_TICK_NS", -(1 << 62))  # everything is remembered at once
    folders = Folders(tmp_path / "source", *SOURCES[request.param])
    for name in ("images", "masks"):
        (folders.root / name).mkdir(parents=True)
    for number in range(4):
        _picture(folders.image(number), number)
        _mask(folders.mask(number), number)
    time.sleep(0.05)  # longer than a tick of the kernel's clock
    return folders


def _another_image(source: Folders) -> None:
    _picture(source.image(1), 99)


def _another_image_of_the_same_time(source: Folders) -> None:
    times = source.image(1).stat()
    _picture(source.image(1), 99)
    os.utime(source.image(1), ns=(times.st_atime_ns, times.st_mtime_ns))


def _another_mask(source: Folders) -> None:
    _mask(source.mask(1), 20)


def _shifted_masks_of_the_same_time(source: Folders) -> None:
    for number in range(4):
        times = source.mask(number).stat()
        shifted = source.mask(number).with_name("shifted" + source.mask_type)
        _mask(shifted, number + 20)
        os.utime(shifted, ns=(times.st_atime_ns, times.st_mtime_ns))
        os.replace(shifted, source.mask(number))


def _swapped_images(source: Folders) -> None:
    _swap(source.image(0), source.image(1))


def _swapped_masks(source: Folders) -> None:
    _swap(source.mask(2), source.mask(3))


def _swap(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


CHANGES = [
    _another_image,
    _another_image_of_the_same_time,
    _another_mask,
    _shifted_masks_of_the_same_time,
    _swapped_images,
    _swapped_masks,
]


def _sizes(source: Folders) -> list[tuple[str, int]]:
    return sorted((path.name, path.stat().st_size) for path in source.root.rglob("*.*"))


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_with_other_contents_of_equal_size_is_another_source(
    source: Folders, change: Callable[[Folders], None]
) -> None:
    index, sizes = index_images(source.open()), _sizes(source)
    before = source.open()
    assert before.fingerprint() == index["source"].iat[0]
    check_source(index, source.open(), "--pipelines data_ingestion")
    change(source)
    assert _sizes(source) == sizes
    assert source.open().fingerprint() == before.fingerprint() != index["source"].iat[0]
    for store in (before, source.open()):
        with pytest.raises(UserError, match="made from other files"):
            check_source(index, store, "--pipelines data_ingestion")
    check_source(index_images(source.open()), source.open(), "--pipelines data_ingestion")


def test_a_source_is_the_same_in_another_place(source: Folders, tmp_path: Path) -> None:
    before = source.open().fingerprint()
    shutil.copytree(source.root, tmp_path / "copied")
    assert source.open(tmp_path / "copied").fingerprint() == before
    source.root.rename(tmp_path / "moved")
    assert source.open(tmp_path / "moved").fingerprint() == before


def test_a_change_that_is_undone_gives_the_same_source(source: Folders) -> None:
    before = source.open().fingerprint()
    _another_mask(source)
    assert source.open().fingerprint() != before
    _mask(source.mask(1), 1)
    assert source.open().fingerprint() == before


def test_the_index_has_the_digests_of_the_images(source: Folders) -> None:
    index = index_images(source.open())
    assert index["problems"].tolist() == [""] * 4
    assert index["digest"].tolist() == Digests().of([source.image(number) for number in range(4)])
    source.image(2).unlink()
    assert index_images(source.open()).set_index("image").filter(like=IDS[2], axis=0)["digest"].tolist() == [
        ""
    ]


def test_files_that_change_while_they_are_indexed_stop_the_run(
    source: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = source.open()
    examine = type(store).examine

    def disturbed(self: ImageSource) -> object:
        records = list(examine(self))
        _another_mask(source)
        return iter(records)

    monkeypatch.setattr(type(store), "examine", disturbed)
    with pytest.raises(UserError, match="changed while they were indexed"):
        index_images(store)
