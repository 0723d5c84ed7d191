"""Pictures that people look at."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
from kedro.io import AbstractDataset
from kedro_datasets._typing import ImagePreview
from PIL import Image

from carvana_kedro.stores.atomic import atomic_path


class ImageDataset(AbstractDataset[np.ndarray, np.ndarray]):
    """An RGB picture, (H, W, 3) uint8, in a png file that Kedro-Viz shows.

    Args:
        filepath: the file.
        metadata: Kedro-Viz's.
    """

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> np.ndarray:
        """Return the picture."""
        with Image.open(self._filepath) as picture:
            return np.asarray(picture.convert("RGB"))

    def save(self, data: np.ndarray) -> None:
        """Write the picture, whole or not at all."""
        with atomic_path(self._filepath) as part:
            Image.fromarray(data).save(part, "png")

    def preview(self) -> ImagePreview:
        """Return the file, base64."""
        return ImagePreview(base64.b64encode(self._filepath.read_bytes()).decode())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}

    def _exists(self) -> bool:
        return self._filepath.is_file()
