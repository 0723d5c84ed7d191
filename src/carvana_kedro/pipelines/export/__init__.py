"""Export of a trained model to files that do not need this package."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
