"""The competition's tables: csv files with fields of any length."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from carvana_kedro.errors import UserError

# A mask's run lengths are ~9 kB; those of a noisy mask pass the csv module's own limit of 128 KiB a field.
csv.field_size_limit(1 << 28)

Row = tuple[str, str]
"""An image's id and its run-length encoded mask."""

COLUMNS = ("img", "rle_mask")


def read_masks(file: TextIO, name: Path) -> Iterator[Row]:
    """Yield the id (without `.jpg`) and the mask of every row of a submission, a solution or `train_masks.csv`.

    Args:
        file: the csv, opened as text.
        name: what messages call it.

    Raises:
        UserError: it has not the columns `img,rle_mask`, is not text, names an image twice or something that is none.
    """
    seen = set()
    try:
        rows = csv.reader(file)
        header = next(rows, [])
        if tuple(header) != COLUMNS:
            raise UserError(
                f"{name} should have the columns {','.join(COLUMNS)}, not {','.join(header)[:100]!r}."
            )
        for number, row in enumerate(rows, start=2):
            if len(row) != len(COLUMNS):
                raise UserError(f"{name}, line {number}: {len(row)} fields instead of {len(COLUMNS)}.")
            image_id, dot, suffix = row[0].rpartition(".")
            if f"{dot}{suffix}" != ".jpg":
                raise UserError(f"{name}, line {number}: {row[0]!r} should be the name of an image, in .jpg.")
            if image_id in seen:
                raise UserError(f"{name}, line {number}: {row[0]} is there twice.")
            seen.add(image_id)
            yield image_id, row[1]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name} is damaged or not a csv: {error}.") from error
