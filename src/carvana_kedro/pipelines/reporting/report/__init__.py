"""The report of a run: one web page that needs no other file."""

from .page import write_report

__all__ = ["write_report"]
