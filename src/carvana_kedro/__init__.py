"""Segmenting cars from studio photographs with U-Net: a Kedro project."""

__version__ = "0.1.0"
