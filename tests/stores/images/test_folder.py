import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from carvana_kedro.errors import UserError
from carvana_kedro.stores.images.decoding import _ROTATIONS
from carvana_kedro.stores.images.folder import FolderStore
from carvana_kedro.stores.images.mask_values import MaskValues
from odd_images import (
    COLORS,
    GRAY,
    HEIGHT,
    IMAGE,
    JPEG,
    LIMITS,
    ORIENTATION,
    PNG,
    READABLE,
    SHAPE,
    TINY,
    UNREADABLE,
    WIDTH,
    encode,
    exif,
    opencv,
    png_header,
    png_with_late_tags,
)


def _problems(store: FolderStore) -> dict[str, str]:
    return {record.image: "; ".join(record.problems) for record in store.examine() if record.problems}


def _fill(folder: Path, *names: str, image: Image.Image = IMAGE) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        image.resize((WIDTH + number, HEIGHT)).save(folder / name)
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two empty folders."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    return images, masks


@pytest.mark.parametrize(("name", "content", "expected"), READABLE, ids=[case[0] for case in READABLE])
def test_images_of_all_formats_are_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes, expected: np.ndarray
) -> None:
    (tmp_path / name).write_bytes(content)
    store = FolderStore(tmp_path)
    (record,) = store.examine()
    (image_id,) = store.ids()
    image = store.read_image(image_id)
    assert (record.image, record.width, record.height, record.view) == (image_id, WIDTH, HEIGHT, 0)
    assert record.problems == []
    assert (image.shape, image.dtype, store.size(image_id)) == ((HEIGHT, WIDTH, 3), np.uint8, (HEIGHT, WIDTH))
    assert image.flags.writeable
    assert np.abs(image.astype(int) - expected).mean() < 2.5
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("name", "content", "problem"), UNREADABLE, ids=[case[0] for case in UNREADABLE])
@pytest.mark.filterwarnings("error")
def test_unusable_images_are_rejected(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    store = FolderStore(tmp_path)
    (record,) = store.examine()
    assert record.problems[0].startswith(f"{name} {problem}")
    for at_least in (None, (1, 1)):
        with pytest.raises(UserError) as raised:
            store.read_image(record.image, at_least)
        assert str(raised.value).startswith(f"{tmp_path / name} {problem}")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (os.mkfifo, "x.jpg is not a regular file"),
        (Path.mkdir, "x.jpg is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "x.jpg is a broken link"),
        (lambda path: path.symlink_to(path), "x.jpg cannot be opened: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "x.jpg is not a regular file"),
    ],
    ids=["fifo", "folder", "dangling", "loop", "device"],
)
def test_only_regular_files_are_opened(tmp_path: Path, make: Callable[[Path], None], problem: str) -> None:
    make(tmp_path / "x.jpg")
    store = FolderStore(tmp_path)
    assert _problems(store) == {"x": problem}
    assert store.fingerprint()
    for read in (store.read_image, store.size):
        with pytest.raises(UserError, match=problem.removeprefix("x.jpg ")):
            read("x")


def test_a_tiny_image_can_be_read_but_is_a_problem(tmp_path: Path) -> None:
    TINY.save(tmp_path / "tiny.png")
    store = FolderStore(tmp_path)
    assert store.read_image("tiny").tolist() == [[[200, 100, 50]]]
    assert _problems(store) == {"tiny": "tiny.png is 1x1 pixels: the minimum is 16 per side"}


def test_a_large_image_is_read_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    Image.new("L", (9_500, 10_000)).save(tmp_path / "large.jpg")  # 95 million: Pillow warns from 89 on
    assert FolderStore(tmp_path).size("large") == (10_000, 9_500)
    assert not recwarn


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "late"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_and_masks_are_upright(pair: tuple[Path, Path], orientation: int, kind: str) -> None:
    images, masks = pair
    tags = exif(orientation)
    if kind == "late":
        content = png_with_late_tags(orientation)
    else:
        content = encode(IMAGE, kind, exif=exif(orientation), **({} if kind == "TIFF" else {"quality": 95}))
    (images / f"car.{'png' if kind == 'late' else kind.lower()}").write_bytes(content)
    Image.fromarray(SHAPE * 255).save(masks / "car.png", exif=tags)
    store = FolderStore(images, masks)

    tagged = IMAGE.copy()
    tagged.getexif()[ORIENTATION] = orientation
    upright = np.array(ImageOps.exif_transpose(tagged))
    image, mask = store.read_image("car"), store.read_mask("car")
    (record,) = store.examine()
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 2
    assert store.size("car") == (record.height, record.width) == mask.shape == upright.shape[:2]
    assert np.array_equal(mask, _ROTATIONS[orientation](SHAPE))
    assert record.problems == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_only_a_jpg_is_reduced_and_it_is_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    (tmp_path / f"car.{kind.lower()}").write_bytes(encode(IMAGE, kind, exif=exif(orientation)))
    store = FolderStore(tmp_path)
    whole = store.read_image("car")
    height, width, _ = whole.shape
    assert store.size("car") == (height, width)
    # If either side of the upright image must have one pixel more, half the size is too small.
    half = height // 2, width // 2
    assert store.read_image("car", (half[0] + 1, half[1])).shape == whole.shape
    assert store.read_image("car", (half[0], half[1] + 1)).shape == whole.shape
    image = store.read_image("car", half)
    if kind == "JPEG":
        assert np.abs(image - whole.reshape(half[0], 2, half[1], 2, 3).mean((1, 3))).mean() < 2
    else:
        assert np.array_equal(image, whole)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_a_mask_of_the_stored_orientation_has_its_own_message(pair: tuple[Path, Path], ending: str) -> None:
    images, masks = pair
    for name in ("a", "b"):
        IMAGE.rotate(90 * (name == "b")).save(images / f"{name}.{ending}", exif=exif(6))
    Image.fromarray(SHAPE * 255).save(masks / "a.png")
    Image.new("L", (20, 20)).save(masks / "b.png")
    assert _problems(FolderStore(images, masks)) == {
        "a": "the mask is 64x40 like the stored image, but the upright image is 40x64: "
        "rotate the mask as the EXIF orientation of the image says",
        "b": "the mask is 20x20, the image 40x64",
    }


def _colored(shape: np.ndarray, colors: list[tuple[int, int, int]], white: int = 1) -> Image.Image:
    image = Image.fromarray(shape * np.uint8(white))
    image.putpalette([value for color in colors for value in color])
    return image


def _cutout(alpha: int = 255) -> Image.Image:
    image = IMAGE.convert("RGBA")
    image.putalpha(Image.fromarray(SHAPE * np.uint8(alpha)))
    return image


def _soft(shape: np.ndarray = SHAPE) -> np.ndarray:
    levels = shape * 255
    levels[9, 8:40] = 90
    return levels


RED = np.dstack([SHAPE, SHAPE * 0, SHAPE * 0])
SMOOTH = cv2.GaussianBlur(
    cv2.resize(SHAPE * 255, (WIDTH * 8, HEIGHT * 8), interpolation=cv2.INTER_NEAREST), (5, 5), 0
)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)

