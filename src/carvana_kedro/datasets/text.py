"""Text files and web pages."""

import re

from kedro_datasets._typing import HTMLPreview
from markdown_it import MarkdownIt

from carvana_kedro.datasets.file import FileDataset
from carvana_kedro.datasets.previews import html_preview, if_present
from carvana_kedro.stores.faults import reading


class TextDataset(FileDataset[str, str]):
    """A text in UTF-8."""

    def load(self) -> str:
        """Return the text."""
        with reading(self.where):
            return self._folder.read(self._name).decode()

    def save(self, data: str) -> None:
        """Write the text."""
        with self._folder.write(self._name) as part:
            part.write_text(data, encoding="utf-8")


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
