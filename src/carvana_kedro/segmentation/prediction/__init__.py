"""From images to masks, and models as files for other programs."""