MASKS = [
    ("one_bit.png", encode(Image.fromarray(SHAPE * 255).convert("1"), "PNG"), SHAPE),
    ("zero_one.png", encode(Image.fromarray(SHAPE), "PNG"), SHAPE),
    ("black_white.png", encode(Image.fromarray(SHAPE * 255), "PNG"), SHAPE),
    ("black_white.bmp", encode(Image.fromarray(SHAPE * 255), "BMP"), SHAPE),
    ("black_white.gif", encode(Image.fromarray(SHAPE * 255), "GIF"), SHAPE),
    ("black_white.tif", encode(Image.fromarray(SHAPE * 255), "TIFF", compression="tiff_lzw"), SHAPE),
    ("fax.tif", encode(Image.fromarray(SHAPE * 255).convert("1"), "TIFF", compression="group4"), SHAPE),
    ("black_white.webp", encode(Image.fromarray(SHAPE * 255), "WEBP", lossless=True), SHAPE),
    ("16_bit.png", opencv(".png", SHAPE.astype(np.uint16) * 65535), SHAPE),
    ("16_bit_255.tif", opencv(".tif", SHAPE.astype(np.uint16) * 255), SHAPE),
    ("float.tif", opencv(".tif", SHAPE.astype(np.float32)), SHAPE),
    ("indices_0_1.png", encode(_colored(SHAPE, [(90, 0, 0), (0, 10, 0)]), "PNG"), SHAPE),
    ("indices_0_255.png", encode(_colored(SHAPE, [(9, 9, i) for i in range(256)], 255), "PNG"), SHAPE),
    ("voc.png", encode(_colored(SHAPE, [BLACK, (128, 0, 0)]), "PNG"), SHAPE),
    ("white_first.gif", encode(_colored(1 - SHAPE, [WHITE, BLACK]), "GIF", optimize=False), SHAPE),
    ("indices_3_7.png", encode(_colored(SHAPE * 4 + 3, [BLACK] * 7 + [WHITE]), "PNG"), SHAPE),
    ("red_on_black.png", encode(Image.fromarray(RED * 255), "PNG"), SHAPE),
    ("ones_in_rgb.png", encode(Image.fromarray(RED), "PNG"), SHAPE),
    ("cutout.png", encode(_cutout(), "PNG"), SHAPE),
    ("cutout.webp", encode(_cutout(), "WEBP", lossless=True), SHAPE),
    ("solid_rgba.png", encode(Image.fromarray(RED * 255).convert("RGBA"), "PNG"), SHAPE),
    ("gray.png", encode(Image.fromarray(SHAPE * 128), "PNG"), SHAPE),
    ("half_alpha.png", encode(_cutout(128), "PNG"), SHAPE),
    ("soft.png", encode(Image.fromarray(_soft()), "PNG"), SHAPE),
    ("soft16.png", opencv(".png", _soft().astype(np.uint16) * 257), SHAPE),
    ("smooth.png", encode(Image.fromarray(SMOOTH), "PNG"), (SMOOTH >= 128).astype(np.uint8)),
    ("smooth.jpg", encode(Image.fromarray(SMOOTH), "JPEG", quality=95), (SMOOTH >= 128).astype(np.uint8)),
    ("all_0.png", encode(Image.fromarray(SHAPE * 0), "PNG"), SHAPE * 0),
    ("all_1.png", encode(Image.fromarray(SHAPE * 0 + 1), "PNG"), SHAPE * 0 + 1),
    ("all_255.png", encode(Image.fromarray(SHAPE * 0 + 255), "PNG"), SHAPE * 0 + 1),
]

