"""The layout of log lines in the terminal."""

import logging
import os
import re
import shutil
import sys
import textwrap
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TextIO

import click
import yaml
from kedro.framework.project import LOGGING, configure_logging
from kedro.utils import find_config_file

from carvana_kedro.errors import shown_lines

HANDLER = "terminal"
"""The handler of `conf/logging.yml` that gets the layout of this module."""

_PACKAGE = "carvana_kedro"
_DETAIL = "  "


class TerminalFormatter(logging.Formatter):
    """Formats log records as plain text, without time or color.

    Records of this folder are headings. All others are details of the node that runs, and are indented. Warnings and
    errors begin with their level. Paths below the working directory are shown relative to it.

    Args:
        wraps: Whether to wrap details at words to the width of the terminal.
    """

    def __init__(self, wraps: bool = False) -> None:
        super().__init__()
        self._wraps = wraps

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - a method of logging
        """Return the text of a record, to which `logging` adds the traceback if there is one."""
        text = relative_to_working_directory(shown_lines(record.message.rstrip()))
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname}: {text}"
        if record.name.startswith(__package__):
            return text
        lines = textwrap.indent(text, _DETAIL).split("\n")
        return "\n".join(map(_wrapped, lines) if self._wraps else lines)


def relative_to_working_directory(text: str) -> str:
    """Return a text in which paths below the working directory are relative to it."""
    folder = os.path.join(Path.cwd(), "")  # noqa: PTH118 - with the separator at its end
    # Only at the start of a path: not within another path or an address. Not in `--params data_root=PATH` either:
    # a relative path would be one below the project.
    return re.sub(rf"(?<![^\s'\"(]){re.escape(folder)}(?=\S)", "", text)


def _wrapped(line: str) -> str:
    indent = line[: len(line) - len(line.lstrip())] + _DETAIL
    return textwrap.fill(
        line, shutil.get_terminal_size().columns, subsequent_indent=indent, replace_whitespace=False,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def use_project_logging(conf: Path) -> None:
    """Use `logging.yml` of the project's configuration, unless Kedro has found one.

    Kedro reads it only in the working directory, and logs in its own way from another folder of the project.
    """
    found = os.environ.get("KEDRO_LOGGING_CONFIG") or find_config_file("conf/logging")
    if not found and (conf / "logging.yml").is_file():
        config = yaml.safe_load((conf / "logging.yml").read_text(encoding="utf-8"))
        if config != LOGGING.data:
            configure_logging(config)


def format_as_text() -> None:
    """Let all log handlers show text as it is, and lay out the lines of the terminal."""
    logging.captureWarnings(True)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_as_plain_text)
        if handler.name == HANDLER and isinstance(handler, logging.StreamHandler):
            handler.setFormatter(TerminalFormatter(wraps=handler.stream.isatty()))
            handler.handleError = partial(_outlive_reader, handler)  # type: ignore[method-assign]


def _outlive_reader(handler: logging.StreamHandler[TextIO], record: logging.LogRecord) -> None:
    """Continue without a log if nobody reads it any more, as after `kedro run | head`, or its disk is full."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError) or handler.stream not in (sys.__stdout__, sys.__stderr__):
        logging.StreamHandler.handleError(handler, record)
        return
    with suppress(OSError):
        if not isinstance(error, BrokenPipeError):
            click.echo(f"The log cannot be written: {error}. The run continues.", err=True)
    # As Python's documentation advises: else the interpreter reports the error once more when it ends.
    with open(os.devnull, "w") as null, suppress(OSError):  # noqa: PTH123 - no path
        os.dup2(null.fileno(), handler.stream.fileno())


def _as_plain_text(record: logging.LogRecord) -> bool:
    """Escape control characters, and switch off Rich's markup such as [red], in the log lines of this package.

    They may contain names of files and answers of servers.
    """
    if record.name.partition(".")[0] == _PACKAGE:
        record.msg, record.args = shown_lines(record.getMessage()), None
        record.markup = False
    return True
