"""Callbacks that observe a training run: progress, checkpoints, TensorBoard. They do not change the run."""