LABELS = SHAPE.copy()
LABELS[:1, :3] = [1, 2, 3]
BORDERED = np.zeros_like(SHAPE)
BORDERED[4:10, 4:10] = 255
BORDERED[5:9, 5:9] = 15

NO_MASKS = [
    ("gradient.png", PNG, "is not a mask: it has "),
    (
        "all_gray.png",
        encode(Image.new("L", (64, 40), 128), "PNG"),
        "is not clear: all pixels are 128, which may be the object or the background",
    ),
    (
        "labels.png",
        encode(Image.fromarray(LABELS), "PNG"),
        "is not a mask: it has 4 values, 0 (84.88%), 1 (15.04%), 2 (0.04%), 3 (0.04%). If this is a label map, "
        "set the values of the object, for example folder.mask_values=1",
    ),
    (
        "few_labels.png",
        encode(Image.fromarray(LABELS * (LABELS > 1)), "PNG"),
        "it has 3 values, 0 (99.92%), 2 (0.04%), 3 (0.04%)",
    ),
    (
        "labels16.png",
        opencv(".png", (LABELS * (LABELS > 1)).astype(np.uint16)),
        "it has 3 values, 0 (99.92%), 2 (0.04%), 3 (0.04%)",
    ),
    (
        "bordered_label.png",
        encode(Image.fromarray(BORDERED), "PNG"),
        "it has 3 values, 0 (98.59%), 255 (0.78%), 15 (0.62%)",
    ),
    ("photograph.jpg", JPEG, "is not a mask: it has "),
    (
        "animated.gif",
        encode(IMAGE, "GIF", save_all=True, append_images=[TINY.resize((64, 40))]),
        "has several frames",
    ),
    ("cut.gif", encode(Image.fromarray(GRAY), "GIF")[:-400], "cannot be decoded"),
    ("text.png", b"nothing", "is not an image, despite its name"),
    ("zero.bmp", b"", "is empty"),
    ("bomb.png", png_header(60_000, 60_000), f"is 60000x60000 pixels: {LIMITS}"),
    ("float.tif", opencv(".tif", GRAY.astype(np.float32) / 255), "is not a mask: it has "),
]


