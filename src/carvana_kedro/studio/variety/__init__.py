"""Variety for the studio: cars, paints, rooms, light and cameras of many kinds."""

from .model import build_varied_model
from .shot import VariedShot

__all__ = ["VariedShot", "build_varied_model"]
