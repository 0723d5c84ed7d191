"""Text files and web pages."""

import re
from pathlib import Path

from kedro_datasets._typing import HTMLPreview
from kedro_datasets.text import TextDataset as KedroTextDataset
from markdown_it import MarkdownIt

from carvana_kedro.datasets.previews import html_preview, if_present
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


class MarkdownDataset(TextDataset):
    """A text in Markdown. Kedro-Viz previews it."""

    @if_present
    def preview(self) -> HTMLPreview:
        """Return the text as HTML: Kedro-Viz itself reads only a part of Markdown."""
        markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        return html_preview(markdown.render(self.load()))


class HTMLDataset(TextDataset):
    """A web page that needs no other file. Kedro-Viz previews its header."""

    @if_present
    def preview(self) -> HTMLPreview:
        """Return the header of the page. Not the whole page: its styles would change all of Kedro-Viz."""
        header = re.search("<header>(.*?)</header>", self.load(), re.DOTALL)
        return html_preview(header[1]) if header else HTMLPreview("")
