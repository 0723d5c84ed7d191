"""The competition's submission file."""

from collections.abc import Iterable
from itertools import islice
from textwrap import shorten
from typing import Any

from kedro_datasets._typing import TablePreview

from carvana_kedro.datasets.file import FileDataset
from carvana_kedro.datasets.previews import if_present
from carvana_kedro.datasets.record import RecordDataset
from carvana_kedro.stores.predictions import SubmissionFile, write_submission
from carvana_kedro.stores.tables import Row


class ReceiptDataset(RecordDataset):
    """The result of submitting to Kaggle. A dry run does not overwrite the result of an upload."""

    def save(self, data: dict[str, Any]) -> None:
        """Write the receipt."""
        if data["uploaded"] or not self.exists() or not self.load()["uploaded"]:
            super().save(data)


class SubmissionDataset(FileDataset[Iterable[Row], SubmissionFile]):
    """`img,rle_mask` rows in a gzip csv file. Saving consumes an iterator, so that memory holds one mask at a time."""

    def load(self) -> SubmissionFile:
        """Return the file. Iterating over it yields (image id, rle) rows."""
        return SubmissionFile(self._folder, self._name)

    def save(self, data: Iterable[Row]) -> None:
        """Write all rows atomically."""
        rows = write_submission(self._folder, self._name, data)
        size = found.size if (found := self._folder.stat(self._name)) else 0
        self._logger.info("%s: %d rows, %.1f MB", self.where, rows, size / 1e6)

    @if_present
    def preview(self, nrows: int = 8) -> TablePreview:
        """Return the first rows with shortened masks."""
        rows = [[f"{image_id}.jpg", shorten(rle, 60)] for image_id, rle in islice(self.load(), nrows)]
        return TablePreview({"index": list(range(len(rows))), "columns": ["img", "rle_mask"], "data": rows})
