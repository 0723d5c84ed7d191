"""Pictures within the page."""

import base64
from io import BytesIO

from PIL import Image


def embedded(picture: Image.Image) -> str:
    """Return a picture as webp in base64."""
    file = BytesIO()
    picture.save(file, "webp", quality=75)
    return base64.b64encode(file.getvalue()).decode()
