"""Text files."""

from pathlib import Path

from kedro_datasets.text import TextDataset as KedroTextDataset

from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.faults import reading


class TextDataset(KedroTextDataset):
    """Kedro's text dataset with atomic writes."""

    def load(self) -> str:
        """Return the text."""
        path = Path(self._filepath)
        with reading(path):
            return path.read_text("utf-8")

    def save(self, data: str) -> None:
        """Write the text."""
        with atomic_path(Path(self._filepath)) as part:
            part.write_text(data, encoding="utf-8")
        self._invalidate_cache()
