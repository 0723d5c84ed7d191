"""Handles: datasets that load a store object. The node reads and writes through this object, piece by piece.

In Kedro, a dataset cannot be both input and output of a node. A handle is an input.
"""

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pandas as pd
from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import ImagePreview, TablePreview

from carvana_kedro.datasets.previews import if_present
from carvana_kedro.datasets.previews.contact_sheet import PICTURES, sheet_of_files
from carvana_kedro.errors import UserError
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.pixel_cache import PixelCache
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards
from carvana_kedro.stores.review.editable_masks import EditableMasks

if TYPE_CHECKING:
    from carvana_kedro.stores.checkpoints import CheckpointStore


Store = TypeVar("Store")

_MOST_CHECKPOINTS = 20  # in a preview


class HandleDataset(AbstractDataset[None, Store], Generic[Store]):
    """Base class of datasets that load a store below `path`."""

    _SINGLE_PROCESS = True

    def __init__(self, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def save(self, data: None) -> None:
        """Raise an error: nodes write through the loaded store."""
        raise DatasetError(
            f"{type(self).__name__} is a handle and cannot be saved. Write with the object that load() returns."
        )

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}

    def _exists(self) -> bool:
        # The store creates its folders.
        return True


class CheckpointsDataset(HandleDataset["CheckpointStore"]):
    """The checkpoints of all runs of a recipe."""

    def load(self) -> "CheckpointStore":
        """Return the store."""
        from carvana_kedro.stores.checkpoints import CheckpointStore

        return CheckpointStore(DiskFolder(self._path))

    @if_present
    def preview(self) -> TablePreview:
        """Return a table of the newest checkpoints of all runs. Training removes old ones at any time."""
        times: dict[Path, float] = {}
        for path in self._path.glob("*/*.pt"):
            with suppress(OSError):
                times[path] = path.stat().st_mtime
        newest = sorted(times, key=lambda path: times[path], reverse=True)[:_MOST_CHECKPOINTS]
        rows = [_describe_checkpoint(path, times[path]) for path in newest]
        return TablePreview(pd.DataFrame(rows).to_dict("split") if rows else {})


class PredictionShardsDataset(HandleDataset[PredictionShards]):
    """The shards of predicted masks."""

    def load(self) -> PredictionShards:
        """Return the store."""
        return PredictionShards(DiskFolder(self._path))


class PredictedImagesDataset(HandleDataset[PredictedImages]):
    """Masks, cut-outs and overlays as image files."""

    def load(self) -> PredictedImages:
        """Return the store."""
        return PredictedImages(DiskFolder(self._path))

    @if_present
    def preview(self) -> ImagePreview:
        """Return a contact sheet of the first images of one kind."""
        kinds = (("overlays", ".jpg"), ("cutouts", ".png"), ("masks", ".png"))
        found = (sorted((self._path / kind).rglob(f"*{suffix}")) for kind, suffix in kinds)
        return sheet_of_files(self._path, next(filter(None, found), [])[:PICTURES])


class EditableMasksDataset(HandleDataset[EditableMasks]):
    """Masks for a person to correct."""

    def load(self) -> EditableMasks:
        """Return the store."""
        return EditableMasks(DiskFolder(self._path))

    @if_present
    def preview(self) -> ImagePreview:
        """Return a contact sheet of the first masks."""
        return sheet_of_files(self._path, sorted(self._path.glob("[!.]*.png"))[:PICTURES])


class PixelCacheDataset(HandleDataset[PixelCache]):
    """Decoded and resized images."""

    def load(self) -> PixelCache:
        """Return the store."""
        return PixelCache(self._path)


class FolderDataset(HandleDataset[Path]):
    """A folder that a library such as TensorBoard writes into."""

    def load(self) -> Path:
        """Return the folder's path."""
        return self._path


def _describe_checkpoint(path: Path, written: float) -> dict[str, Any]:
    from carvana_kedro.stores.checkpoints import load_values

    row = {
        "run": path.parent.name,
        "file": path.name,
        "epoch": "cannot be read",
        "validation Dice": "",
        "MB": "",
    }
    with suppress(OSError, UserError):
        last = (load_values(path).get("history") or [{}])[-1]
        dice = last.get("val_dice_coeff")
        row |= {
            "epoch": last.get("epoch", ""),
            "validation Dice": "" if dice is None else f"{dice:.4f}",
            "MB": f"{path.stat().st_size / 1e6:.1f}",
        }
    return {**row, "written": f"{datetime.fromtimestamp(written):%Y-%m-%d %H:%M}"}
