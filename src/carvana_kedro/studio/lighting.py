"""The light in the studio, the conversion to display values, and the shadow on the floor."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .bodies import Car

Array = np.ndarray
SHADOW_SCALE = 50  # texels per meter of shadows on the floor


@dataclass(frozen=True)
class Light:
    """Incoming light from all directions, as mirror-ball maps: float32, linear.

    Attributes:
        mirrored: `(S, S, 4)`, indexed by the mirrored ray. The channels are the reflection of a clear coat, that of the
            flakes of a metallic paint, and two empty ones, with which OpenCV is twice as fast.
        diffuse: `(S, S)`, indexed by the normal: the light on a matt surface.
    """

    mirrored: Array
    diffuse: Array


@functools.lru_cache(maxsize=1)
def studio_light() -> Light:
    """Return the light of the studio: soft boxes above and beside the camera, a bright wall and a gray floor."""
    return convolve(_radiance(ball_directions(512)), coarse=32, brightest=0.85)


def convolve(sharp: Array, coarse: int, brightest: float) -> Light:
    """Return the light from all directions as surfaces reflect it.

    Args:
        sharp: `(S, S)` float32, the light from all directions as a mirror-ball map.
        coarse: Size at which the matt and glossy reflections are computed.
        brightest: The largest value of the matt reflection.
    """
    # On a mirror ball, equal areas are equal solid angles, so the mean over its disc is the integral.
    source = cv2.resize(sharp, (coarse, coarse), interpolation=cv2.INTER_AREA).ravel()
    disc, lobes = _lobes(coarse)
    diffuse, glossy = (
        ((lobe * source[disc]).sum(1) / lobe.sum(1)).reshape(coarse, coarse).astype(np.float32)
        for lobe in lobes
    )
    glossy, none = 0.72 * cv2.resize(glossy, sharp.shape), np.zeros_like(sharp)
    return Light(cv2.merge((sharp, glossy, none, none)), brightest / diffuse.max() * diffuse)


@functools.lru_cache(maxsize=2)
def _lobes(coarse: int) -> tuple[Array, tuple[Array, Array]]:
    """Return the points inside the disc of a map, and how matt and glossy surfaces weigh their light."""
    toward = ball_directions(coarse).reshape(-1, 3)
    disc = np.hypot(*np.mgrid[-1 : 1 : coarse * 1j, -1 : 1 : coarse * 1j]).ravel() <= 1
    cosine = np.clip(toward @ toward[disc].T, 0, None)
    return disc, (cosine, cosine**28)


def ball_directions(size: int) -> Array:
    """Return the direction that each point of a mirror-ball map shows, `(size, size, 3)` float64."""
    place = (np.arange(size) + 0.5) / size * 2 - 1
    u, v = np.broadcast_arrays(place, -place[:, None])
    length = np.maximum(np.hypot(u, v), 1)
    u, v = u / length, v / length
    n = np.sqrt(np.maximum(1 - u * u - v * v, 0))
    return np.stack((2 * n * u, 1 - 2 * n * n, 2 * n * v), -1)


def _radiance(direction: Array) -> Array:
    x, y, z = np.moveaxis(direction, -1, 0)
    up = np.maximum(z, 1e-3)
    across, along = 3.6 * x / up, 3.6 * y / up
    ceiling = np.full(x.shape, 0.24)
    for center in (-2.6, 0.0, 2.6):
        ceiling[(np.abs(across - center) < 0.85) & (np.abs(along + 0.3) < 3.4)] = 5.0
    flat = np.hypot(x, y) + 1e-6
    rise = z / flat
    wall = np.where(y > 0, 0.50, 0.20) + 0.10 * np.clip(rise, 0, 1)
    wall[(y < -0.2) & (np.abs(np.abs(x / flat) - 0.62) < 0.22) & (rise > 0.12) & (rise < 0.75)] = 3.0
    wall[(y > 0) & (rise < 0.03)] *= 0.55
    floor = 0.26 + 0.10 * np.exp(rise * 2.0)
    value = np.where(rise > 0.85, ceiling, wall)
    value = np.where(z < -0.01, floor, value)
    return cv2.GaussianBlur(value.astype(np.float32), (0, 0), 1.6)


def look_up(light: Array, direction: Sequence[Array]) -> Array:
    """Return the values of a mirror-ball map `(S, S, ...)` in world directions, three planes `(h, w)` float32."""
    (x, y, z), half = direction, len(light) / 2
    scale = half / np.sqrt(np.maximum(2.0002 - 2 * y, 1e-4))
    place = x * scale + (half - 0.5), (half - 0.5) - z * scale
    return cv2.remap(light, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _display_curve() -> Array:
    """Return display values of linear light in steps of 1/1023, up to four times white: gamma with a soft shoulder."""
    light = np.arange(4 * 1023, dtype=np.float32) / 1023
    knee = np.where(light < 0.6, light, 0.6 + 0.4 * (1 - np.exp(-(light - 0.6) / 0.4)))
    return (255 * knee ** (1 / 2.2) + 0.5).astype(np.uint8)


_DISPLAY = _display_curve()


def display(matt: Array, gloss: Array | float, albedo: Sequence[Array | float]) -> Array:
    """Return display values `(h, w, 3)` uint8 from the light on a surface and its color planes."""
    light = cv2.merge([np.asarray(matt * color + gloss, np.float32) for color in albedo])
    return np.take(_DISPLAY, np.minimum(light * 1023, len(_DISPLAY) - 1).astype(np.intp))


def floor_shadow(car: Car) -> Array:
    """Return the fraction of light on the floor, `(h, w)` float32 at `SHADOW_SCALE`, up to 1.2 m from the car."""
    scale, margin = SHADOW_SCALE, 1.2
    shape = (round((car.width + 2 * margin) * scale), round((car.length + 2 * margin) * scale))
    rows, columns = np.indices(shape, np.float32)
    x, y = (columns + 0.5) / scale - car.length / 2 - margin, (rows + 0.5) / scale - car.width / 2 - margin
    rounded = (np.abs(x) / (car.length / 2 - 0.12)) ** 5 + (np.abs(y) / (car.width / 2 - 0.04)) ** 5
    outline = (rounded < 1).astype(np.float32)
    tires = np.zeros(shape, np.float32)
    for axle in car.axles:
        for side in (-1, 1):
            tires[(np.abs(x - axle) < 0.16) & (np.abs(y - side * (car.width / 2 - 0.12)) < 0.11)] = 1
    near, far = (cv2.GaussianBlur(outline, (0, 0), sigma * scale) for sigma in (0.10, 0.38))
    contact = cv2.GaussianBlur(tires, (0, 0), 0.06 * scale)
    return np.clip((1 - 0.62 * near) * (1 - 0.55 * far) * (1 - 0.8 * contact), 0.02, 1)
