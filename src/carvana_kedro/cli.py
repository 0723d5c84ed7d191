"""`kedro run`, with a mistake of the user's told in a few lines instead of a traceback."""

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
            raise click.ClickException(f"There is no pipeline named {name!r}. There are: {', '.join(NAMES)}.")
    try:
        return kedro_run.callback(**options)  # type: ignore[misc]
    except Exception as error:
        causes = list(_causes(error))
        # A UserError raised by one of our resolvers comes wrapped in OmegaConf's own.
        for kind in (UserError, MissingConfigException, OmegaConfBaseException, YAMLError):
            for cause in causes:
                if isinstance(cause, kind):
                    raise click.ClickException(str(cause)) from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


run = click.Command(
    "run", params=kedro_run.params, callback=_run, help=kedro_run.help, short_help="Run the pipeline."
)
cli.add_command(run)
