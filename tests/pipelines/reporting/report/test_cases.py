from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.pipelines.reporting.report import cases
from carvana_kedro.segmentation.monitoring import visualization
from carvana_kedro.stores.images.competition import ImageStore


def test_the_worst_images_are_shown_with_at_most_two_of_a_car() -> None:
    table = pd.DataFrame(
        {
            "image": [f"{car}_{view}" for car in "abcd" for view in range(3)],
            "car": [car for car in "abcd" for _ in range(3)],
            "dice": [number / 12 for number in range(12)],
        }
    )
    middle, *worst = cases.choose(table.sample(frac=1, random_state=0))["image"]
    assert middle == "c_0"
    assert worst == ["a_0", "a_1", "b_0", "b_1", "c_0", "c_1"]
    assert cases.choose(table[:1])["image"].tolist() == ["a_0", "a_0"]


def test_a_case_has_the_errors_that_its_score_comes_from(
    inputs: Callable[..., dict[str, Any]], training_images: ImageStore
) -> None:
    values = inputs(training_images)
    chosen = values["validation_scores"].head(3)
    drawn = cases.draw_cases(chosen, values["trained_model"], training_images, values["model_training"])
    assert [case.image for case in drawn] == chosen["image"].tolist()
    for case in drawn:
        car = int(training_images.read_mask(case.image).sum())
        hits = car - case.missed
        assert 2 * hits / (2 * hits + case.missed + case.false_alarms) == pytest.approx(case.dice)


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 300),
    data=st.data(),
)
def test_the_place_of_the_largest_error_lies_in_the_image_and_holds_it(
    height: int, width: int, data: st.DataObject
) -> None:
    wrong = np.zeros((height, width), bool)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    wrong[y, x] = data.draw(st.booleans())
    left, top, across, down = cases.largest_error(wrong)
    assert 0 <= left <= left + across <= width and 0 <= top <= top + down <= height
    assert across > 0 and down > 0
    assert wrong[top : top + down, left : left + across].any() == wrong.any()


def test_the_larger_of_two_errors_is_in_the_middle_of_the_place() -> None:
    wrong = np.zeros((120, 180), bool)
    wrong[20:22, 30:32] = True
    wrong[80:90, 120:130] = True
    left, top, width, height = cases.largest_error(wrong)
    assert (width, height) == (30, 20)
    assert abs(left + width / 2 - 125) <= 2 and abs(top + height / 2 - 85) <= 2


def test_only_the_found_car_keeps_its_colors() -> None:
    image = np.full((60, 90, 3), (200, 30, 30), np.uint8)
    mask = np.zeros((60, 90), bool)
    mask[20:40, 30:60] = True
    drawn = cases.spotlight(image, mask)
    assert (drawn[25:35, 35:55] == (200, 30, 30)).all()
    outside = drawn[:15]
    assert (outside == outside[..., :1]).all()
    assert (drawn[20, 45] == visualization.CAR).all()
    assert (image == (200, 30, 30)).all()


def test_missed_pixels_and_false_alarms_have_colors_of_their_own() -> None:
    image = np.random.default_rng(0).integers(256, size=(4, 6, 3), dtype=np.uint8)
    missed, false_alarms = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    missed[0, 0] = false_alarms[3, 5] = True
    drawn = cases.errors(image, missed, false_alarms)
    assert (drawn[0, 0] == visualization.MISS).all() and (drawn[3, 5] == visualization.FALSE_ALARM).all()
    rest = drawn[~missed & ~false_alarms]
    assert (rest == rest[:, :1]).all()
