"""Paints: any color, metallic or matt, two-tone bodies, stripes, and the colors of glass, cabin and wheels."""

import colorsys
from dataclasses import dataclass

import numpy as np

from carvana_kedro.studio.bodies import Car, to_linear
from carvana_kedro.studio.surfaces import windscreen_foot

from .draws import chance

Array = np.ndarray
Color = tuple[float, float, float]

_WHEELS = (  # linear gray or RGB, metal, weight
    ((0.42, 0.42, 0.42), 0.75, 0.40),
    ((0.20, 0.20, 0.21), 0.55, 0.17),
    ((0.012, 0.012, 0.013), 0.10, 0.20),
    ((0.62, 0.62, 0.63), 0.95, 0.13),
    ((0.70, 0.70, 0.68), 0.00, 0.05),
    ((0.25, 0.16, 0.06), 0.50, 0.05),
)


@dataclass(frozen=True)
class Finish:
    """The colors of one car. All are linear RGB.

    Attributes:
        paint: The color of the body.
        metallic: Fraction of the light that the flakes of the paint reflect.
        coat: Strength of the clear coat: 1 is glossy, 0 matt.
        second: The second color of a two-tone body.
        region: Where it is: `roof`, `hood`, `lower`, `upper`, `stripes` or none.
        wheels: Color of the rims, and the fraction of them that is mirror-like metal.
        clear_glass: Fraction of the light that the glass lets through.
        dark_glass: The same of dark glass.
        glass: Color of the glass.
        cabin: Display values of the cabin and of the seats: see `shot.Look`.
    """

    paint: Array
    metallic: float
    coat: float
    second: Array
    region: str | None
    wheels: tuple[Color, float]
    clear_glass: float
    dark_glass: float
    glass: Color
    cabin: tuple[tuple[int, int], tuple[int, int]]


def mix_paint(rng: np.random.Generator) -> Finish:
    """Return the finish of one car."""
    body, metallic = _color(rng)
    second = _color(rng)[0] if chance(rng, 0.4) else to_linear((12, 12, 13))
    regions = (None, "roof", "hood", "lower", "upper", "stripes")
    rim = _WHEELS[rng.choice(len(_WHEELS), p=[share for *_, share in _WHEELS])]
    darkness = rng.integers(8, 50), rng.integers(10, 50)
    seat = (int(rng.integers(60, 140)), 60) if chance(rng, 0.2) else (int(rng.integers(8, 40)), 30)
    clear = rng.uniform(0.45, 0.85) if chance(rng, 0.75) else rng.uniform(0.1, 0.45)
    return Finish(
        paint=body,
        metallic=metallic,
        coat=rng.uniform(0.05, 0.3) if chance(rng, 0.06) else rng.uniform(0.75, 1.15),
        second=second,
        region=regions[rng.choice(6, p=(0.68, 0.12, 0.03, 0.08, 0.04, 0.05))],
        wheels=(rim[0], rim[1]) if chance(rng, 0.95) else (tuple(body.tolist()), 0.2),
        clear_glass=clear,
        dark_glass=min(clear, rng.uniform(0.04, 0.4)),
        glass=tuple(np.clip(rng.normal((0.93, 0.97, 0.94), 0.03), 0, 1).tolist()),
        cabin=((int(darkness[0]), int(darkness[1])), seat),
    )


def _color(rng: np.random.Generator) -> tuple[Array, float]:
    """Return a paint's linear RGB and its metallic fraction. Most cars are white, black, gray or silver."""
    kind = rng.choice(("white", "black", "gray", "color", "pale"), p=(0.30, 0.22, 0.20, 0.21, 0.07))
    metallic = rng.uniform(0.2, 0.95) if chance(rng, 0.65) else 0.0
    tint = rng.normal(0, 0.025, 3)
    if kind == "white":
        return to_linear((rng.uniform(205, 248) * (1 + 0.7 * np.minimum(tint, 0))).tolist()), 0.2 * metallic
    if kind == "black":
        return to_linear((rng.uniform(3, 32) * (1 + 4 * tint)).tolist()), 0.4 * metallic
    if kind == "gray":
        return to_linear((rng.uniform(45, 190) * (1 + 1.5 * tint)).tolist()), metallic
    vivid = (rng.uniform(0.45, 1.0), rng.uniform(0.15, 0.9)) if kind == "color" else (
        rng.uniform(0.08, 0.4), rng.uniform(0.5, 0.95))  # fmt: skip
    hue = rng.choice((rng.normal(0.0, 0.03), rng.normal(0.61, 0.05), rng.random())) % 1
    return to_linear([255 * part for part in colorsys.hsv_to_rgb(float(hue), *vivid)]), metallic


def second_tone(
    finish: Finish, car: Car, points: tuple[Array, ...], normals: tuple[Array, ...]
) -> Array | None:
    """Return where the body has its second color, `(1, n)` bool. None: nowhere.

    Args:
        finish: The colors of the car.
        car: The car.
        points: x, y and z in car coordinates, each `(1, n)`, meters.
        normals: The same of unit normals.
    """
    if finish.region is None:
        return None
    (x, y, z), up = points, normals[2]
    foot = car.x(windscreen_foot(car))
    if finish.region == "roof":
        return (z > 0.84 * car.height) | ((z > car.belt(x) + 0.1) & (x < foot - 0.35))
    if finish.region == "hood":
        return (x > foot - 0.05) & (up > 0.55)
    if finish.region == "lower":
        return z < 0.34 * car.height + 0.03 * np.sign(x)
    if finish.region == "upper":
        return z > 0.55 * car.height
    return (np.abs(np.abs(y) - 0.2) < 0.12) & ((up > 0.35) | (np.abs(normals[0]) > 0.7))
