"""The table that says which images a source has and what is wrong with them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import pandas as pd

from carvana_kedro.errors import UserError
from carvana_kedro.stores.images import ImageStore


def index_images(images: ImageStore) -> pd.DataFrame:
    """List every image of a source, problems included.

    Returns:
        A row an image, in the store's order: image, car, view, width, height (pixels), mask_area (share of the
        picture, NaN without a mask), problems (separated by `; `, empty for an image that can be used) and
        source (the store's fingerprint).

    Raises:
        UserError: there is not a single image.
    """
    records = list(images.examine())
    if not records:
        raise UserError(f"There is no .jpg in {images.images}.")
    sizes = Counter((record.width, record.height) for record in records if record.width)
    usual = sizes.most_common(1)[0][0] if sizes else (0, 0)
    for record in records:
        # A photograph without a mask may have any size; among pairs another size is another competition's.
        if images.masks and record.width and (record.width, record.height) != usual:
            size = f"{record.width}x{record.height}"
            record.problems.append(f"the image is {size}, most are {usual[0]}x{usual[1]}")
    index = pd.DataFrame([asdict(record) for record in records]).drop(columns="digest")
    index["problems"] = index["problems"].str.join("; ")
    index["source"] = images.fingerprint()
    return index


def usable_images(index: pd.DataFrame, on_problem: Literal["stop", "skip"], advice: str) -> pd.DataFrame:
    """Return the rows without problems.

    Raises:
        UserError: there are problems and `on_problem` is `stop`: names the files and gives the advice; or no row
            is left.
    """
    bad = index[index["problems"] != ""]
    if on_problem == "stop" and len(bad):
        lines = [f"{row.image}: {row.problems}" for row in bad.itertuples()]
        raise UserError(f"{len(bad)} of {len(index)} images cannot be used:\n{_first_few(lines)}\n{advice}")
    if len(bad) == len(index):
        raise UserError(f"None of the {len(index)} images can be used; the first: {bad.iloc[0].problems}.")
    return index[index["problems"] == ""]


def check_source(index: pd.DataFrame, images: ImageStore, pipeline: str) -> None:
    """Make sure that an index was made from these images.

    Raises:
        UserError: it was made from another source, or files have come or gone since.
    """
    if index["source"].iat[0] != images.fingerprint():
        raise UserError(
            f"The index was made from other files than those in {images.images} now. "
            f"Make it anew, with the same options: kedro run --pipelines {pipeline}"
        )


def _first_few(names: Sequence[str], count: int = 10) -> str:
    """Return the names as lines of a message, at most `count` of them.

    >>> _first_few(["a", "b", "c"], 2)
    '  a\\n  b\\n  ... and 1 more'
    """
    rest = [f"... and {len(names) - count} more"] if len(names) > count else []
    return "\n".join(f"  {name}" for name in [*names[:count], *rest])
