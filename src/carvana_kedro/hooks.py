"""Checks before a run, so that a mistake is reported before any node starts."""

import atexit
import logging
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import yaml
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from carvana_kedro.commands.params import run_options
from carvana_kedro.datasets.file import open_stored
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import TEST_INDEX_OPTIONS
from carvana_kedro.parameters import check_configuration
from carvana_kedro.pipeline_registry import pipelines_making
from carvana_kedro.stores.folders import Folder
from carvana_kedro.weights import PACKAGED

logger = logging.getLogger(__name__)

_CREDENTIALS = {"kaggle": "{token: ...}", "storage": "{key: ..., secret: ...}"}
"""The entries of credentials that the catalog refers to, with examples."""


class CheckParametersHook:
    """Checks all parameters, including those of pipelines that do not run.

    What only PyTorch can tell, such as the name of a network, is checked before a run that needs it.
    """

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Validate the parameters.

        Raises:
            UserError: at least one parameter is wrong; the message lists all of them.
        """
        loader = context.config_loader
        check_configuration(loader["parameters"], loader["globals"], loader.runtime_params or {})

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Check what only PyTorch can tell: whether the network fits the recipe, and the devices exist.

        Raises:
            UserError: the network cannot take the input size or the batch, or a device does not exist. Or a share is
                asked for where there is none, or none where there is one.
        """
        outputs = pipeline.all_outputs()
        # Imported here, so that a run that does not need PyTorch does not load it.
        if "model" in outputs:
            from carvana_kedro.segmentation.training.build import check_recipe

            check_recipe(catalog.load("params:model_training").to_recipe())
        shares = any(node.namespace == "inference_share" for node in pipeline.nodes)
        if "predictions" in outputs or shares:
            from carvana_kedro.predicting.cluster import check_cluster
            from carvana_kedro.predicting.processes import number_of_processes
            from carvana_kedro.segmentation.hardware import choose_device

            inference = catalog.load("params:inference")
            _check_share(inference.share, shares, "predictions" in outputs)
            if inference.cluster:  # it may have a device that this machine does not have
                check_cluster(inference.cluster)
            else:
                choose_device(inference.device)
                number_of_processes(inference.devices, inference.device, inference.engine)


def _check_share(share: str | None, shares: bool, all_of_them: bool) -> None:
    if shares and all_of_them:
        raise UserError(
            "The pipelines inference and inference_share cannot run together, because both would predict. Run "
            "inference_share first, on each machine, and then inference, without inference.share."
        )
    if share and not shares:
        raise UserError(
            f"inference.share={share} is for the pipeline inference_share, which predicts a part of the shards. The "
            "pipeline inference predicts all that are missing, and writes the results: leave inference.share out. "
            "To predict a part, run the pipeline inference_share."
        )
    if shares and not share:
        raise UserError(
            "The pipeline inference_share predicts a part of the shards. Say which part, such as the third of eight: "
            "inference.share=3/8"
        )


class LocalCredentialsHook:
    """Uses `conf/local/credentials.yml` in every environment; Kedro reads it only if `--env` is not given."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Add the credentials of Kaggle and of the object store to those of the catalog.

        Kaggle's come with the path of their file.

        Raises:
            UserError: a file is not valid, or `conf/base` holds credentials.
        """
        loader: Any = context.config_loader
        # The run environment comes last, so that it overrides conf/local.
        for environment in dict.fromkeys(["base", "local", context.env or "local"]):
            for path in sorted((Path(loader.conf_source) / environment).rglob("credentials*")):
                if path.suffix not in (".yml", ".yaml", ".json"):
                    continue
                with loader.alone:
                    entries = _entries(path)
                if not entries:
                    continue
                if environment == "base":
                    raise UserError(
                        f"{path} holds credentials, but it is under version control. Move them to "
                        "conf/local/credentials.yml."
                    )
                if "kaggle" in entries:
                    entries["kaggle"] |= {"file": str(path)}
                loader["credentials"] = loader["credentials"] | entries


