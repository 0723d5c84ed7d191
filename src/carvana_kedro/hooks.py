"""What happens before a run: mistakes are found before any node starts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from carvana_kedro.errors import UserError
from carvana_kedro.parameters import check_configuration
from carvana_kedro.pipeline_registry import pipelines_making


class CheckParametersHook:
    """Checks all parameters, those of pipelines that do not run included."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Stop with a message that names every wrong key."""
        loader = context.config_loader
        check_configuration(loader["parameters"], loader["globals"], loader.runtime_params or {})

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Stop if the recipe fits the network or the machine in a way that only PyTorch can tell."""
        nodes = {node.func.__name__ for node in pipeline.nodes}
        # Imported here: the pipelines that need no PyTorch should not wait for it.
        if "train_model" in nodes:
            from carvana_kedro.segmentation.training.build import check_recipe

            check_recipe(catalog.load("params:model_training").to_recipe())
        if "predict_masks" in nodes:
            from carvana_kedro.segmentation.hardware import choose_device

            choose_device(catalog.load("params:inference").device)


class LocalCredentialsHook:
    """Makes `conf/local/credentials.yml` count in every environment: Kedro reads it when no other is named."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Put Kaggle's credentials where the catalog takes them from, with the file they were found in."""
        loader = context.config_loader
        # What an environment says itself comes last, and wins.
        for environment in dict.fromkeys(["base", "local", context.env or "local"]):
            for path in sorted((Path(loader.conf_source) / environment).rglob("credentials*")):
                if path.suffix not in (".yml", ".yaml", ".json") or not (kaggle := _kaggle_entry(path)):
                    continue
                if environment == "base":
                    raise UserError(f"{path} is committed: secrets belong into conf/local, not there.")
                loader["credentials"] = loader["credentials"] | {"kaggle": {**kaggle, "file": str(path)}}


class CheckInputsHook:
    """Checks that what a run takes from earlier runs is there."""

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Stop with a message that names every missing input and the command that makes them."""
        wanted = sorted(name for name in pipeline.inputs() if not name.startswith(("params:", "parameters")))
        missing = [name for name in wanted if not catalog.exists(name)]
        if missing:
            lines = "\n".join(f"  {name} ({_where(catalog, name)})" for name in missing)
            makers = ",".join(pipelines_making(missing, catalog.exists))
            raise UserError(
                f"This run needs what has not been made yet:\n{lines}\n"
                f"Make it first: kedro run --pipelines {makers}{_options(run_params)}"
            )


def _kaggle_entry(path: Path) -> Mapping[str, Any] | None:
    # Kedro resolves `${oc.env:NAME}` in credentials, and nowhere else: so do we.
    OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        entry = content.get("kaggle") if isinstance(content, dict) else None
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError):
        # The reason would quote the line, and with it the secret.
        raise UserError(f"{path} cannot be understood. It should say   kaggle: {{token: ...}}") from None
    finally:
        OmegaConf.clear_resolver("oc.env")
    if entry is not None and not isinstance(entry, Mapping):
        raise UserError(f"{path}: kaggle should be a table, as in   kaggle: {{token: ...}}")
    return entry


def _where(catalog: DataCatalog, name: str) -> str:
    dataset = catalog.get(name)
    return str(dataset._describe()["filepath"]) if dataset else "not in the catalog"


def _options(run_params: Mapping[str, Any]) -> str:
    """Return the options of this run that decide where things lie, as they are typed."""
    environment = f" --env {run_params['env']}" if run_params.get("env") else ""
    parameters = ",".join(_flat(run_params.get("runtime_params") or {}))
    return environment + (f" --params {parameters}" if parameters else "")


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value}"
