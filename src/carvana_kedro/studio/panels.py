"""Drawings of a body from the side, front and rear: glass, lights, grille, plate, gaps and handles."""

import cv2
import numpy as np

from .bodies import Car
from .canvas import BLACK, SCALE, Panel, grown, rounded
from .surfaces import COLUMNS, WHEEL_PROFILE, windscreen_foot

Array = np.ndarray
_RUBBER, _CHROME = (0.025, 0.025, 0.027), (0.62, 0.63, 0.64)


def draw_panels(car: Car, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw side, front and rear next to each other.

    Returns:
        Two arrays, `(h, w, 4)` uint8: color and cover; glass, hole, metal and an empty channel. Color is the square
        root of linear RGB, so that eight bits suffice.
    """
    tall = car.style.is_tall
    side = Panel(-car.length / 2 - 0.1, car.length + 0.2)
    front, rear = Panel(-1.15, 2.3), Panel(-1.15, 2.3)
    lamp_top = 0.005 + (0.50 if tall else 0.505) * car.height
    _draw_side(side, car, tall, lamp_top, rng)
    _draw_front(front, car, tall, lamp_top, rng)
    _draw_rear(rear, car, tall, rng)
    panels = (side, front, rear)
    color = [_stored(*np.sqrt(panel.color), panel.cover) for panel in panels]
    rest = [_stored(panel.glass, panel.hole, panel.metal, np.zeros_like(panel.hole)) for panel in panels]
    return np.concatenate(color, 1), np.concatenate(rest, 1)


def _stored(*planes: Array) -> Array:
    return cv2.merge([(plane * 255 + 0.5).astype(np.uint8) for plane in planes])


def _draw_side(panel: Panel, car: Car, tall: bool, lamp_top: float, rng: np.random.Generator) -> None:
    height, length, style = car.height, car.length, car.style
    x, z = panel.across, panel.up
    column, sill = x[0], car.clearance + 0.10
    if (tall and style.name != "minivan") or rng.random() < 0.15:
        for axle in car.axles:
            panel.paint(panel.disc(axle, car.wheel_radius, 1.30 * car.wheel_radius), _RUBBER)
        panel.paint(np.clip((car.clearance + 0.16 - z) * SCALE, 0, 1), _RUBBER)
    else:
        panel.paint(np.clip((car.clearance + 0.045 - z) * SCALE, 0, 1), BLACK)

    # Window panes: above the belt, below the roof with a margin, in front of the rear pillar.
    lean = 0.72 * car.width / 2
    roof = np.minimum.reduce([car.top(column + shift, lean) for shift in (-0.05, -0.02, 0.0, 0.10)]) - 0.085
    belt = car.belt(column) + 0.03
    end = car.x(style.windows_end) + (z - belt) * (0.38 if style.name in ("sedan", "coupe") else 0.20)
    front = car.x(windscreen_foot(car)) - 0.20
    inside = np.minimum.reduce(np.broadcast_arrays(roof - z, z - belt, x - end, front - x))
    pane = rounded(np.clip(inside * SCALE, 0, 1).astype(np.float32), 0.022)
    panel.glaze(pane, _CHROME if car.chrome else BLACK, 0.9 if car.chrome else 0.0)
    doors = [car.x(place) for place in style.pillars]
    for index, door in enumerate(doors):
        slope = 0.10 if index else 0.04
        middle = door - slope * (z - belt)
        strip = np.clip((0.042 - np.abs(x - middle)) * SCALE + 0.5, 0, 1) * (panel.glass > 0)
        panel.paint(strip.astype(np.float32), BLACK)

    gap, dark = 0.006, (0.004, 0.004, 0.004)
    first = car.axles[0] - 1.32 * car.wheel_radius - 0.10

    def belt_at(place: float) -> float:
        return float(car.belt(place)) + 0.02

    lines = [[(first + 0.02, sill), (first - 0.02, 0.5 * height), (first - 0.05, belt_at(first))]]
    lines.append([(first + 0.02, sill), (doors[-1] if len(doors) == 1 else doors[1], sill)])
    lines.append([(doors[0], sill), (doors[0], belt_at(doors[0])), (doors[0] - 0.03, 0.93 * height)])
    if len(doors) > 1:
        back = max(doors[1], car.axles[1] + 0.55 * car.wheel_radius)
        arch = car.axles[1] + 1.22 * car.wheel_radius
        # The doors of a long cab end before the wheel.
        lower = [(arch, sill), (arch - 0.02, car.wheel_radius * 1.3), (back, belt_at(back) - 0.18)]
        lower = lower if back - arch < 0.4 else [(back, sill)]
        lines.append([*lower, (back, belt_at(back)), (back - 0.06, 0.9 * height)])
    lines.append(
        [(car.axles[0] + 1.1 * car.wheel_radius, 0.36 * height), (length / 2 - 0.12, lamp_top - 0.16)]
    )
    lines.append(
        [(car.axles[1] - 1.1 * car.wheel_radius, 0.36 * height), (-length / 2 + 0.10, 0.43 * height)]
    )
    lines.append([(car.axles[0] + 0.1, 0.62 * height), (length / 2 - 0.25, 0.555 * height)])
    for points in lines:
        panel.paint(panel.line(points, gap) * 0.85, dark)
    if style.name == "pickup":
        edge = car.x(0.605)
        panel.paint(panel.line([(edge, sill), (edge, 0.7 * height)], 0.016), dark)
    if style.name == "minivan":
        panel.paint(
            panel.line([(doors[1], 0.585 * height), (-length / 2 + 0.25, 0.585 * height)], 0.014), dark
        )
    for door in doors[:2]:
        where, level = door + 0.13, belt_at(door) - 0.115
        panel.paint(panel.polygon(_box(where, level - 0.022, 0.105, 0.016), 0.008), dark)
        bright = car.chrome and rng.random() < 0.7
        grip = panel.polygon(_box(where, level, 0.11, 0.015), 0.008)
        if bright:
            panel.paint(grip, _CHROME, 0.9)
        else:
            panel.paint(grip, tuple(np.minimum(car.paint * 1.25 + 0.01, 1).tolist()), 0.25)
    flap = car.axles[1] - 0.10
    panel.paint((panel.disc(flap, 0.60 * height, 0.085) - panel.disc(flap, 0.60 * height, 0.080)) * 0.8, dark)
    nose, tail = length / 2, -length / 2
    _lamp(panel, [(nose + 0.3, lamp_top - 0.15), (nose + 0.3, lamp_top + 0.01), (nose - 0.50, lamp_top + 0.045),
                  (nose - 0.42, lamp_top - 0.07)], bulbs=())  # fmt: skip
    high, low = _tail_lamp(car)
    _lamp(panel, [(tail - 0.3, low), (tail + 0.16, low), (tail + (0.30 if not tall else 0.17), high - 0.03),
                  (tail + 0.15, high), (tail - 0.3, high)])  # fmt: skip
    panel.paint(panel.polygon(_box(nose - 0.34, 0.345 * height, 0.06, 0.018), 0.006), (0.75, 0.20, 0.01))
    for axle in car.axles:
        opening = panel.disc(axle, car.wheel_radius, 1.135 * car.wheel_radius)
        panel.paint(panel.disc(axle, car.wheel_radius, 1.16 * car.wheel_radius), BLACK)
        panel.hole = np.maximum(panel.hole, opening)


def _draw_front(panel: Panel, car: Car, tall: bool, lamp_top: float, rng: np.random.Generator) -> None:
    height, half = car.height, car.width / 2
    _windscreen(panel, car, windscreen_foot(car), 0.70 if car.style.name != "minivan" else 0.65)
    foot = float(car.top(car.length / 2 - 0.16, 0))
    panel.paint(
        panel.line([(-0.72 * half, foot - 0.01), (0, foot + 0.005), (0.72 * half, foot - 0.01)]), (0.004,) * 3
    )
    panel.paint(np.clip((car.clearance + 0.075 - panel.up) * SCALE, 0, 1), BLACK)
    # Grille, lower intake with fog lamps, plate.
    wide, top = half * rng.uniform(0.42, 0.60), lamp_top - 0.01
    bottom = height * (rng.uniform(0.31, 0.36) if tall else rng.uniform(0.365, 0.40))
    outline = [(-wide, top), (wide, top), (wide * rng.uniform(0.75, 0.95), bottom)]
    outline.append((-outline[2][0], bottom))
    grille = panel.polygon(outline, 0.02)
    panel.paint(grown(grille, 0.016), _CHROME, 0.9) if car.chrome or rng.random() < 0.6 else None
    panel.paint(grille, BLACK)
    bars = (
        (np.mod(panel.up, 0.045) < 0.014)
        if rng.random() < 0.5
        else (np.mod(panel.across + panel.up, 0.05) < 0.012)
    )
    shine = rng.random() < 0.5
    panel.paint(grille * bars, _CHROME if shine else (0.03, 0.03, 0.03), 0.8 if shine else 0.1)
    panel.paint(panel.disc(0, (top + bottom) / 2, 0.055), _CHROME, 0.9)
    low = car.clearance + 0.085
    intake = panel.polygon(
        [(-0.62 * half, low), (0.62 * half, low), (0.54 * half, low + 0.13), (-0.54 * half, low + 0.13)], 0.02
    )
    panel.paint(intake, BLACK)
    panel.paint(intake * (np.mod(panel.up, 0.04) < 0.01), (0.03, 0.03, 0.03))
    for side in (-1, 1):
        panel.paint(panel.polygon(_box(side * 0.76 * half, low + 0.09, 0.11, 0.055), 0.02), BLACK)
        panel.paint(panel.disc(side * 0.76 * half, low + 0.09, 0.042), (0.6, 0.6, 0.58), 0.5)
        inner, outer = side * max(wide + 0.05, 0.50 * half), side * 1.3 * half
        outline = [(inner, lamp_top - 0.03), (outer, lamp_top + 0.05)]
        outline += [(outer, lamp_top - 0.15), (inner + side * 0.06, lamp_top - 0.13)]
        _lamp(panel, outline, bulbs=(inner + side * 0.12, side * 0.80 * half))
    _plate(panel, 0.315 * height if not tall else 0.285 * height, rng)


def _draw_rear(panel: Panel, car: Car, tall: bool, rng: np.random.Generator) -> None:
    height, half = car.height, car.width / 2
    _windscreen(panel, car, None, car.style.rear_glass)
    panel.paint(np.clip((car.clearance + 0.10 - panel.up) * SCALE, 0, 1), _RUBBER)
    dark = (0.004, 0.004, 0.004)
    high, low = _tail_lamp(car)
    for side in (-1, 1):
        inner = side * half * (0.55 if not tall else 0.72)
        outline = [
            (inner, low + 0.03),
            (inner, high - 0.03),
            (side * 1.3 * half, high),
            (side * 1.3 * half, low),
        ]
        _lamp(panel, outline)
        panel.paint(
            panel.polygon(_box(side * 0.82 * half, low + 0.05, 0.07, 0.025), 0.01), (0.7, 0.7, 0.68), 0.4
        )
        panel.paint(panel.line([(side * 0.70 * half, 0.42 * height), (side * 0.70 * half, low)]) * 0.85, dark)
        panel.paint(
            panel.polygon(_box(side * 0.7 * half, car.clearance + 0.17, 0.07, 0.02), 0.008),
            (0.25, 0.005, 0.005),
        )
    panel.paint(panel.line([(-0.95 * half, 0.42 * height), (0.95 * half, 0.42 * height)], 0.008) * 0.85, dark)
    if car.style.name == "pickup":
        panel.paint(panel.polygon(_box(0, 0.37 * height, 0.92 * half, 0.075), 0.02), _CHROME, 0.8)
        panel.paint(panel.line([(-0.8 * half, 0.645 * height), (0.8 * half, 0.645 * height)], 0.012), dark)
    level = (high + low) / 2 - 0.02 if not tall else 0.50 * height
    strip = panel.line([(-0.3, level + 0.085), (0.3, level + 0.085)], 0.02)
    panel.paint(strip, _CHROME if car.chrome else dark, 0.9 if car.chrome else 0.0)
    _plate(panel, level, rng)


def _windscreen(panel: Panel, car: Car, foot: float | None, base: float) -> None:
    """Draw the windscreen, which begins at `foot`, or the rear window if `foot` is None."""
    level = np.linspace(base * car.height, 0.945 * car.height, 12)
    lean = (car.x(foot), car.x(foot) - 0.8) if foot else (-1.0, -1.0)
    place = np.interp(level, (0.65 * car.height, car.height), lean)
    half = car.half_width(place, level) - 0.085
    crowned = level - 0.07 * half**2 * np.minimum(1, np.arange(12) / 6)
    right = [(float(y), float(z)) for y, z in zip(half, crowned, strict=True)]
    outline = [
        *right,
        (0.0, float(level[-1])),
        *((-y, z) for y, z in reversed(right)),
        (0.0, float(level[0]) + 0.01),
    ]
    panel.glaze(panel.polygon(outline, 0.025), BLACK, 0.0)
    if foot is not None:
        for reach in (-0.1, 0.55):
            wiper = panel.line([(reach, level[0] + 0.01), (reach - 0.5, level[0] + 0.035)], 0.014)
            panel.paint(wiper, BLACK)


def _lamp(panel: Panel, outline: list[tuple[float, float]], bulbs: tuple[float, ...] | None = None) -> None:
    """Draw a headlamp with reflectors at `bulbs`, or a tail lamp if `bulbs` is None."""
    lens = panel.polygon(outline, 0.014)
    panel.paint(grown(lens, 0.006), BLACK)
    if bulbs is None:
        panel.paint(lens, (0.20, 0.006, 0.008), 0.12)
        panel.paint(lens * (np.mod(panel.up, 0.06) < 0.02) * 0.6, (0.42, 0.015, 0.015), 0.1)
        return
    panel.paint(lens, (0.30, 0.31, 0.32), 0.45)
    level = float(np.mean([z for _, z in outline])) - 0.005
    rings = ((0.068, 0.03, 0.2), (0.056, 0.75, 0.7), (0.026, 0.10, 0.3), (0.014, 0.9, 0.0))
    for x in bulbs:
        for radius, gray, metal in rings:
            panel.paint(lens * panel.disc(x, level, radius), (gray,) * 3, metal)


def _plate(panel: Panel, level: float, rng: np.random.Generator) -> None:
    panel.paint(panel.polygon(_box(0, level, 0.165, 0.085), 0.008), (0.70, 0.71, 0.70))
    for x in np.linspace(-0.12, 0.12, 7):
        corners = [
            (x + 0.011 * i, level + 0.035 * j)
            for i, j in ((-1, -1), (-1, 0), (-1, 1), (1, 1), (1, 0), (1, -1))
        ]
        kept = rng.permutation(6)[: rng.integers(4, 7)]
        for start in kept:
            panel.paint(panel.line([corners[start], corners[(start + 1) % 6]], 0.008), (0.04, 0.05, 0.12))


def _tail_lamp(car: Car) -> tuple[float, float]:
    """Return the heights of the upper and lower edge of the tail lamps."""
    name, height = car.style.name, car.height
    if name in ("suv", "minivan", "wagon", "hatchback"):
        return 0.66 * height, 0.47 * height
    return (0.62 * height, 0.46 * height) if name == "pickup" else (0.635 * height, 0.52 * height)


def _box(x: float, z: float, half_width: float, half_height: float) -> list[tuple[float, float]]:
    return [(x + i * half_width, z + j * half_height) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]


def draw_wheel(car: Car) -> tuple[Array, Array]:
    """Return the texture of a wheel, rows along its profile and columns around it: color, and metal."""
    fine = 16
    row = np.arange(17 * fine, dtype=np.float32)[:, None] / fine
    angle = np.arange((COLUMNS + 1) * fine, dtype=np.float32)[None] / fine * (2 * np.pi / COLUMNS)
    radius = np.interp(row, range(9), WHEEL_PROFILE[:9, 0]).astype(np.float32)
    phase = np.abs(np.mod(angle * car.spokes / (2 * np.pi), 1) - 0.5) * (2 * np.pi / car.spokes) * radius
    spoke = np.clip((0.075 + 0.06 * radius - 0.02 * (car.spokes > 6) - phase) * 60, 0, 1)
    rim = np.clip(np.maximum(spoke, np.maximum((0.17 - radius) * 60, (radius - 0.605) * 60)), 0, 1) * (
        radius < 0.685
    )
    hub = np.clip((0.075 - radius) * 80, 0, 1)
    disc = (radius > 0.22) * (radius < 0.5) * 0.10
    tire = (row >= 6.3).astype(np.float32)
    shade = 0.006 + disc * (1 - tire) + 0.014 * tire
    gray = rim * 0.42 + (1 - rim) * shade
    gray = gray * (1 - 0.55 * np.clip(1 - np.abs(radius - 0.13) * 60, 0, 1) * rim) - 0.2 * hub * rim
    groove = (row > 11.3) & (row < 14) & (np.mod(row * 3, 1) < 0.2)
    gray = np.where(groove, 0.004, gray)
    metal = rim * 0.75
    color = (np.sqrt(np.clip(np.broadcast_to(gray, metal.shape), 0, 1)) * 255).astype(np.uint8)
    return cv2.merge((color, color, color)), (metal * 255).astype(np.uint8)
