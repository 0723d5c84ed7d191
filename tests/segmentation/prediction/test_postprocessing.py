import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from carvana_kedro.segmentation.prediction.postprocessing import fill_holes, keep_largest

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9))


def _components(mask: np.ndarray, *, diagonal: bool) -> list[set[tuple[int, int]]]:
    """Return the connected components of a mask, computed by flood fill."""
    left = set(zip(*np.nonzero(mask), strict=True))
    steps = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r or c) and (diagonal or not (r and c))]
    components = []
    while left:
        waiting = [left.pop()]
        component = set(waiting)
        while waiting:
            row, column = waiting.pop()
            neighbors = {(row + r, column + c) for r, c in steps} & left
            left -= neighbors
            component |= neighbors
            waiting += neighbors
        components.append(component)
    return components


@given(MASKS)
def test_one_component_of_the_largest_size_is_kept(mask: np.ndarray) -> None:
    kept = keep_largest(mask)
    assert kept.dtype == np.bool_
    components = _components(mask, diagonal=True)
    if components:
        (component,) = _components(kept, diagonal=True)
        assert component in components
        assert len(component) == max(map(len, components))
    else:
        assert not kept.any()


@given(MASKS)
def test_background_that_does_not_touch_the_border_is_filled(mask: np.ndarray) -> None:
    height, width = mask.shape
    expected = mask.copy()
    for component in _components(~mask, diagonal=False):
        if not any(row in (0, height - 1) or column in (0, width - 1) for row, column in component):
            for pixel in component:
                expected[pixel] = True
    assert np.array_equal(fill_holes(mask), expected)


@given(MASKS, st.sampled_from([keep_largest, fill_holes]))
def test_postprocessing_is_idempotent(mask: np.ndarray, step: object) -> None:
    once = step(mask)  # type: ignore[operator]
    assert np.array_equal(step(once), once)  # type: ignore[operator]


@pytest.mark.parametrize("step", [keep_largest, fill_holes])
def test_a_slice_of_a_larger_mask_is_supported(step: object) -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:9, 4:9] = True
    mask[6, 6] = False
    mask[15, 25] = True
    assert np.array_equal(step(mask[::1, ::-1]), step(np.ascontiguousarray(mask[:, ::-1])))  # type: ignore[operator]
