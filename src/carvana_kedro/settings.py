"""Project settings: https://docs.kedro.org/en/stable/configure/."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from carvana_kedro.errors import UserError
from carvana_kedro.hooks import CheckInputsHook, CheckParametersHook, LocalCredentialsHook


def pick(table: str, choice: str, *, _root_: Mapping[str, Any]) -> Any:
    """Resolve `${pick:table,choice}` to `table[choice]` of the same configuration.

    Raises:
        UserError: there is no such choice; the message names those there are.
    """
    entries = _root_[table]
    if not isinstance(entries, Mapping):
        raise UserError(f"{table} = {entries!r}: should be a table of names.")
    if choice not in entries:
        what = table.rpartition("_")[2].removesuffix("s")  # _sources: source
        raise UserError(f"There is no {what} named {choice!r}. There are: {', '.join(sorted(entries))}.")
    return entries[choice]


def side(name: str, *, _root_: Mapping[str, Any]) -> Any:
    """Resolve `${side:training}` to the training side of the chosen source.

    Raises:
        UserError: there is no such source.
    """
    return OmegaConf.merge(pick("_sources", _root_["_source"], _root_=_root_), {"side": name})


def home(path: str | None) -> str | None:
    """Resolve `${home:path}`: `~` at its beginning stands for the user's folder."""
    return None if path is None else str(Path(path).expanduser())


def here(path: str | None) -> str | None:
    """Resolve `${here:path}`: like `home`, and what is relative is so to where the command was typed."""
    return None if path is None else str(Path(path).expanduser().absolute())


HOOKS = (CheckParametersHook(), LocalCredentialsHook(), CheckInputsHook())

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "custom_resolvers": {"pick": pick, "side": side, "home": home, "here": here},
    # Without it a parameters file in the run environment makes `--params a.b=1` drop a's other keys.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
