"""Bodies with individual sections, noses, tails and creases."""

from dataclasses import dataclass, fields

import cv2
import numpy as np

from carvana_kedro.studio.bodies import Car, design_car, smooth_max
from carvana_kedro.studio.settings import StudioSettings

from ..draws import stream
from .styles import blend_style

Array = np.ndarray


@dataclass(frozen=True)
class Form:
    """Constants of the body's solid. `bodies.Car` describes where they act; the defaults are its values.

    Attributes:
        bend: Curvature of the nose, the windscreen and the tail, seen from above, per meter.
        crown: Curvature of the roof across the car, per meter.
        nose: Narrowing toward the nose, as a fraction of the width.
        tail: The same toward the tail.
        flare: Height of the wheel flares, meters.
        crease: Height of the crease along the side, meters.
        crease_level: Its height above the floor, as a fraction of the car's.
        shoulder: Radius between side and top, meters.
        front: Radius between nose and sides, meters.
        back: Radius between tail and sides, meters.
        face: Factor of the profile of the nose.
        rump: The same of the tail.
        corner: Rounding of the four corners seen from above, as a factor.
        lift: Slope of the underside toward nose and tail.
    """

    bend: float = 0.17
    crown: float = 0.07
    nose: float = 0.10
    tail: float = 0.07
    flare: float = 0.022
    crease: float = 0.013
    crease_level: float = 0.545
    shoulder: float = 0.14
    front: float = 0.12
    back: float = 0.10
    face: float = 1.0
    rump: float = 1.0
    corner: float = 1.0
    lift: float = 0.07


_RANGES = {
    "bend": (0.08, 0.24),
    "crown": (0.04, 0.09),
    "nose": (0.04, 0.15),
    "tail": (0.03, 0.12),
    "flare": (0.0, 0.05),
    "crease": (0.0, 0.022),
    "crease_level": (0.46, 0.60),
    "shoulder": (0.07, 0.19),
    "front": (0.07, 0.17),
    "back": (0.06, 0.15),
    "face": (0.3, 1.5),
    "rump": (0.4, 1.6),
    "corner": (0.6, 1.35),
    "lift": (0.03, 0.32),
}


@dataclass(frozen=True)
class ShapedCar(Car):
    """A car whose solid has its own constants."""

    form: Form = Form()

    def top(self, x: Array | float, y: Array | float) -> Array:
        """Return the height of the upper surface (hood, glass, roof and tail), which curves to the sides."""
        bent = x + self.form.bend * y * y * np.tanh(4 * x / self.length)
        return np.interp(bent, self.stations, self.roofline).astype(np.float32) - self.form.crown * y * y

    def half_width(self, x: Array | float, z: Array | float) -> Array:
        """Return half the width of the side surface, with its slopes, wheel flares and crease."""
        form, high = self.form, self.height
        heights = (self.clearance - 0.1, self.clearance + 0.06, 0.30 * high, 0.42 * high, 0.655 * high, high)
        section = np.interp(z, heights, (0.90, 0.955, 0.985, 1.0, 0.965, self.style.roof_width))
        nose = np.clip((x - self.axles[0]) / (self.length / 2 - self.axles[0]), 0, 1)
        tail = np.clip((self.axles[1] - x) / (self.length / 2 + self.axles[1]), 0, 1)
        half = self.width / 2 * section * (1 - form.nose * nose**2 - form.tail * tail**2)
        for axle in self.axles:
            distance = np.hypot(x - axle, z - self.wheel_radius) / self.wheel_radius
            half = half + form.flare * np.clip((1.6 - distance) / 0.5, 0, 1) ** 2
        crease = z - form.crease_level * high + 0.02 * x
        half = half + form.crease * np.clip(1 - np.abs(crease) / 0.09, 0, 1) ** 2
        return half - 0.014 * np.exp(-(((z - 0.235 * high) / 0.05) ** 2))

    def solid(self, x: Array, y: Array, z: Array) -> Array:
        """Return a smooth field: about the distance to the surface of the body, and negative inside the body."""
        form, wide, level = self.form, np.abs(y), z / self.height
        edge = (wide / (self.width / 2)) ** 2
        shape = smooth_max(wide - self.half_width(x, z), z - self.top(x, y), form.shoulder)
        face = form.face * np.interp(
            level, (0.1, 0.2, 0.30, 0.36, 0.48, 0.6, 0.8), (-0.10, -0.03, 0, 0, -0.03, -0.09, -0.3)
        )
        rounding = form.corner * (0.10 * edge + 0.13 * edge**3)
        shape = smooth_max(shape, x - self.length / 2 - face + rounding, form.front)
        back = form.rump * np.interp(
            level, (0.1, 0.2, 0.31, 0.38, 0.42, 0.7, 0.9), (-0.10, -0.04, 0, 0, -0.035, -0.06, -0.2)
        )
        rounding = form.corner * (0.07 * edge + 0.10 * edge**3)
        shape = smooth_max(shape, -x - self.length / 2 - back + rounding, form.back)
        ends = np.clip(np.abs(x) - 0.36 * self.length, 0, None) * form.lift
        return smooth_max(shape, self.clearance + ends - z, 0.06)


def shape_car(settings: StudioSettings, number: int) -> ShapedCar:
    """Return a car of any style and proportions, in the paint that it has without variety."""
    rng, plain = stream(settings, "shape", number), design_car(settings, number)
    style = blend_style(rng)
    length, width, height = np.array(style.size) * rng.uniform((0.94, 0.965, 0.95), (1.06, 1.035, 1.05))
    knots = np.array(style.roofline)
    knots[1:-1] += rng.normal(0, (0.006, 0.009), (len(knots) - 2, 2)) * (knots[1:-1, 1:] < 0.99)
    knots[:, 0] = np.maximum.accumulate(knots[:, 0])
    stations = np.arange(-length / 2 - 0.5, length / 2 + 0.5, 0.01)
    roofline = np.interp(0.5 - stations / length, knots[:, 0], knots[:, 1] / knots[:, 1].max()) * height
    soft = rng.uniform(2.5, 6.5) if style.name != "pickup" else 3
    roofline = cv2.GaussianBlur(roofline[None].astype(np.float32), (0, 0), soft)[0]
    shift = rng.normal(0, 0.008, 2)
    kept = {field.name: getattr(plain, field.name) for field in fields(Car)}
    return ShapedCar(
        **kept
        | {
            "style": style,
            "length": float(length),
            "width": float(width),
            "height": float(height),
            "wheel_radius": style.wheel_radius * float(rng.uniform(0.97, 1.12)),
            "clearance": style.clearance * float(rng.uniform(0.8, 1.3)),
            "axles": tuple(
                float(length * (0.5 - at - by)) for at, by in zip(style.axles, shift, strict=True)
            ),
            "stations": stations,
            "roofline": roofline,
            "spokes": int(rng.integers(3, 13)),
            "dark_glass": bool(rng.random() < 0.35),
            "chrome": bool(rng.random() < 0.5),
        },
        form=Form(**{name: float(rng.uniform(*limits)) for name, limits in _RANGES.items()}),
    )
