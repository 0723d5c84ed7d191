"""The competition on Kaggle: a source that fetches what is missing, and the handle that submissions go through."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from carvana_kedro.datasets.competition import Content, Side, SourceDataset
from carvana_kedro.datasets.handles import HandleDataset
from carvana_kedro.errors import UserError
from carvana_kedro.stores.archives import DamagedArchive, check_table, finished, read_rows, unpack
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.kaggle.competition import KaggleCompetition
from carvana_kedro.stores.kaggle.download import digest_of, forget
from carvana_kedro.stores.locks import locked
from carvana_kedro.stores.machine import require_space

Result = TypeVar("Result")


class KaggleDataset(SourceDataset[Content]):
    """One side of the competition, fetched from Kaggle at the first load.

    Training never fetches the test images, and inference nothing but these. What is there is not asked for again:
    an archive that has its name is whole, and a folder that has a manifest was unpacked from a whole one.

    Args:
        path: where archives are kept, and unpacked in `unpacked/`.
        side: `training`, `test`, `sample_submission` or `solution` (which Kaggle keeps to itself).
        competition: its name on Kaggle.
        quality: of the photographs: `hq` (1 GB to train on, 16 GB to test on) or `standard` (half of that).
        keep_archives: keep an archive of images after it is unpacked.
        credentials: see `carvana_kedro.stores.kaggle.credentials.find_credentials`.
        metadata: Kedro-Viz's.
    """

    def __init__(
        self,
        path: str,
        side: Side,
        competition: str,
        quality: Literal["standard", "hq"] = "hq",
        keep_archives: bool = False,
        credentials: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        suffix = "_hq" if quality == "hq" else ""
        images = {"training": (f"train{suffix}", "train_masks"), "test": (f"test{suffix}",)}
        tables = {
            "training": "train_masks",
            "test": "sample_submission",
            "sample_submission": "sample_submission",
        }
        self._path = Path(path)
        self._side = side
        self._images = images.get(side, ())
        self._table = tables.get(side)
        self._keep_archives = keep_archives
        self._competition = KaggleCompetition(competition, credentials)
        self.metadata = metadata

    def load(self) -> Content:
        """Fetch and unpack what is missing, and return the images of the side, or its rows.

        Raises:
            UserError: Kaggle does not give it, the disk has no room for it, or an archive is not what it should be.
        """
        if self._table is None:
            return []
        self._check_space()
        table = self._fetched_table(self._table)
        folders = [self._unpacked(name) for name in self._images]
        if self._side == "training":
            images, masks = folders
            return ImageStore(images, masks, mask_runs=table)
        expected = [image_id for image_id, _ in read_rows(table)]
        return ImageStore(folders[0], expected=tuple(expected)) if self._side == "test" else expected

    def _check_space(self) -> None:
        """Make sure that everything that is missing has room, before the first byte is fetched."""
        unpacked = self._path / "unpacked"
        archives = [self._archive(name) for name in self._images if not finished(unpacked, name)]
        missing = [path for path in (*archives, self._archive(f"{self._table}.csv")) if not path.is_file()]
        if not missing:
            return
        sizes = self._competition.files()
        for path in missing:
            if path.name not in sizes:
                raise UserError(
                    f"The competition {self._competition.name} on Kaggle has no file {path.name}; it has: "
                    f"{', '.join(sorted(sizes)) or 'nothing'}."
                )
        # ImageSource hardly shrink: unpacked they need as much again.
        needed = sum(sizes[path.name] * (2 if path in archives else 1) for path in missing)
        parts = [path.with_name(f"{path.name}.part") for path in missing]
        fetched = sum(part.stat().st_size for part in parts if part.is_file())
        names = ", ".join(path.name for path in missing)
        require_space(self._path, max(0, needed - fetched), f"fetching and unpacking {names}")

    def _unpacked(self, name: str) -> Path:
        """Return the folder of images that NAME.zip holds, fetched and unpacked if need be."""
        archive, unpacked = self._archive(name), self._path / "unpacked"
        folder = finished(unpacked, name)
        if folder and not archive.is_file():
            return folder
        with locked(self._path / name):
            folder = finished(unpacked, name)  # another run may just have seen to it
            if folder is None:
                folder = self._whole(archive, lambda: unpack(archive, unpacked, digest_of(archive)))
            if not self._keep_archives and digest_of(archive):  # what the user has put there stays
                forget(archive)
        return folder

    def _fetched_table(self, name: str) -> Path:
        archive = self._archive(f"{name}.csv")
        if not archive.is_file():
            self._whole(archive, lambda: check_table(archive))
        return archive

    def _whole(self, archive: Path, use: Callable[[], Result]) -> Result:
        """Fetch an archive, if it is not there, and use it; if it turns out to be damaged, fetch it once more."""
        for again in (False, True):
            self._competition.fetch(archive.name, archive)
            try:
                return use()
            except DamagedArchive as error:
                if not digest_of(archive):
                    raise UserError(f"{error} (Or take it away: then it is fetched from Kaggle.)") from error
                forget(archive)
                if again:
                    raise UserError(
                        f"{archive.name} has come damaged from Kaggle, twice, and is deleted: {error.__cause__}. Run "
                        f"again later, or put one from elsewhere into {archive.parent}."
                    ) from error
                self._logger.warning(
                    "%s is deleted and fetched again: it is damaged (%s)", archive, error.__cause__
                )
        raise AssertionError

    def _archive(self, name: str) -> Path:
        return self._path / f"{name}.zip"

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "side": self._side}


class KaggleCompetitionDataset(HandleDataset[KaggleCompetition]):
    """The competition as one that takes submissions.

    Args:
        competition: its name on Kaggle; None for a source that is no competition.
        credentials: see `carvana_kedro.stores.kaggle.credentials.find_credentials`.
        metadata: Kedro-Viz's.
    """

    def __init__(
        self,
        competition: str | None,
        credentials: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._competition = KaggleCompetition(competition, credentials)
        self.metadata = metadata

    def load(self) -> KaggleCompetition:
        """Return it; nothing is asked yet."""
        return self._competition

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._competition.page}
