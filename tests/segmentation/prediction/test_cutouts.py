import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from carvana_kedro.segmentation.prediction import cutouts
from carvana_kedro.segmentation.prediction.cutouts import alpha_of, cut_out


def _disc(height: int = 120, width: int = 160, radius: float = 40.0) -> np.ndarray:
    """Return the fraction of each pixel that a disc covers, `(H, W)` float32."""
    rows, columns = np.mgrid[:height, :width]
    return np.clip(radius - np.hypot(rows - height / 2, columns - width / 2) + 0.5, 0, 1).astype(np.float32)


def test_alpha_is_soft_at_the_edge_and_equals_the_mask_elsewhere() -> None:
    coverage = _disc()
    probabilities = 0.02 + 0.96 * coverage  # a network never predicts exactly 0 or 1
    alpha = alpha_of(probabilities, probabilities > 0.5, 0.5)
    assert alpha.dtype == np.float32
    assert np.abs(alpha - coverage).max() < 0.26
    assert alpha[60, 80] == 1 and alpha[0, 0] == 0
    assert ((alpha > 0) & (alpha < 1)).sum() > 100
    postprocessed = probabilities > 0.5
    postprocessed[50:60, 70:80] = False
    postprocessed[2:12, 2:12] = True
    alpha = alpha_of(probabilities, postprocessed, 0.5)
    assert alpha[55, 75] == 0 and alpha[7, 7] == 1


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_alpha_is_one_half_at_the_threshold(threshold: float) -> None:
    ramp = np.tile(np.linspace(0, 1, 101, dtype=np.float32), (3, 1))
    alpha = alpha_of(ramp, ramp > threshold, threshold)
    middle = round(100 * threshold)
    assert alpha[1, middle] == pytest.approx(0.5, abs=1e-5)
    assert (np.diff(alpha[1]) >= 0).all()


def test_a_cutout_has_no_halo_of_the_studio() -> None:
    alpha = _disc()
    car, studio = np.array([200.0, 30, 30]), np.array([240.0, 240, 245])
    image = (alpha[..., None] * car + (1 - alpha[..., None]) * studio).round().astype(np.uint8)
    cutout = cut_out(image, alpha)
    assert (cutout.shape, cutout.dtype) == ((120, 160, 4), np.uint8)
    visible = cutout[..., 3] > 0
    assert np.abs(cutout[visible][:, :3] - car).max() <= 2
    assert (cutout[~visible] == 0).all()
    # On another background, pixels at the edge mix only the car and that background.
    black = cut_out(image, alpha, (0, 0, 0))
    assert np.abs(black - alpha[..., None] * car).max() <= 2
    assert (black[0, 0] == 0).all()


def test_an_image_without_a_car_is_fully_transparent() -> None:
    image = np.full((20, 30, 3), 128, np.uint8)
    empty = np.zeros((20, 30), np.float32)
    assert (cut_out(image, alpha_of(empty, empty > 0.5, 0.5)) == 0).all()
    assert (cut_out(image, empty, (1, 2, 3)) == (1, 2, 3)).all()


@pytest.mark.parametrize("steepness", [6.0, 12.0, 20.0, 1e3])
@pytest.mark.parametrize("car", [(200, 30, 30), (20, 20, 25), (30, 90, 200)])
def test_alpha_and_cutout_together_keep_no_color_of_the_studio(car: tuple, steepness: float) -> None:
    """Opaque pixels, too, although the network's edge is steeper than the edge in the image."""
    coverage = _disc()
    studio = np.array([240.0, 240, 245])
    image = (coverage[..., None] * car + (1 - coverage[..., None]) * studio).round().astype(np.uint8)
    probabilities = 1 / (1 + np.exp(-steepness * (coverage - 0.5)))
    alpha = alpha_of(probabilities, probabilities > 0.5, 0.5)
    error = np.abs(cut_out(image, alpha)[..., :3] - np.array(car, float)).max(-1)
    assert (error * alpha).max() <= 12  # levels that are seen
    assert error[alpha >= 0.95].max() <= 2
    assert np.abs(image - np.array(car, float)).max(-1)[alpha >= 0.95].max() > 20  # so much is in the image


def test_the_texture_of_an_opaque_car_is_kept() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 90, (60, 80, 3), dtype=np.uint8)
    alpha = np.zeros((60, 80), np.float32)
    alpha[15:45, 20:60] = 1
    image[alpha == 0] = (240, 120, 245)
    cutout = cut_out(image, alpha)
    assert (cutout[17:43, 22:58, :3] == image[17:43, 22:58]).all()
    changed = (cutout[..., :3] != image).any(-1) & (alpha == 1)
    assert changed.sum() < 0.05 * alpha.sum()


