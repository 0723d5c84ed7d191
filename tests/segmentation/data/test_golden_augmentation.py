"""The augmentation draws the numbers in `golden_augmentation.json`, and changes an image as is stored there.

Another draw or another warp would train on other images, so a run would not resume exactly. After an intended change,
write the file again: `python tests/segmentation/data/test_golden_augmentation.py`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from carvana_kedro.segmentation.data.augmentation import Augmentation

GOLDEN = Path(__file__).with_name("golden_augmentation.json")
SEED, EPOCH, INDICES = 2017, 3, (0, 1, 4999)
COLORS = {"hue": 40.0, "saturation": 0.3, "value": 0.2, "brightness": 0.1, "contrast": 0.25}
# The draws flip, rotate, angle, scale, right, down; hue, saturation, value, brightness, contrast.
# Every change is large here, and differs from the others.
DRAWS = torch.tensor(
    [
        [0.2, 0.1, 0.9, 0.85, 0.7, 0.15, 0.8, 0.9, 0.35, 0.6, 0.25],
        [0.8, 0.3, 0.3, 0.1, 0.05, 0.9, 0.1, 0.2, 0.75, 0.3, 0.85],
        [0.4, 0.9, 0.9, 0.4, 0.95, 0.3, 0.45, 0.6, 0.6, 0.9, 0.4],
    ]
)
VARIANTS = {
    "as it is by default": Augmentation(),
    "with colors": Augmentation(shift=0.2, scale=0.3, rotation=60.0, rotation_probability=0.4, **COLORS),
    "colors alone": Augmentation(shift=0.0, scale=0.0, rotation=0.0, flip_probability=0.0, **COLORS),
}


def batch() -> tuple[Tensor, Tensor]:
    """Return images, (3, 3, 9, 13), that differ in every pixel and channel; and masks, (3, 9, 13), of a corner."""
    count, channel, row, column = np.ogrid[:3, :3, :9, :13]
    images = 0.1 + 0.8 * ((37 * count + 53 * channel + 29 * row + 11 * column) % 101) / 100
    masks = (row + 2 * column < 14) & (row > 1) & (count >= 0)
    return torch.from_numpy(images).float(), torch.from_numpy(masks[:, 0]).float()


def computed() -> dict[str, Any]:
    changed = {name: augmentation.apply(*batch(), DRAWS) for name, augmentation in VARIANTS.items()}
    return {
        "draws": Augmentation().draw(SEED, EPOCH, INDICES).tolist(),
        "images": {name: _rounded(images) for name, (images, _) in changed.items()},
        "masks": {name: _rounded(masks) for name, (_, masks) in changed.items()},
    }


def _rounded(values: Tensor) -> list[float]:
    """Return every seventh value."""
    return [round(number, 5) for number in values.flatten()[::7].tolist()]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(GOLDEN.read_text())
    return content


def test_the_draws_are_the_golden_ones(golden: dict[str, Any]) -> None:
    draws = Augmentation().draw(SEED, EPOCH, INDICES)
    assert torch.equal(draws, torch.tensor(golden["draws"]))
    assert torch.equal(Augmentation(shift=0.0, hue=90.0).draw(SEED, EPOCH, INDICES), draws)


def test_seed_epoch_and_index_are_not_interchangeable() -> None:
    draw = Augmentation().draw
    same_numbers = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1), (0, 0, 6), (6, 0, 0)]
    draws = torch.cat([draw(seed, epoch, [index]) for seed, epoch, index in same_numbers])
    assert len(draws.flatten().unique()) == draws.numel()


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_changed_images_and_masks_are_the_golden_ones(
    golden: dict[str, Any], name: str, kind: str
) -> None:
    images, masks = VARIANTS[name].apply(*batch(), DRAWS)
    found = _rounded(images if kind == "images" else masks)
    np.testing.assert_allclose(found, golden[kind][name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["as it is by default", "with colors"])
def test_the_golden_warp_of_the_mask_is_that_of_the_image(golden: dict[str, Any], name: str) -> None:
    _, masks = batch()
    geometric = Augmentation(**{**vars(VARIANTS[name]), **dict.fromkeys(COLORS, 0.0)})
    images, _ = geometric.apply(masks[:, None].expand(-1, 3, -1, -1), masks, DRAWS)
    for channel in range(3):
        np.testing.assert_allclose(_rounded(images[:, channel]), golden["masks"][name], rtol=0, atol=1e-4)


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit("Usage: python tests/segmentation/data/test_golden_augmentation.py")
    GOLDEN.write_text(json.dumps(computed(), indent=1) + "\n")
