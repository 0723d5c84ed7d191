"""What people look at: curves, tables, pictures."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
