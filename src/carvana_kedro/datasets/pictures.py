"""Folders of pictures for reports."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from kedro_datasets._typing import ImagePreview
from kedro_datasets.partitions import PartitionedDataset
from tqdm import tqdm

from carvana_kedro.datasets.previews import if_present
from carvana_kedro.datasets.previews.contact_sheet import PICTURES, sheet_of_files
from carvana_kedro.stores.faults import writing
from carvana_kedro.stores.machine import usable_cores

_MOST_THREADS = 4  # each has pictures of full size in memory


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
            with ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS)) as pool:
                saved = pool.map(lambda name: PartitionedDataset.save(self, {name: data[name]}), data)
                for _ in tqdm(saved, "Drawing", len(data), unit=" pictures", leave=False, disable=None):
                    pass
            # Afterwards, so that a run that is killed leaves no empty folder.
            written = {folder / f"{name}{self._filename_suffix}" for name in data}
            for path in {*folder.rglob(f"*{self._filename_suffix}")} - written:
                path.unlink()

    @if_present
    def preview(self) -> ImagePreview:
        """Return a contact sheet of the first pictures; of an animation, its first frame."""
        paths = map(Path, islice(self._list_partitions(), PICTURES))
        return sheet_of_files(Path(self._path), paths)

    def _exists(self) -> bool:
        self._invalidate_caches()  # Kedro remembers the list of files
        return super()._exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path, **super()._describe()}
