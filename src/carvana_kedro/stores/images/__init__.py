"""Image sources: folders of images and masks, and decoding."""
