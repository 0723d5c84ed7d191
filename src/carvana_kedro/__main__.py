"""`python -m carvana_kedro` and the `carvana-kedro` command: `kedro run` for the installed package, and more.

Kedro is imported only to run the project, so that the other commands start quickly and need no project.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from carvana_kedro import __version__

_COMMANDS = {
    "cut": "Cut cars out of photographs.",
    "run": "Run the pipelines: kedro run, without a project.",
    "serve": "Serve a page that cuts cars out of photographs.",
}
"""What each command does. All but `run` are in the module and the variable of their name in `commands/`."""

_OWN_OPTIONS = ("-h", "--help", "--version")
"""Options without a command that are not those of `run`."""


class _Commands(click.Group):
    """Commands that are imported when they are called. Options without a command are those of `run`."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name == "run":
            return _run_command()
        if name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"carvana_kedro.commands.{name}"), name)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in the help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Insert `run` before options."""
        if not args or (args[0].startswith("-") and args[0] not in _OWN_OPTIONS):
            args = ["run", *args]
        return super().parse_args(context, args)


def _run_command() -> click.Command:
    from kedro.framework.cli.utils import find_run_command
    from kedro.framework.project import configure_project

    package_name = Path(__file__).parent.name
    configure_project(package_name)
    return find_run_command(package_name)  # type: ignore[return-value]


@click.group("carvana-kedro", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="carvana-kedro")
def _commands() -> None:
    """Cut cars out of photographs, or run the pipelines of this package.

    Options without a command are those of run: `carvana-kedro --env test` is `carvana-kedro run --env test`.
    """


def main(*args: Any, **kwargs: Any) -> Any:
    """Run a command. Without one, run the project like `kedro run`, with the same options."""
    kwargs["standalone_mode"] = not hasattr(sys, "ps1")
    return _commands(*args, **kwargs)


if __name__ == "__main__":
    main()
