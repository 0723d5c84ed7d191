import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from carvana_kedro.segmentation.monitoring import visualization

PREDICTION, TARGET = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
PREDICTION[10:30, 10:30] = TARGET[10:30, 20:40] = True


def test_agreement_has_one_color_per_case() -> None:
    result = visualization.agreement(PREDICTION, TARGET)
    assert tuple(result[20, 25]) == visualization.HIT
    assert tuple(result[20, 35]) == visualization.MISS
    assert tuple(result[20, 15]) == visualization.FALSE_ALARM
    assert not result[0, 0].any()


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (240, 228, 66), (230, 159, 0), (0, 114, 178)])
def test_errors_can_be_seen_on_cars_of_any_color(color: tuple[int, int, int]) -> None:
    image = np.full((40, 60, 3), color, np.uint8)
    result = visualization.errors(image, PREDICTION, TARGET).astype(int)
    background, false_alarm, hit, miss = (result[20, column] for column in (55, 15, 25, 35))
    assert np.ptp(background) == 0  # gray
    for shown, expected in ((miss, visualization.MISS), (false_alarm, visualization.FALSE_ALARM)):
        assert np.abs(shown - expected).max() < 40
        # An outline separates an error from what is beside it.
        assert np.abs(shown - background).max() > 60
    assert (result[20, 10] < 60).all() and (result[20, 39] < 60).all()
    assert np.ptp(hit) == 0 and hit[0] > background[0]  # lighter than the same color outside
    assert (image == color).all()


def test_equal_masks_have_no_errors() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    result = visualization.errors(image, TARGET, TARGET)
    assert (np.ptp(result[~TARGET].astype(int), axis=1) == 0).all()
    with pytest.raises(ValueError, match="sizes differ"):
        visualization.errors(image, TARGET, TARGET[:20])


@given(st.data())
def test_the_largest_error_lies_in_the_image_and_has_wrong_pixels_if_there_are_any(
    data: st.DataObject,
) -> None:
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    prediction, target = (data.draw(arrays(bool, shape)) for _ in range(2))
    side = data.draw(st.integers(1, min(shape)))
    top, left = visualization.largest_error(prediction, target, side, side)
    assert 0 <= top <= shape[0] - side and 0 <= left <= shape[1] - side
    wrong = prediction != target
    assert wrong[top : top + side, left : left + side].any() == wrong.any()


def test_the_largest_error_is_in_the_middle_of_its_part() -> None:
    prediction, target = np.zeros((200, 300), bool), np.zeros((200, 300), bool)
    prediction[50:54, 100:110] = True  # 40 pixels
    target[150:153, 200:203] = True  # 9 pixels
    assert visualization.largest_error(prediction, target, 20, 20) == (42, 95)  # 50 to 53, 100 to 109
    prediction[:] = False
    target[196:, 290:] = True
    assert visualization.largest_error(prediction, target, 20, 20) == (
        180,
        280,
    )  # as far as the image reaches
    assert visualization.largest_error(target, target, 20, 20) == (90, 140)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_an_image_fills_its_box_in_one_direction(rows: int, columns: int, height: int, width: int) -> None:
    image = np.zeros((rows, columns, 3), np.uint8)
    box, scale, (top, left) = visualization.fitted(image, height, width, (255, 0, 0))
    assert box.shape == (height, width, 3)
    assert top == 0 or left == 0
    inside = box.any(axis=2) == 0
    found = np.argwhere(inside)
    assert found.min(0).tolist() == [top, left]
    assert np.ptp(found, axis=0) + 1 == pytest.approx([rows * scale, columns * scale], abs=1)
    assert (box[~inside] == (255, 0, 0)).all()


def test_an_overlay_changes_only_the_masked_area() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    result = visualization.overlay(image, TARGET)
    assert np.array_equal(result[~TARGET], image[~TARGET])
    assert (result[TARGET] != 200).any(axis=1).all()
    assert (image == 200).all()


def test_only_the_found_car_keeps_its_colors() -> None:
    image = np.full((60, 90, 3), (200, 30, 30), np.uint8)
    mask = np.zeros((60, 90), bool)
    mask[20:40, 30:60] = True
    drawn = visualization.spotlight(image, mask)
    assert (drawn[25:35, 35:55] == (200, 30, 30)).all()
    outside = drawn[:15]
    assert (outside == outside[..., :1]).all()
    assert (drawn[20, 45] == visualization.CAR).all()
    assert (image == (200, 30, 30)).all()


def test_images_are_arranged_side_by_side_and_in_a_grid() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    result = visualization.comparison(image, PREDICTION, TARGET)
    assert result.shape == (40, 240, 3)
    assert np.array_equal(result[:, 180:], visualization.overlay(image, PREDICTION))
    caption = visualization.captioned(image, "name", width=120)
    assert caption.shape == (108, 120, 3)
    assert (caption[:28] < 100).any()
    sheet = visualization.grid([caption, image, image], columns=2)
    assert sheet.shape == (2 * 124, 2 * 136, 3)
    assert np.array_equal(sheet[132:172, 8:68], image)
    assert (sheet[:8] == 255).all() and (sheet[:, -8:] == 255).all()
    with pytest.raises(ValueError, match="at least one image"):
        visualization.grid([], 2)
