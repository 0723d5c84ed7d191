"""Contact sheets: some pictures on one page, for previews in Kedro-Viz."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import PurePosixPath

import numpy as np
from kedro_datasets._typing import ImagePreview
from PIL import Image

from carvana_kedro.datasets.previews import on_white, preview_of
from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.monitoring.lettering import shortened, write
from carvana_kedro.segmentation.monitoring.visualization import fitted
from carvana_kedro.stores.faults import reading
from carvana_kedro.stores.folders import Folder, Stat

PICTURES = 9
"""Number of pictures on a sheet."""

SIZE = (800, 1200)
"""(height, width) of a sheet in pixels: about as high as Kedro-Viz shows it at full screen."""

_GAP = 8
_CAPTION = 40  # height in pixels; the side panel shows a third of it
_LETTERS = 0.9  # size of the font


def read_small(folder: Folder, name: str, known: Stat | None = None) -> np.ndarray:
    """Read a picture, (H, W, 3) uint8 RGB: on white, without transparent margins, and no larger than the sheet."""
    height, width = SIZE
    with reading(f"{folder}/{name}"), Image.open(folder.local(name, known)) as opened:
        opened.draft("RGB", (width // 2, height // 2))  # decodes jpg at a fraction of its size
        picture = opened.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    picture.thumbnail((width, height))
    return np.asarray(on_white(picture))


def sheet_of_files(folder: Folder, files: Mapping[str, Stat]) -> ImagePreview:
    """Arrange the first pictures of those that a folder has listed. Those that cannot be read are left out."""
    pictures = {}
    for name, known in islice(files.items(), PICTURES):
        with suppress(UserError):
            pictures[PurePosixPath(name).with_suffix("").as_posix()] = read_small(folder, name, known)
    return contact_sheet(pictures) if pictures else ImagePreview("")


def contact_sheet(pictures: Mapping[str, np.ndarray]) -> ImagePreview:
    """Arrange pictures, (H, W, 3) uint8 RGB, in the grid that shows them largest, with their names below them."""
    height, width = (
        max(lengths) for lengths in zip(*(picture.shape[:2] for picture in pictures.values()), strict=True)
    )
    grids = [(-(-len(pictures) // columns), columns) for columns in range(1, len(pictures) + 1)]
    cells = [(SIZE[0] // rows, SIZE[1] // columns) for rows, columns in grids]
    cell = max(cells, key=lambda size: min((size[0] - _CAPTION) / height, (size[1] - _GAP) / width))
    sheet = np.full((*SIZE, 3), 255, np.uint8)
    for number, (name, picture) in enumerate(pictures.items()):
        row, column = divmod(number, SIZE[1] // cell[1])
        top, left = row * cell[0], column * cell[1]
        _draw(sheet[top : top + cell[0], left : left + cell[1]], picture, name)
    return preview_of(Image.fromarray(sheet))


def _draw(cell: np.ndarray, picture: np.ndarray, name: str) -> None:
    """Draw a picture and its name into a cell of the sheet."""
    height, width = cell.shape[0] - _CAPTION, cell.shape[1] - _GAP
    shown, _, (top, _) = fitted(picture, height, width)
    cell[:height, _GAP // 2 : _GAP // 2 + width] = shown
    text = shortened(name, width, _LETTERS)
    write(cell, text, cell.shape[1] // 2, height - top + 28, scale=_LETTERS, thickness=2, align=0.5)
