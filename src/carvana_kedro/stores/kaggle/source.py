"""The competition's files from Kaggle: fetched and unpacked where they are missing."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from carvana_kedro.errors import UserError
from carvana_kedro.stores.archives import DamagedArchiveError, check_table, find_unpacked, read_rows, unpack
from carvana_kedro.stores.competition import Content, Side
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.kaggle.competition import KaggleCompetition
from carvana_kedro.stores.kaggle.download import delete_fetched, fetched_digest
from carvana_kedro.stores.locks import locked
from carvana_kedro.stores.machine import require_space

logger = logging.getLogger(__name__)

Quality = Literal["standard", "hq"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class KaggleSource:
    """A folder of the competition's files. What is missing is fetched from Kaggle.

    What is there is used without asking Kaggle: an archive has its name only when it is complete, and a folder has
    a manifest only when a complete archive was unpacked into it.

    Attributes:
        folder: for the archives; they are unpacked in its subfolder `unpacked`.
        competition: client of the competition.
        quality: `hq` or `standard` images.
        keep_archives: keep a fetched archive of images after it is unpacked.
        digests: digests of images and masks.
    """

    folder: Path
    competition: KaggleCompetition
    quality: Quality = "hq"
    keep_archives: bool = False
    digests: Digests = field(default_factory=Digests, compare=False, repr=False)

    def open_side(self, side: Side) -> Content:
        """Fetch and unpack what one side needs, and open it. Kaggle does not publish the solution.

        Raises:
            UserError: Kaggle rejects a request or cannot be reached, the disk has too little space, or an archive is
                damaged or not safe to unpack.
        """
        suffix = "_hq" if self.quality == "hq" else ""
        match side:
            case "training":
                self._require_space([f"train{suffix}", "train_masks"], "train_masks")
                table = self._fetch_table("train_masks")
                images, masks = self._fetch_images(f"train{suffix}"), self._fetch_images("train_masks")
                return ImageStore(images, masks, mask_runs=table, digests=self.digests)
            case "test":
                self._require_space([f"test{suffix}"], "sample_submission")
                expected = self._expected_ids()
                images = self._fetch_images(f"test{suffix}")
                return ImageStore(images, expected=tuple(expected), digests=self.digests)
            case "sample_submission":
                self._require_space([], "sample_submission")
                return self._expected_ids()
            case "solution":
                return []

    def present(self, side: Side) -> ImageStore | None:
        """Return the images of a side if they were unpacked already. Kaggle is not asked."""
        stem = {"training": "train", "test": "test"}.get(side)
        folder = stem and find_unpacked(self._unpacked, stem + ("_hq" if self.quality == "hq" else ""))
        return ImageStore(folder) if folder else None

    def _expected_ids(self) -> list[str]:
        return [image_id for image_id, _ in read_rows(self._fetch_table("sample_submission"))]

    def _require_space(self, images: list[str], table: str) -> None:
        """Check that the disk has space for everything that is missing, before the first byte is fetched."""
        archives = [self._archive(name) for name in images if not find_unpacked(self._unpacked, name)]
        missing = [path for path in (*archives, self._archive(f"{table}.csv")) if not path.is_file()]
        if not missing:
            return
        sizes = self.competition.sizes([path.name for path in missing])
        # Archives of images are hardly smaller than the images, so unpacking takes the same space again.
        needed = sum(size * (2 if path in archives else 1) for path, size in zip(missing, sizes, strict=True))
        parts = [path.with_name(f"{path.name}.part") for path in missing]
        fetched = sum(part.stat().st_size for part in parts if part.is_file())
        names = ", ".join(path.name for path in missing)
        require_space(self.folder, max(0, needed - fetched), f"downloading and unpacking {names}")

    def _fetch_images(self, name: str) -> Path:
        """Return the folder unpacked from NAME.zip."""
        archive = self._archive(name)
        folder = find_unpacked(self._unpacked, name)
        if folder and not archive.is_file():
            return folder
        with locked(self.folder / name):
            folder = find_unpacked(self._unpacked, name)  # another run may have unpacked it in the meantime
            if folder is None:
                folder = self._fetch(
                    archive, lambda: unpack(archive, self._unpacked, fetched_digest(archive))
                )
            if not self.keep_archives and fetched_digest(archive):  # the user's own archive has no digest
                delete_fetched(archive)
        return folder

    def _fetch_table(self, name: str) -> Path:
        """Return the path of NAME.csv.zip."""
        archive = self._archive(f"{name}.csv")
        if not archive.is_file():
            self._fetch(archive, lambda: check_table(archive))
        return archive

    def _fetch(self, archive: Path, use: Callable[[], Result]) -> Result:
        """Fetch an archive if it is missing, and return what `use` returns. Fetch a damaged archive once more."""
        for attempt in (1, 2):
            self.competition.fetch(archive.name, archive)
            try:
                return use()
            except DamagedArchiveError as error:
                if not fetched_digest(archive):
                    raise UserError(f"{error} If you remove it, the next run downloads it.") from error
                delete_fetched(archive)
                if attempt == 2:
                    raise UserError(
                        f"{archive.name} was damaged after both downloads from Kaggle, and was deleted: "
                        f"{error.__cause__}. Run again later, or put the archive from another source into "
                        f"{archive.parent}."
                    ) from error
                logger.warning("%s is damaged (%s). It is downloaded again.", archive, error.__cause__)
        raise AssertionError("unreachable")

    @property
    def _unpacked(self) -> Path:
        return self.folder / "unpacked"

    def _archive(self, name: str) -> Path:
        return self.folder / f"{name}.zip"
