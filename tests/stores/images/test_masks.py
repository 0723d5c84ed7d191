"""Which values of a mask are the object. Formats of files are tested with `FolderStore`."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from carvana_kedro.stores.images.decoding import UnusableImageError
from carvana_kedro.stores.images.mask_values import MaskValues, parse_values
from carvana_kedro.stores.images.masks import read_mask

BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)
SHAPE = np.zeros((40, 64), np.uint8)
SHAPE[10:22, 8:40] = 1
Color = tuple[int, ...]


def _paint(*colors: Color, shape: np.ndarray = SHAPE) -> np.ndarray:
    """Return (H, W, channels): the color of each label in `shape`."""
    return np.array(colors, np.uint8)[shape]


def _indexed(*colors: Color, shape: np.ndarray = SHAPE, **options: object) -> Image.Image:
    image = Image.fromarray(shape)
    image.putpalette([level for color in colors for level in color])
    image.info.update(options)
    return image


def _soft(outside: Color, inside: Color, scale: int = 2) -> np.ndarray:
    """Return a mask with an edge of one or two mixed pixels, as drawing programs make it."""
    size = 64 * scale, 40 * scale
    large = cv2.resize(
        SHAPE.astype(np.float32), None, fx=4 * scale, fy=4 * scale, interpolation=cv2.INTER_NEAREST
    )
    alpha = cv2.resize(np.roll(large, 3, (0, 1)), size, interpolation=cv2.INTER_AREA)[..., None]
    return np.rint(alpha * np.array(inside) + (1 - alpha) * np.array(outside)).astype(np.uint8)


@pytest.fixture
def read(tmp_path: Path):  # type: ignore[no-untyped-def]
    def save_and_read(
        content: np.ndarray | Image.Image | bytes, kind: str = "png", meaning: MaskValues | None = None
    ) -> np.ndarray:
        path = tmp_path / f"mask.{kind}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            image = Image.fromarray(content) if isinstance(content, np.ndarray) else content
            image.save(path, **image.info, **({"quality": 92} if kind == "jpg" else {}))
        return read_mask(path, meaning)

    return save_and_read


@pytest.mark.parametrize(
    "color", [(128, 0, 0), (184, 61, 245), (0, 0, 1), (254, 254, 254), (2, 2, 2), (1, 2, 3)]
)
@pytest.mark.parametrize("kind", ["png", "bmp", "tif", "gif"])
def test_the_other_of_two_values_is_the_object_if_one_is_black(read, color: Color, kind: str) -> None:  # type: ignore[no-untyped-def]
    for shape in (SHAPE, 1 - SHAPE):
        for image in (_paint(BLACK, color, shape=shape), _indexed(BLACK, color, shape=shape)):
            assert np.array_equal(read(image, kind), shape)
        assert np.array_equal(read(_indexed(color, BLACK, shape=1 - shape), kind), shape)
    assert np.array_equal(read(SHAPE * np.uint8(color[0] or 9)), SHAPE)


@given(
    st.tuples(*[st.integers(0, 255)] * 3).filter(any),
    st.integers(1, 2**16 - 1),
)
@settings(max_examples=30)
def test_any_color_and_gray_value_can_be_the_object(
    tmp_path_factory: pytest.TempPathFactory, color: Color, gray: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    Image.fromarray(_paint(BLACK, color)).save(path)
    assert np.array_equal(read_mask(path), SHAPE)
    path.write_bytes(cv2.imencode(".png", SHAPE.astype(np.uint16) * gray)[1].tobytes())
    assert np.array_equal(read_mask(path), SHAPE)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_colors_of_16_bits_are_judged_before_they_are_reduced(read, kind: str) -> None:  # type: ignore[no-untyped-def]
    one = SHAPE.astype(np.uint16)
    for channels in ((one, 0 * one, 0 * one), (one, one, one), (0 * one, 200 * one, one)):
        content = cv2.imencode(f".{kind}", np.dstack(channels))[1].tobytes()
        assert np.array_equal(read(content, kind), SHAPE)
    content = cv2.imencode(".png", np.dstack([one * 0, one * 0, one * 0, one]))[1].tobytes()
    assert np.array_equal(read(content), SHAPE)


@pytest.mark.parametrize(
    ("outside", "inside", "names"),
    [
        (WHITE, RED, ("#ffffff", "#ff0000")),
        ((128,) * 3, WHITE, ("128", "255")),
        ((254,) * 3, (255,) * 3, ("254", "255")),
        ((10, 10, 10), (200, 30, 30), ("#0a0a0a", "#c81e1e")),
    ],
)
def test_two_values_without_black_need_the_background(  # type: ignore[no-untyped-def]
    read, outside: Color, inside: Color, names: tuple[str, str]
) -> None:
    for image in (_paint(outside, inside), _soft(outside, inside)):
        with pytest.raises(
            UnusableImageError, match=r"none of them is black\. Say which is the background"
        ) as raised:
            read(image)
        assert all(name in str(raised.value) for name in names)
        for background, object_ in ((outside, inside), (inside, outside)):
            mask = read(image, meaning=MaskValues(background=background))
            expected = np.abs(image.astype(int) - object_).sum(2) <= np.abs(
                image.astype(int) - background
            ).sum(2)
            assert (mask == expected).mean() > 0.99
            assert set(np.unique(mask)) == {0, 1}


def test_white_in_a_palette_without_black_needs_the_background(read) -> None:  # type: ignore[no-untyped-def]
    for colors, background in (((WHITE, RED), 0), ((RED, WHITE), 1)):
        with pytest.raises(UnusableImageError, match="none of them is black"):
            read(_indexed(*colors))
        mask = SHAPE if background == 0 else 1 - SHAPE
        assert np.array_equal(read(_indexed(*colors), meaning=MaskValues(background=background)), mask)
        assert np.array_equal(read(_indexed(*colors), meaning=MaskValues(background=WHITE)), mask)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize("inside", [WHITE, (128, 0, 0), (184, 61, 245), (254, 254, 254)])
def test_soft_edges_are_rounded_to_the_nearer_color(read, inside: Color, kind: str) -> None:  # type: ignore[no-untyped-def]
    image = _soft(BLACK, inside, 2 if kind == "png" else 12)
    expected = image.max(2) > max(inside) / 2
    assert len(np.unique(image)) > 4
    assert (read(image, kind) != expected).mean() < 0.01


LABELS = SHAPE.copy()
LABELS[25:35, 45:55] = 2
LABELS[2:6, 50:56] = 3


@pytest.mark.parametrize(
    "colors",
    [
        [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)],
        [(0, 0, 0), (7, 7, 7), (20, 20, 20), (255, 255, 255)],
        [(0, 0, 0), (255, 255, 255), (128, 128, 128), (128, 128, 128)],
        [(0, 0, 0), (128, 0, 0), (64, 0, 0), (64, 0, 0)],  # on the line between the others
        [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)],
        [(255, 255, 255), (255, 0, 0), (0, 0, 0), (0, 0, 0)],
        [(0, 0, 0), (90, 0, 0), (180, 0, 0), (180, 0, 0)],
    ],
)
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_label_maps_are_refused_unless_the_object_is_named(read, colors: list[Color], kind: str) -> None:  # type: ignore[no-untyped-def]
    image = _paint(*colors, shape=LABELS)
    with pytest.raises(
        UnusableImageError, match=r"is not a mask: it has \d+ values, .*set the values of the object"
    ):
        read(image, kind)
    if kind == "png":
        meaning = MaskValues(objects=(colors[1], colors[3]))
        assert np.array_equal(
            read(image, meaning=meaning), (image == colors[1]).all(2) | (image == colors[3]).all(2)
        )


def test_named_values_are_not_looked_for_in_a_file_whose_values_were_changed(read) -> None:  # type: ignore[no-untyped-def]
    image = _paint(BLACK, (128, 0, 0))
    with pytest.raises(UnusableImageError, match="is compressed with loss, which changes values"):
        read(image, "jpg", meaning=MaskValues(objects=((128, 0, 0),)))


def test_numbers_in_a_label_map_are_gray_values_or_indices(read) -> None:  # type: ignore[no-untyped-def]
    expected = np.isin(LABELS, [1, 3])
    images = [
        LABELS,
        np.repeat(LABELS[..., None], 3, axis=2),
        _indexed(BLACK, (128, 0, 0), (0, 128, 0), (128, 128, 0), shape=LABELS),
        _indexed(BLACK, BLACK, BLACK, BLACK, shape=LABELS),
        Image.fromarray(LABELS.astype(np.uint16)),
    ]
    for image in images:
        for text in ("1 3", [1, 3]):
            assert np.array_equal(read(image, meaning=parse_values(objects=text)), expected)
        assert np.array_equal(read(image, meaning=parse_values(objects="1-3")), LABELS > 0)
    mixed = parse_values(objects="maroon 3")
    assert np.array_equal(read(images[2], meaning=mixed), expected)


def test_the_message_about_a_label_map_shows_indices_and_colors(read) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UnusableImageError) as raised:
        read(_indexed(BLACK, (128, 0, 0), (0, 128, 0), (128, 128, 0), shape=LABELS))
    assert "it has 4 values, #000000 (80.16%), #800000 (15.00%), #008000 (3.91%), #808000 (0.94%)" in str(
        raised.value
    )
    assert "folder.mask_values='#800000'" in str(raised.value)


@pytest.mark.parametrize("level", [3, 128, 254])
def test_a_mask_of_one_value_other_than_black_and_white_is_refused(read, level: int) -> None:  # type: ignore[no-untyped-def]
    for color in ((level, 0, 0), (level,) * 3):
        image = _paint(color, color)
        with pytest.raises(UnusableImageError, match="may be the object or the background"):
            read(image)
        assert read(image, meaning=MaskValues(objects=(color,))).all()
        assert not read(image, meaning=MaskValues(background=color)).any()
        assert read(image, meaning=MaskValues(background=BLACK)).all()


def test_one_color_for_several_indices_is_no_mask(read) -> None:  # type: ignore[no-untyped-def]
    colors = [BLACK] * 8 + [WHITE]
    with pytest.raises(UnusableImageError, match="one color for the indices 3 and 7"):
        read(_indexed(*colors, shape=SHAPE * 4 + 3))
    assert np.array_equal(read(_indexed(*colors)), SHAPE)  # the indices 0 and 1


def _with_alpha(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([colors, alpha])


def test_the_alpha_channel_is_the_mask_whatever_is_below_it(read) -> None:  # type: ignore[no-untyped-def]
    for alpha in (255, 128, 1):
        for color in (BLACK, WHITE, RED):
            assert np.array_equal(read(_with_alpha(_paint(color, color), SHAPE * np.uint8(alpha))), SHAPE)
        silhouette = _with_alpha(_paint(WHITE, BLACK), SHAPE * np.uint8(alpha))
        assert np.array_equal(read(silhouette), SHAPE)


def test_colors_and_alpha_that_differ_are_refused(read) -> None:  # type: ignore[no-untyped-def]
    margin = np.full_like(SHAPE, 255)
    margin[:, :4] = 0
    with pytest.raises(UnusableImageError, match="are two different masks"):
        read(_with_alpha(_paint(BLACK, WHITE), margin))
    with pytest.raises(UnusableImageError, match="its alpha channel has the values 128 and 255"):
        read(_with_alpha(_paint(BLACK, BLACK), SHAPE * np.uint8(127) + np.uint8(128)))
    with pytest.raises(UnusableImageError, match="transparent everywhere"):
        read(_with_alpha(_paint(BLACK, WHITE), SHAPE * 0))
    assert not read(_with_alpha(_paint(WHITE, WHITE), SHAPE * 0)).any()
    with pytest.raises(UnusableImageError, match="are two different masks"):
        read(_indexed(BLACK, WHITE, transparency=1), "gif")


def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    levels = SHAPE.astype(np.float32)
    levels[0, 0] = np.nan
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "TIFF")
    (tmp_path / "nan.tif").write_bytes(stream.getvalue())
    with pytest.raises(UnusableImageError, match="are not numbers"):
        read_mask(tmp_path / "nan.tif")
