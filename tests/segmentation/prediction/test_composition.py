from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.prediction.composition import compose, read_background
from carvana_kedro.segmentation.prediction.cutouts import cut_out

RED, GRAY = (200, 30, 20), (90, 100, 110)
TOP, BOTTOM, LEFT, RIGHT = 60, 100, 50, 130


def _scene() -> tuple[np.ndarray, np.ndarray]:
    """Return a photograph of a red box, and its alpha."""
    photograph = np.full((160, 240, 3), GRAY, np.uint8)
    photograph[TOP:BOTTOM, LEFT:RIGHT] = RED
    alpha = np.zeros((160, 240), np.float32)
    alpha[TOP:BOTTOM, LEFT:RIGHT] = 1
    return photograph, alpha


def _box(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of the opaque pixels."""
    rows, columns = np.nonzero(picture[..., 3] > 127)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def test_without_options_the_picture_is_the_cut_out_of_the_pipeline() -> None:
    photograph, alpha = _scene()
    assert (compose(photograph, alpha) == cut_out(photograph, alpha)).all()


@pytest.mark.parametrize("color", ["#fff", "#ffffff", "white", "White", (255, 255, 255)])
def test_the_background_has_the_color(color: str) -> None:
    photograph, alpha = _scene()
    picture = compose(photograph, alpha, background=color)
    assert picture.shape == photograph.shape
    assert (picture[alpha == 0] == 255).all()
    assert (picture[TOP + 3 : BOTTOM - 3, LEFT + 3 : RIGHT - 3] == RED).all()


def test_a_plain_background_is_the_one_of_the_pipeline() -> None:
    random = np.random.default_rng(0)
    photograph = random.integers(0, 256, (80, 90, 3), dtype=np.uint8)
    alpha = random.random((80, 90), dtype=np.float32)
    picture = compose(photograph, alpha, background="#203040").astype(int)
    assert np.abs(picture - cut_out(photograph, alpha, (32, 48, 64))).max() <= 2  # alpha has 255 levels here


@pytest.mark.parametrize("as_path", [False, True])
def test_a_picture_fills_the_background(tmp_path: Path, as_path: bool) -> None:
    photograph, alpha = _scene()
    stripes = Image.fromarray(np.repeat(np.array([[[0, 0, 250], [0, 250, 0]]], np.uint8), 2, 0))
    stripes.save(tmp_path / "picture.png")
    picture = compose(photograph, alpha, background=tmp_path / "picture.png" if as_path else stripes)
    assert picture.shape == photograph.shape
    assert picture[5, 5].argmax() == 2 and picture[5, -5].argmax() == 1
    assert (picture[80, 90] == RED).all()


@pytest.mark.parametrize("canvas", [None, (300, 200)])
def test_a_blurred_background_has_nothing_of_the_car(canvas: tuple[int, int] | None) -> None:
    photograph, alpha = _scene()
    picture = compose(photograph, alpha, background="blur", canvas=canvas, margin=0.3)
    clean = compose(photograph, alpha, canvas=canvas, margin=0.3)[..., 3] == 0
    assert np.abs(picture[clean].astype(int) - GRAY).max() <= 2


def test_a_blurred_background_stays_in_its_place() -> None:
    photograph, alpha = _scene()
    photograph[:, :LEFT] = 0  # a dark wall on the left
    whole = compose(photograph, alpha, background="blur").astype(int)
    cropped = compose(photograph, alpha, background="blur", crop=True, margin=0.25).astype(int)
    assert whole[10, 5].max() < 20 and whole[10, -5].min() > 80
    part = whole[TOP - 21 : BOTTOM + 21, LEFT - 21 : RIGHT + 21]
    assert part.shape == cropped.shape
    assert np.abs(part - cropped).mean() < 1


@given(margin=st.floats(0, 0.49))
def test_a_crop_leaves_the_margin(margin: float) -> None:
    picture = compose(*_scene(), crop=True, margin=margin)
    top, bottom, left, right = _box(picture)
    free = 1 + int(margin * (RIGHT - LEFT))
    assert (bottom - top, right - left) == (BOTTOM - TOP, RIGHT - LEFT)
    assert (top, left) == (min(free, TOP), min(free, LEFT))
    height, width = picture.shape[:2]
    assert (height - bottom, width - right) == (min(free, 160 - BOTTOM), min(free, 240 - RIGHT))


@given(width=st.integers(64, 500), height=st.integers(64, 500), margin=st.floats(0, 0.3))
def test_on_a_canvas_the_car_is_centered_and_as_large_as_fits(width: int, height: int, margin: float) -> None:
    picture = compose(*_scene(), canvas=(width, height), margin=margin)
    assert picture.shape == (height, width, 4)
    top, bottom, left, right = _box(picture)
    scale = (1 - 2 * margin) * min(width / (RIGHT - LEFT + 2), height / (BOTTOM - TOP + 2))
    assert bottom - top == pytest.approx(scale * (BOTTOM - TOP), abs=2.5)
    assert right - left == pytest.approx(scale * (RIGHT - LEFT), abs=2.5)
    assert abs(top - (height - bottom)) <= 2 + scale and abs(left - (width - right)) <= 2 + scale


def test_the_edge_of_a_scaled_car_has_no_dark_fringe() -> None:
    picture = compose(*_scene(), canvas=(47, 31), background="white").astype(int)
    assert (picture[..., 0] >= RED[0] - 12).all()  # between red and white; black would be lower


@pytest.mark.parametrize("options", [{"crop": True}, {}])
def test_without_a_car_a_crop_shows_the_whole_photograph(options: dict[str, bool]) -> None:
    photograph, alpha = _scene()
    picture = compose(photograph, np.zeros_like(alpha), **options)  # type: ignore[arg-type]
    assert picture.shape == (160, 240, 4)
    assert not picture.any()
    assert compose(photograph, np.zeros_like(alpha), canvas=(80, 60), background="white").min() == 255


@pytest.mark.parametrize("sides", [(1, 1), (1, 40), (40, 1), (16, 3000)])
@pytest.mark.parametrize("background", ["transparent", "blur", "white"])
def test_any_size_of_photograph_works(sides: tuple[int, int], background: str) -> None:
    photograph, alpha = np.full((*sides, 3), 7, np.uint8), np.ones(sides, np.float32)
    for options in ({}, {"crop": True}):
        assert compose(photograph, alpha, background=background, **options).shape[:2] == sides  # type: ignore[arg-type]
    assert compose(photograph, alpha, background=background, canvas=(32, 20)).shape[:2] == (20, 32)


@pytest.mark.parametrize(
    ("background", "problem"),
    [
        ("purpel", "purpel is neither a file nor a color"),
        ("#12", "#12 is neither a file nor a color"),
        ((1, 2), "A color has three whole numbers"),
        ((1, 2, 256), "A color has three whole numbers"),
        (Path("missing.png"), "missing.png cannot be opened"),
    ],
)
def test_a_background_that_is_nothing_is_refused(background: object, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read_background(background)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"margin": 0.5},
        {"margin": -0.1},
        {"margin": float("nan")},
        {"canvas": (8, 100)},
        {"canvas": (100, 20_000)},
    ],
)
def test_sizes_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"The (margin|canvas)"):
        compose(*_scene(), **options)  # type: ignore[arg-type]
