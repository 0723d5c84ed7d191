import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from carvana_kedro.segmentation.prediction.postprocessing import fill_holes, keep_largest

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9))


def _pieces(mask: np.ndarray, *, corners: bool) -> list[set[tuple[int, int]]]:
    """Connected pieces, by flooding."""
    left = set(zip(*np.nonzero(mask), strict=True))
    steps = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r or c) and (corners or not (r and c))]
    pieces = []
    while left:
        waiting = [left.pop()]
        piece = set(waiting)
        while waiting:
            row, column = waiting.pop()
            found = {(row + r, column + c) for r, c in steps} & left
            left -= found
            piece |= found
            waiting += found
        pieces.append(piece)
    return pieces


@given(MASKS)
def test_one_piece_of_the_largest_size_is_kept(mask: np.ndarray) -> None:
    kept = keep_largest(mask)
    assert kept.dtype == np.bool_
    pieces = _pieces(mask, corners=True)
    if pieces:
        (piece,) = _pieces(kept, corners=True)
        assert piece in pieces
        assert len(piece) == max(map(len, pieces))
    else:
        assert not kept.any()


@given(MASKS)
def test_what_touches_no_border_is_a_hole(mask: np.ndarray) -> None:
    height, width = mask.shape
    expected = mask.copy()
    for piece in _pieces(~mask, corners=False):
        if not any(row in (0, height - 1) or column in (0, width - 1) for row, column in piece):
            for pixel in piece:
                expected[pixel] = True
    assert np.array_equal(fill_holes(mask), expected)


@given(MASKS, st.sampled_from([keep_largest, fill_holes]))
def test_done_twice_is_done_once(mask: np.ndarray, clean: object) -> None:
    once = clean(mask)  # type: ignore[operator]
    assert np.array_equal(clean(once), once)  # type: ignore[operator]


@pytest.mark.parametrize("clean", [keep_largest, fill_holes])
def test_a_slice_of_a_larger_mask_is_cleaned_too(clean: object) -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:9, 4:9] = True
    mask[6, 6] = False
    mask[15, 25] = True
    assert np.array_equal(clean(mask[::1, ::-1]), clean(np.ascontiguousarray(mask[:, ::-1])))  # type: ignore[operator]
