"""From predicted masks to masks that a person has corrected."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
