"""Sources of competition images: entries whose `load()` makes sure that the files exist and are complete."""

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import ImagePreview

from carvana_kedro.datasets.previews import if_present
from carvana_kedro.datasets.previews.contact_sheet import PICTURES, SIZE, contact_sheet
from carvana_kedro.errors import UserError
from carvana_kedro.stores.archives import find_present
from carvana_kedro.stores.competition import Content, Side, open_side
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.studio import StudioSettings, render_sample, sample_folder

Loaded = TypeVar("Loaded")


class SourceDataset(AbstractDataset[None, Loaded], Generic[Loaded]):
    """Base class of read-only datasets."""

    def save(self, data: None) -> None:
        """Raise an error: sources are read-only."""
        raise DatasetError(f"{type(self).__name__} is a source and cannot be saved.")

    def _exists(self) -> bool:
        # `load` creates the files, or says what is missing.
        return True


class ImagesDataset(SourceDataset[Loaded]):
    """Base class of datasets that are a side of a source. Kedro-Viz previews its images."""

    @abstractmethod
    def images(self) -> ImageSource | None:
        """Return the images that are there already. None: there are none, or this side has none."""

    @if_present
    def preview(self) -> ImagePreview:
        """Return a contact sheet of evenly spaced images. Nothing is unpacked, rendered or downloaded from Kaggle."""
        images = self.images()
        if images is None:
            return ImagePreview("")
        ids = images.ids()
        chosen = [ids[round(number)] for number in np.linspace(0, len(ids) - 1, min(len(ids), PICTURES))]
        at_least = SIZE[0] // 2, SIZE[1] // 2
        pictures = {}
        for image_id in chosen:
            with suppress(UserError):  # ingestion tells which images cannot be read
                pictures[image_id] = images.read_image(image_id, at_least)
        return contact_sheet(pictures) if pictures else ImagePreview("")


class ArchivesDataset(ImagesDataset[Content]):
    """One side of the competition, from its zip archives or the folders unpacked from them.

    Folders are read where they are. Archives are unpacked below `path`, once. Each side reads only its own files:

    - `training`: `train_hq` or `train`, `train_masks`, and `train_masks.csv` if it exists;
    - `test`: `test_hq` or `test`, and `sample_submission.csv` if it exists;
    - `sample_submission`: `sample_submission.csv` if it exists;
    - `solution`: `solution.csv` if it exists. Kaggle does not publish it.

    Args:
        path: folder to unpack archives into.
        side: `training`, `test`, `sample_submission` or `solution`.
        archives: folder of the archives.
        digests: `path` of the file that remembers the digests of images and masks: see `Digests`.
        metadata: for Kedro-Viz.
    """

    def __init__(
        self,
        path: str,
        side: Side,
        archives: str | None = None,
        digests: Mapping[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._path = Path(path)
        self._side = side
        self._archives = Path(archives) if archives else None
        self._digests = Digests(Path(digests["path"]) if digests else None)
        self.metadata = metadata

    def load(self) -> Content:
        """Return the content of the side: see `open_side`.

        Raises:
            UserError: files are missing, damaged or not safe to unpack.
        """
        if self._archives is None:
            raise UserError(
                "The folder of the competition's archives is not set. "
                "Set it: --params source=archives,archives=PATH"
            )
        return open_side(self._archives, self._path, self._side, self._digests)

    def images(self) -> ImageStore | None:
        """Return the images of folders, and of archives that are unpacked already."""
        names = {"training": ("train_hq", "train"), "test": ("test_hq", "test")}.get(self._side, ())
        folder = self._archives and find_present(self._archives, names, self._path)
        return ImageStore(folder) if folder else None

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._archives), "side": self._side}


class SampleDataset(ArchivesDataset):
    """One side of a small competition that the studio renders at the first load, in archives like Kaggle's.

    Args:
        path: folder for the archives. Each choice of settings and version of the studio gets its own subfolder.
        side: `training`, `test`, `sample_submission` or `solution`.
        settings: arguments of `StudioSettings`.
        digests: `path` of the file that remembers the digests of images and masks: see `Digests`.
        metadata: for Kedro-Viz.
    """

    def __init__(
        self,
        path: str,
        side: Side,
        settings: dict[str, Any],
        digests: Mapping[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._settings = StudioSettings(**settings)
        self._folder = sample_folder(Path(path), self._settings)
        super().__init__(str(self._folder / "unpacked"), side, str(self._folder), digests, metadata)

    def load(self) -> Content:
        """Render the competition if needed, and return the content of the side."""
        render_sample(self._settings, self._folder)
        return super().load()
