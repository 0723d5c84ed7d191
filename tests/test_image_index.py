from pathlib import Path

import pytest
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.image_index import check_source, index_images, usable_images
from carvana_kedro.stores.images import ImageStore


def test_the_index_lists_every_image(training_images: ImageStore) -> None:
    index = index_images(training_images)
    assert list(index.columns) == [
        "image",
        "car",
        "view",
        "width",
        "height",
        "mask_area",
        "problems",
        "source",
    ]
    assert index["image"].tolist() == training_images.ids()
    assert (index["car"] == index["image"].str[:12]).all()
    assert set(zip(index["width"], index["height"], strict=True)) == {(240, 160)}
    assert index["mask_area"].between(0.05, 0.5).all()
    assert usable_images(index, "stop", "").equals(index)


def test_an_image_of_another_size_is_a_problem(broken: Path) -> None:
    store = ImageStore(broken / "train", broken / "train_masks")
    first = store.ids()[0]
    Image.new("RGB", (100, 50)).save(store.image_path(first))
    index = index_images(store).set_index("image")
    assert index.loc[first, "problems"] == (
        "the mask is 240x160, the image 100x50; the image is 100x50, most are 240x160"
    )


def test_problems_stop_or_are_left_out(broken: Path) -> None:
    store = ImageStore(broken / "train", broken / "train_masks")
    first, *rest = store.ids()
    store.mask_path(first).unlink()
    index = index_images(store)
    with pytest.raises(
        UserError, match=rf"1 of 16 images cannot be used:\n  {first}: the mask is missing\nDo this"
    ):
        usable_images(index, "stop", "Do this")
    assert usable_images(index, "skip", "")["image"].tolist() == rest
    for image_id in rest:
        store.mask_path(image_id).unlink()
    with pytest.raises(UserError, match="None of the 16 images can be used; the first: the mask is missing"):
        usable_images(index_images(store), "skip", "")


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no \.jpg in"):
        index_images(ImageStore(tmp_path))


def test_an_index_belongs_to_its_source(training_images: ImageStore, broken: Path) -> None:
    index = index_images(training_images)
    check_source(index, training_images, "data_ingestion")
    store = ImageStore(broken / "train", broken / "train_masks")
    store.mask_path(store.ids()[0]).unlink()
    with pytest.raises(UserError, match=r"made from other files .* kedro run --pipelines data_ingestion"):
        check_source(index, store, "data_ingestion")
