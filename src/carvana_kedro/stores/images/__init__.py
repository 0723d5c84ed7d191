"""Images and masks on the disk."""
