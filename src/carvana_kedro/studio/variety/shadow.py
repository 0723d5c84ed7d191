"""Shadows below a car: of many lamps, faint to nearly black, with hard and soft edges."""

from dataclasses import dataclass

import cv2
import numpy as np

from carvana_kedro.studio.bodies import Car

from .draws import chance

Array = np.ndarray
_SCALE = 50  # texels per meter, as `Shot` expects
_MARGIN = 1.5  # meters around the car


@dataclass(frozen=True)
class Shade:
    """The shadow of the whole car in the light of one lamp.

    Attributes:
        strength: Fraction of the light that it takes.
        blur: Standard deviation of its edge, meters.
        inset: Distance of its edge from that of the car, meters. Below zero, it is wider than the car.
        offset: How far it is from below the car, meters along x and y of the car.
    """

    strength: float
    blur: float
    inset: float
    offset: tuple[float, float]


@dataclass(frozen=True)
class Shadow:
    """All shadows below a car.

    Attributes:
        shades: Shadows of the whole car.
        cores: `(N, 6)` float64, darker places below the car: center and half size as fractions of the size of the car,
            strength, and blur in meters.
        contact: Strength and blur of the shadows at the tires.
        floor: Fraction of the light that reaches every place.
    """

    shades: tuple[Shade, ...]
    cores: Array
    contact: tuple[float, float]
    floor: float

    def below(self, car: Car) -> Array:
        """Return the fraction of light on the floor, `(h, w)` float32 at 50 texels per meter."""
        half = car.length / 2, car.width / 2
        shape = tuple(round(2 * (side + _MARGIN) * _SCALE) for side in half[::-1])
        y, x = (((np.arange(size) + 0.5) / _SCALE - size / _SCALE / 2).astype(np.float32) for size in shape)
        y = y[:, None]
        light = np.ones(shape, np.float32)
        for shade in self.shades:
            right, left = shade.offset
            long, wide = (side - shade.inset for side in half)
            outline = ((np.abs(x - right) / long) ** 5 + (np.abs(y - left) / wide) ** 5 < 1).astype(
                np.float32
            )
            light *= 1 - np.float32(shade.strength) * _blurred(outline, shade.blur)
        for right, left, long, wide, strength, blur in self.cores:
            outline = (np.abs(x / half[0] - right) < long) & (np.abs(y / half[1] - left) < wide)
            light *= 1 - np.float32(strength) * _blurred(outline.astype(np.float32), blur)
        tires = np.zeros(shape, np.float32)
        for axle in car.axles:
            tires[(np.abs(x - axle) < 0.16) & (np.abs(np.abs(y) - half[1] + 0.12) < 0.11)] = 1
        strength, blur = self.contact
        light *= 1 - np.float32(strength) * _blurred(tires, blur)
        return np.float32(self.floor) + np.float32(1 - self.floor) * light


def _blurred(outline: Array, blur: float) -> Array:
    """Blur an outline. Wide blurs are computed at a quarter of the size."""
    texels = blur * _SCALE
    if texels < 6:
        return np.asarray(cv2.GaussianBlur(outline, (0, 0), texels))
    small = cv2.resize(outline, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(cv2.GaussianBlur(small, (0, 0), texels / 4), outline.shape[::-1]))


def vary_shadow(rng: np.random.Generator) -> Shadow:
    """Return a shadow of any darkness, softness and extent.

    Floors below real cars are anything from nearly white to black, and often have an edge near the sill. A network that
    saw only one kind takes the others for a part of the car.
    """
    force = 1 - 0.85 * rng.random() ** 1.8  # of all shadows of this room
    shades = [
        Shade(force * rng.uniform(0.4, 1), 0.012 * 20 ** rng.random(), rng.uniform(-0.08, 0.4), (0.0, 0.0)),
        Shade(force * rng.uniform(0.2, 0.8), rng.uniform(0.15, 0.42), rng.uniform(-0.1, 0.2), (0.0, 0.0)),
    ]
    for _ in range(rng.choice(4, p=(0.4, 0.25, 0.2, 0.15))):
        right, left = rng.normal(0, 0.25, 2).clip(-0.6, 0.6)
        shades.append(
            Shade(
                force * rng.uniform(0.1, 0.5),
                rng.uniform(0.015, 0.25),
                rng.uniform(-0.1, 0.2),
                (float(right), float(left)),
            )
        )
    number = int(rng.integers(0, 4))
    low, high = (-0.7, -0.9, 0.08, 0.08, 0.2, 0.03), (0.7, 0.9, 0.6, 0.5, 0.8, 0.25)
    cores = rng.uniform(low, high, (number, 6))
    return Shadow(
        tuple(shades),
        cores,
        (float(rng.uniform(0.3, 0.95)), float(rng.uniform(0.02, 0.1))),
        float(rng.uniform(0.05, 0.45) if chance(rng, 0.4) else rng.uniform(0.005, 0.05)),
    )
