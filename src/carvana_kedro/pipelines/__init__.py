"""The pipelines: what runs, in which order, on what."""
