"""Text files."""

from pathlib import Path

from kedro_datasets.text import TextDataset as KedroTextDataset

from carvana_kedro.stores.atomic import atomic_path


class TextDataset(KedroTextDataset):
    """Kedro's text dataset with atomic writes."""

    def save(self, data: str) -> None:
        """Write the text."""
        with atomic_path(Path(self._filepath)) as part:
            part.write_text(data, encoding="utf-8")
        self._invalidate_cache()
