"""What is laid and painted on floors, and the light and dirt that lie there."""

import numpy as np

from ..draws import chance, color
from .stage import Stage, Wall

Array = np.ndarray
_ROUND = np.linspace(0, 2 * np.pi, 73)[:-1]


def decorate_floor(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Draw tiles or lines, a turntable, daylight, stains, and shade along the wall."""
    for share, draw in (
        (0.3, _tile),
        (0.6, _sink_turntable),
        (0.2, _shine_in),
        (0.35, _spill),
        (0.2, _shade_wall_foot),
    ):
        if chance(rng, share):
            draw(stage, wall, paint, rng)


def _disc(radius: float, x: float = 0.0, y: float = 0.0) -> Array:
    return np.stack((x + radius * np.cos(_ROUND), y + radius * np.sin(_ROUND), 0 * _ROUND), -1)


def _strip(start: Array, end: Array, width: float) -> Array:
    """Return a strip on the floor between two points."""
    along = (end - start) / np.hypot(*(end - start))
    side = np.array((-along[1], along[0])) * width / 2
    steps = np.linspace(0, 1, 10)[:, None]
    edge = start + (end - start) * steps
    return np.pad(np.concatenate((edge + side, edge[::-1] - side)), ((0, 0), (0, 1)))


def _tile(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Draw seams of tiles, boards or slabs, or painted lines."""
    gap, width, turn = rng.uniform(0.3, 2.5), rng.uniform(0.006, 0.03), rng.uniform(0, np.pi)
    ink, opacity = (paint * rng.uniform(0.3, 1.2)).clip(0, 255), rng.uniform(0.15, 0.7)
    if chance(rng, 0.2):
        gap, width, ink, opacity = (
            rng.uniform(2, 4),
            rng.uniform(0.06, 0.15),
            np.array(color(rng, 180, 255, 0.2)),
            0.9,
        )
    for angle in (turn, turn + np.pi / 2)[: rng.integers(1, 3)]:
        along = np.array((np.cos(angle), np.sin(angle)))
        aside = np.array((-along[1], along[0]))
        offsets = aside * np.arange(-5, 5, gap)[:, None]
        stage.fill([_strip(at - 6 * along, at + 6 * along, width) for at in offsets], ink, opacity)


def _sink_turntable(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Draw a round platform with its gap, and perhaps seams like slices of a cake."""
    radius, (x, y) = rng.uniform(2.4, 4.2), rng.normal(0, 0.25, 2)
    if chance(rng, 0.5):
        stage.fill([_disc(radius, x, y)], (paint * rng.uniform(0.75, 1.2)).clip(0, 255), rng.uniform(0.2, 1))
    ink, opacity = paint * rng.uniform(0.1, 0.8), rng.uniform(0.3, 1)
    for ring in radius - np.cumsum(rng.uniform(0.03, 0.5, rng.integers(1, 4))):
        width = rng.uniform(0.008, 0.05)
        stage.fill([_disc(ring + width, x, y), _disc(ring, x, y)], ink, opacity)
    if chance(rng, 0.3):
        for angle in np.arange(rng.uniform(0, 1), 7, rng.uniform(0.3, 1.6)):
            rim = np.array((x + radius * np.cos(angle), y + radius * np.sin(angle)))
            stage.fill([_strip(np.array((x, y)), rim, 0.015)], ink, opacity * 0.7)


def _shine_in(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Let daylight fall on the floor in patches."""
    slant, glow = rng.normal(0, 1, 2), np.clip(paint * rng.uniform(1.15, 1.6) + 10, 0, 255)
    corner, (wide, long) = rng.uniform((-4, -2.5), (2, 2)), rng.uniform(0.4, 2, 2)
    for step in range(rng.integers(1, 4)):
        x = (
            np.array((0, wide, wide, 0))
            + corner[0]
            + step * (wide + 0.15)
            + slant[0] * long * np.array((0, 0, 1, 1))
        )
        y = corner[1] + slant[1] * long * np.array((0, 0, 1, 1))
        shape = np.stack((x, y, np.zeros(4)), 1)
        stage.fill([shape], glow, rng.uniform(0.4, 0.9), rng.uniform(0.002, 0.015))


def _spill(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Draw soft stains and marks of tires."""
    for _ in range(rng.integers(1, 6)):
        ink, (x, y) = paint * rng.uniform(0.4, 1.15), rng.uniform((-3.5, -3), (3.5, 3))
        if chance(rng, 0.3):
            end = np.array((x, y)) + rng.normal(0, 2, 2)
            stage.fill(
                [_strip(np.array((x, y)), end, rng.uniform(0.02, 0.2))], ink, rng.uniform(0.1, 0.4), 0.004
            )
        else:
            blot = _disc(rng.uniform(0.05, 0.8), x, y)
            stage.fill([blot], ink.clip(0, 255), rng.uniform(0.1, 0.5), rng.uniform(0.003, 0.02))


def _shade_wall_foot(stage: Stage, wall: Wall, paint: Array, rng: np.random.Generator) -> None:
    """Darken or brighten the floor along the wall."""
    across = np.linspace(-9, 9, 60)
    foot = wall.at(across, 0.0)
    near = foot * (0.85, 0.85, 1)
    ink = (paint * rng.uniform(0.5, 1.2)).clip(0, 255)
    stage.fill([np.concatenate((foot, near[::-1]))], ink, rng.uniform(0.3, 0.8), rng.uniform(0.005, 0.02))
