"""Measures everything that a GPU decides, in one run: `python -m benchmarks.gpu`."""
