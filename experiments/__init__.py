"""Measurements of accuracy: recipes, and what each of their choices contributes."""
