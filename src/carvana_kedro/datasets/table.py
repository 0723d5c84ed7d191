"""Tables in csv files."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from kedro_datasets._typing import TablePreview
from kedro_datasets.pandas import CSVDataset

from carvana_kedro.datasets.file import FormatDataset
from carvana_kedro.datasets.previews import if_present
from carvana_kedro.errors import UserError
from carvana_kedro.stores.faults import damaged, reading


class _CSVDataset(CSVDataset):
    """Kedro's dataset with ids and empty cells as text."""

    DEFAULT_LOAD_ARGS = {  # noqa: RUF012 - Kedro defines this attribute
        "dtype": dict.fromkeys(("image", "car", "source", "problems", "digest", "run_id"), str),
        "keep_default_na": False,
        # NaN is an empty cell: an area or a doubt without a mask, the mean over an epoch without a finite loss.
        "na_values": {
            name: [""]
            for name in (
                "mask_area",
                "doubt",
                "dice",
                "train_loss",
                "val_loss",
                "train_dice_coeff",
                "val_dice_coeff",
            )
        },
    }
    DEFAULT_SAVE_ARGS = {"index": False}  # noqa: RUF012


class TableDataset(FormatDataset[pd.DataFrame, pd.DataFrame]):
    """A table in a csv file. Ids and empty cells are read as text.

    Without the dtypes, a car id such as `120e45678901` would be read as a number. Text that a spreadsheet would take
    for a formula is stored with an apostrophe in front.

    Args:
        columns: columns that the file must have, and their types: `string` or `number`.
        options: see `FormatDataset`.
    """

    FORMAT = _CSVDataset

    def __init__(self, *, columns: dict[str, str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._columns = columns
        self._written: str | None = None  # digest of what this object has written

    def load(self) -> pd.DataFrame:
        """Return the table.

        Raises:
            UserError: the file is missing, cannot be read or is damaged, or another run has changed it since this
                object wrote it.
        """
        with reading(self.where):
            path = self._folder.local(self._name)
            if self._written is not None and _digest(path) != self._written:
                raise UserError(
                    f"{self.where} was written by this run, and another run has changed it since. Runs of the same "
                    "source share this file: run one after the other, or give each its own --params data_root=PATH"
                )
            table: pd.DataFrame = self._read(path)
        if self._columns is not None:
            self._check(table, self._columns, path)
        return _change_text(table, _unquoted)

    def _check(self, table: pd.DataFrame, columns: dict[str, str], path: Path) -> None:
        if missing := [name for name in columns if name not in table]:
            raise damaged(self.where, f"it has no column {missing[0]}")
        if table.empty:
            raise damaged(self.where, "it has no rows")
        for name, kind in columns.items():
            if kind == "number" and not pd.api.types.is_numeric_dtype(table[name]):
                raise damaged(self.where, f"column {name} holds other values than numbers")
            if kind == "string" and table[name].isna().any():
                raise damaged(self.where, f"column {name} has empty cells")
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                raise damaged(self.where, "its last line is cut short")

    def save(self, data: pd.DataFrame) -> None:
        """Write the table."""
        with self._folder.write(self._name) as part:
            self._write(_change_text(data, _quoted), part)
            written = _digest(part)
        self._written = written

    @if_present
    def preview(self, nrows: int = 5) -> TablePreview:
        """Return the first rows."""
        with reading(self.where):
            shown = self._at(self._folder.local(self._name)).preview(nrows)
        return TablePreview({**shown, "data": [[_unquoted(cell) for cell in row] for row in shown["data"]]})


def _change_text(table: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    """Return a table with changed cells in the columns that may hold text."""
    columns = table.select_dtypes(exclude=["number", "bool"]).columns
    return table.assign(**{column: table[column].map(change) for column in columns})


def _quoted(cell: Any) -> Any:
    """Put an apostrophe in front of text that begins like a formula, or like text with such an apostrophe.

    >>> _quoted("=1+1"), _quoted("'=1+1"), _quoted("car"), _quoted(-1.5)
    ("'=1+1", "''=1+1", 'car', -1.5)
    """
    return f"'{cell}" if isinstance(cell, str) and re.match(r"'*[=+\-@\t]", cell) else cell


def _unquoted(cell: Any) -> Any:
    """Undo `_quoted`.

    >>> _unquoted("'=1+1"), _unquoted("''=1+1"), _unquoted("'car"), _unquoted(-1.5)
    ('=1+1', "'=1+1", "'car", -1.5)
    """
    return cell[1:] if isinstance(cell, str) and re.match(r"'+[=+\-@\t]", cell) else cell


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
