"""Handles: datasets that load a store object. The node reads and writes through this object, piece by piece.

In Kedro, a dataset cannot be both input and output of a node. A handle is an input.
"""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pandas as pd
from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import ImagePreview, TablePreview

from carvana_kedro.datasets.file import Storage, open_stored
from carvana_kedro.datasets.previews import if_present
from carvana_kedro.datasets.previews.contact_sheet import sheet_of_files
from carvana_kedro.errors import UserError
from carvana_kedro.stores.folders import DiskFolder, Folder, Stat
from carvana_kedro.stores.pixel_cache import PixelCache
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards
from carvana_kedro.stores.review.editable_masks import EditableMasks

if TYPE_CHECKING:
    from carvana_kedro.stores.checkpoints import CheckpointStore


Store = TypeVar("Store")

_MOST_CHECKPOINTS = 20  # in a preview


class HandleDataset(AbstractDataset[None, Store], Generic[Store]):
    """Base class of datasets that load a store. Nodes write through it."""

    _SINGLE_PROCESS = True

    def save(self, data: None) -> None:
        """Raise an error: nodes write through the loaded store."""
        raise DatasetError(
            f"{type(self).__name__} is a handle and cannot be saved. Write with the object that load() returns."
        )

    def _exists(self) -> bool:
        # The store creates its folders.
        return True


class FolderHandleDataset(HandleDataset[Store]):
    """Base class of datasets that load a store in a folder.

    Args:
        path: path or address of the folder.
        storage: see `FileDataset`.
        metadata: for Kedro-Viz.
    """

    def __init__(
        self, path: str, storage: Storage | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._folder = open_stored(path, storage)
        self.metadata = metadata

    def is_there(self) -> bool:
        """Return whether the folder has files."""
        return bool(self._folder.list("**/*"))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}


class CheckpointsDataset(FolderHandleDataset["CheckpointStore"]):
    """The checkpoints of all runs of a recipe."""

    def load(self) -> "CheckpointStore":
        """Return the store."""
        from carvana_kedro.stores.checkpoints import CheckpointStore

        return CheckpointStore(self._folder)

    @if_present
    def preview(self) -> TablePreview:
        """Return a table of the newest checkpoints of all runs. Training removes old ones at any time.

        In an object store only the newest one is read: each would be downloaded.
        """
        found = self._folder.list("*/*.pt")
        newest = sorted(found, key=lambda name: found[name].modified, reverse=True)[:_MOST_CHECKPOINTS]
        read = newest if isinstance(self._folder, DiskFolder) else newest[:1]
        rows = [
            _describe_file(name, found[name])
            | (_describe_checkpoint(self._folder, name, found[name]) if name in read else {})
            for name in newest
        ]
        return TablePreview(pd.DataFrame(rows).to_dict("split") if rows else {})


class PredictionShardsDataset(FolderHandleDataset[PredictionShards]):
    """The shards of predicted masks."""

    def load(self) -> PredictionShards:
        """Return the store."""
        return PredictionShards(self._folder)


class PredictedImagesDataset(FolderHandleDataset[PredictedImages]):
    """Masks, cut-outs and overlays as image files."""

    def load(self) -> PredictedImages:
        """Return the store."""
        return PredictedImages(self._folder)

    @if_present
    def preview(self) -> ImagePreview:
        """Return a contact sheet of the first images of one kind."""
        kinds = (("overlays", ".jpg"), ("cutouts", ".png"), ("masks", ".png"))
        found = (self._folder.list(f"{kind}/**/*{suffix}") for kind, suffix in kinds)
        return sheet_of_files(self._folder, next(filter(None, found), {}))


class EditableMasksDataset(FolderHandleDataset[EditableMasks]):
    """Masks for a person to correct."""

    def load(self) -> EditableMasks:
        """Return the store."""
        return EditableMasks(self._folder)

    @if_present
    def preview(self) -> ImagePreview:
        """Return a contact sheet of the first masks."""
        return sheet_of_files(self._folder, self._folder.list("[!.]*.png"))


class PixelCacheDataset(HandleDataset[PixelCache]):
    """Decoded and resized images, which are mapped into memory: always on a disk.

    Args:
        path: path of the folder.
        metadata: for Kedro-Viz.
    """

    def __init__(self, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def load(self) -> PixelCache:
        """Return the store."""
        return PixelCache(self._path)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}


class FolderDataset(FolderHandleDataset[Folder]):
    """A folder that a library such as TensorBoard writes into."""

    def load(self) -> Folder:
        """Return the folder."""
        return self._folder


def _describe_file(name: str, found: Stat) -> dict[str, Any]:
    """Return a row of the table of checkpoints, as far as the file is not read."""
    run, _, file = name.partition("/")
    size, written = f"{found.size / 1e6:.1f}", f"{datetime.fromtimestamp(found.modified):%Y-%m-%d %H:%M}"
    return {"run": run, "file": file, "epoch": "", "validation Dice": "", "MB": size, "written": written}


def _describe_checkpoint(folder: Folder, name: str, found: Stat) -> dict[str, Any]:
    """Return what a checkpoint tells of its epoch."""
    from carvana_kedro.stores.checkpoints import load_values

    try:
        last = (load_values(folder.local(name, found)).get("history") or [{}])[-1]
    except (OSError, UserError):
        return {"epoch": "cannot be read"}
    dice = last.get("val_dice_coeff")
    return {"epoch": last.get("epoch", ""), "validation Dice": "" if dice is None else f"{dice:.4f}"}
