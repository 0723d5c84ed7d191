"""The sides of the competition: which files each side needs, and how they are opened."""

from pathlib import Path
from typing import Literal, overload

from carvana_kedro.stores.archives import find_folder, find_table, read_table
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.tables import Row

Side = Literal["training", "test", "sample_submission", "solution"]
Content = ImageStore | list[str] | list[Row]
"""An image store for `training` and `test`, image ids for `sample_submission`, (image id, rle) rows for `solution`."""


@overload
def open_side(
    source: Path, unpacked: Path, side: Literal["training", "test"], digests: Digests | None = None
) -> ImageStore: ...
@overload
def open_side(source: Path, unpacked: Path, side: Side, digests: Digests | None = None) -> Content: ...
def open_side(source: Path, unpacked: Path, side: Side, digests: Digests | None = None) -> Content:
    """Open one side of the competition. Only the files of this side are read.

    Args:
        source: folder with the competition's zip archives, or with the folders unpacked from them.
        unpacked: folder to unpack archives into.
        side: which side.
        digests: digests of images and masks; None: not remembered.

    Returns:
        The content of the side. Without its table, `sample_submission` and `solution` are empty lists.

    Raises:
        UserError: files are missing, damaged or not safe to unpack.
    """
    if side == "solution":
        return list(read_table(source, "solution") or ())
    if side == "training":
        return ImageStore(
            images=find_folder(source, ("train_hq", "train"), unpacked),
            masks=find_folder(source, ("train_masks",), unpacked),
            mask_runs=find_table(source, "train_masks"),
            digests=digests or Digests(),
        )
    rows = read_table(source, "sample_submission")
    expected = [image_id for image_id, _ in rows] if rows is not None else None
    if side == "sample_submission":
        return expected or []
    return ImageStore(
        images=find_folder(source, ("test_hq", "test"), unpacked),
        expected=tuple(expected) if expected is not None else None,
        digests=digests or Digests(),
    )
