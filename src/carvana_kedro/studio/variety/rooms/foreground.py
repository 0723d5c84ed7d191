"""The floor between the car and the camera: the edge of a stage, what lies there, and what reaches into the picture.

A network that never saw such things takes them for a part of the car.
"""

from collections.abc import Callable

import numpy as np

from ..draws import chance, color
from .stage import Stage

Array = np.ndarray
_ACROSS = np.concatenate((np.linspace(-12, -3, 10), np.linspace(-2.9, 2.9, 80), np.linspace(3, 12, 10)))


def draw_foreground(stage: Stage, paint: Array, rng: np.random.Generator) -> None:
    """Draw the edge of a stage, things on the floor beside the car, and things that the border of the image cuts."""
    if chance(rng, 0.5):
        _draw_edge(stage, paint, rng)
    things: tuple[Callable[[Stage, Array, np.random.Generator], None], ...] = (
        _lay_cable,
        _lay_sheet,
        _lay_drain,
        _stand_box,
        _stand_cone,
    )
    if chance(rng, 0.4):
        for index in rng.choice(len(things), rng.integers(1, 5)):
            things[index](stage, _beside(rng), rng)
    if chance(rng, 0.35):
        for _ in range(rng.integers(1, 4)):
            _reach_in(stage, rng)


def _draw_edge(stage: Stage, paint: Array, rng: np.random.Generator) -> None:
    """Draw a straight or round edge, with a lip, gaps, dirt and rust along it, and another floor before it."""
    nearest, slope, bend = _row(stage, rng.uniform(0.76, 1.0)), rng.normal(0, 0.05), 0.0
    if chance(rng, 0.6):
        bend = rng.normal(0.04, 0.06)
    curve = min(nearest, -2.4) + slope * _ACROSS + bend * _ACROSS**2

    def band(start: float, end: float, rough: float = 0.0) -> Array:
        """Return a band along the edge, between two distances from it toward the camera, meters."""
        wear = rng.normal(0, rough, (2, _ACROSS.size)) if rough else 0 * _ACROSS[None].repeat(2, 0)
        far, near = curve - start + wear[0], curve - end - wear[1]
        return np.pad(np.c_[np.r_[_ACROSS, _ACROSS[::-1]], np.r_[far, near[::-1]]], ((0, 0), (0, 1)))

    before = np.array(color(rng, 10, 235, 0.12)) if chance(rng, 0.6) else paint * rng.uniform(0.4, 1.1)
    stage.fill([band(0, 40)], before)
    reach = 0.0
    for _ in range(rng.integers(1, 5)):
        lip = np.array(color(rng, 20, 250, 0.08)) if chance(rng, 0.4) else paint * rng.uniform(0.75, 1.25)
        width = 0.012 * 40 ** rng.random()
        stage.fill([band(reach, reach + width)], lip)
        if chance(rng, 0.75):
            gap = rng.uniform(0.003, 0.03)
            stage.fill([band(reach + width - gap, reach + width + gap, gap * 0.7)], _dirt(rng, 90))
        reach += width
    for _ in range(rng.integers(0, 4)):  # pieces of dirt along the edge, and soft stains around it
        number, along = int(rng.integers(3, 25)), rng.uniform(0, reach)
        middle, long = rng.uniform(-4, 4, number), rng.uniform(0.02, 0.5, number)
        wide = rng.uniform(0.003, 0.05, number)
        pieces = [
            _blot(rng, np.array((x, np.interp(x, _ACROSS, curve) - along)), (a, b))
            for x, a, b in zip(middle, long, wide, strict=True)
        ]
        soft = rng.uniform(0.001, 0.006) if chance(rng, 0.3) else 0.0
        stage.fill(pieces, _dirt(rng, 150), rng.uniform(0.4, 1), soft)
    for _ in range(rng.integers(0, 5)):
        x = rng.uniform(-3, 3)
        place = np.array((x, np.interp(x, _ACROSS, curve) + rng.uniform(-0.3, 0.5)))
        stain = _blot(rng, place, (rng.uniform(0.1, 1.0), rng.uniform(0.03, 0.3)))
        stage.fill([stain], _dirt(rng, 190), rng.uniform(0.1, 0.4), rng.uniform(0.002, 0.01))


