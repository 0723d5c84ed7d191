from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

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


@pytest.mark.parametrize("shape", [(40, 1000), (1000, 40), (8, 8), (2000, 3000)])
def test_embedded_images_have_one_longer_side(shape: tuple[int, int]) -> None:
    assert max(cases._resized(np.zeros((*shape, 3), np.uint8)).shape[:2]) == 720
    assert max(cases._resized(np.zeros(shape, bool)).shape) == 720


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
