"""Images for reports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kedro.io import AbstractDataset
from kedro_datasets._typing import ImagePreview
from PIL import Image, ImageSequence

from carvana_kedro.datasets.previews import if_present, preview_of
from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.faults import reading

_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 3},
    "JPEG": {"quality": 90},
    "WEBP": {"quality": 90},
}


class ImageDataset(AbstractDataset[np.ndarray, np.ndarray]):
    """An RGB image, (H, W, 3) uint8, or an RGBA image, (H, W, 4) uint8, in a file. Kedro-Viz previews it.

    Args:
        filepath: path of the file. Its extension is the format: png, jpg or webp.
        metadata: for Kedro-Viz.
    """

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> np.ndarray:
        """Return the image."""
        with reading(self._filepath), Image.open(self._filepath) as opened:
            return np.asarray(opened.convert("RGBA" if opened.has_transparency_data else "RGB"))

    def save(self, data: np.ndarray) -> None:
        """Write the image atomically."""
        kind = Image.registered_extensions().get(self._filepath.suffix, "PNG")
        with atomic_path(self._filepath) as part:
            Image.fromarray(data).save(part, kind, **_OPTIONS[kind])

    @if_present
    def preview(self) -> ImagePreview:
        """Return the image: see `preview_of`."""
        with reading(self._filepath), Image.open(self._filepath) as opened:
            return preview_of(opened)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}

    def _exists(self) -> bool:
        return self._filepath.is_file()


class AnimationDataset(AbstractDataset[Sequence[np.ndarray], list[np.ndarray]]):
    """Frames of one size, (H, W, 3) uint8 RGB, in a webp file that plays them in a loop. Browsers show it.

    Args:
        filepath: path of the file.
        milliseconds: time that a frame is shown.
        quality: of the compression, 0 to 100.
        metadata: for Kedro-Viz.
    """

    def __init__(
        self,
        filepath: str,
        milliseconds: int = 200,
        quality: int = 80,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._filepath = Path(filepath)
        self._milliseconds = milliseconds
        self._quality = quality
        self.metadata = metadata

    def load(self) -> list[np.ndarray]:
        """Return the frames."""
        with reading(self._filepath), Image.open(self._filepath) as opened:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(opened)]

    def save(self, data: Sequence[np.ndarray]) -> None:
        """Write the frames atomically."""
        first, *others = map(Image.fromarray, data)
        with atomic_path(self._filepath) as part:
            first.save(
                part,
                "webp",
                save_all=True,
                append_images=others,
                duration=self._milliseconds,
                loop=0,  # endlessly
                quality=self._quality,
            )

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}

    def _exists(self) -> bool:
        return self._filepath.is_file()
