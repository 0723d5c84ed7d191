"""Random draws: each kind of variety has its own numbers for each car and view."""

import numpy as np

from carvana_kedro.studio.settings import KINDS, StudioSettings, generator

_FIRST = 10  # of the streams in `generator`; lower numbers belong to the sample


def stream(settings: StudioSettings, kind: str, car: int, view: int = 0) -> np.random.Generator:
    """Return the random generator of one kind of variety. With view 0, it is that of the whole car.

    Switching another kind on or off does not change its numbers.
    """
    return generator(settings, car, view, _FIRST + KINDS.index(kind))


def chance(rng: np.random.Generator, share: float) -> bool:
    """Return True in a `share` of all cases."""
    return bool(rng.random() < share)


def color(rng: np.random.Generator, low: float, high: float, tint: float) -> tuple[float, float, float]:
    """Return a display color, RGB 0 to 255, of a brightness between `low` and `high`. `tint` 0 gives grays."""
    level, hue = rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
    waves = np.cos(hue + np.array((0, 2, 4)) * np.pi / 3)
    return tuple(np.clip(level * (1 + tint * waves), 0, 255).tolist())
