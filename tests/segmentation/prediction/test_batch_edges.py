from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.prediction import batch_edges
from carvana_kedro.segmentation.prediction.batch_edges import BatchEdges
from carvana_kedro.segmentation.prediction.prediction import Prediction
from carvana_kedro.stores import run_lengths

Size = tuple[int, int]


def logits_of(masks: np.ndarray) -> Tensor:
    return torch.from_numpy(np.where(masks, 3.0, -3.0).astype(np.float32))


def edges_of(masks: np.ndarray) -> list[np.ndarray | None]:
    """The edges of (N, H, W) masks, found together."""
    size = masks.shape[1:]
    found = BatchEdges(logits_of(masks), [size] * len(masks), Geometry(size, size), 0.5).wait()
    assert all(image.is_finite for image in found)
    return [image.edges for image in found]


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_the_edges_are_those_of_run_lengths(
    seed: int, count: int, height: int, width: int, share: float
) -> None:
    masks = np.random.default_rng(seed).random((count, height, width)) < share
    for mask, edges in zip(masks, edges_of(masks), strict=True):
        if edges is not None:  # they fit
            assert edges.dtype == np.int64
            assert np.array_equal(edges, run_lengths.find_edges(mask))
        else:
            assert width > batch_edges._EDGES_PER_ROW - 1


def test_empty_full_and_single_pixel_masks_keep_apart() -> None:
    masks = np.zeros((7, 4, 5), bool)
    masks[1] = True
    masks[2, 0, 0] = masks[3, 3, 4] = masks[4, 1, 4] = masks[4, 2, 0] = masks[6, 2, 2] = True
    for mask, edges in zip(masks, edges_of(masks), strict=True):
        assert edges is not None
        assert np.array_equal(edges, run_lengths.find_edges(mask))


def test_only_the_masks_whose_edges_do_not_fit_are_left_out() -> None:
    masks = np.zeros((4, 6, 40), bool)
    masks[:, 2:4, 10:30] = True
    masks[2] = np.indices((6, 40)).sum(0) % 2  # more edges than all masks may have together
    found = edges_of(masks)
    assert [edges is None for edges in found] == [False, False, True, True]
    for mask, edges in zip(masks[:2], found[:2], strict=True):
        assert edges is not None and np.array_equal(edges, run_lengths.find_edges(mask))


@pytest.mark.parametrize("most_bytes", [1, 4 * 30 * 45 * 2, 2**30])
def test_images_of_different_sizes_have_the_edges_that_each_has_alone(
    monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    monkeypatch.setattr(batch_edges, "_MOST_BYTES", most_bytes)
    sizes: Sequence[Size] = [(30, 45), (30, 45), (30, 45), (16, 24), (45, 30), (30, 45)]
    torch.manual_seed(0)
    coarse = torch.randn(len(sizes), 1, 4, 6)
    logits = torch.nn.functional.interpolate(coarse, (16, 24), mode="bicubic")[:, 0]
    geometry = Geometry((16, 24), (16, 24))
    for threshold in (0.3, 0.5):
        found = BatchEdges(logits, sizes, geometry, threshold).wait()
        for one, size, row in zip(found, sizes, logits, strict=True):
            expected = Prediction("car", size, row, geometry).edges(threshold)
            assert len(expected) > 4
            assert one.edges is not None and np.array_equal(one.edges, expected)


def test_images_whose_logits_are_not_finite_are_told_apart() -> None:
    logits = torch.zeros(3, 4, 5)
    logits[1, 2, 3] = torch.nan
    logits[2, 0, 0] = torch.inf
    for threshold in (None, 0.5):
        found = BatchEdges(logits, [(4, 5)] * 3, Geometry((4, 5), (4, 5)), threshold).wait()
        assert [one.is_finite for one in found] == [True, False, False]
        assert [one.threshold for one in found] == [threshold] * 3