@pytest.mark.parametrize(("name", "content", "expected"), MASKS, ids=[case[0] for case in MASKS])
def test_masks_of_all_kinds_are_read(
    pair: tuple[Path, Path],
    capfd: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    expected: np.ndarray,
) -> None:
    images, masks = pair
    image_id = Path(name).stem
    (masks / name).write_bytes(content)
    IMAGE.resize(expected.shape[::-1]).save(images / f"{image_id}.png")
    store = FolderStore(images, masks)
    mask = store.read_mask(image_id)
    (record,) = store.examine()
    assert mask.dtype == np.uint8
    assert mask.shape == expected.shape
    assert (mask != expected).mean() < 1e-3
    assert record.problems == []
    assert record.mask_area == pytest.approx(mask.mean())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("name", "content", "problem"), NO_MASKS, ids=[case[0] for case in NO_MASKS])
def test_images_that_are_not_masks_are_rejected(
    pair: tuple[Path, Path], name: str, content: bytes, problem: str
) -> None:
    images, masks = pair
    (masks / name).write_bytes(content)
    image_id = Path(name).stem
    IMAGE.save(images / f"{image_id}.png")
    store = FolderStore(images, masks)
    (record,) = store.examine()
    assert problem in "; ".join(record.problems)
    assert np.isnan(record.mask_area)
    with pytest.raises(UserError) as raised:
        store.read_mask(image_id)
    assert problem in str(raised.value)
    assert str(raised.value).startswith(str(masks / name))


def test_a_few_gray_pixels_are_rounded_and_many_are_rejected(pair: tuple[Path, Path]) -> None:
    images, masks = pair
    _fill(images, "a.png", "b.png")
    for name, grays in (("a", 128), ("b", 129)):  # 5 % of 2560 pixels are 128
        levels = np.zeros(HEIGHT * WIDTH, np.uint8)
        levels[:1000] = 255
        levels[1000 : 1000 + grays] = 100
        Image.fromarray(levels.reshape(HEIGHT, WIDTH)).save(masks / f"{name}.png")
    store = FolderStore(images, masks)
    assert store.read_mask("a").sum() == 1000
    with pytest.raises(UserError, match=r"it has 3 values, 0 \(55\.90%\), 255 \(39\.06%\), 100 \(5\.04%\)"):
        store.read_mask("b")


def test_images_and_masks_are_paired(tmp_path: Path) -> None:
    images = _fill(tmp_path / "images", "a.jpg", "b.png", "c.jpg", "c.png", "e.webp", "f.jpg")
    masks = tmp_path / "masks"
    masks.mkdir()
    for number, name in enumerate(["a.gif", "c.png", "d.png", "e.png", "e.BMP", "f.tif"]):
        Image.new("L", (WIDTH + number, HEIGHT)).save(masks / name)
    store = FolderStore(images, masks)
    assert store.ids() == ["a", "b", "e", "f"]
    assert store.expected is None
    assert _problems(store) == {
        "b": "the mask is missing",
        "c": "ambiguous: c.jpg and c.png",
        "d": "the image is missing",
        "e": "ambiguous: e.BMP and e.png",
    }
    assert (store.image_path("a"), store.mask_path("a")) == (images / "a.jpg", masks / "a.gif")
    for read, image_id in ((store.image_path, "c"), (store.mask_path, "e")):
        with pytest.raises(
            UserError, match=rf"should hold one .*but holds {image_id}\.\w+ and {image_id}\.\w+\."
        ):
            read(image_id)
    with pytest.raises(UserError, match=r"images should hold one image d, but holds none\."):
        store.read_image("d")
    with pytest.raises(UserError, match=r"masks should hold one mask of b, but holds none\."):
        store.read_mask("b")
    with pytest.raises(UserError, match="have no masks"):
        FolderStore(images).read_mask("a")


