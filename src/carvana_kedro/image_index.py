"""The index of a source: a table of its images and of the problems they have."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from itertools import islice
from typing import Literal

import pandas as pd

from carvana_kedro.errors import UserError
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.archives import read_rows
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.source import ImageRecord, ImageSource
from carvana_kedro.stores.tables import Row

logger = logging.getLogger(__name__)

TEST_INDEX_OPTIONS = "--to-nodes inference.select_test_images"
"""The options of a run that makes the index of the test images, and predicts nothing."""

_COLUMNS = [column.name for column in fields(ImageRecord)]


def index_images(images: ImageSource, mask_check_fraction: float = 0.0) -> pd.DataFrame:
    """Return a table of all images of a source, including those that cannot be used.

    Args:
        images: one side of a source.
        mask_check_fraction: share of the masks to compare with `train_masks.csv`, if the source has that file.

    Returns:
        One row per image, in the store's order. Columns: image (id), car, view, width and height (pixels), mask_area
        (share of the image in [0, 1]; NaN without a mask), problems (text, separated by `; `; empty if the image can
        be used), digest (of the image file; empty if it cannot be read), source (the store's fingerprint, the same in
        all rows).

    Raises:
        UserError: the source has no images, or a file changed meanwhile.
    """
    source = images.fingerprint()
    records = list(images.examine())
    if not records:
        raise UserError(f"There are no images in {images.images}.")
    sizes = Counter((record.width, record.height) for record in records if record.width)
    usual = sizes.most_common(1)[0][0] if sizes else (0, 0)
    for record in records:
        # Images to predict may have any size. Among images with masks another size means that files were mixed up.
        if images.masks and images.one_size and record.width and (record.width, record.height) != usual:
            size = f"{record.width}x{record.height}"
            record.problems.append(f"the image is {size}, most are {usual[0]}x{usual[1]}")
    by_id = {record.image: record for record in records}
    for image_id, problem in _disagreements(images, records, mask_check_fraction):
        by_id[image_id].problems.append(problem)
    index = pd.DataFrame({name: [getattr(record, name) for record in records] for name in _COLUMNS})
    index["problems"] = index["problems"].str.join("; ")
    if images.fingerprint() != source:
        raise UserError(f"Files in {images.images} changed while they were indexed. Run again.")
    index["source"] = source
    _log_one_sided_masks(index)
    return index


def usable_images(index: pd.DataFrame, on_problem: Literal["stop", "skip"], advice: str) -> pd.DataFrame:
    """Return the rows of an index without problems.

    Args:
        index: what `index_images` returns.
        on_problem: whether to raise an error at the first problem, or to leave out the rows that have problems.
        advice: the end of the error message: what to do.

    Raises:
        UserError: `on_problem` is `stop` and there are problems, which the message lists; or no row is left.
    """
    bad = index[index["problems"] != ""]
    if on_problem == "stop" and len(bad):
        lines = [f"{row.image}: {row.problems}" for row in bad.itertuples()]
        raise UserError(f"{len(bad)} of {len(index)} images cannot be used:\n{first_few(lines)}\n{advice}")
    if len(bad) == len(index):
        raise UserError(
            f"None of the {len(index)} images can be used. The first one: {bad.iloc[0].problems}."
        )
    return index[index["problems"] == ""]


def check_masks(index: pd.DataFrame) -> None:
    """Check that there is something to learn from the masks.

    Args:
        index: the rows of what `index_images` returns that a network is trained on.

    Raises:
        UserError: all masks are empty, or all are full.
    """
    for name, area in (("empty", 0.0), ("full", 1.0)):
        if (index["mask_area"] == area).all():
            raise UserError(
                f"The masks of all {len(index)} images to train on are {name}: nothing can be learned from them. The "
                f"first image is {index['image'].iat[0]}. Correct the masks. For source=folder, "
                "folder.mask_background and folder.mask_values say which values are the object."
            )


def _log_one_sided_masks(index: pd.DataFrame) -> None:
    masks = index["mask_area"].dropna()
    empty, full = (masks == 0).sum(), (masks == 1).sum()
    if empty or full:
        logger.warning("Of %d masks, %d are empty, and %d cover the whole image", len(masks), empty, full)


def _disagreements(
    images: ImageSource, records: Sequence[ImageRecord], fraction: float
) -> Iterator[tuple[str, str]]:
    """Yield (image id, problem) for masks that differ from `train_masks.csv`; checks evenly spaced masks."""
    table = images.mask_runs if isinstance(images, ImageStore) else None
    readable = [record.image for record in records if not math.isnan(record.mask_area)]
    count = math.ceil(fraction * len(readable))
    if table is None or not count:
        return
    unseen = {readable[len(readable) * number // count] for number in range(count)}

    def compare(row: Row) -> tuple[str, str] | None:
        image_id, runs = row
        mask = images.read_mask(image_id)
        try:
            differing = int((run_lengths.decode(runs, *mask.shape) != mask).sum())
        except ValueError as error:
            return image_id, f"{table.name} has an invalid mask: {error}"
        return (image_id, f"the mask differs from {table.name} in {differing} pixels") if differing else None

    with ThreadPoolExecutor() as threads:
        wanted = (row for row in read_rows(table) if row[0] in unseen)
        while rows := list(islice(wanted, 256)):  # a few at a time: run lengths are long
            yield from filter(None, threads.map(compare, rows))
            unseen -= {image_id for image_id, _ in rows}
    yield from ((image_id, f"{table.name} has no row for it") for image_id in sorted(unseen))


def check_source(index: pd.DataFrame, images: ImageSource, options: str) -> None:
    """Check that an index was made from these images.

    Args:
        index: what `index_images` returns, or some of its rows.
        images: the source.
        options: of the run that makes the index, for the error message, such as `--pipelines data_ingestion`.

    Raises:
        UserError: the index was made from another source, or files were added, changed or removed since.
    """
    if index["source"].iat[0] != images.fingerprint():
        raise outdated(images, options)


def outdated(images: ImageSource, options: str) -> UserError:
    """Return the error of an index that was made from other images. The arguments are those of `check_source`."""
    return UserError(
        f"The index was made from other files than those that are now in {images.images}, or with other options. "
        f"Create it again with the same options: kedro run {options}"
    )


def are_unchanged(index: pd.DataFrame, images: ImageSource, image_ids: Sequence[str]) -> bool:
    """Return whether the files of some images are those that the index describes. Other files are not read."""
    return index.set_index("image").loc[[*image_ids], "digest"].tolist() == images.digests_of(image_ids)


def first_few(names: Sequence[str], count: int = 10) -> str:
    """Return the first `count` names as lines of a message.

    >>> first_few(["a", "b", "c"], 2)
    '  a\\n  b\\n  ... and 1 more'
    """
    rest = [f"... and {len(names) - count} more"] if len(names) > count else []
    return "\n".join(f"  {name}" for name in [*names[:count], *rest])
