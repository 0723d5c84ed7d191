"""Handles: datasets that load a store object. The node reads and writes through this object, piece by piece.

In Kedro, a dataset cannot be both input and output of a node. A handle is an input.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kedro.io import AbstractDataset, DatasetError

from carvana_kedro.stores.pixel_cache import PixelCache
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards

if TYPE_CHECKING:
    from carvana_kedro.stores.checkpoints import CheckpointStore


Store = TypeVar("Store")


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

        return CheckpointStore(self._path)


class PredictionShardsDataset(HandleDataset[PredictionShards]):
    """The shards of predicted masks."""

    def load(self) -> PredictionShards:
        """Return the store."""
        return PredictionShards(self._path)


class PredictedImagesDataset(HandleDataset[PredictedImages]):
    """Masks, cut-outs and overlays as image files."""

    def load(self) -> PredictedImages:
        """Return the store."""
        return PredictedImages(self._path)


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