def test_masks_are_matched_by_their_suffix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = _fill(tmp_path / "images", "a.jpg", "b.jpg")
    masks = _fill(
        tmp_path / "masks", "a_mask.png", "b_mask.png", "b.png", "_mask.png", image=Image.new("L", (1, 1))
    )
    store = FolderStore(images, masks, "_mask", "(.)")
    assert _problems(store) == {}
    assert store.mask_path("b") == masks / "b_mask.png"
    (message,) = caplog.messages
    assert message == (
        f"{masks}: 2 masks are ignored, because their names do not end in '_mask': _mask.png, b.png"
    )


def test_images_and_masks_can_share_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _fill(tmp_path, "a.jpg", "b.png")
    _fill(tmp_path, "a_mask.gif", "b_mask.png", image=Image.new("L", (1, 1)))
    for masks in (tmp_path, tmp_path / ".." / tmp_path.name):
        store = FolderStore(tmp_path, masks, "_mask", "(.)")
        assert store.ids() == ["a", "b"]
        assert _problems(store) == {}
    assert caplog.messages == []
    with pytest.raises(UserError, match=r"both in .*folder\.mask_suffix=_mask"):
        FolderStore(tmp_path, tmp_path).ids()


def test_masks_among_the_images_are_not_used_as_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(tmp_path, "a.jpg", "a_mask.png")
    assert [record.image for record in FolderStore(tmp_path, None, "_mask").examine()] == ["a"]
    assert "1 files have names of masks and are not used as images: a_mask.png" in caplog.text
    assert FolderStore(tmp_path).ids() == ["a", "a_mask"]


def test_ignored_files_are_logged_when_images_are_indexed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(tmp_path, "a.jpg", "more/b.jpg")
    for name in ("Thumbs.db", "notes.txt", "1.dng", "2.CR2", "3.jp2", "4.gif", ".DS_Store", "._a.jpg"):
        (tmp_path / name).touch()
    store = FolderStore(tmp_path)
    assert store.ids() == ["a"]
    assert caplog.messages == []  # each step of a run lists the folder
    assert [record.image for record in store.examine()] == ["a"]
    assert caplog.messages == [
        f"{tmp_path}: 1 subfolders are not read: more (1 images)",
        f"{tmp_path}: 6 files are not jpg, png, webp, tiff, bmp, avif or heic and are ignored: "
        "1.dng, 2.CR2, 3.jp2, 4.gif, Thumbs.db, ...",
    ]


def test_missing_and_empty_folders_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    full = _fill(tmp_path / "full", "a.jpg")
    wrong = {
        FolderStore(tmp_path / "gone"): r"gone cannot be opened as a folder.*folder\.images",
        FolderStore(full / "a.jpg"): r"a\.jpg cannot be opened as a folder.*folder\.images",
        FolderStore(tmp_path / "empty"): r"empty holds no jpg.*\. Set folder\.images",
        FolderStore(full, tmp_path / "gone"): r"gone cannot be opened as a folder.*folder\.masks",
        FolderStore(full, tmp_path / "empty"): r"empty holds no mask\. Check folder\.masks",
        FolderStore(
            full, _fill(tmp_path / "m", "a.png"), "_m"
        ): r"m holds no mask with a name that ends in '_m'\.",
    }
    for store, message in wrong.items():
        for ask in (store.ids, store.fingerprint, lambda: list(store.examine())):  # noqa: B023
            with pytest.raises(UserError, match=message):
                ask()


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    _fill(tmp_path / "images" / "front", "a.JPG", "b.heic.png", "deeper/c.png")
    (tmp_path / "images" / "front" / "._a.jpg").touch()
    (tmp_path / "images" / "empty").mkdir()
    (tmp_path / "images" / "raw.dng").touch()
    (tmp_path / "images" / "._raw.jpg").touch()
    with pytest.raises(UserError) as raised:
        FolderStore(tmp_path / "images").ids()
    assert str(raised.value) == (
        f"{tmp_path / 'images'} holds no jpg, png, webp, tiff, bmp, avif or heic. It holds subfolders, which are not "
        "read: empty (0 images), front (3 images); and 1 other files: raw.dng. Set folder.images, or folder.test, "
        "to the folder of your images."
    )
    with pytest.raises(
        UserError, match=r"holds no mask\. It holds subfolders, which are not read: front \(3 images\)"
    ):
        (tmp_path / "masks").mkdir()
        _fill(tmp_path / "masks" / "front", "a.png", "b.png", "c.bmp")
        FolderStore(tmp_path / "images" / "front", tmp_path / "masks").ids()


