"""Images in object stores. Those on a disk are tested with `FolderStore`."""

import multiprocessing
import pickle
import re
import shutil
from collections import namedtuple
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carvana_kedro.datasets import ImageFolderDataset
from carvana_kedro.errors import StoreError, UserError
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.prediction.fitted_images import FittedImages
from carvana_kedro.stores.folders.objects import ObjectFolder
from carvana_kedro.stores.images.files import FilesInStore
from carvana_kedro.stores.images.folder import FolderStore
from standin_stores import NEEDS_GS, NEEDS_S3, StandInS3


@pytest.fixture(
    params=["in_memory", pytest.param("in_s3", marks=NEEDS_S3), pytest.param("in_gs", marks=NEEDS_GS)]
)
def folder(request: pytest.FixtureRequest) -> ObjectFolder:
    """An empty folder in an object store."""
    found: ObjectFolder = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Four photographs with masks, and what else a folder may hold."""
    root = tmp_path / "photographs"
    (root / "old" / "more").mkdir(parents=True)
    for number, name in enumerate(["a_1", "a_2", "b_1", "ü 1+%20"]):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60 + number, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.png")
        Image.fromarray((pixels[..., 0] > 99).astype(np.uint8) * 255).save(root / f"{name}_mask.png")
    shutil.copy(root / "a_1.png", root / "old" / "c.png")
    shutil.copy(root / "a_1.png", root / "old" / "more" / "d.png")
    (root / "b_2.jpg").write_bytes(b"not an image")
    (root / "notes.txt").write_text("notes")
    (root / ".hidden.png").write_bytes(b"hidden")
    return root


def _upload(root: Path, folder: ObjectFolder) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            folder.put(path.relative_to(root).as_posix(), path.read_bytes())


def _open(where: Any, group: str | None = "(._)?") -> FolderStore:
    return FolderStore(where, where, "_mask", group)


def _copies(folder: ObjectFolder) -> set[str]:
    """Return the names of the files that were copied, without their versions."""
    root = folder.scratch / "copies" / "images"
    names = {path.name.partition("-")[2] for path in root.rglob("*") if path.is_file()}
    return {name.replace("_1_20", "ü 1+%20") for name in names}


def test_images_in_a_store_are_those_on_a_disk(
    folder: ObjectFolder, photographs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _upload(photographs, folder)
    contents = []
    for where in (photographs, FilesInStore(folder)):
        caplog.clear()
        store = _open(where)
        records = repr([*store.examine()])  # NaN is not equal to itself
        images = {name: store.read_image(name).tobytes() for name in ("a_1", "ü 1+%20")}
        masks = {name: store.read_mask(name).tobytes() for name in ("a_1", "b_1")}
        said = caplog.text.replace(str(where), "FOLDER").replace(str(photographs), "FOLDER")
        said = "\n".join(line for line in said.splitlines() if "Copying" not in line)
        contents.append((records, images, masks, store.size("b_1"), store.ids(), store.fingerprint(), said))
    assert contents[0] == contents[1]
    assert contents[0][0].count("not an image") == 1
    assert "old (2 images)" in contents[1][-1]


def test_a_file_is_copied_when_it_is_read_and_only_once(folder: ObjectFolder, photographs: Path) -> None:
    _upload(photographs, folder)
    store = _open(FilesInStore(folder))
    assert store.ids() == ["a_1", "a_2", "b_1", "b_2", "ü 1+%20"]
    assert _copies(folder) == set()
    store.read_image("a_1")
    store.read_image("a_1")
    assert _copies(folder) == {"a_1.png"}
    copy = store.image_path("a_1")
    written = copy.stat().st_mtime_ns
    again = _open(FilesInStore(folder))
    again.fingerprint()
    assert (again.image_path("a_1"), copy.stat().st_mtime_ns) == (copy, written)
    assert len(_copies(folder)) == 9


@pytest.mark.s3
@NEEDS_S3[1]
def test_a_second_run_only_lists_the_folder(
    s3: StandInS3, in_s3: ObjectFolder, photographs: Path, tmp_path: Path
) -> None:
    _upload(photographs, in_s3)

    def asked() -> list[str]:
        before = len(s3.requests())
        storage = {"path": str(tmp_path / "scratch"), "credentials": s3.options}
        ImageFolderDataset(
            "training", str(in_s3), str(in_s3), mask_suffix="_mask", storage=storage
        ).load().fingerprint()  # type: ignore[union-attr]
        return [request.partition(" ")[0] for request in s3.requests()[before:]]

    first = asked()
    assert first[0] == "GET"
    assert sorted(first[1:]) == ["GET"] * 9 + ["HEAD"] * 9
    assert asked() == ["GET"]


def test_changed_and_removed_files_are_noticed(folder: ObjectFolder, photographs: Path) -> None:
    _upload(photographs, folder)
    first = _open(FilesInStore(folder))
    fingerprint, copy, pixels = first.fingerprint(), first.image_path("a_1"), first.read_image("a_1")
    folder.put("a_1.png", (photographs / "a_2.png").read_bytes())
    folder.remove("b_1.png")
    second = _open(FilesInStore(folder))
    assert second.ids() == ["a_1", "a_2", "b_2", "ü 1+%20"]
    assert copy.exists() and "b_1.png" in _copies(folder)  # another run may use them
    assert len([*second.examine()]) == 5
    assert not copy.exists()
    assert "b_1.png" not in _copies(folder)
    assert (second.read_image("a_1") == second.read_image("a_2")).all()
    assert second.fingerprint() != fingerprint
    folder.put("a_1.png", (photographs / "a_1.png").read_bytes())
    folder.put("b_1.png", (photographs / "b_1.png").read_bytes())
    third = _open(FilesInStore(folder))
    assert third.fingerprint() == fingerprint
    assert (third.read_image("a_1") == pixels).all()


def test_a_file_that_is_replaced_after_the_folder_was_listed_is_not_taken_for_the_listed_one(
    folder: ObjectFolder,
) -> None:
    contents = []
    for level in (50, 200):
        file = BytesIO()
        Image.new("RGB", (40, 30), (level,) * 3).save(file, "bmp")  # all of one size
        contents.append(file.getvalue())
    folder.put("a.bmp", contents[0])
    store = FolderStore(FilesInStore(folder))
    assert store.ids() == ["a"]
    folder.put("a.bmp", contents[1])
    for read in (
        store.fingerprint,
        lambda: store.read_image("a"),
        lambda: pickle.loads(pickle.dumps(store)).size("a"),
    ):
        with pytest.raises(StoreError, match=r"/a\.bmp was changed or removed after the folder was listed"):
            read()
    folder.put("a.bmp", contents[0])
    for level in (50, 200):
        again = FolderStore(FilesInStore(folder))
        assert again.read_image("a").mean() == level
        folder.put("a.bmp", contents[1])


def test_a_failure_of_the_store_is_no_bad_image(in_memory: ObjectFolder, photographs: Path) -> None:
    _upload(photographs, in_memory)
    store = FolderStore(FilesInStore(in_memory), None, "_mask")
    store.read_image("a_1")
    in_memory.remove("a_2.png")
    geometry = Geometry((32, 48), (32, 48))
    images = FittedImages(store, ["a_1", "a_2"], geometry, allow_bad=True)
    with pytest.raises(StoreError, match="was changed or removed"):
        images.read([0, 1])


def test_odd_names_are_copied(in_memory: ObjectFolder, photographs: Path) -> None:
    content = (photographs / "a_1.png").read_bytes()
    names = [
        "x" * 251 + ".png",
        "a:b?c*.png",
        "a\\..\\..\\d.png",
        "e\nf.png",
        "A.png",
        "a.png",
        "ü.png",
        "ü .png",
    ]
    for name in names:
        in_memory.put(name, content)
    copies = FilesInStore(in_memory).paths(names)
    assert len({*copies}) == len(names)
    for copy in copies:
        assert copy.read_bytes() == content
        assert re.fullmatch(r"[0-9a-f]{16}-[\w.-]{,100}\.png", copy.name, re.ASCII)


def test_what_an_interrupted_run_has_copied_is_kept(folder: ObjectFolder, photographs: Path) -> None:
    _upload(photographs, folder)
    store = _open(FilesInStore(folder))
    store.ids()
    folder.remove("ü 1+%20_mask.png")  # the last one
    with pytest.raises(UserError) as raised:
        store.fingerprint()
    assert str(raised.value) == (
        f"{folder}/ü 1+%20_mask.png was changed or removed after the folder was listed. Run again."
    )
    assert len(_copies(folder)) == 8
    copies = {path: path.stat().st_mtime_ns for path in (folder.scratch / "copies").rglob("*.png")}
    assert len([*_open(FilesInStore(folder)).examine()]) == 5
    assert {path: path.stat().st_mtime_ns for path in copies} == copies


def _pixels(pickled: bytes, results: "multiprocessing.Queue[bytes]") -> None:
    store = pickle.loads(pickled)
    results.put(store.read_image("a_1").tobytes() + store.read_mask("a_1").tobytes())


def test_other_processes_read_the_copies_without_asking_the_store(
    in_memory: ObjectFolder, photographs: Path
) -> None:
    _upload(photographs, in_memory)
    store = _open(FilesInStore(in_memory))
    expected = store.read_image("a_1").tobytes() + store.read_mask("a_1").tobytes()
    context = multiprocessing.get_context("spawn")  # its memory does not have the store's files
    results = context.Queue()
    process = context.Process(target=_pixels, args=(pickle.dumps(store), results))
    process.start()
    assert results.get(timeout=60) == expected
    process.join()


def test_messages_name_the_address(folder: ObjectFolder, photographs: Path) -> None:
    _upload(photographs, folder)
    store = _open(FilesInStore(folder))
    with pytest.raises(UserError, match=rf"^{folder}/b_2.jpg is not an image, despite its name"):
        store.read_image("b_2")
    with pytest.raises(UserError, match=rf"^{folder} should hold one image nothing, but holds none"):
        store.read_image("nothing")
    with pytest.raises(UserError, match=rf"^{folder}/nowhere holds no jpg"):
        _open(FilesInStore(folder.folder("nowhere"))).ids()
    with pytest.raises(UserError, match="Set the suffix of mask names"):
        FolderStore(FilesInStore(folder), FilesInStore(folder)).ids()
    with pytest.raises(UserError, match=rf"^{folder}/old holds no mask.*more \(1 images\)"):
        FolderStore(FilesInStore(folder), FilesInStore(folder.folder("old")), "_mask").ids()


def test_a_disk_with_too_little_space_is_refused_before_copying(
    in_memory: ObjectFolder, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _upload(photographs, in_memory)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6, 1000))
    with pytest.raises(
        UserError, match=r"^Copying 5 files of memory://.* needs .* kB, but only 1.0 kB is free"
    ):
        _open(FilesInStore(in_memory)).fingerprint()
    assert _copies(in_memory) == set()
