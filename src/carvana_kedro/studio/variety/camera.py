"""Cameras of any height, distance, lens and tilt, and the distortion of their lenses."""

import cv2
import numpy as np

from carvana_kedro.studio.scene import Camera
from carvana_kedro.studio.settings import StudioSettings

Array = np.ndarray


def vary_camera(settings: StudioSettings, rng: np.random.Generator) -> Camera:
    """Return a camera that sees the car about as large as in a studio: a far camera has a long lens.

    The car may be cut by the border of the image.
    """
    scale = min(settings.width / 1918, settings.height / 1280)
    distance, height = rng.uniform(4.8, 11.0), rng.uniform(0.9, 2.3)
    focal = scale * 2270 * (distance / 7.35) * rng.uniform(0.80, 1.16)
    aim = (
        rng.normal(0, 0.22),
        rng.normal(0.85, 0.14),
    )  # meters to the right of the car's center, and above the floor
    pitch = np.arctan2(height - aim[1], distance)
    roll, pan = np.radians(rng.normal(0, 0.8)), np.arctan2(aim[0], distance)
    turn = np.array([[np.cos(pan), -np.sin(pan), 0], [np.sin(pan), np.cos(pan), 0], [0, 0, 1]])
    level = np.array([[1, 0, 0], [0, -np.sin(pitch), -np.cos(pitch)], [0, np.cos(pitch), -np.sin(pitch)]])
    tilt = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    lens = np.array([[focal, 0, (settings.width - 1) / 2], [0, focal, (settings.height - 1) / 2], [0, 0, 1]])
    to_image = lens @ tilt @ level @ turn
    position = np.array([0, -distance, height])
    return Camera(np.c_[to_image, -to_image @ position], position, np.linalg.inv(to_image))


def distort(strength: float, planes: list[Array]) -> list[Array]:
    """Bend straight lines as a lens does: barrel above zero, pincushion below.

    Args:
        strength: Change of the radius at the corner of the image, as a fraction of the radius.
        planes: Images of one size, float32 or uint8. All are bent in the same way, with linear interpolation.
    """
    height, width = planes[0].shape[:2]
    y, x = (np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2) for size in (height, width))
    corner = x[-1] ** 2 + y[-1] ** 2
    # Scaled so that no point outside the image is needed: at the corners, or at the middle of the shorter side.
    scale = 1 / (1 + strength * (1 if strength > 0 else min(x[-1], y[-1]) ** 2 / corner))
    bent = [np.empty_like(plane) for plane in planes]
    for row in range(0, height, 32):  # in bands that stay in the processor's cache
        down = y[row : row + 32, None]
        factor = (x * x + down * down) * np.float32(strength * scale / corner) + np.float32(scale)
        places = x * factor + np.float32((width - 1) / 2), down * factor + np.float32((height - 1) / 2)
        for plane, result in zip(planes, bent, strict=True):
            result[row : row + 32] = cv2.remap(
                plane, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
    return bent