@pytest.mark.parametrize(
    ("group", "groups", "problems"),
    [
        (None, ["a_1", "a_2", "odd"], {}),
        ("(.+)_[0-9]+", ["a", "a", "odd"], {"odd": "the name does not match folder.group = '(.+)_[0-9]+'"}),
        ("[a-z]", ["a", "a", "o"], {}),
        ("(a)?", ["a", "a", "odd"], {"odd": "the name does not match folder.group = '(a)?'"}),
    ],
)
def test_groups_are_taken_from_names(
    pair: tuple[Path, Path],
    caplog: pytest.LogCaptureFixture,
    group: str | None,
    groups: list[str],
    problems: dict[str, str],
) -> None:
    images, masks = pair
    for folder in pair:
        _fill(folder, "a_1.png", "a_2.png", "odd.png", image=Image.new("L", (1, 1)))
    store = FolderStore(images, masks, group=group)
    assert [record.car for record in store.examine()] == groups
    assert _problems(store) == problems
    hints = [message for message in caplog.messages if "--params folder.group='(.+)_[0-9]+'" in message]
    assert len(hints) == (2 if group is None else 0)  # one per examination
    caplog.clear()
    list(FolderStore(images).examine())
    assert caplog.messages == []


def test_an_invalid_regular_expression_is_an_error_at_construction() -> None:
    with pytest.raises(UserError, match=r"folder\.group = '\(\.\+' is not a regular expression: missing \)"):
        FolderStore(Path("nowhere"), group="(.+")


def test_duplicates_are_problems_only_with_masks(pair: tuple[Path, Path]) -> None:
    images, masks = pair
    for name in ("a", "b", "c"):
        (images / f"{name}.jpg").write_bytes(JPEG)
        Image.fromarray(SHAPE).save(masks / f"{name}.png")
    assert _problems(FolderStore(images, masks)) == dict.fromkeys("bc", "a duplicate of a")
    assert _problems(FolderStore(images)) == {}


def test_names_are_compared_in_normal_form(pair: tuple[Path, Path]) -> None:
    images, masks = pair
    (images / "Bu\N{COMBINING DIAERESIS}s.jpg").write_bytes(JPEG)
    (masks / "B\N{LATIN SMALL LETTER U WITH DIAERESIS}s.png").write_bytes(
        encode(Image.fromarray(SHAPE), "PNG")
    )
    store = FolderStore(images, masks)
    assert store.ids() == ["B\N{LATIN SMALL LETTER U WITH DIAERESIS}s"]
    assert _problems(store) == {}


