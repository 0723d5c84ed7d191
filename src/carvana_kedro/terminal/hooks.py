"""The hooks that print: one line per node, and a summary after the run."""

import inspect
import logging
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from carvana_kedro.terminal.log import format_as_text, use_project_logging
from carvana_kedro.terminal.summary import summarize

logger = logging.getLogger(__name__)

_COLUMNS = 79


class TerminalLogHook:
    """Lays out log lines for the terminal: see `TerminalFormatter`."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Use the project's logging, from any folder, and show the text of log lines as it is."""
        use_project_logging(Path(context.config_loader.conf_source))
        format_as_text()


class RunReportHook:
    """Logs one line when a node starts, and a summary when the run has ended well."""

    def __init__(self) -> None:
        self._headings: Mapping[str, str] = {}
        self._started = time.monotonic()
        self._saved: set[str] = set()
        self._has_run = False

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Number the nodes in the order in which they run one after the other."""
        self._headings = headings(pipeline)
        self._started = time.monotonic()
        self._saved = set()
        self._has_run = False

    @hook_impl
    def before_dataset_loaded(self, dataset_name: str, node: Node) -> None:
        """Log the line of a node before its first input: loading may take long, too."""
        if dataset_name == node.inputs[0]:
            self._log(node)

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Log the line of a node without inputs."""
        self._has_run = True
        if not node.inputs:
            self._log(node)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Remember what the run has made."""
        self._saved.add(dataset_name)

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], catalog: DataCatalog) -> None:
        """Log the summary."""
        if run_params.get("only_missing_outputs") and not self._has_run:
            logger.info("Nothing to do: all outputs exist.")
            return
        for line in summarize(run_params, sorted(self._saved), catalog, time.monotonic() - self._started):
            logger.info("%s", line)

    def _log(self, node: Node) -> None:
        # Kedro's own line, if it is shown, has the same purpose.
        is_shown = logging.getLogger("kedro.pipeline.node").isEnabledFor(logging.INFO)
        if node.name in self._headings and not is_shown:
            logger.info("%s", self._headings[node.name])


def headings(pipeline: Pipeline) -> dict[str, str]:
    """Return the line of each node of a pipeline: its number, its name and the first sentence of its function.

    >>> def split_cars(index):
    ...     '''Split the images by car: see below. Two tables.'''
    >>> print(*headings(Pipeline([Node(split_cars, "index", "sides", name="split_cars")])).values())
    [1/1] split_cars  Split the images by car
    """
    names = [node.name.rpartition(".")[2] for node in pipeline.nodes]
    width, total = max(map(len, names), default=0), len(names)
    lines = {}
    for number, (node, name) in enumerate(zip(pipeline.nodes, names, strict=True), start=1):
        start = f"[{number:{len(str(total))}}/{total}] {name:{width}}  "
        purpose = textwrap.shorten(_purpose(node), max(_COLUMNS - len(start), 20), placeholder=" ...")
        lines[node.name] = (start + purpose).rstrip()
    return lines


def _purpose(node: Node) -> str:
    """Return what a node does: the first line of its function's docstring, up to the first break."""
    first, *_ = (inspect.getdoc(node.func) or "").splitlines() or [""]
    for end in (". ", ": ", "; ", ", "):
        first = first.partition(end)[0]
    return first.removesuffix(".")
