"""Kaggle: credentials, downloads, submissions."""
