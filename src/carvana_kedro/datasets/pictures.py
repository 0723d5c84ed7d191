"""Pictures for reports: images, animations, and folders of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np
from kedro.io import AbstractDataset, DatasetError
from kedro.io.core import parse_dataset_definition
from kedro_datasets._typing import ImagePreview
from PIL import Image, ImageSequence
from tqdm import tqdm

from carvana_kedro.datasets.file import FileDataset, Storage, open_stored
from carvana_kedro.datasets.previews import if_present, preview_of
from carvana_kedro.datasets.previews.contact_sheet import sheet_of_files
from carvana_kedro.stores.faults import reading, writing
from carvana_kedro.stores.folders import Stat
from carvana_kedro.stores.machine import usable_cores

_MOST_THREADS = 4  # each has pictures of full size in memory

_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 3},
    "JPEG": {"quality": 90},
    "WEBP": {"quality": 90},
}


class PictureDataset(FileDataset[Any, Any]):
    """Base class of datasets that keep a picture."""

    @contextmanager
    def _opened(self) -> Iterator[Image.Image]:
        with reading(self.where), Image.open(self._folder.local(self._name)) as opened:
            yield opened

    @if_present
    def preview(self) -> ImagePreview:
        """Return the picture; of an animation, its first frame: see `preview_of`."""
        with self._opened() as opened:
            return preview_of(opened)


class ImageDataset(PictureDataset):
    """An RGB image, (H, W, 3) uint8, or an RGBA image, (H, W, 4) uint8, in a file. Kedro-Viz previews it.

    Args:
        filepath: path or address of the file. Its extension is the format: png, jpg or webp.
        storage: see `FileDataset`.
        metadata: for Kedro-Viz.
    """

    def load(self) -> np.ndarray:
        """Return the image."""
        with self._opened() as opened:
            return np.asarray(opened.convert("RGBA" if opened.has_transparency_data else "RGB"))

    def save(self, data: np.ndarray) -> None:
        """Write the image."""
        kind = Image.registered_extensions().get(PurePath(self._name).suffix, "PNG")
        with self._folder.write(self._name) as part:
            Image.fromarray(data).save(part, kind, **_OPTIONS[kind])


class AnimationDataset(PictureDataset):
    """Frames of one size, (H, W, 3) uint8 RGB, in a webp file that plays them in a loop. Browsers show it.

    Args:
        filepath: path or address of the file.
        milliseconds: time that a frame is shown.
        quality: of the compression, 0 to 100.
        storage: see `FileDataset`.
        metadata: for Kedro-Viz.
    """

    def __init__(
        self,
        filepath: str,
        milliseconds: int = 200,
        quality: int = 80,
        storage: Storage | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath, storage, metadata)
        self._milliseconds = milliseconds
        self._quality = quality

    def load(self) -> list[np.ndarray]:
        """Return the frames."""
        with self._opened() as opened:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(opened)]

    def save(self, data: Sequence[np.ndarray]) -> None:
        """Write the frames."""
        first, *others = map(Image.fromarray, data)
        with self._folder.write(self._name) as part:
            first.save(
                part,
                "webp",
                save_all=True,
                append_images=others,
                duration=self._milliseconds,
                loop=0,  # endlessly
                quality=self._quality,
            )


class PicturesDataset(AbstractDataset[Mapping[str, Any], dict[str, Callable[[], Any]]]):
    """A folder of files, each of which is a dataset. Kedro-Viz previews the first ones as a contact sheet.

    Loading and saving are those of Kedro's `PartitionedDataset`, but saving replaces all pictures of the folder, so
    that it holds none of an earlier run.

    Args:
        path: path or address of the folder.
        dataset: type of the dataset of a file, or a mapping of its type and arguments.
        filename_suffix: extension of the files.
        optional: whether a run that reads the folder also starts without it.
        storage: see `FileDataset`.
        metadata: for Kedro-Viz.
    """

    def __init__(
        self,
        path: str,
        dataset: str | dict[str, Any],
        filename_suffix: str = "",
        optional: bool = False,
        storage: Storage | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.where = path.rstrip("/")
        self.storage = storage
        self.optional = optional
        self.metadata = metadata
        self._folder = open_stored(self.where, storage)
        self._suffix = filename_suffix
        config = dataset if isinstance(dataset, dict) else {"type": dataset}
        self._type: Callable[..., AbstractDataset[Any, Any]]
        self._type, self._arguments = parse_dataset_definition(config)

    def load(self) -> dict[str, Callable[[], Any]]:
        """Return functions that load the pictures, by their names; none if the folder is missing and optional."""
        names = [name.removesuffix(self._suffix) for name in self._files()]
        if not names and not self.optional:
            raise DatasetError(f"No partitions found in '{self.where}'")
        return {name: self._dataset(name).load for name in names}

    def save(self, data: Mapping[str, Any | Callable[[], Any]]) -> None:
        """Write pictures by their names without extension. Functions are called in threads, when it is their turn."""

        def draw(name: str) -> None:
            picture = data[name]
            self._dataset(name).save(picture() if callable(picture) else picture)

        with writing(self.where):
            with ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS)) as pool:
                drawn = pool.map(draw, data)
                for _ in tqdm(drawn, "Drawing", len(data), unit=" pictures", leave=False, disable=None):
                    pass
            # Afterwards, so that a run that is killed leaves no empty folder.
            for file in {*self._files()} - {f"{name}{self._suffix}" for name in data}:
                self._folder.remove(file)

    @if_present
    def preview(self) -> ImagePreview:
        """Return a contact sheet of the first pictures; of an animation, its first frame."""
        return sheet_of_files(self._folder, self._files())

    def is_there(self) -> bool:
        """Return whether the folder has pictures."""
        return bool(self._files())

    def _files(self) -> dict[str, Stat]:
        return self._folder.list(f"**/*{self._suffix}")

    def _dataset(self, name: str) -> AbstractDataset[Any, Any]:
        return self._type(
            filepath=f"{self.where}/{name}{self._suffix}", storage=self.storage, **self._arguments
        )

    def _exists(self) -> bool:
        return self.is_there()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self.where, "dataset": getattr(self._type, "__name__", "")}
