"""Text files and web pages."""

import re
from typing import Any

from kedro_datasets._typing import HTMLPreview
from kedro_datasets.text import TextDataset as KedroTextDataset
from markdown_it import MarkdownIt

from carvana_kedro.datasets.file import FormatDataset
from carvana_kedro.datasets.previews import html_preview, if_present

_UTF8 = {"open_args_load": {"encoding": "utf-8"}, "open_args_save": {"encoding": "utf-8"}}


class TextDataset(FormatDataset[str, str]):
    """A text in UTF-8.

    Args:
        options: see `FormatDataset`.
    """

    FORMAT = KedroTextDataset

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"fs_args": _UTF8, **options})


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