def _dirt(rng: np.random.Generator, most: float) -> Array:
    """Return the color of dirt, rust or shade, no brighter than `most`."""
    if chance(rng, 0.5):
        return rng.uniform(0.3, 1) * most * np.array((1.0, rng.uniform(0.6, 0.9), rng.uniform(0.35, 0.8)))
    return np.array(color(rng, 5, most, 0.08))


def _row(stage: Stage, down: float) -> float:
    """Return y of the floor in the middle of the image, at a fraction of its height."""
    return float(stage.ground(np.array((0.5, down)))[1])


def _beside(rng: np.random.Generator) -> Array:
    """Return a place on the floor that no car reaches."""
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(3.1, 4.6)
    return distance * np.array((np.cos(angle), np.sin(angle)))


def _blot(rng: np.random.Generator, place: Array, size: tuple[float, float]) -> Array:
    """Return an irregular outline on the floor around a place, `(N, 3)`."""
    angle, ragged = np.linspace(0, 2 * np.pi, 15)[:-1], rng.uniform(0.5, 1.2, 14)
    return np.c_[place + np.c_[np.cos(angle), np.sin(angle)] * ragged[:, None] * size, 0 * angle]


def _quad(place: Array, long: float, wide: float, turn: float, up: float = 0.0) -> Array:
    """Return a rectangle around a place on the floor, `(4, 3)`."""
    corners = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1))) * (long, wide)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.c_[place + corners @ np.array(((cos, sin), (-sin, cos))), np.full(4, up)]


def _lay_cable(stage: Stage, place: Array, rng: np.random.Generator) -> None:
    """Lay a cable or a hose in bends."""
    turns = np.cumsum(rng.normal(0, 0.25, 40)) + rng.uniform(0, 2 * np.pi)
    steps = rng.uniform(0.05, 0.15) * np.c_[np.cos(turns), np.sin(turns)]
    path, side = place + np.cumsum(steps, 0), np.c_[-np.sin(turns), np.cos(turns)] * rng.uniform(0.004, 0.025)
    ink = color(rng, 10, 90, 0.1) if chance(rng, 0.6) else color(rng, 60, 220, 0.6)
    for shift, tone in (((0.02, -0.01), np.zeros(3)), ((0.0, 0.0), np.array(ink))):
        outline = np.concatenate((path + side, (path - side)[::-1])) + shift
        stage.fill([np.pad(outline, ((0, 0), (0, 1)))], tone, 0.3 if shift[0] else 1.0)


def _lay_sheet(stage: Stage, place: Array, rng: np.random.Generator) -> None:
    """Lay a mat, a board or a sheet, perhaps with a border."""
    long, wide, turn = rng.uniform(0.15, 1.2), rng.uniform(0.05, 0.6), rng.uniform(0, np.pi)
    ink = np.array(color(rng, 10, 240, 0.3 if chance(rng, 0.4) else 0.05))
    stage.fill([_quad(place, long + 0.02, wide + 0.02, turn)], ink * 0.4)
    stage.fill([_quad(place, long, wide, turn)], ink)
    if chance(rng, 0.4):
        stage.fill([_quad(place, long * 0.85, wide * 0.8, turn)], color(rng, 10, 240, 0.2))


def _lay_drain(stage: Stage, place: Array, rng: np.random.Generator) -> None:
    """Lay a drain with its slots."""
    long, wide, turn = rng.uniform(0.1, 1.5), rng.uniform(0.05, 0.2), rng.choice((0, 0, 0.5)) * np.pi
    along = np.array((np.cos(turn), np.sin(turn)))
    stage.fill([_quad(place, long, wide, turn)], color(rng, 60, 190, 0.05))
    slots = np.arange(-long, long, 0.08)[1:]
    stage.fill([_quad(place + at * along, 0.02, wide * 0.8, turn) for at in slots], color(rng, 5, 50, 0.05))


