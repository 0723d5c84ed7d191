"""Anybody's own photographs: a folder of them, and for training a folder of masks."""

from pathlib import Path
from typing import Any

from carvana_kedro.datasets.competition import SourceDataset
from carvana_kedro.errors import UserError
from carvana_kedro.stores.competition import Side
from carvana_kedro.stores.images.folder import FolderStore


class ImageFolderDataset(SourceDataset[FolderStore | list[Any]]):
    """A folder of photographs of any size.

    The training side pairs them with the masks; the test side takes those in `test`, or the same ones where that is
    not given. There is neither a sample submission nor a solution.

    Args:
        side: `training`, `test`, `sample_submission` or `solution`.
        images: the folder of photographs.
        masks: the folder of masks; may be the same one if `mask_suffix` tells masks from photographs.
        test: the folder of the photographs to predict, where they are others.
        mask_suffix: what a mask's name has behind the photograph's.
        group: a regular expression that finds, in a photograph's name, what it shows: see `FolderStore`.
        metadata: Kedro-Viz's.
    """

    def __init__(
        self,
        side: Side,
        images: str | None = None,
        masks: str | None = None,
        test: str | None = None,
        mask_suffix: str = "",
        group: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._side = side
        self._images = images
        self._masks = masks
        self._test = test
        self._mask_suffix = mask_suffix
        self._group = group
        self.metadata = metadata

    def load(self) -> FolderStore | list[Any]:
        """Return the photographs.

        Raises:
            UserError: a folder is not given, or not there, or empty; or the expression is none.
        """
        if self._side in ("solution", "sample_submission"):
            return []
        images = self._images if self._side == "training" else self._test or self._images
        if images is None:
            raise UserError(
                "Say where the photographs are: --params source=folder,folder.images=PATH and, to train, "
                "folder.masks=PATH"
            )
        if self._side == "test":
            # The suffix keeps masks that lie among the photographs from being predicted.
            store = FolderStore(Path(images), None, self._mask_suffix)
        elif self._masks is None:
            raise UserError(
                f"Training on {images} needs masks: --params folder.masks=PATH (beside the photographs? the same path, "
                "and folder.mask_suffix=_mask)"
            )
        else:
            store = FolderStore(Path(images), Path(self._masks), self._mask_suffix, self._group)
        store.ids()  # finds the folders, or says what is wrong with them
        return store

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._images), "side": self._side}
