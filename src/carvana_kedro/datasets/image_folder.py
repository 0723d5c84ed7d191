"""The user's own images: a folder of images, and a folder of masks for training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carvana_kedro.datasets.competition import ImagesDataset
from carvana_kedro.datasets.file import Storage, open_stored
from carvana_kedro.errors import UserError
from carvana_kedro.stores.competition import Side
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.files import FilesInStore
from carvana_kedro.stores.images.folder import FolderStore
from carvana_kedro.stores.images.mask_values import parse_values


class ImageFolderDataset(ImagesDataset[FolderStore | list[Any]]):
    """A folder of images of any size.

    The training side has images with masks. The test side has the images in `test`, or the same images if `test` is not
    set. The sample submission and the solution are empty.

    Args:
        side: `training`, `test`, `sample_submission` or `solution`.
        images: path or address of the folder of images.
        masks: folder of masks. It may be the folder of images if there is a `mask_suffix`.
        test: folder of the images to predict, if they are not those in `images`.
        mask_suffix: text after the image's id in the name of a mask.
        group: regular expression that matches the group in an image's id: see `FolderStore`.
        digests: `path` of the file that remembers the digests of images and masks: see `Digests`.
        mask_background: value of the background in masks, if it is not black: see `parse_values`.
        mask_values: values of the object in masks, if there are more than two values: see `parse_values`.
        storage: what an address needs: see `Storage`. Images are copied to its `path` when they are first needed.
        metadata: for Kedro-Viz.
    """

    def __init__(
        self,
        side: Side,
        images: str | None = None,
        masks: str | None = None,
        test: str | None = None,
        mask_suffix: str = "",
        group: str | None = None,
        digests: Mapping[str, str] | None = None,
        mask_background: str | int | None = None,
        mask_values: str | int | list[str | int] | None = None,
        storage: Storage | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._side = side
        self._images = images
        self._masks = masks
        self._test = test
        self._mask_suffix = mask_suffix
        self._group = group
        self._digests = Digests(Path(digests["path"]) if digests else None)
        self._mask_background = mask_background
        self._mask_values = mask_values
        self._storage = storage
        self.metadata = metadata

    def load(self) -> FolderStore | list[Any]:
        """Return the images.

        Raises:
            UserError: a folder is not set, does not exist or is empty; `group` is not a regular expression; or
                `mask_background` or `mask_values` is not a value of masks.
        """
        if self._side in ("solution", "sample_submission"):
            return []
        images = self._images if self._side == "training" else self._test or self._images
        if images is None:
            raise UserError(
                "The folder of images is not set. Set it: --params source=folder,folder.images=PATH and, for training, "
                "folder.masks=PATH"
            )
        if self._side == "test":
            # With the suffix, masks in the same folder are not predicted.
            store = FolderStore(self._at(images), None, self._mask_suffix, self._group, self._digests)
        elif self._masks is None:
            raise UserError(
                f"Training on {images} needs masks: --params folder.masks=PATH. If the masks are in the same folder, "
                "set folder.masks to it, and folder.mask_suffix to the end of their names, such as _mask. To predict "
                "masks without training, add --pipelines inference."
            )
        else:
            store = FolderStore(
                self._at(images),
                self._at(self._masks),
                self._mask_suffix,
                self._group,
                self._digests,
                parse_values(self._mask_background, self._mask_values),
            )
        store.ids()  # raises an error if a folder is missing or empty
        return store

    def images(self) -> FolderStore | None:
        """Return the images, if their folder exists. Those in an object store are not listed yet."""
        images = self._images if self._side == "training" else self._test or self._images
        if self._side in ("solution", "sample_submission") or images is None:
            return None
        folder = self._at(images)
        if isinstance(folder, Path) and not folder.is_dir():
            return None
        return FolderStore(folder, None, self._mask_suffix, self._group)

    def _at(self, folder: str) -> Path | FilesInStore:
        found = open_stored(folder, self._storage)
        return found.path if isinstance(found, DiskFolder) else FilesInStore(found)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._images), "side": self._side}