def test_a_name_that_is_not_valid_unicode_can_be_used(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    store = FolderStore(tmp_path)
    assert store.ids() == ["caf\N{REPLACEMENT CHARACTER}"]
    assert _problems(store) == {"caf\N{REPLACEMENT CHARACTER}": "caf\N{REPLACEMENT CHARACTER}.jpg is empty"}
    with pytest.raises(UserError) as raised:
        store.read_image(store.ids()[0])
    str(raised.value).encode()
    assert store.fingerprint()


def test_the_fingerprint_depends_on_images_and_masks_only(tmp_path: Path) -> None:
    images = _fill(tmp_path / "images", "a.png", "b.png")
    masks = _fill(tmp_path / "masks", "a.png", "b.png", image=Image.new("L", (1, 1)))
    before = FolderStore(images, masks).fingerprint()
    (images / ".DS_Store").touch()
    (images / "notes.txt").touch()
    assert FolderStore(images, masks).fingerprint() == before
    other_object = FolderStore(images, masks, mask_values=MaskValues(objects=(7,)))
    assert other_object.fingerprint() != before
    (masks / "b.png").unlink()
    assert FolderStore(images, masks).fingerprint() != before


def test_stores_can_be_pickled_before_and_after_listing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderStore(_fill(tmp_path, "a.png", "more/b.png"), None, "_m", "(.)")
    assert pickle.loads(pickle.dumps(store)) == store
    store.ids()
    caplog.clear()
    other = pickle.loads(pickle.dumps(store))
    assert other == store
    assert np.array_equal(other.read_image("a"), store.read_image("a"))
    assert caplog.messages == []


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_examined_images_without_problems_can_be_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tiff = encode(IMAGE, "TIFF", exif=exif(6))
    kinds = {"jpg": JPEG, "png": PNG, "webp": encode(IMAGE, "WEBP"), "tif": tiff}
    for number in range(200):
        ending, content = list(kinds.items())[number % 4]
        damaged = bytearray(content)
        for position in random.integers(0, min(len(content), 400), random.integers(1, 5)):
            damaged[position] = random.integers(256)
        (tmp_path / f"{number:03}.{ending}").write_bytes(damaged)
    for length in range(1, len(JPEG), 29):
        (tmp_path / f"cut at {length}.jpg").write_bytes(JPEG[:length])
    store = FolderStore(tmp_path)
    records = list(store.examine())
    assert [record.image for record in records] == store.ids()
    for record in records:
        if record.problems:
            continue
        image = store.read_image(record.image)
        assert image.shape[:2] == store.size(record.image) == (record.height, record.width)
    assert all(record.problems for record in records if record.image.startswith("cut"))


@given(st.integers(1, 8), st.integers(1, 9), st.integers(1, 9))
def test_rotations_match_pillow(orientation: int, height: int, width: int) -> None:
    pixels = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    assert np.array_equal(_ROTATIONS[orientation](pixels), np.array(ImageOps.exif_transpose(image)))


def test_the_fingerprint_depends_on_the_groups_and_on_what_is_a_mask(tmp_path: Path) -> None:
    """An index made with another `group` has other cars."""
    both = _fill(tmp_path / "both", "a.png", "b.png", "a_m.png", "b_m.png")
    stores = [
        FolderStore(both, both, "_m"),
        FolderStore(both, both, "_m", "(.)"),
        FolderStore(both, None, "_m"),
        FolderStore(both),
    ]
    assert len({store.fingerprint() for store in stores}) == 4


def test_ids_have_no_control_characters(tmp_path: Path) -> None:
    names = ["a\nERROR fake", "b\x1b[31m", "c\u202egpj"]
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(encode(IMAGE, "PNG"))
        (tmp_path / f"{name}.txt").touch()
    store = FolderStore(tmp_path)
    assert store.ids() == [r"a\nERROR fake", r"b\x1b[31m", r"c\u202egpj"]
    for image_id in store.ids():
        assert np.array_equal(store.read_image(image_id), COLORS)


def test_heic_images_are_read_upright(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    for orientation, name in ((1, "a.heic"), (6, "b.HEIC"), (3, "c.heif")):
        image = heif.from_bytes("RGB", IMAGE.size, COLORS.tobytes())
        image.save(tmp_path / name, quality=95, exif=exif(orientation).tobytes())
    (tmp_path / "c.heif").rename(tmp_path / "c.jpg")  # as some phones name it
    (tmp_path / "cut.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:-200])
    store = FolderStore(tmp_path)
    assert list(_problems(store)) == ["cut"]
    for image_id, orientation in (("a", 1), ("b", 6), ("c", 3)):
        expected = _ROTATIONS[orientation](COLORS)
        image = store.read_image(image_id)
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).mean() < 2.5
        assert store.size(image_id) == expected.shape[:2]


def test_heic_images_are_problems_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a.heic", "b.HIF", "c.jpg"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99))
    store = FolderStore(tmp_path)
    reason = 'is a HEIC image, which needs pillow-heif: pip install "carvana-kedro[heif]"'
    assert _problems(store) == {"a": f"a.heic {reason}", "b": f"b.HIF {reason}", "c": f"c.jpg {reason}"}
    with pytest.raises(UserError, match=r"a\.heic is a HEIC image, which needs pillow-heif"):
        store.read_image("a")
