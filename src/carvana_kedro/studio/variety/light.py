"""The light of a room, as paint mirrors it, and the exposure of the photograph."""

from dataclasses import dataclass

import cv2
import numpy as np

from carvana_kedro.studio.lighting import Light, ball_directions, convolve

from .draws import chance
from .shadow import Shadow, vary_shadow

Array = np.ndarray


@dataclass(frozen=True)
class Lighting:
    """How a view is lit and exposed.

    Attributes:
        light: What the car mirrors.
        shadow: The shadows below the car.
        tones: `(256, 3)` uint8, display values after exposure, white balance and contrast.
        sheen: Fraction of the light that the floor mirrors.
        fading: Fading of this reflection with height, per meter.
    """

    light: Light
    shadow: Shadow
    tones: Array
    sheen: float
    fading: float


def vary_light(rng: np.random.Generator, wall: float, floor: float) -> Lighting:
    """Return the lighting of a room with this linear brightness of wall and floor, white is 1."""
    radiance = _radiance(ball_directions(256), rng, wall, floor)
    return Lighting(
        light=convolve(radiance, coarse=24, brightest=rng.uniform(0.55, 1.05)),
        shadow=vary_shadow(rng),
        tones=_tones(rng),
        sheen=rng.uniform(0.03, 0.3) if chance(rng, 0.65) else 0.0,
        fading=rng.uniform(0.8, 4),
    )


def _radiance(direction: Array, rng: np.random.Generator, wall: float, floor: float) -> Array:
    """Return the light from all directions, `(S, S)` float32: walls, floor and ceiling, lamps and windows."""
    x, y, z = np.moveaxis(direction, -1, 0)
    azimuth, rise = np.arctan2(x, y), z / (np.hypot(x, y) + 1e-6)
    around = 1 + rng.uniform(0, 0.35) * np.cos(azimuth - rng.normal(0, 0.8))
    behind = rng.uniform(0.25, 1.0)  # brightness of the room behind the camera
    value = wall * around * np.where(y > 0, 1.0, behind) * (0.8 + rng.uniform(0, 0.5) * np.clip(rise, 0, 1))
    value[rise > rng.uniform(0.6, 1.4)] = wall * rng.uniform(0.3, 1.3)
    value = np.where(z < 0, floor * (0.7 + 0.3 * np.exp(rise * rng.uniform(0.5, 2))), value)
    value[np.abs(rise) < rng.uniform(0, 0.05)] *= rng.uniform(0.4, 1)
    strength = rng.uniform(1.2, 4.5)
    if chance(rng, 0.7):  # lamps on the ceiling, in rows
        up, turn = np.maximum(z, 1e-3), rng.uniform(0, np.pi)
        across, along = ((x * np.cos(turn + a) + y * np.sin(turn + a)) / up for a in (0, np.pi / 2))
        gap, wide, long = rng.uniform(0.4, 1.2), rng.uniform(0.08, 0.3), rng.uniform(0.3, 2.2)
        on = (np.abs(np.mod(across + gap / 2, gap) - gap / 2) < wide * gap) & (
            np.abs(across) < gap * rng.integers(1, 3)
        )
        value[on & (np.abs(along) < long) & (z > 0.05)] = strength
    for _ in range(rng.integers(0, 4)):  # soft boxes, windows and doors around the car
        middle, width = rng.uniform(-np.pi, np.pi), rng.uniform(0.1, 0.6)
        low = rng.uniform(0, 0.5)
        near = np.abs(np.mod(azimuth - middle + np.pi, 2 * np.pi) - np.pi) < width
        value[near & (rise > low) & (rise < low + rng.uniform(0.2, 1))] = strength * rng.uniform(0.3, 1)
    if chance(rng, 0.3):  # a dome of soft light
        value = value + strength * 0.4 * np.clip(z, 0, 1) ** 2
    return cv2.GaussianBlur(value.astype(np.float32), (0, 0), rng.uniform(0.8, 4))


def _tones(rng: np.random.Generator) -> Array:
    """Return display values after exposure, white balance and contrast, `(256, 3)` uint8."""
    value = np.arange(256)[:, None] / 255 * rng.uniform(0.85, 1.3) * (1 + rng.normal(0, 0.02, 3))
    knee = rng.uniform(0.75, 1.0)  # highlights are compressed above it, or cut
    bright = knee + (1 - knee) * np.tanh((value - knee) / max(1 - knee, 1e-3))
    value = np.where(value > knee, bright, value) ** rng.uniform(0.85, 1.15)
    contrast, lift = rng.uniform(0, 0.8), rng.uniform(0, 0.03) * rng.integers(2)
    value = (1 - contrast) * value + contrast * value * value * (3 - 2 * value)  # as cameras do
    return np.clip(255 * (lift + (1 - lift) * value) + 0.5, 0, 255).astype(np.uint8)
