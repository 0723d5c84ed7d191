import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.archives import read_table
from carvana_kedro.stores.images.competition import ImageStore


def _store(folder: Path) -> ImageStore:
    return ImageStore(folder / "train", folder / "train_masks")


def _problems(store: ImageStore) -> dict[str, str]:
    return {record.image: "; ".join(record.problems) for record in store.examine() if record.problems}


def test_images_and_masks_are_read(training_images: ImageStore, archives: Path) -> None:
    runs = dict(read_table(archives, "train_masks") or ())
    for image_id in training_images.ids():
        image, mask = training_images.read_image(image_id), training_images.read_mask(image_id)
        assert (image.shape, image.dtype, training_images.size(image_id)) == (
            (160, 240, 3),
            np.uint8,
            (160, 240),
        )
        assert set(np.unique(mask)) == {0, 1}
        assert run_lengths.encode(mask) == runs[image_id]


def test_channels_are_red_green_blue(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (250, 10, 10)).save(tmp_path / "red.jpg")
    red, green, blue = ImageStore(tmp_path).read_image("red").mean(axis=(0, 1))
    assert red > 200 > green
    assert blue < 50


@pytest.mark.parametrize(
    ("size", "at_least", "expected"),
    [
        ((160, 240), (80, 120), (80, 120)),
        ((160, 240), (81, 120), (160, 240)),
        ((160, 240), (80, 121), (160, 240)),
        ((160, 240), (21, 30), (80, 120)),
        ((160, 240), (20, 30), (40, 60)),
        ((160, 240), (5, 8), (40, 60)),
        ((160, 240), (5, 7), (20, 30)),
        ((160, 236), (5, 7), (40, 59)),
        ((160, 238), (5, 7), (80, 119)),
        ((161, 240), (5, 7), (161, 240)),
        ((160, 240), (1, 120), (80, 120)),
        ((160, 240), (320, 480), (160, 240)),
    ],
)
def test_an_image_is_reduced_if_it_stays_large_enough(
    tmp_path: Path, size: tuple[int, int], at_least: tuple[int, int], expected: tuple[int, int]
) -> None:
    rows, columns = np.mgrid[: size[0], : size[1]]
    colors = np.stack([rows, columns, 250 - columns], axis=2).astype(np.uint8)
    Image.fromarray(colors).save(tmp_path / "car.jpg", quality=95)
    store = ImageStore(tmp_path)
    image = store.read_image("car", at_least)
    assert image.shape[:2] == expected
    whole = store.read_image("car")
    assert whole.shape[:2] == size == store.size("car")
    height, width = expected
    averaged = whole.reshape(height, size[0] // height, width, size[1] // width, 3).mean((1, 3))
    assert np.abs(image - averaged).mean() < 1  # no channels are swapped, and nothing is shifted


def test_a_good_source_has_no_problems(training_images: ImageStore, test_images: ImageStore) -> None:
    assert _problems(training_images) == {}
    assert _problems(test_images) == {}
    records = list(training_images.examine())
    assert [record.image for record in records] == training_images.ids()
    assert records[0].mask_area == pytest.approx(training_images.read_mask(records[0].image).mean())
    assert {record.view for record in records} == {1, 2, 3, 4}


def test_every_problem_is_reported(broken: Path) -> None:
    store = _store(broken)
    ids = store.ids()
    store.mask_path(ids[0]).unlink()
    store.image_path(ids[1]).unlink()
    content = store.image_path(ids[2]).read_bytes()
    store.image_path(ids[2]).write_bytes(content[: len(content) // 2])
    store.image_path(ids[3]).write_bytes(b"not an image")
    store.mask_path(ids[4]).write_bytes(b"not an image")
    Image.new("P", (10, 10)).save(store.mask_path(ids[5]))
    Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(store.mask_path(ids[6]))
    store.image_path(ids[7]).write_bytes(store.image_path(ids[8]).read_bytes())
    store.image_path(ids[9]).rename(broken / "train" / "holiday.jpg")
    assert _problems(store) == {
        ids[0]: "the mask is missing",
        ids[1]: "the image is missing",
        ids[2]: "the image is truncated",
        ids[3]: "the image cannot be read",
        ids[4]: "the mask cannot be read or is not black and white",
        ids[5]: "the mask is 10x10, the image 240x160",
        ids[6]: "the mask cannot be read or is not black and white",
        ids[8]: f"a duplicate of {ids[7]}",
        ids[9]: "the image is missing",
        "holiday": "the name is not <12 hex digits>_<01..16>; the mask is missing",
    }


def test_the_test_side_is_compared_with_the_sample_submission(test_images: ImageStore, broken: Path) -> None:
    store = ImageStore(broken / "test", expected=test_images.expected)
    first = store.ids()[0]
    store.image_path(first).rename(store.image_path("0123456789ab_01"))
    assert _problems(store) == {
        first: "the image is missing",
        "0123456789ab_01": "not in sample_submission.csv",
    }
    assert [record.image for record in store.examine()][:-1] == list(test_images.expected or ())


def test_errors_name_the_unreadable_file(broken: Path) -> None:
    store = _store(broken)
    first, second, *_ = store.ids()
    store.image_path(first).write_bytes(b"not an image")
    store.mask_path(first).write_bytes(b"not an image")
    store.image_path(second).unlink()
    store.mask_path(second).unlink()
    for image_id in (first, second):
        for at_least in (None, (8, 8)):
            with pytest.raises(UserError, match=rf"{image_id}\.jpg"):
                store.read_image(image_id, at_least)
        with pytest.raises(UserError, match=rf"{image_id}_mask\.gif"):
            store.read_mask(image_id)
    with pytest.raises(UserError, match="have no masks"):
        ImageStore(broken / "test").read_mask(first)


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    store = ImageStore(tmp_path)
    assert store.read_image("turned").shape[:2] == store.size("turned") == (40, 60)
    assert store.read_image("turned", (20, 30)).shape[:2] == (20, 30)
    assert store.read_image("turned", (30, 20)).shape[:2] == (40, 60)


def test_white_is_the_car_with_any_index_in_the_palette(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:2] = 1
    for name, palette, indices in (("a", [0] * 3 + [255] * 3, mask), ("b", [255] * 3 + [0] * 3, 1 - mask)):
        image = Image.fromarray(indices).convert("P")
        image.putdata(indices.ravel().tolist())
        image.putpalette(palette)
        image.save(tmp_path / f"{name}_mask.gif")
        assert np.array_equal(ImageStore(tmp_path, tmp_path).read_mask(name), mask)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.eye(8, dtype=np.uint8)[..., None] * np.array([0, 0, 1], np.uint8)),
        Image.fromarray(np.eye(8, dtype=np.uint8)[..., None] * np.array([254, 255, 255], np.uint8)),
        Image.fromarray(np.eye(8, dtype=np.uint16) * 300),
    ],
    ids=["nearly black", "nearly white", "16 bits"],
)
def test_masks_are_judged_before_they_are_reduced_to_gray(tmp_path: Path, image: Image.Image) -> None:
    image.save(tmp_path / "a_mask.gif", "PNG")
    with pytest.raises(UserError, match="cannot be decoded as a mask"):
        ImageStore(tmp_path, tmp_path).read_mask("a")


