"""Code that reads and writes files: atomic writes, locks, archives, images, checkpoints, predictions, downloads."""
