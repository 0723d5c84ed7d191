"""Images for reports."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
from kedro.io import AbstractDataset
from kedro_datasets._typing import ImagePreview
from PIL import Image

from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.faults import reading


class ImageDataset(AbstractDataset[np.ndarray, np.ndarray]):
    """An RGB image, (H, W, 3) uint8, in a png file. Kedro-Viz previews it.

    Args:
        filepath: path of the file.
        metadata: for Kedro-Viz.
    """

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> np.ndarray:
        """Return the image."""
        with reading(self._filepath), Image.open(self._filepath) as opened:
            return np.asarray(opened.convert("RGB"))

    def save(self, data: np.ndarray) -> None:
        """Write the image atomically."""
        with atomic_path(self._filepath) as part:
            Image.fromarray(data).save(part, "png")

    def preview(self) -> ImagePreview:
        """Return the file in base64."""
        with reading(self._filepath):
            return ImagePreview(base64.b64encode(self._filepath.read_bytes()).decode())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}

    def _exists(self) -> bool:
        return self._filepath.is_file()
