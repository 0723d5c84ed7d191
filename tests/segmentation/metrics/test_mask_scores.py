import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from carvana_kedro.segmentation.metrics import mask_scores

SCORES = [
    mask_scores.dice,
    mask_scores.iou,
    mask_scores.pixel_accuracy,
    lambda x, y: mask_scores.boundary_dice(x, y, 2),
]


def square(top, left, side, size=20):
    mask = np.zeros((size, size), dtype=np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_scores_of_two_overlapping_squares():
    prediction, target = square(0, 0, 10), square(0, 5, 10)  # 100 pixels each, 50 in common, 150 in the union
    assert mask_scores.dice(prediction, target) == pytest.approx(100 / 200)
    assert mask_scores.iou(prediction, target) == pytest.approx(50 / 150)
    assert mask_scores.pixel_accuracy(prediction, target) == pytest.approx(300 / 400)


@pytest.mark.parametrize("score", SCORES)
def test_equal_masks_and_empty_masks_score_one(score):
    empty = np.zeros((20, 20), dtype=bool)
    assert score(square(5, 5, 8), square(5, 5, 8)) == 1
    assert score(empty, empty) == 1


def test_disjoint_masks_score_zero():
    for score in (mask_scores.dice, mask_scores.iou, lambda x, y: mask_scores.boundary_dice(x, y, 2)):
        assert score(square(0, 0, 5), square(10, 10, 5)) == 0
        assert score(np.zeros((20, 20), dtype=bool), square(10, 10, 5)) == 0


@pytest.mark.parametrize("score", SCORES)
def test_scores_do_not_depend_on_dtype_or_values_of_masks(score):
    prediction, target = square(2, 3, 9), square(3, 3, 9)
    expected = score(prediction, target)
    assert score(prediction.astype(bool), target.astype(bool)) == expected
    assert score(prediction * 255, target) == expected


@pytest.mark.parametrize("score", SCORES)
def test_shapes_must_be_equal(score):
    with pytest.raises(ValueError, match=r"\(20, 20\) but the target has shape \(10, 10\)"):
        score(square(0, 0, 5), square(0, 0, 5, size=10))


def test_boundary_dice_counts_only_the_boundaries():
    # Boundaries with a width of 2 pixels: 10² - 6² = 64 and 8² - 4² = 48 pixels. The inner square is the outer
    # one without its outermost pixels, so the boundaries overlap with a width of one pixel: 8² - 6² = 28.
    outer, inner = square(4, 4, 10), square(5, 5, 8)
    assert mask_scores.boundary_dice(outer, inner, 2) == pytest.approx(2 * 28 / (64 + 48))
    assert mask_scores.boundary_dice(outer, inner, 1) == 0


def test_the_border_of_the_image_is_not_an_edge():
    full = np.ones((20, 20), dtype=bool)
    assert mask_scores.boundary_dice(full, full, 3) == 1
    cut_off = np.zeros((20, 20), dtype=bool)
    cut_off[:, :10] = True  # one vertical edge
    moved = np.roll(cut_off, 1, axis=1)
    moved[:, 0] = True
    assert mask_scores.boundary_dice(cut_off, moved, 3) == pytest.approx(2 / 3)


def test_a_wide_boundary_is_the_whole_mask():
    prediction, target = square(2, 3, 9), square(3, 3, 9)
    assert mask_scores.boundary_dice(prediction, target, 10) == mask_scores.dice(prediction, target)


def test_the_boundary_needs_a_positive_width():
    with pytest.raises(ValueError, match="at least 1 pixel"):
        mask_scores.boundary_dice(square(0, 0, 5), square(0, 0, 5), 0)


def test_masks_are_not_modified():
    mask = square(2, 3, 9)
    mask.flags.writeable = False
    mask_scores.boundary_dice(mask, mask, 2)


@given(*[arrays(np.bool_, (7, 9))] * 2)
def test_boundary_error_is_the_mean_distance_between_the_edges(one, other):
    def edge(mask):
        """Return the pixels of the mask that have a neighbor outside of the mask but inside the image."""
        return [
            (row, column)
            for row, column in zip(*np.nonzero(mask), strict=True)
            if not mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].all()
        ]

    edges = edge(one), edge(other)
    distances = [
        min(math.dist(pixel, goal) for goal in goals)
        for pixels, goals in (edges, edges[::-1])
        for pixel in pixels
        if goals
    ]
    if all(edges):
        assert mask_scores.boundary_error(one, other) == pytest.approx(np.mean(distances), rel=1e-4)
    else:
        assert mask_scores.boundary_error(one, other) == (math.hypot(7, 9) if any(edges) else 0)
    assert mask_scores.boundary_error(one, one) == 0


