from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.image_index import check_masks, check_source, index_images, usable_images
from carvana_kedro.stores.archives import read_table
from carvana_kedro.stores.images.competition import ImageStore


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
        "digest",
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


def test_problems_stop_or_are_skipped(broken: Path) -> None:
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
    with pytest.raises(
        UserError, match=r"None of the 16 images can be used\. The first one: the mask is missing"
    ):
        usable_images(index_images(store), "skip", "")


def test_empty_and_full_masks_are_counted_once(broken: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ImageStore(broken / "train", broken / "train_masks")
    index_images(store)
    assert caplog.messages == []
    first, second, third, *_ = store.ids()
    for image_id, level in ((first, 0), (second, 255), (third, 255)):
        Image.new("L", (240, 160), level).save(store.mask_path(image_id))
    index = index_images(store)
    assert caplog.messages == ["Of 16 masks, 1 are empty, and 2 cover the whole image"]
    assert usable_images(index, "stop", "").equals(index)
    check_masks(index)


@pytest.mark.parametrize(("level", "what"), [(0, "empty"), (255, "full")])
def test_masks_that_are_all_alike_stop_the_training(broken: Path, level: int, what: str) -> None:
    store = ImageStore(broken / "train", broken / "train_masks")
    for image_id in store.ids():
        Image.new("L", (240, 160), level).save(store.mask_path(image_id))
    index = index_images(store)
    with pytest.raises(
        UserError, match=rf"The masks of all 16 images to train on are {what}: nothing can be"
    ):
        check_masks(index)


def test_a_source_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There are no images in"):
        index_images(ImageStore(tmp_path))


def _with_table(broken: Path, archives: Path, change: Callable[[dict[str, str]], object]) -> ImageStore:
    """The competition with a changed `train_masks.csv`."""
    rows = dict(read_table(archives, "train_masks") or ())
    change(rows)
    table = broken / "train_masks.csv"
    lines = [f"{image_id}.jpg,{runs}\n" for image_id, runs in rows.items()]
    table.write_text("img,rle_mask\n" + "".join(lines))
    return ImageStore(broken / "train", broken / "train_masks", mask_runs=table)


def test_masks_are_compared_with_the_table(broken: Path, archives: Path) -> None:
    first, second, third, *_ = ImageStore(broken / "train").ids()

    def damage(rows: dict[str, str]) -> None:
        start, length, *rest = rows[first].split()
        rows[first] = " ".join([start, str(int(length) - 1), *rest])
        rows[second] = "1 1000000"
        del rows[third]

    store = _with_table(broken, archives, damage)
    index = index_images(store, 1.0).set_index("image")
    assert index.loc[first, "problems"] == "the mask differs from train_masks.csv in 1 pixels"
    assert index.loc[second, "problems"].startswith("train_masks.csv has an invalid mask: Run 1")
    assert index.loc[third, "problems"] == "train_masks.csv has no row for it"
    assert (index["problems"] != "").sum() == 3
    assert (index_images(store)["problems"] == "").all()


def test_evenly_spaced_masks_are_compared_with_the_table(broken: Path, archives: Path) -> None:
    store = _with_table(broken, archives, dict.clear)
    ids = store.ids()
    for fraction, expected in ((0.01, ids[:1]), (0.25, ids[::4]), (1.0, ids)):
        index = index_images(store, fraction)
        assert index.loc[index["problems"] != "", "image"].tolist() == expected


def test_correct_masks_have_no_problems(training_images: ImageStore) -> None:
    assert training_images.mask_runs is not None
    assert (index_images(training_images, 1.0)["problems"] == "").all()


def test_an_index_belongs_to_its_source(training_images: ImageStore, broken: Path) -> None:
    index = index_images(training_images)
    check_source(index, training_images, "--pipelines data_ingestion")
    store = ImageStore(broken / "train", broken / "train_masks")
    store.mask_path(store.ids()[0]).unlink()
    with pytest.raises(UserError, match=r"made from other files .* kedro run --pipelines data_ingestion"):
        check_source(index, store, "--pipelines data_ingestion")
