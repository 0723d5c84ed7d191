"""Prediction of masks, and export of models for other programs."""
