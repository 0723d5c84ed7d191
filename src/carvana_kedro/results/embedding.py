"""Pictures within the page."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image


def embedded(picture: np.ndarray) -> str:
    """Return a picture, uint8 RGB or RGBA, as webp in base64."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "webp", quality=75)
    return base64.b64encode(file.getvalue()).decode()
