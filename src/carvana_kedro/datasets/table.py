"""Tables in csv files."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import pandas as pd
from kedro_datasets._typing import TablePreview

from carvana_kedro.datasets.file import FileDataset
from carvana_kedro.datasets.previews import if_present
from carvana_kedro.errors import UserError
from carvana_kedro.stores.faults import damaged, reading


class TableDataset(FileDataset[pd.DataFrame, pd.DataFrame]):
    """A table in a csv file. Ids and empty cells are read as text.

    Without the dtypes, a car id such as `120e45678901` would be read as a number. Text that a spreadsheet would take
    for a formula is stored with an apostrophe in front.

    Args:
        columns: columns that the file must have, and their types: `string` or `number`.
        load_args: of `pandas.read_csv`, in place of those of this class.
        save_args: of `DataFrame.to_csv`, likewise.
        options: see `FileDataset`.
    """

    DEFAULT_LOAD_ARGS: ClassVar[dict[str, Any]] = {
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
    DEFAULT_SAVE_ARGS: ClassVar[dict[str, Any]] = {"index": False}

    def __init__(
        self,
        *,
        columns: dict[str, str] | None = None,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._load_args = {**self.DEFAULT_LOAD_ARGS, **(load_args or {})}
        self._save_args = {**self.DEFAULT_SAVE_ARGS, **(save_args or {})}
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
            table = cast(pd.DataFrame, pd.read_csv(path, **self._load_args))
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
            _change_text(data, _quoted).to_csv(part, **self._save_args)
            written = _digest(part)
        self._written = written

    @if_present
    def preview(self, nrows: int = 5) -> TablePreview:
        """Return the first rows."""
        with reading(self.where):
            table = pd.read_csv(self._folder.local(self._name), **{**self._load_args, "nrows": nrows})
        return TablePreview(_change_text(table, _unquoted).to_dict(orient="split"))


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
