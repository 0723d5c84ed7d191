"""The only code that opens a path: atomic writes, archives, images, checkpoints, prediction shards."""
