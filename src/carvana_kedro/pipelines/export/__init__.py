"""From a trained model to files that need nothing of this package."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
