"""From the competition's files to the cars to train on and the cars to validate on."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
