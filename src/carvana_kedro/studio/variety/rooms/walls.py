"""What is painted on walls, hangs there and stands before them."""

from collections.abc import Callable

import numpy as np

from carvana_kedro.studio.variety.draws import chance, color
from carvana_kedro.studio.variety.lettering import letters

from .stage import Stage, Wall

Array = np.ndarray
_ROUND = np.linspace(0, 2 * np.pi, 73)[:-1]


def decorate_wall(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Draw seams and bands, then pictures, windows and doors, and lettering over all of it."""
    for share, draw in ((0.45, _draw_seams), (0.35, _draw_bands)):
        if chance(rng, share):
            draw(stage, wall, paint, rng)
    things: tuple[Callable[..., None], ...] = (
        _draw_picture,
        _draw_window,
        _draw_door,
        _draw_pillar,
        _draw_lamps,
    )
    if chance(rng, 0.55):
        for index in rng.choice(len(things), rng.integers(1, 6)):
            things[index](stage, wall, paint, rng)
    for _ in range(int(rng.choice(4, p=(0.2, 0.55, 0.17, 0.08)))):
        _write(stage, wall, paint, rng)
    if chance(rng, 0.2):
        for _ in range(rng.integers(1, 6)):
            _draw_thing(stage, wall, paint, rng)


def _rectangle(wall: Wall, left: float, right: float, low: float, high: float) -> Array:
    """Return an outline that follows the wall around its corners."""
    bends = wall.places[(wall.places > left) & (wall.places < right)]
    across = np.union1d(np.linspace(left, right, 12), bends)
    return wall.at(np.concatenate((across, across[::-1])), np.repeat((low, high), len(across)))


def _write(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Write a word on the wall, mostly large and behind the car, in ink that differs from the wall."""
    word = letters(rng)
    size = rng.uniform(0.4, 1.6) if chance(rng, 0.8) else rng.uniform(0.08, 0.4)
    low, middle = rng.uniform(0.2, 2.2), rng.normal(0, 1.0)
    dark = float(paint.mean()) > 110
    ink = np.array(color(rng, 8, 110, 0.05) if dark else color(rng, 150, 255, 0.05))
    if chance(rng, 0.2):
        ink = np.array(color(rng, 30, 230, 0.5))
    second = ink if chance(rng, 0.6) else ink + rng.uniform(0, 1) * (paint - ink) * 0.8
    opacity, soft = (rng.uniform(0.3, 1) if chance(rng, 0.3) else 1.0), rng.uniform(0.002, 0.01)
    if chance(rng, 0.3):
        lines = [line * size + (middle + 0.03, low - 0.03) for glyph in word for line in glyph]
        stage.fill([wall.at(*line.T) for line in lines], (0, 0, 0), 0.25, soft)
    for index, glyph in enumerate(word):
        mixed = ink + (second - ink) * (index / max(len(word) - 1, 1))
        places = [(middle + size * line[:, 0], low + size * line[:, 1]) for line in glyph]
        stage.fill([wall.at(x, z) for x, z in places], mixed, opacity)


def _draw_seams(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Draw the gaps between panels, bricks or folds of a curtain."""
    gap, width = rng.uniform(0.25, 3), rng.uniform(0.004, 0.02)
    ink, opacity = paint * rng.uniform(0.3, 1.15), rng.uniform(0.15, 0.8)
    upright = np.arange(-8, 8, gap) + rng.uniform(0, gap)
    stage.fill([_rectangle(wall, at - width, at + width, 0, 6) for at in upright], ink, opacity)
    if chance(rng, 0.5):
        level = np.arange(0, 5, rng.uniform(0.3, 1.5))
        stage.fill([_rectangle(wall, -9, 9, at - width, at + width) for at in level], ink, opacity)


def _draw_bands(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Draw a baseboard, a lower wall of another color, or stripes."""
    other = np.array(color(rng, 20, 240, 0.3 if chance(rng, 0.3) else 0.03))
    kind = rng.integers(3)
    if kind == 0:
        stage.fill([_rectangle(wall, -12, 12, 0, rng.uniform(0.05, 0.25))], other)
    elif kind == 1:
        stage.fill([_rectangle(wall, -12, 12, 0, rng.uniform(0.5, 1.6))], other, rng.uniform(0.2, 1))
    else:
        low = rng.uniform(0.4, 2.5)
        for _ in range(rng.integers(1, 4)):
            high = low + rng.uniform(0.04, 0.4)
            stage.fill([_rectangle(wall, -12, 12, low, high)], other, rng.uniform(0.3, 1))
            low = high + rng.uniform(0.05, 0.3)


def _draw_picture(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Hang a frame with shapes in it."""
    left, low = rng.uniform(-4, 3), rng.uniform(0.3, 2)
    wide, high = rng.uniform(0.4, 2.5), rng.uniform(0.4, 1.6)
    border = rng.uniform(0, 0.08)
    stage.fill(
        [_rectangle(wall, left + 0.03, left + wide + 0.04, low - 0.05, low + high)], (0, 0, 0), 0.3, 0.006
    )
    stage.fill([_rectangle(wall, left - border, left + wide + border, low - border, low + high + border)],
               color(rng, 10, 240, 0.1))  # fmt: skip
    stage.fill([_rectangle(wall, left, left + wide, low, low + high)], color(rng, 30, 250, 0.4))
    for _ in range(rng.integers(0, 6)):
        x, z = left + wide * rng.uniform(0.15, 0.85), low + high * rng.uniform(0.15, 0.85)
        size = rng.uniform(0.05, 0.15) * min(wide, high) * np.array((1, rng.uniform(0.5, 1)))
        angle = _ROUND if chance(rng, 0.5) else _ROUND[:: 72 // rng.integers(3, 6)]
        stage.fill(
            [wall.at(x + size[0] * np.cos(angle), z + size[1] * np.sin(angle))], color(rng, 20, 250, 0.5)
        )


def _draw_window(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Open a window with bars into daylight, with a glow around it."""
    left, low = rng.uniform(-5, 3.5), rng.uniform(0.2, 2)
    wide, high = rng.uniform(0.8, 3), rng.uniform(0.8, 2.5)
    sky = color(rng, 215, 255, 0.06)
    stage.fill([_rectangle(wall, left, left + wide, low, low + high)], sky, rng.uniform(0.2, 0.7), 0.05)
    stage.fill([_rectangle(wall, left - 0.06, left + wide + 0.06, low - 0.06, low + high + 0.06)],
               color(rng, 20, 240, 0.05))  # fmt: skip
    across, up = rng.integers(1, 5, 2)
    steps = np.linspace(left, left + wide, across + 1), np.linspace(low, low + high, up + 1)
    panes = [
        _rectangle(wall, a + 0.02, b - 0.02, c + 0.02, d - 0.02)
        for a, b in zip(steps[0], steps[0][1:], strict=False)
        for c, d in zip(steps[1], steps[1][1:], strict=False)
    ]
    stage.fill(panes, sky)
    if chance(rng, 0.5):  # houses or hills outside
        stage.fill([_rectangle(wall, left + 0.02, left + wide - 0.02, low, low + high * rng.uniform(0.1, 0.5))],
                   color(rng, 60, 200, 0.2), 0.8)  # fmt: skip


def _draw_door(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Draw a door, or a wide gate with slats."""
    gate = chance(rng, 0.5)
    wide, high = (rng.uniform(2.4, 4.5), rng.uniform(2.2, 3.2)) if gate else (rng.uniform(0.8, 1.1), 2.05)
    left = rng.uniform(-4.5, 3)
    face = color(rng, 30, 235, 0.15)
    stage.fill([_rectangle(wall, left - 0.06, left + wide + 0.06, 0, high + 0.06)], np.array(face) * 0.7)
    stage.fill([_rectangle(wall, left, left + wide, 0, high)], face)
    for up in np.arange(0, high, rng.uniform(0.1, 0.5)) if gate else ():
        stage.fill([_rectangle(wall, left, left + wide, up, up + 0.012)], (0, 0, 0), 0.35)


def _draw_pillar(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Draw a pillar or a dark gap from the floor to the ceiling."""
    left, wide = rng.uniform(-6, 5), rng.uniform(0.05, 0.8)
    other = paint * rng.uniform(0.5, 1.1) if chance(rng, 0.6) else color(rng, 10, 230, 0.2)
    stage.fill([_rectangle(wall, left, left + wide, 0, 6)], other)
    stage.fill([_rectangle(wall, left + wide * 0.7, left + wide, 0, 6)], (0, 0, 0), 0.15, 0.004)


def _draw_lamps(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Hang one or more lamps with their glow, or tubes."""
    up, tube = rng.uniform(1.8, 3.5), chance(rng, 0.5)
    size = (rng.uniform(0.3, 1.2), 0.05) if tube else (rng.uniform(0.08, 0.3),) * 2
    warm = color(rng, 235, 255, 0.06)
    for across in np.arange(rng.uniform(-6, -2), 6, rng.uniform(0.8, 3)):
        shape = wall.at(across + size[0] * np.cos(_ROUND), up + size[1] * np.sin(_ROUND))
        stage.fill([shape], warm, 0.7, 0.03)
        stage.fill([shape], warm)


def _draw_thing(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Stand a box, a post, a cone or a plant on the floor before the wall, with its shadow."""
    across, wide, high = rng.uniform(-6, 6), rng.uniform(0.06, 0.6), rng.uniform(0.3, 1.9)
    front = wall.at(across, 0.0) * (0.93, 0.93, 1)
    round_ = front + np.stack((1.3 * wide * np.cos(_ROUND), 0.6 * wide * np.sin(_ROUND), 0 * _ROUND), -1)
    stage.fill([round_], (0, 0, 0), 0.35, 0.008)
    face, kind = np.array(color(rng, 15, 230, 0.35)), rng.integers(3)
    corners: tuple[tuple[float, float], ...]
    if kind == 0:
        corners = ((-1, 0), (1, 0), (1, 1), (-1, 1))
    elif kind == 1:
        corners = ((-1, 0), (1, 0), (0.2, 1), (-0.2, 1))
    else:
        spread, angle = rng.uniform(0.4, 1, 24), np.linspace(0, 2 * np.pi, 25)[:-1]
        corners = tuple(zip(spread * np.cos(angle), 0.55 + 0.45 * spread * np.sin(angle), strict=True))
        face = np.array((rng.uniform(20, 80), rng.uniform(70, 140), rng.uniform(20, 70)))
    stage.fill([front + np.array([(wide * u, 0, high * v) for u, v in corners])], face)
    stage.fill(
        [front + np.array([(wide * (0.4 + 0.6 * u), 0, high * v) for u, v in corners])], (0, 0, 0), 0.2
    )
