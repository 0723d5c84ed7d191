"""Folders of pictures for reports."""

import base64
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from kedro_datasets._typing import ImagePreview
from kedro_datasets.partitions import PartitionedDataset
from PIL import Image

from carvana_kedro.stores.faults import reading, writing
from carvana_kedro.stores.machine import usable_cores

_MOST_THREADS = 4  # each has pictures of full size in memory
_SHOWN = 8
_COLUMNS = 2  # the side panel of Kedro-Viz is narrow
_THUMBNAIL = (400, 267)  # (width, height) in pixels, at most
_GAP = 8


class PicturesDataset(PartitionedDataset):
    """Kedro's dataset of a folder of files. Kedro-Viz previews the first ones as a contact sheet.

    Saving replaces the folder, so that it holds no pictures of an earlier run.

    Args:
        options: of Kedro's dataset: `path` of the folder, `dataset` of a file, and so on.
    """

    def save(self, data: Mapping[str, Any | Callable[[], Any]]) -> None:
        """Write pictures by their names without extension. Functions are called in threads, when it is their turn."""
        folder = Path(self._path)
        with writing(folder):
            if folder.exists():
                shutil.rmtree(folder)
            with ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS)) as pool:
                for _ in pool.map(lambda name: PartitionedDataset.save(self, {name: data[name]}), data):
                    pass

    def preview(self) -> ImagePreview:
        """Return the first pictures side by side, as a png file in base64; of an animation, its first frame."""
        self._invalidate_caches()
        thumbnails = [_thumbnail(Path(path)) for path in islice(self._list_partitions(), _SHOWN)]
        with reading(Path(self._path)):
            width = max(thumbnail.width for thumbnail in thumbnails) + _GAP
            height = max(thumbnail.height for thumbnail in thumbnails) + _GAP
        rows = -(-len(thumbnails) // _COLUMNS)
        sheet = Image.new("RGB", (_COLUMNS * width, rows * height), "white")
        for number, thumbnail in enumerate(thumbnails):
            left, top = number % _COLUMNS * width, number // _COLUMNS * height
            sheet.paste(
                thumbnail, (left + (width - thumbnail.width) // 2, top + (height - thumbnail.height) // 2)
            )
        content = BytesIO()
        sheet.save(content, "png")
        return ImagePreview(base64.b64encode(content.getvalue()).decode())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path, **super()._describe()}


def _thumbnail(path: Path) -> Image.Image:
    """Return a picture at the size of a thumbnail, on white and without transparent margins."""
    with reading(path), Image.open(path) as opened:
        picture = opened.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    picture.thumbnail(_THUMBNAIL)
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
