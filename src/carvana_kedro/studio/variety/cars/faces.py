"""Headlamps, grilles and tail lamps of many kinds."""

import numpy as np

from carvana_kedro.studio.bodies import Car
from carvana_kedro.studio.variety.draws import chance

from .sheet import Sheet, box, disc

Array = np.ndarray
_BLACK = (14, 14, 15)


def redraw_face(sheet: Sheet, car: Car, rng: np.random.Generator) -> None:
    """Draw another grille, headlamps and tail lamps over those of the sample, each in more than half of all cars."""
    tall = car.style.is_tall
    lamp_top = 0.005 + (0.50 if tall else 0.505) * car.height
    if chance(rng, 0.6):
        _draw_grille(sheet, car, lamp_top, rng)
    if chance(rng, 0.65):
        _draw_headlamps(sheet, car, lamp_top, rng)
    if chance(rng, 0.6):
        _draw_tail_lamps(sheet, car, tall, rng)


def _draw_grille(sheet: Sheet, car: Car, top: float, rng: np.random.Generator) -> None:
    half, front = car.width / 2, sheet.front
    front.fill(
        [box(0, (top + 0.30 * car.height) / 2, 0.62 * half, (top - 0.30 * car.height) / 2 + 0.02)], None
    )
    wide, kind = half * rng.uniform(0.3, 0.62), rng.integers(5)
    low = {0: car.clearance + 0.1, 3: top - 0.07}.get(int(kind), rng.uniform(0.31, 0.38) * car.height)
    shape = np.array(((-wide, top), (wide, top), (wide * rng.uniform(0.7, 1), low), (0, low)))
    shape[3, 0] = -shape[2, 0]
    if kind == 2:  # closed, with a small slot
        front.fill([box(0, low + 0.05, wide, 0.02)], _BLACK)
    elif kind == 1:  # upright slots
        count = int(rng.integers(5, 10))
        for place in np.linspace(-1, 1, count):
            front.fill([box(place * wide, (top + low) / 2, 0.6 * wide / count, (top - low) / 2)], _BLACK)
    else:
        if chance(rng, 0.6):
            middle = shape.mean(0)
            front.fill([middle + (shape - middle) * (1.05, 1.12)], (200, 201, 203), 0.9)
        front.fill([shape], _BLACK)
        for level in np.arange(low + 0.02, top, rng.uniform(0.03, 0.09)) if chance(rng, 0.7) else ():
            shine = chance(rng, 0.4)
            front.fill(
                [box(0, level, wide * 0.93, 0.006)], (190, 190, 190) if shine else (48, 48, 50), 0.7 * shine
            )
    if chance(rng, 0.6):
        front.fill([disc(0, (top + max(low, top - 0.2)) / 2, rng.uniform(0.03, 0.06))], (190, 191, 193), 0.9)


def _draw_headlamps(sheet: Sheet, car: Car, top: float, rng: np.random.Generator) -> None:
    half, kind = car.width / 2, rng.integers(4)
    sheet.side.fill([box(sheet.nose - 0.1, top - 0.045, 0.46, 0.115)], None)
    for side in (-1, 1):
        sheet.front.fill([box(side * 0.9 * half, top - 0.045, 0.40 * half, 0.115)], None)
    glass, bulb = (rng.uniform(60, 190),) * 3, (rng.uniform(180, 250),) * 3
    inner, thick, rise = rng.uniform(0.45, 0.62), rng.uniform(0.05, 0.17), rng.uniform(-0.01, 0.09)
    radius, z, bulbs = rng.uniform(0.065, 0.11), top - 0.07, int(rng.integers(0, 3))
    for side in (-1, 1):
        x = side * 0.72 * half
        if kind == 0:  # round
            shapes = [disc(x, z, radius)]
        elif kind == 1:  # a box
            shapes = [box(x, z, radius * 1.3, radius)]
        else:  # slim or drawn back around the corner
            near, far = side * inner * half, side * 1.3 * half
            upper = np.array(((near, top - 0.03), (far, top + rise)))
            shapes = [np.concatenate((upper, upper[::-1] - (0, thick)))]
        middle = shapes[0].mean(0)
        sheet.front.fill([middle + (shapes[0] - middle) * (1.04, 1.12)], _BLACK)
        sheet.front.fill(shapes, glass, 0.4)
        for place in (-0.1, 0.08)[:bulbs]:
            sheet.front.fill(
                [disc(x + side * place * half, min(middle[1], z), 0.45 * min(thick, radius))], bulb, 0.6
            )
    if kind >= 2:
        back = rng.uniform(0.15, 0.55)
        wrap = np.array(((sheet.nose + 0.3, top), (sheet.nose - back, top + rise + 0.02),
                         (sheet.nose - 0.8 * back, top + rise - thick), (sheet.nose + 0.3, top - thick)))  # fmt: skip
        sheet.side.fill([wrap], glass, 0.4)


def _draw_tail_lamps(sheet: Sheet, car: Car, tall: bool, rng: np.random.Generator) -> None:
    half, kind = car.width / 2, rng.integers(4)
    high, low = ((0.66 if tall else 0.64) * car.height, 0.46 * car.height)
    sheet.side.fill([box(sheet.tail, (high + low) / 2, 0.34, (high - low) / 2 + 0.02)], None)
    red = (rng.uniform(90, 205), rng.uniform(5, 40), rng.uniform(8, 40))
    thick, upper = rng.uniform(0.05, 0.12), rng.uniform(low + 0.1, high)
    inner, number, radius, wide = (
        rng.uniform(0.5, 0.85),
        int(rng.integers(1, 3)),
        rng.uniform(0.06, 0.09),
        rng.uniform(0.1, 0.2),
    )
    for side in (-1, 1):
        outer = side * 0.98 * half
        sheet.rear.fill([box(outer, (high + low) / 2, 0.47 * half, (high - low) / 2 + 0.02)], None)
        if kind == 0:  # round, one or two
            for place in (0.74, 0.5)[:number]:
                sheet.rear.fill([disc(side * place * half, upper - 0.08, radius)], red, 0.15)
        elif kind == 1:  # upright
            sheet.rear.fill([box(outer, (high + low) / 2, wide, (high - low) / 2)], red, 0.15)
        else:  # lying
            near = side * inner * half
            sheet.rear.fill(
                [box((near + outer) / 2, upper - thick, abs(outer - near) / 2 + 0.1, thick)], red, 0.15
            )
    if kind == 3:  # across the whole tail
        sheet.rear.fill([box(0, upper - thick, half, 0.02)], red, 0.1)
    if kind:
        reach = rng.uniform(0.08, 0.32)
        level = ((high + low) / 2, (high - low) / 2) if kind == 1 else (upper - thick, thick)
        sheet.side.fill([box(sheet.tail, level[0], reach, level[1])], red, 0.15)
