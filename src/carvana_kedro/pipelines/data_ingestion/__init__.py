"""Index the training images and split them into images to train on and to validate on."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
