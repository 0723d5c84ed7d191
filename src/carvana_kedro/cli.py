"""`kedro run`, with a short message instead of a traceback for errors that the user can fix."""

from collections.abc import Iterator
from typing import Any

import click
from kedro.config import MissingConfigException
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import CONTEXT_SETTINGS
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from carvana_kedro.errors import UserError
from carvana_kedro.pipeline_registry import NAMES


@click.group(context_settings=CONTEXT_SETTINGS, name=__file__)
def cli() -> None:
    """Commands of this project."""


def _run(**options: Any) -> Any:
    for name in filter(None, [options["pipeline"], *options["pipelines"]]):
        if name not in ("__default__", *NAMES):
            raise click.ClickException(f"Unknown pipeline {name!r}. Available: {', '.join(NAMES)}.")
    try:
        return kedro_run.callback(**options)  # type: ignore[misc]
    except Exception as error:
        causes = list(_causes(error))
        # OmegaConf wraps a UserError of a resolver in another error, so look for a UserError first.
        for kind in (UserError, MissingConfigException, OmegaConfBaseException, YAMLError):
            for cause in causes:
                if isinstance(cause, kind):
                    raise click.ClickException(str(cause)) from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


run = click.Command(
    "run", params=kedro_run.params, callback=_run, help=kedro_run.help, short_help="Run the pipeline."
)
cli.add_command(run)
