"""Photograph one car at one stop of the turntable."""

import numpy as np

from .model import build_model
from .settings import StudioSettings
from .shot import Shot
from .variety import VariedShot, build_varied_model

Array = np.ndarray


def render_view(settings: StudioSettings, car: int, view: int) -> tuple[Array, Array]:
    """Render one image and its mask.

    Args:
        settings: Settings of the competition.
        car: Number of the car, from 0. Training cars come before test cars.
        view: Number of the view, from 1. Each view turns the car by a full turn divided by `settings.views`.

    Returns:
        The image, `(H, W, 3)` uint8 RGB, and the mask, `(H, W)` uint8 in {0, 1}. The mask is 1 where the outline of the
        car covers at least half of the pixel. It includes the windows, but not the shadow.

    Raises:
        ValueError: If the settings have no such car or view.
    """
    if not 0 <= car < settings.cars:
        raise ValueError(f"car must be between 0 and {settings.cars - 1}, not {car}")
    if not 1 <= view <= settings.views:
        raise ValueError(f"view must be between 1 and {settings.views}, not {view}")
    image, coverage = set_up_shot(settings, car, view).render()
    return image, (coverage >= 0.5).astype(np.uint8)


def set_up_shot(settings: StudioSettings, car: int, view: int) -> Shot:
    """Return the shot that `render_view` renders."""
    if settings.kinds:
        return VariedShot(settings, build_varied_model(settings, car), car, view)
    return Shot(settings, build_model(settings, car), car, view)
