"""The project's pipelines."""

from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

import carvana_kedro.pipelines

NAMES = tuple(module.name for module in iter_modules(carvana_kedro.pipelines.__path__))
"""Every pipeline there is."""

DEFAULT = ("data_ingestion", "model_training", "inference", "reporting")
"""What `kedro run` runs. What costs or leaves the machine is asked for by name."""


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline by name, and the default one."""
    pipelines = find_pipelines(raise_errors=True)
    # With `--pipelines X` Kedro imports X alone, so the default is made of what is there.
    pipelines["__default__"] = sum((pipelines[name] for name in DEFAULT if name in pipelines), Pipeline([]))
    return pipelines


def pipelines_making(names: Iterable[str], exists: Callable[[str], bool]) -> list[str]:
    """Return the pipelines to run, in order, before all the named datasets are there.

    Args:
        names: datasets that are wanted and not there.
        exists: tells whether a dataset is there.
    """
    # Not Kedro's registry: with `--pipelines X` it holds X alone.
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
