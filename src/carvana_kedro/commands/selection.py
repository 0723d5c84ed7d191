"""The options of `kedro run` that select nodes: mistakes are told before the run, and short names of nodes work."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from kedro.pipeline import Pipeline
from kedro.runner import AbstractRunner, ParallelRunner
from kedro.utils import load_obj

from carvana_kedro.errors import UserError

_NODES = {"node_names": "--nodes", "from_nodes": "--from-nodes", "to_nodes": "--to-nodes"}
_DATASETS = {"from_inputs": "--from-inputs", "to_outputs": "--to-outputs", "load_versions": "--load-versions"}
_LABELS = {"tags": "--tags", "namespaces": "--namespaces"}
SELECTORS = (*_NODES, *_DATASETS, *_LABELS)
"""The options that select nodes, by the names of their values."""


def resolve_selection(options: Mapping[str, Any], pipelines: Mapping[str, Pipeline]) -> dict[str, Any]:
    """Return the options of a run with the full names of nodes, `model_training.train_model` for `train_model`.

    Args:
        options: the options of `kedro run`.
        pipelines: all pipelines by name.

    Raises:
        UserError: an option names something that does not exist in the pipelines of the run, or no node is left.
    """
    chosen = [*filter(None, [options["pipeline"], *options["pipelines"]])] or ["__default__"]
    pipeline = sum((pipelines[name] for name in chosen), Pipeline([]))
    nodes = {name: [node.name for node in each.nodes] for name, each in pipelines.items()}
    known = [node.name for node in pipeline.nodes]
    full = {
        key: [_full_name(option, name, known, nodes) for name in options[key]]
        for key, option in _NODES.items()
        if options[key]
    }
    datasets = {name: each.datasets() for name, each in pipelines.items()}
    for key, option in _DATASETS.items():
        for name in options[key] or ():
            if name not in pipeline.datasets():
                raise UserError(_unknown(option, "dataset", name, pipeline.datasets(), datasets))
    _check_labels(options, pipeline)
    resolved = {**options, **full}
    try:
        pipeline.filter(
            tags=resolved["tags"], from_nodes=resolved["from_nodes"], to_nodes=resolved["to_nodes"],
            node_names=resolved["node_names"], from_inputs=resolved["from_inputs"],
            to_outputs=resolved["to_outputs"], node_namespaces=resolved["namespaces"],
        )  # fmt: skip
    except ValueError:
        given = ", ".join(
            option for key, option in (_NODES | _DATASETS | _LABELS).items() if resolved.get(key)
        )
        raise UserError(
            f"No node is selected by all of these options together: {given}. Leave one out."
        ) from None
    return resolved


def check_runner(name: str | None, arguments: Mapping[str, Any]) -> None:
    """Check that a runner exists, takes its arguments and can run this project.

    Raises:
        UserError: there is no such runner, it is ParallelRunner, or an argument is wrong.
    """
    try:
        runner = load_obj(name or "SequentialRunner", "kedro.runner")
    except (ImportError, AttributeError, ValueError):
        runner = None
    if not (isinstance(runner, type) and issubclass(runner, AbstractRunner)):
        raise UserError(f"--runner: unknown runner {name!r}. Available: SequentialRunner, ThreadRunner.")
    if issubclass(runner, ParallelRunner):
        raise UserError(
            "--runner: ParallelRunner cannot run this project, because its datasets cannot be sent to other processes. "
            "Use SequentialRunner. To use several cores, set model_training.num_workers and inference.num_workers."
        )
    try:
        runner(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"--runner-params: {runner.__name__} cannot be made: {error}") from None


def _full_name(
    option: str, name: str, known: Collection[str], by_pipeline: Mapping[str, Collection[str]]
) -> str:
    """Return the name of a node with its namespace.

    Raises:
        UserError: no node has this name, or several have it.
    """
    found = [full for full in known if name in (full, full.rpartition(".")[2])]
    if len(found) > 1:
        raise UserError(f"{option}: {name!r} may be {' or '.join(sorted(found))}. Give the full name.")
    if not found:
        raise UserError(_unknown(option, "node", name, known, by_pipeline))
    return found[0]


def _unknown(
    option: str, kind: str, name: str, known: Collection[str], by_pipeline: Mapping[str, Collection[str]]
) -> str:
    """Return the message for a name that the pipelines of the run do not have."""
    elsewhere = sorted(
        pipeline
        for pipeline, names in by_pipeline.items()
        if pipeline != "__default__" and name in {*names, *(full.rpartition(".")[2] for full in names)}
    )
    if elsewhere:
        return (
            f"{option}: the {kind} {name!r} is not in this run, but in the pipeline {' and '.join(elsewhere)}. "
            f"Add --pipelines {elsewhere[0]}."
        )
    # Parameters are datasets too, but a person who mistypes a name hardly means one.
    names = sorted(each for each in known if not each.startswith(("params:", "parameters")))
    short = {each.rpartition(".")[2]: each for each in names} if kind == "node" else {}
    last = name.rpartition(".")[2]
    close = [last] if last in short else difflib.get_close_matches(name, [*names, *short], n=1)
    suggestion = f"Did you mean {short.get(close[0], close[0])}? " if close else ""
    return f"{option}: unknown {kind} {name!r}. {suggestion}Available: {', '.join(names)}."


def _check_labels(options: Mapping[str, Any], pipeline: Pipeline) -> None:
    """Check the names of tags and namespaces.

    Raises:
        UserError: no node of the pipeline has one of them.
    """
    tags = {tag for node in pipeline.nodes for tag in node.tags}
    namespaces = {prefix for node in pipeline.nodes for prefix in node.namespace_prefixes}
    for key, known in (("tags", tags), ("namespaces", namespaces)):
        for name in options[key] or ():
            if name not in known:
                raise UserError(
                    f"{_LABELS[key]}: no node of this run has {name!r}. "
                    + (f"Available: {', '.join(sorted(known))}." if known else f"There are no {key}.")
                )
