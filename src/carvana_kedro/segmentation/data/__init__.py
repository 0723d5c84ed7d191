"""From stored images to batches of tensors."""
