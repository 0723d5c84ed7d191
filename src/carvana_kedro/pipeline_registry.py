"""The project's pipelines."""

from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

import carvana_kedro.pipelines

NAMES = tuple(module.name for module in iter_modules(carvana_kedro.pipelines.__path__))
"""The names of all pipelines."""

DEFAULT = ("data_ingestion", "model_training", "inference", "reporting")
"""The pipelines of `kedro run`. The others cost time or contact Kaggle: they run only by name."""


def register_pipelines() -> dict[str, Pipeline]:
    """Return all pipelines by name, and the default pipeline as `__default__`."""
    pipelines = find_pipelines(raise_errors=True)
    # With `--pipelines X` Kedro imports only X, so some of the default pipelines may be missing.
    pipelines["__default__"] = sum((pipelines[name] for name in DEFAULT if name in pipelines), Pipeline([]))
    return pipelines


def pipelines_making(names: Iterable[str], exists: Callable[[str], bool]) -> list[str]:
    """Return the pipelines that create missing datasets and their missing inputs, in the order to run them.

    Args:
        names: the missing datasets.
        exists: tells whether a dataset exists.
    """
    # Not Kedro's registry: with `--pipelines X` it holds only X.
    pipelines = {name: import_module(f"carvana_kedro.pipelines.{name}").create_pipeline() for name in NAMES}
    makers = {output: name for name, pipeline in pipelines.items() for output in pipeline.all_outputs()}
    wanted, needed = list(names), set()
    while wanted:
        maker = makers.get(wanted.pop())
        if maker and maker not in needed:
            needed.add(maker)
            wanted += [entry for entry in pipelines[maker].inputs() if entry in makers and not exists(entry)]
    return sorted(
        needed, key=lambda name: (name not in DEFAULT, DEFAULT.index(name) if name in DEFAULT else 0)
    )
