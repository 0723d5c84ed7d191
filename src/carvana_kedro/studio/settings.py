"""The settings of a rendered competition. Its files depend on nothing else."""

import hashlib
from dataclasses import dataclass

import numpy as np

STUDIO_VERSION = 1
"""Increased whenever the same settings give other images. It is part of cache keys."""

VARIETY_VERSION = 4
"""The same for settings with variety."""

KINDS = ("walls", "paint", "light", "camera", "shape")
"""The kinds of variety, each with its own random numbers."""


@dataclass(frozen=True)
class StudioSettings:
    """Size and seed of a rendered competition.

    Attributes:
        seed: Seed of the cars, their paints and all other random numbers.
        training_cars: Number of cars with published masks. They come first.
        test_cars: Number of cars whose masks are only in the solution file.
        views: Number of views per car, evenly spaced over a full turn.
        width: Image width in pixels.
        height: Image height in pixels.
        variety: What varies beyond the cars of the sample: `none`, `all`, or names from `KINDS` joined by `+`.

    Raises:
        ValueError: If a setting is out of range. The message names it.
    """

    seed: int = 2017
    training_cars: int = 12
    test_cars: int = 4
    views: int = 16
    width: int = 1918
    height: int = 1280
    variety: str = "none"

    def __post_init__(self) -> None:
        """Check the ranges."""
        limits = {
            "seed": (0, 2**63 - 1),
            "training_cars": (1, 100_000),
            "test_cars": (1, 100_000),
            "views": (1, 99),
            "width": (96, 8192),
            "height": (64, 8192),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name} must be an integer, not {value!r}")
            if not least <= value <= most:
                raise ValueError(f"{name} must be between {least} and {most}, not {value}")
        if not isinstance(self.variety, str):
            raise ValueError(f"variety must be a string, not {self.variety!r}")
        if unknown := sorted(self.kinds.difference(KINDS)):
            raise ValueError(
                f"variety must be none, all, or some of {'+'.join(KINDS)}, not {'+'.join(unknown)}"
            )

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of variety that are switched on."""
        return frozenset({"none": (), "all": KINDS}.get(self.variety, self.variety.split("+")))

    @property
    def cars(self) -> int:
        """Number of cars, training and test together."""
        return self.training_cars + self.test_cars


def car_id(settings: StudioSettings, car: int) -> str:
    """Return the id of a car in file names: 12 hex digits that show neither its number nor its side of the split."""
    return hashlib.sha256(f"studio car {settings.seed} {car}".encode()).hexdigest()[:12]


def generator(settings: StudioSettings, *key: int) -> np.random.Generator:
    """Return the random generator of `key`, e.g. `(car, view)`. It does not depend on other calls."""
    return np.random.default_rng([settings.seed, len(key), *key])
