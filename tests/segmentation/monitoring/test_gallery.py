import numpy as np
import pytest

from carvana_kedro.segmentation.monitoring import gallery, visualization


def _example(height: int = 300, width: int = 450, name: str = "car_01") -> np.ndarray:
    image = np.full((height, width, 3), 255, np.uint8)
    target = np.zeros((height, width), bool)
    target[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
    prediction = target.copy()
    prediction[:, : width // 2] = False
    return gallery.example(image, prediction, target, name, "Dice 0.5000")


def _share(image: np.ndarray, color: tuple[int, int, int]) -> float:
    return float((np.abs(image.astype(int) - color).max(axis=2) < 45).mean())


def _drawn_errors() -> list[tuple[int, ...]]:
    """Return the colors of a hit, a miss, a false alarm and the rest in a gray image."""
    masks = np.zeros((3, 60), bool), np.zeros((3, 60), bool)
    masks[0][:, :30] = masks[1][:, 15:45] = True
    found, target = (np.repeat(mask, 10, axis=0) for mask in masks)
    drawn = visualization.errors(np.full((30, 60, 3), 128, np.uint8), found, target)
    return [tuple(drawn[15, column]) for column in (22, 37, 7, 52)]


@pytest.mark.parametrize("size", [(300, 450), (450, 300), (1280, 1918), (20, 400), (16, 16), (1, 1)])
def test_examples_have_one_size_and_show_the_error_enlarged(size: tuple[int, int]) -> None:
    example = _example(*size)
    assert example.shape == (180, 384, 3)
    if min(size) > 100:
        whole, detail = example[28:, :228], example[28:, 232:]
        assert _share(detail, visualization.MISS) > 2 * _share(whole, visualization.MISS) > 0


def test_a_page_is_landscape_and_at_most_1200_pixels_wide() -> None:
    example = _example()
    page = gallery.page({heading: [example] * 4 for heading in ("Worst", "Typical", "Best")})
    assert page.shape[1] == 1200 > page.shape[0]
    assert (page[72:252, 12:396] == example).all()
    assert (page[252:432, 804:1188] == example).all()


def test_the_legend_has_the_colors_of_the_pictures_and_fits_beside_two_columns() -> None:
    page = gallery.page({"Worst": [_example()]})
    *colors, rest = _drawn_errors()
    for color in colors:
        assert (page[:36] == color).all(axis=2).sum() > 100
    assert colors[0][0] > rest[0] + 50  # hits are lighter
    assert page.shape[1] == 804 and (page[:36, -12:] == 255).all()


def test_groups_of_different_lengths_fill_with_white_and_empty_ones_are_left_out() -> None:
    example = _example()
    page = gallery.page({"Worst": [example] * 2, "Typical": [], "Best": [example]})
    assert page.shape == (2 * 36 + 2 * 180 + 12, 3 * 12 + 2 * 384, 3)
    assert (page[252:432, 408:] == 255).all()
    with pytest.raises(ValueError, match="at least one example"):
        gallery.page({"Worst": []})


def test_long_names_leave_room_for_the_score() -> None:
    caption = _example(name="a_very_long_name_of_a_photograph_" * 5)[:28]
    other = _example(name="a")[:28]
    assert (caption[:, -85:] == other[:, -85:]).all()


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (1024, 1536), (1, 1)])
def test_a_snapshot_is_small_and_its_legend_has_the_colors_of_the_errors(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 120, np.uint8)
    target = np.zeros(size, bool)
    target[:, : size[1] // 2] = True
    snapshot = gallery.snapshot(image, np.zeros(size, bool), target, "epoch 1")
    assert snapshot.shape[1] == 648
    assert snapshot.shape[0] <= 2 * (40 + 320)
    legend, errors = snapshot[:40, 328:], snapshot[40 : len(snapshot) // 2, 328:]
    for color in _drawn_errors()[:3]:
        assert (legend == color).all(axis=2).sum() > 100
    if size[1] > 1:
        assert _share(errors, visualization.MISS) > 0.3
    assert _share(errors, visualization.FALSE_ALARM) == 0
