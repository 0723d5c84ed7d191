"""The studio: the camera, the wall with its lettering, and the floor with its turntable.

World coordinates: x to the right, y away from the camera, z up, in meters. The origin is the center of the turntable.
"""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from .rasterize import extent
from .settings import StudioSettings, generator

Array = np.ndarray
WALL = 4.0  # meters behind the center of the turntable
TURNTABLE = 3.15  # radius, meters
_WALL_SCALE, _FLOOR_SCALE = 200, 150  # texels per meter
_SIGN = "GYRODROME"
_STROKES: dict[
    str, list[list[tuple[float, float]]]
] = {  # on a grid of width four and height six, from the lower left
    "G": [[(4, 5), (3, 6), (1, 6), (0, 5), (0, 1), (1, 0), (3, 0), (4, 1), (4, 3), (2.3, 3)]],
    "Y": [[(0, 6), (2, 3.2), (4, 6)], [(2, 3.2), (2, 0)]],
    "R": [[(0, 0), (0, 6), (3, 6), (4, 5), (4, 4), (3, 3), (0, 3)], [(2, 3), (4, 0)]],
    "O": [[(1, 0), (0, 1), (0, 5), (1, 6), (3, 6), (4, 5), (4, 1), (3, 0), (1, 0)]],
    "D": [[(0, 0), (0, 6), (2.6, 6), (4, 4.6), (4, 1.4), (2.6, 0), (0, 0)]],
    "M": [[(0, 0), (0, 6), (2, 3), (4, 6), (4, 0)]],
    "E": [[(4, 0), (0, 0), (0, 6), (4, 6)], [(0, 3), (3.2, 3)]],
}


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        matrix: `(3, 4)` float64, world meters to homogeneous pixels (pixel centers at whole numbers).
        position: `(3,)` float64, meters.
        to_ray: `(3, 3)` float64, homogeneous pixels to a world direction.
    """

    matrix: Array
    position: Array
    to_ray: Array

    def project(self, points: Array) -> tuple[Array, Array]:
        """Return pixels `(..., 2)` and depth `(...)` of world points `(..., 3)`."""
        image = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        return image[..., :2] / image[..., 2:], image[..., 2]


def set_up_camera(settings: StudioSettings, car: int) -> Camera:
    """Return the camera for one car. It is nearly the same for every car."""
    rng = generator(settings, car, 0, 2)
    scale = min(settings.width / 1918, settings.height / 1280)
    focal = scale * 2270 * rng.uniform(0.84, 1.13)
    height, distance = rng.uniform(1.42, 1.58), rng.uniform(7.1, 7.6)
    pitch = np.arctan2(height - rng.uniform(0.70, 0.82), distance)
    roll, pan = np.radians(rng.normal(0, 0.25)), np.radians(rng.normal(0, 0.8))
    turn = np.array([[np.cos(pan), np.sin(pan), 0], [-np.sin(pan), np.cos(pan), 0], [0, 0, 1]])
    axes = (
        np.array([[1, 0, 0], [0, -np.sin(pitch), -np.cos(pitch)], [0, np.cos(pitch), -np.sin(pitch)]]) @ turn
    )
    tilt = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    lens = np.array([[focal, 0, (settings.width - 1) / 2], [0, focal, (settings.height - 1) / 2], [0, 0, 1]])
    to_image = lens @ tilt @ axes
    position = np.array([0, -distance, height])
    return Camera(np.c_[to_image, -to_image @ position], position, np.linalg.inv(to_image))


def _draw_wall() -> Array:
    """Return the texture of the wall, uint8 RGB: seven meters to each side, five meters high."""
    z, x = (
        axis.astype(np.float32) for axis in np.ogrid[5 : 0 : 5j * _WALL_SCALE, -7 : 7 : 14j * _WALL_SCALE]
    )
    light = 0.80 + 0.20 * np.exp(-((x / 4.5) ** 2) - ((z - 2.8) / 2.6) ** 2) - 0.10 * np.exp(-z / 0.5)
    letters = np.zeros(light.shape, np.uint8)
    advance, size = 1.02, 0.19
    for index, letter in enumerate(_SIGN):
        left = (index - len(_SIGN) / 2) * advance + 0.12
        for stroke in _STROKES[letter]:
            points = [
                ((left + size * u + 7) * _WALL_SCALE, (5 - 1.05 - 0.20 * v) * _WALL_SCALE) for u, v in stroke
            ]
            cv2.polylines(
                letters, [np.round(np.array(points) * 16).astype(np.int32)], False, 255, 34, cv2.LINE_AA, 4
            )
    shade = cv2.GaussianBlur(np.roll(letters, (5, 4), (0, 1)), (0, 0), 4)
    sign = extent(np.maximum(letters, shade))
    alpha, shade = (layer[sign] / np.float32(255) for layer in (letters, shade))
    seams = [1 - 0.07 * np.exp(-(((x - seam) / 0.008) ** 2)) for seam in np.arange(-7, 7, 2.44)]
    planes = []
    for gray, color in ((214, 38), (216, 78), (217, 92)):
        wall = light * gray
        wall[sign] += alpha * (light[sign] * color - wall[sign])
        wall[sign] *= 1 - 0.16 * shade * (1 - alpha)
        for seam in seams:
            near = np.flatnonzero(seam < 1)
            wall[:, near] *= seam[:, near]
        wall[z[:, 0] < 0.10] *= 1 - 0.55
        planes.append(wall.clip(0, 255).astype(np.uint8))
    return cv2.merge(planes)


def _draw_floor() -> Array:
    """Return the texture of the floor, uint8 RGB: seven meters to each side, four behind and five before the center."""
    y, x = (
        axis.astype(np.float32) for axis in np.ogrid[4 : -5 : 9j * _FLOOR_SCALE, -7 : 7 : 14j * _FLOOR_SCALE]
    )
    radius = np.hypot(x, y)
    light = 0.74 + 0.26 * np.exp(-((radius / 3.6) ** 2)) - 0.10 * np.exp(-(WALL - y) / 0.35)
    table = 0.93 + 0.07 * np.clip((TURNTABLE - radius) * _FLOOR_SCALE, 0, 1)
    rings = []
    for ring, depth in ((TURNTABLE, 0.75), (TURNTABLE - 0.05, 0.25)):
        near = np.nonzero(np.abs(radius - ring) < 0.1)
        rings.append((near, 1 - depth * np.exp(-(((radius[near] - ring) / 0.014) ** 2))))
    noise = np.random.default_rng(7).normal(0, 1, radius.shape).astype(np.float32)
    grain = 1 + 0.5 * cv2.GaussianBlur(noise, (0, 0), 14)
    # The reflection of the wall in the semi-gloss floor.
    reflection = 16 * np.exp(-(WALL - y) / 2.2)
    planes = []
    for gray in (160, 160, 157):
        floor = light * gray
        floor *= table
        for near, factor in rings:
            floor[near] *= factor
        floor *= grain
        floor += reflection
        planes.append(floor.clip(0, 255).astype(np.uint8))
    return cv2.merge(planes)


@functools.lru_cache(maxsize=1)
def _surroundings() -> tuple[Array, Array]:
    """Return the textures of wall and floor."""
    return _draw_wall(), _draw_floor()


@functools.lru_cache(maxsize=2)
def render_background(settings: StudioSettings, car: int) -> Array:
    """Render the empty studio with the camera of this car, `(H, W, 3)` uint8 RGB."""
    return render_studio(settings, set_up_camera(settings, car))


def render_studio(settings: StudioSettings, camera: Camera) -> Array:
    """Render the empty studio with this camera, `(H, W, 3)` uint8 RGB."""
    wall, floor = _surroundings()
    size, m = (settings.width, settings.height), camera.matrix
    wall_texels = np.array([[_WALL_SCALE, 0, 7 * _WALL_SCALE], [0, -_WALL_SCALE, 5 * _WALL_SCALE], [0, 0, 1]])
    floor_texels = np.array(
        [[_FLOOR_SCALE, 0, 7 * _FLOOR_SCALE], [0, -_FLOOR_SCALE, 4 * _FLOOR_SCALE], [0, 0, 1]]
    )
    to_wall = np.c_[m[:, 0], m[:, 2], m[:, 1] * WALL + m[:, 3]] @ np.linalg.inv(wall_texels)
    to_floor = m[:, [0, 1, 3]] @ np.linalg.inv(floor_texels)
    image = cv2.warpPerspective(
        floor, to_floor, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    upright = cv2.warpPerspective(wall, to_wall, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    (x_left, left), (x_right, right) = (camera.project(np.array([x, WALL, 0.0]))[0] for x in (-5, 5))
    columns = np.arange(settings.width)
    foot = left + (right - left) * (columns - x_left) / (x_right - x_left)
    dimmed = _vignette(settings)
    for row in range(0, settings.height, 32):  # in bands that stay in the processor's cache
        band = slice(row, row + 32)
        rows = np.arange(settings.height)[band, None]
        below = _thrice(np.clip(rows - foot + 0.5, 0, 1).astype(np.float32))
        mixed = upright[band] + below * (image[band].astype(np.float32) - upright[band])
        image[band] = mixed * _thrice(dimmed[band]) + 0.5
    return image


def _thrice(plane: Array) -> Array:
    return cv2.merge((plane, plane, plane))


@functools.lru_cache(maxsize=1)
def fall_off(settings: StudioSettings) -> Array:
    """Return the vignetting of the lens, `(H, W)` float32: the fraction of light that it passes, linear."""
    y, x = np.ogrid[-1 : 1 : settings.height * 1j, -1 : 1 : settings.width * 1j]
    y, x = y.astype(np.float32), x.astype(np.float32)
    return 1 - 0.10 * (x * x + y * y)


@functools.lru_cache(maxsize=1)
def _vignette(settings: StudioSettings) -> Array:
    """Return `fall_off` for display values."""
    return fall_off(settings) ** (1 / 2.2)
