"""Text files and web pages."""

import re
from pathlib import Path

# Kedro-Viz finds the kind of a preview by the name of this annotation.
from kedro_datasets._typing import HTMLPreview
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


class HTMLDataset(TextDataset):
    """A web page that needs no other file. Kedro-Viz previews its header."""

    def preview(self) -> HTMLPreview:
        """Return the header of the page.

        Not the whole page: its styles would change all of Kedro-Viz. Kedro-Viz also takes line breaks and underscores
        for Markdown.
        """
        header = re.search("<header>(.*)</header>", self.load(), re.DOTALL)
        text = " ".join(header[1].split()) if header else ""
        return HTMLPreview(text.replace("_", "\N{MODIFIER LETTER LOW MACRON}"))
