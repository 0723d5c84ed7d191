"""Renders a small Carvana competition: cars on a turntable in a studio, in the file formats of Kaggle."""

from .competition import render_competition, render_sample, sample_folder
from .render import render_view
from .settings import STUDIO_VERSION, StudioSettings, car_id

__all__ = [
    "STUDIO_VERSION",
    "StudioSettings",
    "car_id",
    "render_competition",
    "render_sample",
    "render_view",
    "sample_folder",
]
