"""Any model's scores on any photographs with masks."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
