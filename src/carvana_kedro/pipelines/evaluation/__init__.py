"""Scores of any model on any images with masks."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
