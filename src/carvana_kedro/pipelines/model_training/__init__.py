"""From the two indices to a trained model and its scores."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
