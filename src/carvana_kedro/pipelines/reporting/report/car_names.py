"""Make and model of the cars, as Kaggle publishes them beside the images."""

import pandas as pd

from carvana_kedro.stores.archives import find_table
from carvana_kedro.stores.faults import reading
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.source import ImageSource

_COLUMNS = ["id", "year", "make", "model"]


def car_names(images: ImageSource) -> dict[str, str]:
    """Return year, make and model by car; empty if the source has no `metadata.csv`.

    Args:
        images: The training side of a source. The table is looked for where its `train_masks.csv` is.

    Raises:
        UserError: The table is damaged or lacks a column.
    """
    runs = images.mask_runs if isinstance(images, ImageStore) else None
    path = runs and find_table(runs.parent, "metadata")
    if not path:
        return {}
    with reading(path, "Download it again, or remove it: only the report reads it."):
        table = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=_COLUMNS)
    return {car: " ".join(filter(None, name)) for car, *name in table[_COLUMNS].to_numpy(str).tolist()}
