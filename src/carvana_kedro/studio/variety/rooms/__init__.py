"""Rooms of many kinds: walls, floors, and what is there."""
