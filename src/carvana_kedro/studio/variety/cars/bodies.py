"""Bodies of any style, with individual sections, noses, tails and creases."""

import dataclasses

import numpy as np

from carvana_kedro.studio.bodies import Car, Form, design_car, smooth_roofline
from carvana_kedro.studio.settings import StudioSettings
from carvana_kedro.studio.variety.draws import stream

from .styles import blend_style

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


def shape_car(settings: StudioSettings, number: int) -> Car:
    """Return a car of any style and proportions, in the paint that it has without variety."""
    rng, plain = stream(settings, "shape", number), design_car(settings, number)
    style = blend_style(rng)
    length, width, height = np.array(style.size) * rng.uniform((0.94, 0.965, 0.95), (1.06, 1.035, 1.05))
    knots = np.array(style.roofline)
    knots[1:-1] += rng.normal(0, (0.006, 0.009), (len(knots) - 2, 2)) * (knots[1:-1, 1:] < 0.99)
    knots[:, 0] = np.maximum.accumulate(knots[:, 0])
    soft = rng.uniform(2.5, 6.5) if style.name != "pickup" else 3
    stations, roofline = smooth_roofline(knots, length, height, soft)
    shift = rng.normal(0, 0.008, 2)
    return dataclasses.replace(
        plain,
        style=style,
        length=float(length),
        width=float(width),
        height=float(height),
        wheel_radius=style.wheel_radius * float(rng.uniform(0.97, 1.12)),
        clearance=style.clearance * float(rng.uniform(0.8, 1.3)),
        axles=(
            float(length * (0.5 - style.axles[0] - shift[0])),
            float(length * (0.5 - style.axles[1] - shift[1])),
        ),
        stations=stations,
        roofline=roofline,
        spokes=int(rng.integers(3, 13)),
        dark_glass=bool(rng.random() < 0.35),
        chrome=bool(rng.random() < 0.5),
        form=Form(**{name: float(rng.uniform(*limits)) for name, limits in _RANGES.items()}),
    )
