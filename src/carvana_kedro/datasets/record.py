"""Plain values in json files."""

import json
from pathlib import Path
from typing import Any

from kedro_datasets.json import JSONDataset

from carvana_kedro.stores.atomic import atomic_path


class RecordDataset(JSONDataset):
    """Kedro's json dataset with atomic writes."""

    def save(self, data: Any) -> None:
        """Write the values."""
        with atomic_path(Path(self._filepath)) as part:
            part.write_text(json.dumps(data, indent=2) + "\n")
        self._invalidate_cache()
