"""One line per node, and the summary, with real runners."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.framework.project import configure_project
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import AbstractRunner, SequentialRunner, ThreadRunner

from carvana_kedro.pipeline_registry import register_pipelines
from carvana_kedro.terminal.hooks import RunReportHook, headings

logger = logging.getLogger("carvana_kedro.test")


class Slow(MemoryDataset):
    """Says when it is loaded."""

    def load(self) -> Any:
        logger.info("loaded")
        return super().load()


def _count() -> int:
    """Count: from nothing."""
    logger.info("counted")
    return 1


def _add(first: int, second: int) -> int:
    """Add two numbers. They may be negative."""
    return first + second


def _undocumented(number: int) -> int:
    return number


PIPELINE = Pipeline(
    [
        Node(_count, None, "one", name="count"),
        Node(_add, ["one", "two"], "three", name="add"),
        Node(_undocumented, "three", "four", name="copy"),
    ],
    namespace="mine",
    prefix_datasets_with_namespace=False,
)


def _run(runner: AbstractRunner, pipeline: Pipeline = PIPELINE, **run_params: Any) -> None:
    manager = _create_hook_manager()
    manager.register(RunReportHook())
    catalog = DataCatalog({"one": Slow(), "two": MemoryDataset(2), "three": MemoryDataset()})
    manager.hook.before_pipeline_run(run_params=run_params, pipeline=pipeline, catalog=catalog)
    only_missing = run_params.get("only_missing_outputs", False)
    result = runner.run(pipeline, catalog, manager, only_missing_outputs=only_missing)
    manager.hook.after_pipeline_run(
        run_params=run_params, run_result=result, pipeline=pipeline, catalog=catalog
    )


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "kedro.pipeline.node")
    caplog.set_level(logging.INFO, "carvana_kedro")
    return lambda: [
        record.getMessage() for record in caplog.records if record.name.startswith("carvana_kedro")
    ]


@pytest.mark.parametrize("runner", [SequentialRunner(), SequentialRunner(is_async=True), ThreadRunner()])
def test_a_node_has_one_line_before_it_loads_its_inputs(
    runner: AbstractRunner, lines: Callable[[], list[str]]
) -> None:
    _run(runner)
    *found, done, _ = lines()
    assert found == [
        "[1/3] count  Count",
        "counted",
        "[2/3] add    Add two numbers",
        "loaded",
        "[3/3] copy",
    ]
    assert done.startswith("Done in ")


def test_kedros_own_lines_of_nodes_replace_those_of_this_project(
    lines: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kedro.pipeline.node")
    _run(SequentialRunner())
    assert not [line for line in lines() if line.startswith("[")]
    assert sum(record.getMessage().startswith("Running node") for record in caplog.records) == 3


def test_a_run_of_missing_outputs_says_if_none_is_missing(lines: Callable[[], list[str]]) -> None:
    _run(SequentialRunner(), Pipeline([]), only_missing_outputs=True)
    assert lines() == ["Nothing to do: all outputs exist."]


def test_a_failed_run_has_no_summary(lines: Callable[[], list[str]]) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        _run(SequentialRunner(), Pipeline([Node(fail, None, "nothing", name="fail")]))
    assert lines() == ["[1/1] fail"]


def test_the_lines_of_the_projects_nodes_fit_into_80_columns() -> None:
    configure_project("carvana_kedro")
    for pipeline in register_pipelines().values():
        for node, line in headings(pipeline).items():
            assert node.rpartition(".")[2] in line
            assert len(line) < 80
            assert not line.endswith(("]", " ..."))
