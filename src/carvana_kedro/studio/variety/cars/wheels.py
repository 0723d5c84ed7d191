"""Wheels with rims of any size, pattern and color."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from carvana_kedro.studio.bodies import Car
from carvana_kedro.studio.surfaces import COLUMNS, Surface, stack, turn

from ..draws import chance

Array = np.ndarray
_FINE = 16  # texels per grid step
_RIM = 0.69  # radius of the rim in `surfaces.wheels`, as a fraction of the wheel's
_RADII = (0, 0.20, 0.21, 0.55, 0.64, 0.67, 0.69, 0.71, 0.80)  # of the first rows of the profile
_PATTERNS = ("spokes", "twin", "mesh", "holes", "disc")
_THIN = 0.022  # least half width of a spoke, as a fraction of the wheel's radius
_BARREL = 0.65  # radius of the inside of the rim, in the units of `_RADII`
INSIDE_STRIDE = 4
"""Grid steps per face of `mount_insides`."""
_INSIDE_ROWS = 2 * INSIDE_STRIDE  # of the brake, and again of the inside of the rim: one face, and a seam


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
        brake: Radius of the brake disc as a fraction of the wheel's. None: the wheel is closed, as steel rims and
            covers are.
    """

    rim: float
    smaller: float
    inset: float
    pattern: str
    spokes: int
    width: float
    taper: float
    brake: float | None = None


def design_wheel(car: Car, rng: np.random.Generator) -> Wheel:
    """Return a random design."""
    behind = rng.spawn(1)[0]  # does not change the numbers that `rng` draws next
    rim = float(rng.uniform(0.60, 0.84))
    design = Wheel(
        rim=rim,
        smaller=float(rng.uniform(0.93, 1.0)),
        inset=float(rng.uniform(0.0, 0.06)),
        pattern=_PATTERNS[rng.choice(5, p=(0.50, 0.28, 0.12, 0.06, 0.04))],
        spokes=int(rng.integers(4, 13)),
        width=float(rng.uniform(0.4, 1.1)),
        taper=float(rng.uniform(-0.3, 0.5)),
    )
    if design.pattern in ("holes", "disc") or chance(behind, 0.12):
        return design
    return replace(design, brake=rim * float(behind.uniform(0.45, 0.75)))


def mount_wheels(car: Car, design: Wheel, side: int) -> Surface:
    """Return the two wheels on the left (+1) or right (-1), with the rows of `surfaces.wheels`."""
    profile = np.array([
        (0, -.02), (.20, -.02), (.21, -.025), (.55, -.005), (.64, .0), (.67, .008), (.69, .004), (.71, .006),
        (.80, .016), (.90, .010), (.955, -.012), (.99, -.045), (1, -.075), (1, -.19), (.97, -.22),
        (.7, -.235), (0, -.235),
    ])  # fmt: skip
    radius = car.wheel_radius * design.smaller
    scaled = radius * np.interp(profile[:, 0], (0, _RIM, 1), (0, design.rim, 1))
    return _mount(car, design, side, turn(np.stack((scaled, profile[:, 1]), 1)))


def mount_insides(car: Car, design: Wheel, side: int) -> Surface | None:
    """Return what is seen between the spokes of these wheels: brake discs and the insides of the rims. None: nothing.

    Each wheel has `_INSIDE_ROWS` rows of the brake, and as many of the rim.
    """
    if design.brake is None:
        return None
    radius = car.wheel_radius * design.smaller
    step = np.minimum(np.arange(_INSIDE_ROWS) / INSIDE_STRIDE, 1)
    brake = np.stack((step * radius * design.brake, np.full(_INSIDE_ROWS, -0.07)), 1)
    # The inside faces the axis, because it goes from the back to the front.
    barrel = np.stack((np.full(_INSIDE_ROWS, radius * design.rim * _BARREL / _RIM), -0.20 + 0.19 * step), 1)
    return _mount(car, design, side, stack([turn(brake), turn(barrel)]))


def on_brake(row: Array) -> Array:
    """Tell which rows of `mount_insides` are those of a brake."""
    return np.mod(row, 2 * _INSIDE_ROWS) < _INSIDE_ROWS - 1


def _mount(car: Car, design: Wheel, side: int, wheel: Surface) -> Surface:
    place = side * (car.width / 2 - 0.012 - design.inset)
    height = car.wheel_radius * design.smaller - 0.006
    return stack([wheel.moved((axle, place, height), flip=side < 0) for axle in car.axles])


def draw_gaps(design: Wheel) -> Array:
    """Return where a wheel is solid, rows and columns as in `draw_tire`, `(h, w)` uint8: 0 between the spokes."""
    _, angle, radius = _texels()
    solid = np.broadcast_to(np.clip(_solid(design, radius, angle), 0, 1), (radius.size, angle.size))
    return (solid * 255 + 0.5).astype(np.uint8)


def draw_tire(design: Wheel, color: tuple[float, float, float], shine: float) -> tuple[Array, Array]:
    """Return the texture of a wheel, rows along its profile and columns around it: color, and metal."""
    row, angle, radius = _texels()
    rim = np.clip(_solid(design, radius, angle), 0, 1) * (radius < 0.685)
    tire = (row >= 6.3).astype(np.float32)
    behind = (
        0.006 + (radius > 0.22) * (radius < 0.5) * np.float32(0.04) * (1 - tire) + np.float32(0.014) * tire
    )
    groove = (row > 11.3) & (row < 14) & (np.mod(row * 3, 1) < 0.2)
    behind = np.where(groove, np.float32(0.004), behind)
    nuts = 1 - 0.55 * np.clip(1 - np.abs(radius - 0.13) * 60, 0, 1)
    planes = [np.sqrt(np.clip(rim * nuts * part + (1 - rim) * behind, 0, 1)) * 255 for part in color]
    return cv2.merge([plane.astype(np.uint8) for plane in planes]), (rim * shine * 255).astype(np.uint8)


def _texels() -> tuple[Array, Array, Array]:
    """Return row, angle and radius of the texels of a wheel, to be broadcast: `(h, 1)`, `(1, w)` and `(h, 1)`."""
    row = np.arange(17 * _FINE, dtype=np.float32)[:, None] / _FINE
    angle = np.arange((COLUMNS + 1) * _FINE, dtype=np.float32)[None] / _FINE * np.float32(2 * np.pi / COLUMNS)
    return row, angle, np.interp(row, range(9), _RADII).astype(np.float32)


def _solid(design: Wheel, radius: Array, angle: Array) -> Array:
    """Return where a wheel is solid, at least one where it is full: hub, pattern, and the ring that holds the tire."""
    solid = np.maximum(_pattern(design, radius, angle), (0.16 - radius) * 60)
    return np.maximum(solid, (radius - 0.61) * 60)


def _pattern(design: Wheel, radius: Array, angle: Array) -> Array:
    """Return the solid parts of a rim, at least one where they are full."""
    turns = angle * np.float32(design.spokes / (2 * np.pi))

    def beam(shift: Array | float, width: float) -> Array:
        away = np.abs(np.mod(turns + shift, 1) - 0.5) * (2 * np.pi / design.spokes) * radius
        half = np.maximum(design.width * width + design.taper * radius / design.spokes, _THIN)
        return (half - away) * 60

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
