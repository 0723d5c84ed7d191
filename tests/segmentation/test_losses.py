import numpy as np
import pytest
import torch

from carvana_kedro.segmentation import metrics
from carvana_kedro.segmentation.losses import batch_dice, segmentation_loss, soft_dice


@pytest.fixture
def logits():
    return 3 * torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets():
    return torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1))


def numpy_loss(logits, targets, bce_weight, dice_weight):
    x, t = logits.double().numpy(), targets.double().numpy()
    p = 1 / (1 + np.exp(-x))
    bce = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    dices = [(2 * (p[i] * t[i]).sum() + 1) / (p[i].sum() + t[i].sum() + 1) for i in range(len(p))]
    return bce_weight * bce + dice_weight * (1 - np.mean(dices))


@pytest.mark.parametrize(("bce_weight", "dice_weight"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.3, 2.0)])
def test_loss_agrees_with_numpy(logits, targets, bce_weight, dice_weight):
    loss = segmentation_loss(logits, targets, bce_weight=bce_weight, dice_weight=dice_weight)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(numpy_loss(logits, targets, bce_weight, dice_weight), rel=1e-5)


def test_gradient(logits, targets):
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, targets.double()), (logits,))


def test_loss_is_computed_in_float32(logits, targets):
    half = logits.bfloat16()
    loss = segmentation_loss(half, targets)
    assert loss.dtype == torch.float32
    assert loss == segmentation_loss(half.float(), targets)


def test_loss_stays_finite_for_certain_logits():
    logits = torch.tensor([[[-1e4, 1e4]]], requires_grad=True)
    loss = segmentation_loss(logits, torch.tensor([[[1.0, 0.0]]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_every_image_counts_alike_whatever_its_mask_s_area():
    targets = torch.zeros(2, 10, 10)
    targets[0, :5], targets[1, 0, 0] = 1, 1
    logits = torch.full((2, 10, 10), -50.0)
    logits[0, :5] = 50.0  # the large mask is found, the small one is not
    torch.testing.assert_close(soft_dice(logits, targets), torch.tensor([1.0, 0.5]))


def test_batch_dice_agrees_with_the_metric(logits, targets):
    for threshold in (0.2, 0.5, 0.9):
        predictions = logits.sigmoid() > threshold
        expected = [
            metrics.dice(p.numpy(), t.numpy()) for p, t in zip(predictions, targets > 0.5, strict=True)
        ]
        assert batch_dice(logits, targets, threshold).tolist() == pytest.approx(expected)


def test_batch_dice_of_empty_images_is_one():
    assert batch_dice(torch.full((2, 4, 4), -1.0), torch.zeros(2, 4, 4)).tolist() == [1, 1]
