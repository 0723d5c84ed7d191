"""The sources of images: catalog entries whose `load()` makes sure that the files are there and whole."""

import hashlib
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, overload

from kedro.io import AbstractDataset, DatasetError
from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.stores.archives import find_folder, find_table, read_table
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.tables import Row
from carvana_kedro.studio import STUDIO_VERSION, StudioSettings, render_competition

Side = Literal["training", "test", "sample_submission", "solution"]
Content = ImageStore | list[str] | list[Row]
"""Of the two sides with images their store, of `sample_submission` the image ids, of `solution` the rows."""


Loaded = TypeVar("Loaded")


class SourceDataset(AbstractDataset[None, Loaded], Generic[Loaded]):
    """What is read only: subclasses say what `load()` makes sure of."""

    def save(self, data: None) -> None:
        """Refuse."""
        raise DatasetError(f"{type(self).__name__} is a source: it is read only.")

    def _exists(self) -> bool:
        # Loading makes it so, or says what is missing.
        return True


class ArchivesDataset(SourceDataset[Content]):
    """The competition's own zip archives, or the folders unpacked from them, in one folder.

    Folders are read where they lie. Archives are unpacked below `path`, once. The training side takes
    `train_hq` or `train`, and `train_masks`, and `train_masks.csv` where it is there; the test side `test_hq` or
    `test`, and `sample_submission.csv` where it is there; the solution is `solution.csv` where it is there, which it
    is not on Kaggle. One side never touches the other's files.

    Args:
        path: where archives are unpacked.
        side: `training`, `test`, `sample_submission` or `solution`.
        archives: the folder that holds them.
        metadata: Kedro-Viz's.
    """

    def __init__(
        self,
        path: str,
        side: Side,
        archives: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._path = Path(path)
        self._side = side
        self._archives = Path(archives) if archives else None
        self.metadata = metadata

    def load(self) -> Content:
        """Return the images of a side, its image ids or its (image id, rle) rows: none if there is no such table.

        Raises:
            UserError: files are missing or damaged.
        """
        if self._archives is None:
            raise UserError(
                "The competition's archives are not given. "
                "Say where they are: --params source=archives,archives=PATH"
            )
        return open_side(self._archives, self._path, self._side)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._archives), "side": self._side}


class SampleDataset(ArchivesDataset):
    """A small competition rendered by the studio, in the same archives as Kaggle's.

    Rendered below `path` at the first load; other settings, or another version of the studio, get a folder of
    their own.

    Args:
        path: where the archives are rendered and unpacked.
        side: `training`, `test`, `sample_submission` or `solution`.
        settings: of `StudioSettings`.
        metadata: Kedro-Viz's.
    """

    def __init__(
        self, path: str, side: Side, settings: dict[str, int], metadata: dict[str, Any] | None = None
    ) -> None:
        self._settings = StudioSettings(**settings)
        self._folder = sample_folder(Path(path), self._settings)
        super().__init__(str(self._folder / "unpacked"), side, str(self._folder), metadata=metadata)

    def load(self) -> Content:
        """Render the competition if that has not been done, and return what `ArchivesDataset` returns."""
        # The solution is written last.
        if not (self._folder / "solution.csv.zip").is_file():
            self._logger.info("Rendering the sample competition in %s, once", self._folder)
            # disable=None: no bar where there is no terminal.
            with tqdm(desc="Rendering", unit=" images", leave=False, disable=None) as bar:

                def show(done: int, total: int) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                render_competition(self._settings, self._folder, on_image=show)
        return super().load()


def sample_folder(path: Path, settings: StudioSettings) -> Path:
    """Return the folder below `path` that belongs to these settings."""
    key = hashlib.sha256(f"{STUDIO_VERSION} {settings}".encode()).hexdigest()[:12]
    return path / f"rendered-{key}"


@overload
def open_side(source: Path, unpacked: Path, side: Literal["training", "test"]) -> ImageStore: ...
@overload
def open_side(source: Path, unpacked: Path, side: Side) -> Content: ...
def open_side(source: Path, unpacked: Path, side: Side) -> Content:
    """Return one side of the competition in `source`.

    Raises:
        UserError: files are missing, damaged or not to be trusted.
    """
    if side == "solution":
        return list(read_table(source, "solution") or ())
    if side == "training":
        return ImageStore(
            images=find_folder(source, ("train_hq", "train"), unpacked),
            masks=find_folder(source, ("train_masks",), unpacked),
            mask_runs=find_table(source, "train_masks"),
        )
    rows = read_table(source, "sample_submission")
    expected = [image_id for image_id, _ in rows] if rows is not None else None
    if side == "sample_submission":
        return expected or []
    return ImageStore(
        images=find_folder(source, ("test_hq", "test"), unpacked),
        expected=tuple(expected) if expected is not None else None,
    )
