"""Resolvers: functions that compute `${name:...}` in the configuration; and the loader that uses them."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf

from carvana_kedro.errors import UserError, suggestion
from carvana_kedro.stores.folders import is_address
from carvana_kedro.weights import PACKAGED


def pick(table: str, choice: str, *, _root_: Mapping[str, Any]) -> Any:
    """Resolve `${pick:table,choice}` to `table[choice]` of the same configuration.

    Raises:
        UserError: `table` is not a mapping, or has no entry `choice`; the message lists the entries.
    """
    entries = _root_[table]
    if not isinstance(entries, Mapping):
        raise UserError(
            f"{table} must be a mapping, not {entries!r}. Correct it in the parameters file or catalog."
        )
    if choice not in entries:
        what = table.rpartition("_")[2].removesuffix("s")  # _sources: source
        names = sorted(map(str, entries))
        raise UserError(
            f"Unknown {what} {choice!r}. {suggestion(choice, names)}Available: {', '.join(names)}."
        )
    return entries[choice]


def side(name: str, *, _root_: Mapping[str, Any]) -> Any:
    """Resolve `${side:training}` to the training side of the chosen source.

    Raises:
        UserError: the chosen source does not exist.
    """
    entry: Any = OmegaConf.merge(pick("_sources", _root_["_source"], _root_=_root_), {"side": name})
    entry.pop("about", None)
    return entry


def about(setting: str, *, _root_: Mapping[str, Any]) -> Any:
    """Resolve `${about:limits}` to a setting of the chosen source that is no argument of its dataset.

    Raises:
        UserError: the chosen source does not exist, or its `about` does not have the setting.
    """
    source = _root_["_source"]
    settings = pick("_sources", source, _root_=_root_).get("about") or {}
    if setting not in settings:
        raise UserError(f"_sources.{source} in the catalog has no about.{setting}. Add it.")
    return settings[setting]


def home(path: str | None) -> str | None:
    """Resolve `${home:path}` to the path with a leading `~` replaced by the user's home folder.

    The address of an object store stays as it is, without slashes at its end.
    """
    if path is None or is_address(path):
        return path and path.rstrip("/")
    return str(Path(path).expanduser())


def here(path: str | None) -> str | None:
    """Resolve `${here:path}` like `home`, and make a relative path absolute: relative to the working directory."""
    found = home(path)
    return found if found is None or is_address(found) else str(Path(found).absolute())


def scratch(path: str | None, data: str) -> str:
    """Resolve `${scratch:path,data}` to the path of a folder on a disk.

    Without a path it is the folder of the data, or `data` if that is the address of an object store.
    """
    return home(path) or ("data" if is_address(data) else data)


def model(choice: str | None) -> str | None:
    """Resolve `${model:cars}` to the name of a packaged model as it is, and `${model:path}` like `here`."""
    return choice if choice in PACKAGED else here(choice)


RESOLVERS = {
    "pick": pick,
    "side": side,
    "about": about,
    "home": home,
    "here": here,
    "scratch": scratch,
    "model": model,
}


class ConfigLoader(OmegaConfigLoader):
    """Kedro's loader, for runs in several threads of one process, as in `kedro server`.

    OmegaConf keeps the resolvers of the whole process in one table, where each loader registers its own `globals` and
    `runtime_params`. With Kedro's loader, a run may get the parameters of another one, without an error.

    Attributes:
        alone: Held while the table of resolvers is in use.
    """

    alone = threading.RLock()

    def __init__(self, *args: Any, **options: Any) -> None:
        with self.alone:
            super().__init__(*args, **options)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Load, merge and resolve the configuration of a kind, such as `catalog`."""
        with self.alone:
            self._register_globals_resolver()  # Kedro does the same for `runtime_params`
            return super().__getitem__(key)
