import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from carvana_kedro.segmentation.metrics import mask_scores
from carvana_kedro.segmentation.training import losses
from carvana_kedro.segmentation.training.losses import batch_dice, border_band, segmentation_loss, soft_dice

PARTS = [
    {"bce_weight": 1.0, "dice_weight": 1.0},
    {"bce_weight": 1.0, "dice_weight": 0.0},
    {"bce_weight": 0.0, "dice_weight": 1.0},
    {"bce_weight": 0.3, "dice_weight": 2.0},
    {"bce_weight": 0.3, "dice_weight": 2.0, "border_weight": 4.0, "border_width": 1},
    {"bce_weight": 1.0, "dice_weight": 0.0, "border_weight": 0.5, "border_width": 2},
]


@pytest.fixture
def logits():
    return 3 * torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets():
    """Random soft targets, except for a corner of ones whose inside is outside the border band."""
    targets = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1))
    targets[:, :4, :4] = 1
    return targets


def numpy_band(targets, width):
    """Compute the border band from the neighborhood of every pixel."""
    masks = np.asarray(targets) > 0.5
    band = np.zeros_like(masks)
    for image, row, column in np.ndindex(masks.shape):
        top, left = max(0, row - width), max(0, column - width)
        around = masks[image, top : row + width + 1, left : column + width + 1]
        band[image, row, column] = (around != masks[image, row, column]).any()
    return band


def numpy_loss(logits, targets, bce_weight, dice_weight, border_weight=0.0, border_width=1):
    x, t = logits.double().numpy(), targets.double().numpy()
    p = 1 / (1 + np.exp(-x))
    w = np.where(numpy_band(t, border_width), 1 + border_weight, 1.0)
    bce = np.average(-(t * np.log(p) + (1 - t) * np.log(1 - p)), weights=w)
    dices = [(2 * (p[i] * t[i]).sum() + 1) / (p[i].sum() + t[i].sum() + 1) for i in range(len(p))]
    return bce_weight * bce + dice_weight * (1 - np.mean(dices))


@pytest.mark.parametrize("parts", PARTS)
def test_the_loss_agrees_with_numpy(logits, targets, parts):
    loss = segmentation_loss(logits, targets, **parts)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(numpy_loss(logits, targets, **parts), rel=1e-5)


@pytest.mark.parametrize("parts", PARTS)
def test_the_gradient_of_the_loss_agrees_with_finite_differences(logits, targets, parts):
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, targets.double(), **parts), (logits,))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_computed_in_float32(logits, targets, parts, dtype):
    half = logits.to(dtype)
    loss = segmentation_loss(half, targets, **parts)
    assert loss.dtype == torch.float32
    assert loss == segmentation_loss(half.float(), targets, **parts)
    rounded = targets.to(dtype)
    assert segmentation_loss(half, rounded, **parts) == segmentation_loss(half, rounded.float(), **parts)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("mask", ["empty", "half", "full"])
def test_loss_and_gradient_are_finite(parts, logit, mask):
    logits = torch.full((2, 4, 6), logit, requires_grad=True)
    targets = torch.zeros(2, 4, 6)
    targets[..., : {"empty": 0, "half": 3, "full": 6}[mask]] = 1
    loss = segmentation_loss(logits, targets, **parts)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@settings(deadline=None)
@given(
    targets=arrays(
        np.float32,
        array_shapes(min_dims=3, max_dims=3, max_side=9),
        elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    ),
    width=st.integers(1, 10),
)
def test_the_border_band_agrees_with_brute_force(targets, width):
    assert (
        border_band(torch.from_numpy(targets), width).numpy().tolist() == numpy_band(targets, width).tolist()
    )


def test_the_border_weighs_more_and_its_band_is_computed_only_if_needed(logits, targets, monkeypatch):
    weighted = segmentation_loss(logits, targets, dice_weight=0.0, border_weight=1e6, border_width=1)
    band = border_band(targets, 1)
    assert 0 < band.sum() < band.numel()
    only_border = torch.nn.functional.binary_cross_entropy_with_logits(logits[band], targets[band])
    torch.testing.assert_close(weighted, only_border, rtol=1e-4, atol=0)
    monkeypatch.delattr(losses, "border_band")
    segmentation_loss(logits, targets, border_width=1)


def test_the_loss_does_not_synchronize_with_the_device(logits, targets):
    logits, targets = logits.to("meta"), targets.to("meta")  # reading a value would fail
    assert segmentation_loss(logits, targets, border_weight=1.0).device.type == "meta"
    assert batch_dice(logits, targets).device.type == "meta"


def test_every_image_counts_the_same_whatever_the_area_of_its_mask():
    targets = torch.zeros(2, 10, 10)
    targets[0, :5], targets[1, 0, 0] = 1, 1
    logits = torch.full((2, 10, 10), -50.0)
    logits[0, :5] = 50.0  # the large mask is found, the small one is not
    torch.testing.assert_close(soft_dice(logits, targets), torch.tensor([1.0, 0.5]))


def test_batch_dice_agrees_with_the_metric(logits, targets):
    for threshold in (0.2, 0.5, 0.9):
        predictions = logits.sigmoid() > threshold
        expected = [
            mask_scores.dice(p.numpy(), t.numpy()) for p, t in zip(predictions, targets > 0.5, strict=True)
        ]
        assert batch_dice(logits, targets, threshold).tolist() == pytest.approx(expected)


def test_batch_dice_of_empty_images_is_one():
    assert batch_dice(torch.full((2, 4, 4), -1.0), torch.zeros(2, 4, 4)).tolist() == [1, 1]


@pytest.mark.parametrize("function", [segmentation_loss, soft_dice, batch_dice])
def test_other_shapes_and_integers_are_refused(function, logits, targets):
    for other in (targets[:, None], targets[:1], targets[0], targets.transpose(1, 2)):
        with pytest.raises(ValueError, match="the same shape"):
            function(logits, other)
    with pytest.raises(ValueError, match="the same shape"):
        function(logits[:, None], targets[:, None])
    with pytest.raises(ValueError, match="divided by 255"):
        function(logits, (255 * targets).to(torch.uint8))
