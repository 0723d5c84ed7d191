import shutil
from pathlib import Path

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.pipelines.reporting.report.car_names import car_names
from carvana_kedro.stores.competition import open_side
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.folder import FolderStore


def test_the_sample_has_a_name_for_every_car(training_images: ImageStore) -> None:
    names = car_names(training_images)
    cars = {image_id.partition("_")[0] for image_id in training_images.ids()}
    assert cars <= names.keys()
    assert all(name[:4].isdigit() and len(name.split()) >= 3 for name in names.values())


def test_a_source_without_the_table_has_no_names(archives: Path, unpacked: Path, tmp_path: Path) -> None:
    for name in ("train", "train_masks", "train_masks.csv"):
        shutil.copy(archives / f"{name}.zip", tmp_path)
    assert car_names(open_side(tmp_path, tmp_path / "unpacked", "training")) == {}
    folder = next(unpacked.glob("train-*"))
    assert car_names(ImageStore(folder)) == {}
    assert car_names(FolderStore(folder, folder)) == {}


def test_a_damaged_table_is_named(archives: Path, unpacked: Path, tmp_path: Path) -> None:
    shutil.copy(archives / "train_masks.csv.zip", tmp_path)
    images = ImageStore(next(unpacked.glob("train-*")), mask_runs=tmp_path / "train_masks.csv.zip")
    (tmp_path / "metadata.csv").write_text("id,year\n1,2008\n")
    with pytest.raises(UserError, match=r"metadata\.csv is damaged: .*make.* Download it again, or remove"):
        car_names(images)
    (tmp_path / "metadata.csv").write_text('id,year,make,model,trim1\n08,2008,"<A>",B,\n')
    assert car_names(images) == {"08": "2008 <A> B"}
