import numpy as np
import pytest
import torch

from carvana_kedro.segmentation.metrics.threshold_curve import ThresholdCurve
from carvana_kedro.segmentation.training.losses import batch_dice


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two batches of different sizes; the last target is empty, and so is its prediction at higher thresholds."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for images in (3, 2):
        targets = (torch.rand(images, 8, 12, generator=generator) > 0.6).float()
        result.append((2 * torch.randn(images, 8, 12, generator=generator) + 3 * targets - 1, targets))
    result[-1][1][-1] = 0
    result[-1][0][-1] = -1.5
    return result


def test_the_counts_equal_direct_counting_at_every_threshold(
    batches: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    curve = ThresholdCurve()
    for batch in batches:
        curve.add(*batch)
    probabilities = torch.cat([logits.sigmoid() for logits, _ in batches]).numpy()
    targets = torch.cat([targets for _, targets in batches]).numpy() > 0.5
    for column, threshold in enumerate(curve.thresholds):
        reaches = np.floor(probabilities * 100) >= column
        assert np.array_equal(curve.positive[:, column], reaches.sum((1, 2))), threshold
        assert np.array_equal(curve.true_positive[:, column], (reaches & targets).sum((1, 2))), threshold


def test_dice_is_the_mean_over_images(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    curve = ThresholdCurve()
    for batch in batches:
        curve.add(*batch)
    for column in (1, 25, 50, 90):
        expected = torch.cat([batch_dice(*batch, column / 100) for batch in batches]).mean()
        assert curve.dice()[column] == pytest.approx(float(expected))
    assert curve.best_threshold() == np.argmax(curve.dice()[1:]) / 100 + 0.01


def test_probabilities_of_zero_and_one_are_counted() -> None:
    curve = ThresholdCurve()
    curve.add(torch.tensor([[[1000.0, -1000.0]]]), torch.tensor([[[1.0, 0.0]]]))
    assert curve.positive.tolist() == [[2, *[1] * 99]]
    assert curve.best_threshold() == 0.5  # the middle of all equally good thresholds


def test_empty_and_full_masks_are_counted() -> None:
    curve = ThresholdCurve()
    logits = torch.stack([torch.full((4, 5), value) for value in (-9.0, 9.0, 0.5, 0.5)])
    logits[3, 0, 0] = -9
    curve.add(logits, torch.zeros(4, 4, 5))
    assert curve.constant(0.5) == (1, 2)
    assert curve.constant(0.7) == (3, 1)
    assert curve.constant(0.001) == curve.constant(0.01)
