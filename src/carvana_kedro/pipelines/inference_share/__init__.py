"""From a model and the test images to a submission."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