class CheckInputsHook:
    """Checks that the outputs of earlier runs that a run needs exist."""

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Check the inputs of a pipeline.

        Raises:
            UserError: inputs are missing; the message lists them and the command that creates them. Or a version of
                a dataset without versions is asked for, which Kedro would ignore.
        """
        for name in run_params.get("load_versions") or ():
            if getattr(catalog.get(name), "_version", None) is None:
                raise UserError(
                    f"--load-versions: {name} has no versions: leave it out, or version it in the catalog."
                )
        wanted = sorted(name for name in pipeline.inputs() if not name.startswith(("params:", "parameters")))
        missing = [
            name
            for name in wanted
            if not catalog.exists(name) and not getattr(catalog.get(name), "optional", False)
        ]
        if missing:
            lines = "\n".join(f"  {name} ({_where(catalog, name)})" for name in missing)
            options = f"--pipelines {','.join(pipelines_making(missing, catalog.exists))}"
            if missing == ["test_index"]:
                options = TEST_INDEX_OPTIONS  # the rest of its pipeline predicts
            raise UserError(
                f"This run needs datasets that do not exist yet:\n{lines}\n"
                f"Create them first: kedro run {options}{run_options(run_params)}"
            )
        if "model" in wanted and (name := getattr(catalog.get("model"), "stand_in", None)):
            logger.warning(
                "The recipe %s has no trained model yet. This run uses %s: %s.",
                catalog.load("params:recipe"), name, PACKAGED[name],
            )  # fmt: skip


class LockOutputsHook:
    """Lets one run at a time write the outputs of a recipe. Another run of the recipe waits.

    The index tables of a source are shared by its recipes and are not locked: see `TableDataset`.
    """

    def __init__(self) -> None:
        self._held = threading.local()  # one run in each thread

    # Last, so that no run waits before its checks. Kedro calls no hook for an error in another hook.
    @hook_impl(trylast=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Lock the recipe's folders that the pipeline writes into. Wait while another run holds a lock."""
        self._release()  # of a run that was interrupted
        if _trains_on_several_machines(pipeline, catalog):  # they would wait for each other
            return
        with ExitStack() as locks:
            for folder in _recipe_folders(pipeline, catalog):
                locks.enter_context(folder.locked())
            self._held.locks = locks.pop_all()
            # Kedro calls no hook after Ctrl-C. On a disk the lock ends with the process, in an object store it stays.
            # At the exit of Python, libraries of stores may not connect any more: that is the last resort.
            command = click.get_current_context(silent=True)
            (command.call_on_close if command else atexit.register)(self._held.locks.close)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Release the locks."""
        self._release()

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Release the locks."""
        self._release()

    def _release(self) -> None:
        if hasattr(self._held, "locks"):
            atexit.unregister(self._held.locks.close)
            self._held.locks.close()
            del self._held.locks


def _trains_on_several_machines(pipeline: Pipeline, catalog: DataCatalog) -> bool:
    trains = any(node.name == "model_training.train_model" for node in pipeline.nodes)
    return bool(trains and catalog.load("params:model_training").nodes > 1)


def _recipe_folders(pipeline: Pipeline, catalog: DataCatalog) -> list[Folder]:
    """Return the folders named after the recipe that hold outputs of a pipeline, directly or in a subfolder.

    They are sorted: two runs that need the same ones do not wait for each other.
    """
    recipe = catalog.load("params:recipe")
    folders: dict[str, Folder] = {}
    for name in pipeline.all_outputs():
        dataset = catalog.get(name) if name in catalog else None
        path = str((dataset and dataset._describe().get("filepath")) or "")
        # `Path` would make one slash of the two in an address.
        parents = (parent := os.path.split(path)[0]), os.path.split(parent)[0]
        for folder in parents:
            if os.path.split(folder)[1] == recipe:
                folders[folder] = open_stored(folder, getattr(dataset, "storage", None))
                break
    return [folders[folder] for folder in sorted(folders)]


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a file of credentials that this project reads and that are not empty."""
    # Like Kedro, which resolves `${oc.env:NAME}` in credentials and nowhere else.
    OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError):
        # No cause: its message would quote the line, and with it the secret.
        raise UserError(
            f"{path} is not valid. It should contain entries such as   kaggle: {{token: ...}}"
        ) from None
    finally:
        OmegaConf.clear_resolver("oc.env")
    entries = {name: content.get(name) for name in _CREDENTIALS} if isinstance(content, dict) else {}
    for name, example in _CREDENTIALS.items():
        if not isinstance(entries.get(name) or {}, dict):
            raise UserError(f"{path}: {name} should be a mapping, such as   {name}: {example}")
    return {name: entry for name, entry in entries.items() if entry}


def _where(catalog: DataCatalog, name: str) -> str:
    dataset = catalog.get(name)
    return str(dataset._describe()["filepath"]) if dataset else "not in the catalog"