def _stand_box(stage: Stage, place: Array, rng: np.random.Generator) -> None:
    """Stand a box, a tool case or a curb on the floor."""
    long, wide, high = rng.uniform(0.05, 0.35), rng.uniform(0.05, 0.3), rng.uniform(0.03, 0.35)
    if chance(rng, 0.25):
        long, high = rng.uniform(0.8, 2.5), rng.uniform(0.05, 0.15)
    _block(stage, place, (long, wide, high), rng.uniform(-0.6, 0.6), rng)


def _block(
    stage: Stage, place: Array, size: tuple[float, float, float], turn: float, rng: np.random.Generator
) -> None:
    """Draw a block with its shade on the floor. Its sides face the camera more or less."""
    long, wide, high = size
    ink = np.array(color(rng, 8, 235, 0.5 if chance(rng, 0.5) else 0.05))
    foot, top = _quad(place, long, wide, turn), _quad(place, long, wide, turn, high)
    stage.fill([_quad(place, long + 0.06, wide + 0.06, turn)], np.zeros(3), 0.4, 0.004)
    for side in range(4):
        corners = foot[[side, (side + 1) % 4]], top[[(side + 1) % 4, side]]
        ahead = corners[0][1] - corners[0][0]
        if ahead[1] * (stage.camera.position[0] - foot[side, 0]) > ahead[0] * (
            stage.camera.position[1] - foot[side, 1]
        ):
            stage.fill([np.concatenate(corners)], ink * rng.uniform(0.35, 0.8))
    stage.fill([top], ink)


def _stand_cone(stage: Stage, place: Array, rng: np.random.Generator) -> None:
    """Stand a traffic cone on the floor."""
    high = rng.uniform(0.25, 0.7)
    ink, wide = np.array(color(rng, 120, 235, 0.6)) if chance(rng, 0.3) else (235, 90, 25), 0.22 * high
    stage.fill([_quad(place, 1.4 * wide, 1.4 * wide, 0)], np.multiply(ink, 0.5))
    for low, up, tone in ((0.0, 1.0, ink), (0.35, 0.55, (235, 235, 230))):
        corners = ((-1 + low, low), (1 - low, low), (1 - 0.9 * up, up), (-1 + 0.9 * up, up))
        stage.fill([np.r_[place, 0] + np.array([(wide * u, 0, high * v) for u, v in corners])], tone)


def _reach_in(stage: Stage, rng: np.random.Generator) -> None:
    """Let something stand or lie at the border of the image, which cuts it."""
    border = np.array((rng.choice((0.0, 1.0)), rng.uniform(0.72, 1.0)))
    if chance(rng, 0.6):
        border = np.array((rng.uniform(0, 1), 1.0))
    place = stage.ground(border)[:2]
    near = float(np.hypot(*(place - stage.camera.position[:2])))  # sizes are those in the image
    size = near * rng.uniform(0.02, 0.1), near * rng.uniform(0.01, 0.06)
    kind = rng.integers(4)
    if kind == 0:
        _lay_cable(stage, place, rng)
    elif kind == 1:
        _block(stage, place, (*size, near * rng.uniform(0.005, 0.05)), rng.uniform(0, np.pi), rng)
    else:
        soft = rng.uniform(0.002, 0.008) if chance(rng, 0.4) else 0.0
        ink = color(rng, 5, 80, 0.2) if chance(rng, 0.6) else color(rng, 20, 230, 0.5)
        shape = _blot(rng, place, size) if kind == 2 else _quad(place, *size, rng.uniform(0, np.pi))
        stage.fill([shape], ink, 1.0, soft)
