"""Wheels with rims of any size, pattern and color."""

from dataclasses import dataclass

import cv2
import numpy as np

from carvana_kedro.studio.bodies import Car
from carvana_kedro.studio.surfaces import COLUMNS, Surface, stack, turn

Array = np.ndarray
_FINE = 16  # texels per grid step
_RIM = 0.69  # radius of the rim in `surfaces.wheels`, as a fraction of the wheel's
_RADII = (0, 0.20, 0.21, 0.55, 0.64, 0.67, 0.69, 0.71, 0.80)  # of the first rows of the profile
_PATTERNS = ("spokes", "twin", "mesh", "holes", "disc")


@dataclass(frozen=True)
class Wheel:
    """The design of a wheel.

    Attributes:
        rim: Radius of the rim as a fraction of the wheel's.
        smaller: The wheel's radius as a fraction of that for which the arches are made.
        inset: Distance from the side of the body to the wheel, meters.
        pattern: One of `_PATTERNS`.
        spokes: Number of spokes or holes.
        width: Width of the spokes, as a factor.
        taper: How much wider the spokes are outside.
    """

    rim: float
    smaller: float
    inset: float
    pattern: str
    spokes: int
    width: float
    taper: float


def design_wheel(car: Car, rng: np.random.Generator) -> Wheel:
    """Return a random design."""
    return Wheel(
        rim=float(rng.uniform(0.60, 0.84)),
        smaller=float(rng.uniform(0.93, 1.0)),
        inset=float(rng.uniform(0.0, 0.06)),
        pattern=_PATTERNS[rng.choice(5, p=(0.50, 0.28, 0.12, 0.06, 0.04))],
        spokes=int(rng.integers(4, 13)),
        width=float(rng.uniform(0.4, 1.1)),
        taper=float(rng.uniform(-0.3, 0.5)),
    )


def mount_wheels(car: Car, design: Wheel, side: int) -> Surface:
    """Return the two wheels on the left (+1) or right (-1), with the rows of `surfaces.wheels`."""
    profile = np.array([
        (0, -.02), (.20, -.02), (.21, -.025), (.55, -.005), (.64, .0), (.67, .008), (.69, .004), (.71, .006),
        (.80, .016), (.90, .010), (.955, -.012), (.99, -.045), (1, -.075), (1, -.19), (.97, -.22),
        (.7, -.235), (0, -.235),
    ])  # fmt: skip
    radius = car.wheel_radius * design.smaller
    scaled = radius * np.interp(profile[:, 0], (0, _RIM, 1), (0, design.rim, 1))
    wheel = turn(np.stack((scaled, profile[:, 1]), 1))
    place = side * (car.width / 2 - 0.012 - design.inset)
    return stack([wheel.moved((axle, place, radius - 0.006), flip=side < 0) for axle in car.axles])


def draw_tire(design: Wheel, color: tuple[float, float, float], shine: float) -> tuple[Array, Array]:
    """Return the texture of a wheel, rows along its profile and columns around it: color, and metal."""
    row = np.arange(17 * _FINE, dtype=np.float32)[:, None] / _FINE
    angle = np.arange((COLUMNS + 1) * _FINE, dtype=np.float32)[None] / _FINE * np.float32(2 * np.pi / COLUMNS)
    radius = np.interp(row, range(9), _RADII).astype(np.float32)
    solid = np.maximum(_pattern(design, radius, angle), (0.16 - radius) * 60)
    rim = np.clip(np.maximum(solid, (radius - 0.61) * 60), 0, 1) * (radius < 0.685)
    tire = (row >= 6.3).astype(np.float32)
    behind = (
        0.006 + (radius > 0.22) * (radius < 0.5) * np.float32(0.04) * (1 - tire) + np.float32(0.014) * tire
    )
    groove = (row > 11.3) & (row < 14) & (np.mod(row * 3, 1) < 0.2)
    behind = np.where(groove, np.float32(0.004), behind)
    nuts = 1 - 0.55 * np.clip(1 - np.abs(radius - 0.13) * 60, 0, 1)
    planes = [np.sqrt(np.clip(rim * nuts * part + (1 - rim) * behind, 0, 1)) * 255 for part in color]
    return cv2.merge([plane.astype(np.uint8) for plane in planes]), (rim * shine * 255).astype(np.uint8)


def _pattern(design: Wheel, radius: Array, angle: Array) -> Array:
    """Return the solid parts of a rim, at least one where they are full."""
    turns = angle * np.float32(design.spokes / (2 * np.pi))

    def beam(shift: Array | float, width: float) -> Array:
        away = np.abs(np.mod(turns + shift, 1) - 0.5) * (2 * np.pi / design.spokes) * radius
        return (design.width * width + design.taper * radius / design.spokes - away) * 60

    match design.pattern:
        case "spokes":
            return beam(0, 0.45 / design.spokes)
        case "twin":
            return np.maximum(beam(0.13, 0.2 / design.spokes), beam(-0.13, 0.2 / design.spokes))
        case "mesh":
            lean = 0.35 * (radius - 0.2) * design.spokes / 3
            return np.maximum(beam(lean, 0.11 / design.spokes), beam(-lean, 0.11 / design.spokes))
        case "holes":
            x = (np.mod(turns, 1) - 0.5) * np.float32(2 * np.pi * 0.45 / design.spokes)
            size = min(0.6 / design.spokes, 0.11)
            return (np.hypot(x, radius - np.float32(0.45)) - size) * 60
    return np.where(np.abs(radius - 0.55) < 0.03, beam(0, 0.5 / design.spokes), np.float32(1))