FRACTIONS = arrays(np.float32, (9, 11), elements=st.floats(0, 1, width=32))


@given(FRACTIONS, arrays(np.bool_, (9, 11)), st.floats(0.01, 0.99), st.booleans())
def test_alpha_is_always_a_fraction_that_can_be_cut_out(
    probabilities: np.ndarray, mask: np.ndarray, threshold: float, transparent: bool
) -> None:
    alpha = alpha_of(probabilities, mask, threshold)
    assert alpha.dtype == np.float32 and (alpha >= 0).all() and (alpha <= 1).all()
    image = np.full((9, 11, 3), (10, 200, 90), np.uint8)
    cutout = cut_out(image, alpha, None if transparent else (10, 200, 90))
    assert np.abs(cutout[alpha > 0][:, :3].astype(int) - (10, 200, 90)).max(initial=0) <= 1


def _shapes(height: int, width: int, kind: str, seed: int) -> np.ndarray:
    """Return probabilities, `(H, W)` float32: shapes with soft edges, some of which touch the border."""
    random = np.random.default_rng(seed)
    probabilities = np.full((height, width), float(kind == "full"), np.float32)
    if kind == "noise":
        probabilities = random.random((height, width), np.float32)
    for _ in range({"one part": 1, "two parts": 2}.get(kind, 0)):
        center, axes = (tuple(random.integers((width, height)).tolist()) for _ in range(2))
        cv2.ellipse(probabilities, center, axes, float(random.integers(180)), 0, 360, 1.0, cv2.FILLED)
    if kind == "thin line":
        ends = (tuple(random.integers((width, height)).tolist()) for _ in range(2))
        cv2.line(probabilities, *ends, 1.0)
    return np.clip(cv2.GaussianBlur(probabilities, (0, 0), 1.5), 0, 1)


@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.sampled_from(["empty", "full", "thin line", "one part", "two parts", "noise"]),
    st.integers(0, 99),
    st.sampled_from([None, (255, 128, 3)]),
)
@example(height=96, width=97, kind="one part", seed=0, background=None)
def test_tiles_give_the_cutout_of_the_whole_image(
    height: int, width: int, kind: str, seed: int, background: tuple[int, int, int] | None
) -> None:
    probabilities = _shapes(height, width, kind, seed)
    mask = probabilities > 0.4
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutouts, "_TILE", 32)
        alpha = alpha_of(probabilities, mask, 0.4)
        found = cut_out(image, alpha, background)
    beside = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    edge = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, beside) > 0
    assert np.array_equal(alpha, np.where(edge, cutouts._soft(probabilities, 0.4), mask))
    colors = cutouts._colors_of_the_car(image.astype(np.float32), alpha, 1 + max(alpha.shape) / 2000)
    assert np.array_equal(found, cutouts._over(colors, alpha, background))


@pytest.mark.parametrize(
    "probabilities",
    [np.full((4, 6), 1.5), np.full((4, 6), -3.0), np.full((4, 6), np.nan), np.full((4, 6), 255, np.uint8),
     np.zeros((4, 6, 1)), np.zeros((0, 6)), np.zeros((4, 6), np.float32) > 0],
)  # fmt: skip
def test_what_is_no_fraction_is_refused(probabilities: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"probabilities must be \(H, W\) floats in \[0, 1\]"):
        alpha_of(probabilities, np.zeros((4, 6), bool), 0.5)
    with pytest.raises(ValueError, match=r"alpha must be \(H, W\) floats in \[0, 1\]"):
        cut_out(np.zeros((4, 6, 3), np.uint8), probabilities)


def test_other_wrong_arguments_are_refused() -> None:
    image, alpha, mask = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.float32), np.zeros((4, 6), bool)
    for threshold in (0, 1, 50, float("nan")):
        with pytest.raises(ValueError, match="threshold must be above 0"):
            alpha_of(alpha, mask, threshold)
    with pytest.raises(ValueError, match=r"Pass mask > 127"):
        alpha_of(alpha, np.full((4, 6), 255, np.uint8), 0.5)  # type: ignore[arg-type]
    for wrong in (lambda: alpha_of(alpha, mask.T, 0.5), lambda: cut_out(image, alpha.T)):
        with pytest.raises(ValueError, match="sizes differ"):
            wrong()
    with pytest.raises(ValueError, match=r"An image must be .*\(255 \* image\)"):
        cut_out(image / 255, alpha)  # type: ignore[arg-type]
    for background in ((0, 0), (0, 0, 256), (-1, 0, 0)):
        with pytest.raises(ValueError, match="background must be"):
            cut_out(image, alpha, background)  # type: ignore[arg-type]