def test_a_palette_with_one_color_for_two_values_is_no_mask(tmp_path: Path) -> None:
    for colors in ([0] * 6, [255] * 6):
        image = Image.fromarray(np.eye(8, dtype=np.uint8))
        image.putpalette(colors)
        image.save(tmp_path / "a_mask.gif", "PNG")
        with pytest.raises(UserError, match="its palette has one color for different values"):
            ImageStore(tmp_path, tmp_path).read_mask("a")
    repeated = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 4)
    repeated.putpalette([0, 0, 0, 255, 255, 255] * 2)
    repeated.save(tmp_path / "a_mask.gif", "PNG")
    assert np.array_equal(ImageStore(tmp_path, tmp_path).read_mask("a"), np.arange(64).reshape(8, 8) % 2)


def test_the_fingerprint_depends_on_the_files(broken: Path) -> None:
    store = _store(broken)
    before = store.fingerprint()
    assert _store(broken).fingerprint() == before
    store.mask_path(store.ids()[0]).unlink()
    assert store.fingerprint() != before


def test_files_of_the_macos_finder_are_ignored(broken: Path) -> None:
    store = _store(broken)
    before = store.fingerprint()
    (broken / "train" / ".DS_Store").touch()
    assert store.fingerprint() == before


def test_stores_can_be_pickled(training_images: ImageStore) -> None:
    assert pickle.loads(pickle.dumps(training_images)) == training_images


def test_the_fingerprint_depends_on_the_expected_images(tmp_path: Path) -> None:
    expected = [None, (), ("a", "b"), ("b", "a"), ("a",)]
    assert len({ImageStore(tmp_path, expected=ids).fingerprint() for ids in expected}) == 5
