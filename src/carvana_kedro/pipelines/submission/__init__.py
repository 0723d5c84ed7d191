"""Check a submission, upload it to Kaggle and wait for its scores."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
