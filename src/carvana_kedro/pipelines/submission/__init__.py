"""From a finished submission to its scores on Kaggle."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
