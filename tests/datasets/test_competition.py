import base64
import shutil
import zipfile
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import pytest
from kedro.io import DatasetError
from PIL import Image

from carvana_kedro.datasets import ArchivesDataset, SampleDataset
from carvana_kedro.errors import UserError
from carvana_kedro.stores.archives import unpack
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.studio import StudioSettings, sample_folder

TINY = asdict(StudioSettings(training_cars=1, test_cars=1, views=2, width=96, height=64))


def test_archives_are_opened_for_both_sides(archives: Path, tmp_path: Path) -> None:
    training = ArchivesDataset(str(tmp_path), "training", str(archives)).load()
    assert len(training.ids()) == 16
    assert training.masks is not None
    # The training side does not unpack the test images.
    assert not list(tmp_path.glob("test-*"))
    test = ArchivesDataset(str(tmp_path), "test", str(archives)).load()
    assert test.masks is None
    assert sorted(test.expected or ()) == test.ids()


def test_a_test_set_without_a_sample_submission_is_used(broken: Path, tmp_path: Path) -> None:
    (broken / "sample_submission.csv.zip").unlink()
    store = ArchivesDataset(str(tmp_path), "test", str(broken)).load()
    assert store.expected is None
    assert len(list(store.examine())) == 4


def test_missing_archives_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as raised:
        ArchivesDataset(str(tmp_path), "training", str(tmp_path / "nowhere")).load()
    assert isinstance(raised.value.__cause__, UserError)
    assert "nowhere does not exist" in str(raised.value.__cause__)
    with pytest.raises(DatasetError, match="--params source=archives,archives=PATH"):
        ArchivesDataset(str(tmp_path), "training").load()


def test_the_sample_is_rendered_once(tmp_path: Path) -> None:
    dataset = SampleDataset(str(tmp_path), "training", TINY)
    assert dataset.exists()
    assert len(dataset.load().ids()) == 2
    folder = sample_folder(tmp_path, StudioSettings(**TINY))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.zip")}
    assert len(SampleDataset(str(tmp_path), "test", TINY).load().ids()) == 2
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.zip")} == before


def test_an_incomplete_sample_is_rendered_again(tmp_path: Path) -> None:
    dataset = SampleDataset(str(tmp_path), "training", TINY)
    dataset.load()
    folder = sample_folder(tmp_path, StudioSettings(**TINY))
    shutil.rmtree(folder / "unpacked")
    (folder / "solution.csv.zip").unlink()
    (folder / "train.zip").unlink()
    assert len(dataset.load().ids()) == 2


def test_other_settings_have_another_folder(tmp_path: Path) -> None:
    assert sample_folder(tmp_path, StudioSettings()) != sample_folder(tmp_path, StudioSettings(seed=1))


def test_the_solution_is_read_if_it_exists(archives: Path, tmp_path: Path) -> None:
    assert len(ArchivesDataset(str(tmp_path), "solution", str(archives)).load()) == 4
    assert len(SampleDataset(str(tmp_path), "solution", TINY).load()) == 2
    assert ArchivesDataset(str(tmp_path), "solution", str(tmp_path)).load() == []


def test_the_sample_submission_is_loaded_as_ids(
    archives: Path, test_images: ImageStore, tmp_path: Path
) -> None:
    ids = ArchivesDataset(str(tmp_path), "sample_submission", str(archives)).load()
    assert ids == list(test_images.expected or ())
    assert ArchivesDataset(str(tmp_path), "sample_submission", str(tmp_path)).load() == []


def test_sources_are_read_only(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        SampleDataset(str(tmp_path), "training", TINY).save("anything")  # type: ignore[arg-type]


def test_a_preview_shows_only_what_is_on_the_disk(archives: Path, broken: Path, tmp_path: Path) -> None:
    packed, unpacked = tmp_path / "packed", tmp_path / "unpacked"
    for dataset in (
        SampleDataset(str(packed), "training", TINY),
        ArchivesDataset(str(unpacked), "training", str(archives)),
        ArchivesDataset(str(unpacked), "training"),
        ArchivesDataset(str(unpacked), "solution", str(broken)),
    ):
        assert dataset.preview() is None
    assert not packed.exists() and not unpacked.exists()
    dataset = ArchivesDataset(str(unpacked), "training", str(archives))
    dataset.load()
    folders = ArchivesDataset(str(unpacked), "training", str(broken))
    with Image.open(BytesIO(base64.b64decode(dataset.preview()))) as sheet:
        assert sheet.size == (1200, 800)
    assert folders.preview() == dataset.preview()


def test_a_preview_shows_the_images_of_the_archives_that_are_named(
    archives: Path, broken: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with zipfile.ZipFile(other / "train.zip", "w") as file:
        for path in sorted((broken / "train").glob("*.jpg"))[:2]:
            file.write(path, f"train/{path.name}")
    unpacked = tmp_path / "unpacked"
    # All archives are unpacked below one folder, and that of the other ones is the newest.
    first, second = (ArchivesDataset(str(unpacked), "training", str(folder)) for folder in (archives, other))
    first.load()
    shown = first.preview()
    unpack(other / "train.zip", unpacked)
    assert first.preview() == shown != second.preview() is not None
    assert ArchivesDataset(str(unpacked), "training", str(tmp_path / "nowhere")).preview() is None
    (other / "train.zip").write_bytes(b"no archive")
    assert second.preview() is None
