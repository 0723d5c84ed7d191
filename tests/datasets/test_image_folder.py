from pathlib import Path

import numpy as np
import pytest
from kedro.io import DatasetError
from PIL import Image

from carvana_kedro.datasets import ImageFolderDataset


def _images(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        pixels = np.random.default_rng(len(name)).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def _masks(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 10:40] = 255
    for name in names:
        Image.fromarray(mask).save(folder / name)
    return folder


def test_training_pairs_images_with_masks(tmp_path: Path) -> None:
    images, masks = (
        _images(tmp_path / "i", ["a_1.png", "a_2.jpg"]),
        _masks(tmp_path / "m", ["a_1.png", "a_2.png"]),
    )
    store = ImageFolderDataset("training", str(images), str(masks), group="(.+)_[0-9]+").load()
    records = list(store.examine())
    assert [(record.image, record.car, record.problems) for record in records] == [
        ("a_1", "a", []),
        ("a_2", "a", []),
    ]
    assert store.read_mask("a_1").mean() == 0.25


def test_images_and_masks_can_share_a_folder(tmp_path: Path) -> None:
    folder = _masks(_images(tmp_path / "i", ["a.png", "bb.png"]), ["a_mask.png", "bb_mask.png"])
    options = {"images": str(folder), "masks": str(folder), "mask_suffix": "_mask"}
    for side in ("training", "test"):
        assert ImageFolderDataset(side, **options).load().ids() == ["a", "bb"]  # type: ignore[arg-type]


def test_the_test_images_can_be_in_another_folder(tmp_path: Path) -> None:
    images, test = _images(tmp_path / "i", ["a.png"]), _images(tmp_path / "t", ["b.png"])
    assert ImageFolderDataset("test", str(images)).load().ids() == ["a"]
    assert ImageFolderDataset("test", str(images), test=str(test), group="x").load().ids() == ["b"]
    assert ImageFolderDataset("test", test=str(test)).load().masks is None


def test_groups_of_test_images_need_not_match(tmp_path: Path) -> None:
    images = str(_images(tmp_path / "i", ["a_1.png", "a_2.png", "odd.png"]))
    records = ImageFolderDataset("test", images, group="(.+)_[0-9]+").load().examine()  # type: ignore[union-attr]
    assert [(record.car, record.problems) for record in records] == [("a", []), ("a", []), ("odd", [])]


def test_parameters_say_which_values_of_masks_are_the_object(tmp_path: Path) -> None:
    images, masks = _images(tmp_path / "i", ["a.png"]), tmp_path / "m"
    masks.mkdir()
    labels = np.zeros((40, 60), np.uint8)
    labels[:10], labels[10:20], labels[20:25] = 7, 8, 9
    Image.fromarray(labels).save(masks / "a.png")
    folders = {"images": str(images), "masks": str(masks)}
    for values, area in ((7, 0.25), ("7 9", 0.375), ([7, "8-9"], 0.625)):
        store = ImageFolderDataset("training", **folders, mask_values=values).load()
        assert store.read_mask("a").mean() == area
        assert [record.mask_area for record in store.examine()] == [area]
    with pytest.raises(DatasetError, match=r"folder\.mask_values = 'car' is neither a value"):
        ImageFolderDataset("training", **folders, mask_values="car").load()
    Image.fromarray(labels // 7 * 155 + 100).save(masks / "a.png")
    assert (
        ImageFolderDataset("training", **folders, mask_background=100).load().read_mask("a").mean() == 0.625
    )


@pytest.mark.parametrize("side", ["solution", "sample_submission"])
def test_sample_submission_and_solution_are_empty(side: str) -> None:
    assert ImageFolderDataset(side).load() == []  # type: ignore[arg-type]


def test_missing_parameters_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"source=folder,folder\.images=PATH"):
        ImageFolderDataset("training").load()
    with pytest.raises(DatasetError, match=r"needs masks: --params folder\.masks=PATH"):
        ImageFolderDataset("training", str(tmp_path)).load()
    with pytest.raises(DatasetError):
        ImageFolderDataset("training").save("anything")  # type: ignore[arg-type]


def test_the_preview_shows_images_without_their_masks(tmp_path: Path) -> None:
    folder = str(_masks(_images(tmp_path / "i", ["a.png", "bb.png"]), ["a_mask.png"]))
    with_mask = ImageFolderDataset("training", folder, folder, mask_suffix="_mask").preview()
    (tmp_path / "i" / "a_mask.png").unlink()
    assert ImageFolderDataset("test", folder).preview() == with_mask
    assert ImageFolderDataset("solution", folder).preview() is None
    assert ImageFolderDataset("training").preview() is None
    assert ImageFolderDataset("training", str(tmp_path / "nowhere")).preview() is None
