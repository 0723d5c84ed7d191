"""Folders of pictures for reports."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from kedro_datasets._typing import ImagePreview
from kedro_datasets.partitions import PartitionedDataset
from PIL import Image
from tqdm import tqdm

from carvana_kedro.datasets.image import on_white, preview_of
from carvana_kedro.errors import UserError
from carvana_kedro.stores.faults import reading, writing
from carvana_kedro.stores.machine import usable_cores

_MOST_THREADS = 4  # each has pictures of full size in memory
_SHOWN = 8
_SHEET = (960, 640)  # (width, height) of the contact sheet in pixels
_GAP = 8


class PicturesDataset(PartitionedDataset):
    """Kedro's dataset of a folder of files. Kedro-Viz previews the first ones as a contact sheet.

    Saving replaces all pictures of the folder, so that it holds none of an earlier run.

    Args:
        optional: whether a run that reads the folder also starts without it.
        options: of Kedro's dataset: `path` of the folder, `dataset` of a file, and so on.
    """

    def __init__(self, *, optional: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.optional = optional

    def load(self) -> dict[str, Callable[[], Any]]:
        """Return functions that load the pictures, by their names; none if the folder is missing and optional."""
        if self.optional and not self.exists():
            return {}
        return super().load()

    def save(self, data: Mapping[str, Any | Callable[[], Any]]) -> None:
        """Write pictures by their names without extension. Functions are called in threads, when it is their turn."""
        folder = Path(self._path)
        with writing(folder):
            for path in folder.rglob(f"*{self._filename_suffix}"):
                path.unlink()
            with ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS)) as pool:
                saved = pool.map(lambda name: PartitionedDataset.save(self, {name: data[name]}), data)
                for _ in tqdm(saved, "Drawing", len(data), unit=" pictures", leave=False, disable=None):
                    pass

    def preview(self) -> ImagePreview:
        """Return a contact sheet of the first pictures; of an animation, its first frame.

        Raises:
            UserError: there are no pictures, or one of them is damaged.
        """
        self._invalidate_caches()
        pictures = [_thumbnail(Path(path)) for path in islice(self._list_partitions(), _SHOWN)]
        if not pictures:
            raise UserError(f"{self._path} holds no pictures. Run the pipeline that creates them.")
        return preview_of(_contact_sheet(pictures))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path, **super()._describe()}


def _thumbnail(path: Path) -> Image.Image:
    """Return a picture that is at most as large as the sheet, on white and without transparent margins."""
    with reading(path), Image.open(path) as opened:
        picture = opened.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    picture.thumbnail(_SHEET)
    return on_white(picture)


def _contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Arrange pictures in the grid that shows them largest."""
    width, height = (max(sides) for sides in zip(*(picture.size for picture in pictures), strict=True))
    cells = [
        (_SHEET[0] // columns, _SHEET[1] // -(-len(pictures) // columns))
        for columns in range(1, len(pictures) + 1)
    ]
    cell = max(cells, key=lambda size: min(size[0] / width, size[1] / height))
    sheet = Image.new("RGB", _SHEET, "white")
    for number, picture in enumerate(pictures):
        picture.thumbnail((cell[0] - _GAP, cell[1] - _GAP))
        row, column = divmod(number, _SHEET[0] // cell[0])
        left = column * cell[0] + (cell[0] - picture.width) // 2
        sheet.paste(picture, (left, row * cell[1] + (cell[1] - picture.height) // 2))
    return sheet
