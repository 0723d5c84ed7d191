"""A runner for tests of everything that comes before the first node."""

from typing import Any

from kedro.runner import SequentialRunner


class StopBeforeNodes(SequentialRunner):
    """Runs no node, and remembers the pipeline and the catalog of the last run."""

    last: dict[str, Any] = {}  # noqa: RUF012 - shared on purpose: Kedro makes the runner from its name

    def run(self, pipeline: Any, catalog: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        type(self).last = {"nodes": [node.name for node in pipeline.nodes], "catalog": catalog}
        return {}
