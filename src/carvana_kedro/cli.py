"""`kedro run` and `kedro package`, with a short message instead of a traceback for errors that the user can fix."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from kedro.config import MissingConfigException
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import CONTEXT_SETTINGS, _validate_config_file
from kedro.framework.project import settings
from kedro.framework.startup import ProjectMetadata
from kedro.utils import find_kedro_project
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from carvana_kedro.commands.package import check_wheel, pack_configuration
from carvana_kedro.commands.params import parse_params
from carvana_kedro.commands.selection import SELECTORS, check_runner, resolve_selection
from carvana_kedro.errors import UserError, shown_lines, suggestion
from carvana_kedro.pipeline_registry import NAMES, register_pipelines
from carvana_kedro.stores.faults import explain
from carvana_kedro.terminal.log import use_project_logging


@click.group(context_settings=CONTEXT_SETTINGS, name=__file__)
def cli() -> None:
    """Commands of this project."""


def _run(**options: Any) -> Any:
    for name in filter(None, [options["pipeline"], *options["pipelines"]]):
        if name not in ("__default__", *NAMES):
            raise click.ClickException(
                f"Unknown pipeline {name!r}. {suggestion(name, NAMES)}Available: {', '.join(NAMES)}."
            )
    if options["pipeline"] and not options["pipelines"]:
        # The same, without Kedro's warning that the option will be removed.
        options |= {"pipeline": None, "pipelines": [options["pipeline"]]}
    if project := find_kedro_project(Path.cwd()):
        use_project_logging(project / settings.CONF_SOURCE)
    try:
        check_runner(options["runner"], options["runner_params"])
        if any(options[name] for name in SELECTORS):
            options = resolve_selection(options, register_pipelines())
        return kedro_run.callback(**options)  # type: ignore[misc]
    except Exception as error:
        causes = list(_causes(error))
        # OmegaConf wraps a UserError of a resolver in another error, so look for a UserError first.
        for kind in (UserError, MissingConfigException, OmegaConfBaseException, YAMLError):
            for cause in causes:
                if isinstance(cause, kind):
                    raise click.ClickException(shown_lines(str(cause))) from error
        if fault := _fault(causes):
            raise click.ClickException(shown_lines(fault)) from error
        raise


def _fault(causes: Iterable[BaseException]) -> str | None:
    """Return the fault of the machine among the causes, such as a full disk, in one line."""
    faults = (explain(cause) for cause in causes if isinstance(cause, OSError))
    return next(filter(None, faults), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it."""
    while error is not None:
        yield error
        # OmegaConf hides the cause of its errors.
        is_hidden = error.__suppress_context__ and not isinstance(error, OmegaConfBaseException)
        error = error.__cause__ or (None if is_hidden else error.__context__)


def _read_params(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Return the parameters of `--params`, or of `params` in a file of `--config`, where they may be a mapping."""
    if isinstance(value, dict):
        return value
    try:
        return parse_params(str(value))
    except UserError as error:
        raise click.ClickException(str(error)) from error


def _read_config(context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """Use the options in a file of `--config` as defaults of the command line.

    Unlike Kedro's, this works for `python -m carvana_kedro` too, and tells what is wrong with a file.
    """
    if path:
        try:
            content: Any = OmegaConf.to_container(OmegaConf.load(path))
        except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
            raise click.ClickException(
                f"{path} cannot be read as YAML: {' '.join(str(error).split())}"
            ) from error
        options = content.get("run") if isinstance(content, dict) else None
        if not isinstance(options, dict):
            raise click.ClickException(
                f"{path} should contain   run: {{env: test, params: {{recipe: sample}}}}"
            )
        for name, value in options.items():
            _validate_config_file(name)
            if isinstance(value, list):
                options[name] = ",".join(str(each) for each in value)
        context.default_map = {**(context.default_map or {}), **options}
    return path


def _read_runner_params(context: click.Context, option: click.Parameter, value: Any) -> Any:
    try:
        return _KEDRO["runner_params"](context, option, value)
    except (YAMLError, OmegaConfBaseException) as error:
        raise click.ClickException(
            f"--runner-params: {value!r} cannot be read. It should be like max_workers=4."
        ) from error


_KEDRO: dict[str | None, Any] = {option.name: option.callback for option in kedro_run.params}
_CALLBACKS: dict[str | None, Callable[..., Any]] = {
    "params": _read_params, "config": _read_config, "runner_params": _read_runner_params,
}  # fmt: skip


def _option(option: click.Parameter) -> click.Parameter:
    """Return an option of Kedro's command, with the callback of this project if there is one."""
    option = copy.copy(option)
    option.callback = _CALLBACKS.get(option.name, option.callback)
    return option


run = click.Command(
    "run",
    params=[_option(option) for option in kedro_run.params],
    callback=_run,
    help=kedro_run.help,
    short_help="Run the pipeline.",
)
cli.add_command(run)


@cli.command()
@click.option("--no-isolation", is_flag=True, help="Build with the installed setuptools, without network.")
@click.pass_obj
def package(metadata: ProjectMetadata, no_isolation: bool) -> None:
    """Package the project as a wheel, and its configuration without credentials as an archive, into dist/."""
    project = metadata.project_path
    conf = project / settings.CONF_SOURCE
    with TemporaryDirectory(dir=project) as temporary:
        built = Path(temporary)
        options = ["--no-isolation"] if no_isolation else []
        try:
            left_out = pack_configuration(conf, built / f"conf-{metadata.package_name}.tar.gz")
            command = [sys.executable, "-m", "build", "--wheel", *options, "--outdir", str(built)]
            if subprocess.run(command, cwd=project, check=False).returncode:
                raise UserError("The wheel could not be built: see above.")
            for wheel in built.glob("*.whl"):
                check_wheel(wheel)
        except UserError as error:
            raise click.ClickException(str(error)) from error
        (project / "dist").mkdir(exist_ok=True)
        for path in built.iterdir():
            path.replace(project / "dist" / path.name)
            click.echo(f"Written: dist/{path.name}")
    if left_out:
        click.echo(f"Left out: {', '.join(str(path.relative_to(project)) for path in left_out)}")
