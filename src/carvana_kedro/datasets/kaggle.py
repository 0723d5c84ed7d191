"""The competition on Kaggle: a source of images, and the handle that takes submissions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carvana_kedro.datasets.competition import ImagesDataset
from carvana_kedro.datasets.handles import HandleDataset
from carvana_kedro.stores.competition import Content, Side
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.kaggle.competition import KaggleCompetition
from carvana_kedro.stores.kaggle.source import KaggleSource, Quality


class KaggleDataset(ImagesDataset[Content]):
    """One side of the competition. The first load fetches the files of this side from Kaggle.

    Args:
        path: folder for the archives; they are unpacked in its subfolder `unpacked`.
        side: `training`, `test`, `sample_submission` or `solution` (which Kaggle does not publish).
        competition: name of the competition on Kaggle.
        quality: of the images: `hq` (1 GB for training, 16 GB for the test) or `standard` (half of that).
        keep_archives: keep an archive of images after it is unpacked.
        credentials: see `carvana_kedro.stores.kaggle.credentials.find_credentials`.
        digests: `path` of the file that remembers the digests of images and masks: see `Digests`.
        metadata: for Kedro-Viz.
    """

    def __init__(
        self,
        path: str,
        side: Side,
        competition: str,
        quality: Quality = "hq",
        keep_archives: bool = False,
        credentials: dict[str, str] | None = None,
        digests: Mapping[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._source = KaggleSource(
            Path(path),
            KaggleCompetition(competition, credentials),
            quality,
            keep_archives,
            Digests(Path(digests["path"]) if digests else None),
        )
        self._side = side
        self.metadata = metadata

    def load(self) -> Content:
        """Fetch and unpack what is missing, and return the content of the side.

        Raises:
            UserError: see `KaggleSource.open_side`.
        """
        return self._source.open_side(self._side)

    def images(self) -> ImageStore | None:
        """Return the images that were fetched and unpacked already."""
        return self._source.present(self._side)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._source.folder), "side": self._side}


class KaggleCompetitionDataset(HandleDataset[KaggleCompetition]):
    """The client that submits to the competition.

    Args:
        competition: name of the competition on Kaggle. None: the source does not belong to a competition.
        credentials: see `carvana_kedro.stores.kaggle.credentials.find_credentials`.
        metadata: for Kedro-Viz.
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
        """Return the client. It does not connect to Kaggle yet."""
        return self._competition

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._competition.page}
