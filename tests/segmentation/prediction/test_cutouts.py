import numpy as np
import pytest

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