def straightforward(one, other):
    """Return the boundary error from the distances of all pixels of the image."""
    edges = mask_scores._boundary(one, 1), mask_scores._boundary(other, 1)
    if not all(edge.any() for edge in edges):
        return math.hypot(*one.shape) if any(edge.any() for edge in edges) else 0.0
    distances = [
        cv2.distanceTransform((~goal).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[edge]
        for edge, goal in (edges, edges[::-1])
    ]
    return float(np.concatenate(distances).astype(np.float64).mean())


@st.composite
def rectangles(draw, shape):
    """A mask of up to four rectangles, which may be single pixels, touch the border or be far from each other."""
    mask = np.zeros(shape, bool)
    for _ in range(draw(st.integers(0, 4))):
        (top, bottom), (left, right) = (
            sorted(draw(st.tuples(st.integers(0, side - 1), st.integers(0, side - 1)))) for side in shape
        )
        mask[top : bottom + 1, left : right + 1] ^= True
    return mask


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([(60, 90), (200, 30), (1, 300), (150, 150)]).flatmap(
        lambda shape: st.tuples(rectangles(shape), rectangles(shape))
    )
)
def test_the_search_near_the_edges_finds_the_distances_of_the_whole_image(masks):
    # The transform rounds to float32.
    assert mask_scores.boundary_error(*masks) == pytest.approx(straightforward(*masks), rel=1e-6)


@pytest.mark.parametrize("moved", [0, 1, 7, 400])
def test_masks_near_and_far_from_each_other_have_exact_distances(moved):
    one, other = np.zeros((2, 300, 700), bool)
    one[50:250, 100:110] = True
    other[50:250, 100 + moved : 110 + moved] = True
    assert mask_scores.boundary_error(one, other) == pytest.approx(straightforward(one, other), rel=1e-6)


def test_speckled_masks_have_exact_distances():
    random = np.random.default_rng(0)
    one, other = random.random((2, 200, 300)) < np.array([0.5, 0.001])[:, None, None]
    assert mask_scores.boundary_error(one, other) == pytest.approx(straightforward(one, other), rel=1e-6)


def test_all_scores_are_those_of_the_functions():
    prediction, target = square(2, 3, 9), square(3, 3, 9)
    assert mask_scores.scores(prediction, target) == {
        "dice": mask_scores.dice(prediction, target),
        "iou": mask_scores.iou(prediction, target),
        "pixel_accuracy": mask_scores.pixel_accuracy(prediction, target),
        "boundary_dice": mask_scores.boundary_dice(prediction, target, 3),
        "boundary_error": mask_scores.boundary_error(prediction, target),
    }


@pytest.mark.parametrize("score", [*SCORES, mask_scores.boundary_error])
@pytest.mark.parametrize(
    "wrong", [np.full((4, 5), 0.3), np.zeros((4, 5, 1), bool), np.zeros((2, 4, 5), bool)]
)
def test_probabilities_and_batches_are_no_masks(score, wrong):
    for pair in ((wrong, wrong), (wrong, np.ones((4, 5), bool)), (np.ones((4, 5), bool), wrong)):
        with pytest.raises(ValueError, match=r"must be \(H, W\), bool or integers"):
            score(*pair)
    with pytest.raises(TypeError, match="target must be a NumPy array"):
        score(np.ones((4, 5), bool), [[1]])
