"""Tables in csv files."""

from pathlib import Path

import pandas as pd
from kedro_datasets.pandas import CSVDataset

from carvana_kedro.stores.atomic import atomic_path


class TableDataset(CSVDataset):
    """Kedro's csv dataset with atomic writes. It reads ids and empty cells as text.

    Without the dtypes, a car id such as `120e45678901` would be read as a number.
    """

    DEFAULT_LOAD_ARGS = {  # noqa: RUF012 - Kedro defines this attribute
        "dtype": {"image": str, "car": str, "source": str, "problems": str, "digest": str},
        "keep_default_na": False,
        "na_values": {"mask_area": [""], "dice": [""]},
    }
    DEFAULT_SAVE_ARGS = {"index": False}  # noqa: RUF012

    def save(self, data: pd.DataFrame) -> None:
        """Write the table."""
        with atomic_path(Path(self._filepath)) as part:
            data.to_csv(part, **self._save_args)
        self._invalidate_cache()
