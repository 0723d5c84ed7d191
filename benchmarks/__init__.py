"""Measurements of speed. Each module prints tables, or JSON."""
