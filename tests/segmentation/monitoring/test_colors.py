from itertools import combinations

import cv2
import numpy as np
import pytest

from carvana_kedro.segmentation.monitoring import plots, visualization

# Machado, Oliveira & Fernandes 2009, severity 1.0: how people without one type of cones see linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
_VISIBLE = 20  # CIE76 distance; about 2 is just noticeable side by side


def _distance(vision: str, *colors: np.ndarray) -> float:
    """Return the distance between two colors in CIELAB, as a person with this vision sees them."""
    levels = np.array(colors, np.float32) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    coded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(coded.astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
    return float(np.linalg.norm(lab[0] - lab[1]))


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("level", [0, 60, 128, 200, 255])
def test_everybody_can_tell_hit_miss_and_false_alarm_apart(vision: str, level: int) -> None:
    masks = np.zeros((3, 60), bool), np.zeros((3, 60), bool)
    masks[0][:, :30] = masks[1][:, 15:45] = True
    # High enough that the pixels in the middle are not outlines.
    prediction, target = (np.repeat(mask, 10, axis=0) for mask in masks)
    drawn = visualization.errors(np.full((30, 60, 3), level, np.uint8), prediction, target)
    cases = [drawn[15, column] for column in (7, 22, 37)]
    for pair in combinations(cases, 2):
        assert _distance(vision, *pair) > _VISIBLE


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colors", [(plots.TRAINING, plots.VALIDATION), (plots.BEST, plots.USED)])
def test_everybody_can_tell_the_curves_apart(vision: str, colors: tuple[np.ndarray, np.ndarray]) -> None:
    assert _distance(vision, *colors) > _VISIBLE
