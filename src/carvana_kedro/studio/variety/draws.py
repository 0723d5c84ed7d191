"""Random draws: each kind of variety has its own numbers for each car and view."""

import numpy as np

from carvana_kedro.studio.settings import KINDS, StudioSettings, generator

_FIRST = 10  # of the streams in `generator`; lower numbers belong to the sample


def stream(settings: StudioSettings, kind: str, car: int, part: int = 0) -> np.random.Generator:
    """Return the random generator of one kind of variety. Switching another kind on or off does not change its numbers.

    Args:
        settings: Settings of the competition.
        kind: One of `KINDS`.
        car: Number of the car.
        part: What it is for: the number of a view if the kind is drawn for each view, or else of a part of the car. 0
            is the whole car.
    """
    return generator(settings, car, part, _FIRST + KINDS.index(kind))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Return True with this probability."""
    return bool(rng.random() < probability)


def color(rng: np.random.Generator, low: float, high: float, tint: float) -> tuple[float, float, float]:
    """Return a display color, RGB 0 to 255, of a brightness between `low` and `high`. `tint` 0 gives grays."""
    level, hue = rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
    waves = np.cos(hue + np.array((0, 2, 4)) * np.pi / 3)
    return tuple(np.clip(level * (1 + tint * waves), 0, 255).tolist())
