"""Whose name Kaggle is asked in."""

import json
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from carvana_kedro.errors import UserError

SETTINGS_PAGE = "https://www.kaggle.com/settings/api"

_ADVICE = f"""\
Make a token at {SETTINGS_PAGE} and put it where it is looked for, the first that is there:
  conf/local/credentials.yml               kaggle: {{token: KGAT_...}}   or   kaggle: {{username: ..., key: ...}}
  the environment                          KAGGLE_API_TOKEN              or   KAGGLE_USERNAME and KAGGLE_KEY
  Kaggle's own files                       ~/.kaggle/access_token        or   kaggle.json   or   kaggle auth login
A file must be yours alone: chmod 600 FILE"""


@dataclass(frozen=True)
class Credentials:
    """What Kaggle knows a user by: a token, or a name and a key; with neither, what `kaggle auth login` has left.

    The secrets are not part of its text, so that no log shows them.
    """

    where: str
    """Where they were found, for messages."""
    token: str = field(default="", repr=False)
    username: str = field(default="", repr=False)
    key: str = field(default="", repr=False)

    @property
    def expires(self) -> bool:
        """Whether they are those of `kaggle auth login`, whose tokens are renewed now and then."""
        return not (self.token or self.key)


def find_credentials(
    configured: Mapping[str, str], environment: Mapping[str, str] = os.environ, home: Path | None = None
) -> Credentials:
    """Return the credentials from the project's configuration, the environment or Kaggle's own files.

    Args:
        configured: the entry `kaggle` of `credentials.yml`: `token`, or `username` and `key`; `file` says where it
            stands. May be empty.
        environment: the environment's variables.
        home: the user's folder, where it is not the one of this process.

    Raises:
        UserError: there are none, or half of them, or they are no such thing, or lie in a file that others can read.
            No message quotes them.
    """
    found = (
        _configured(configured)
        or _from_environment(environment)
        or _from_files(environment, home or Path.home())
    )
    if found:
        return _usable(found)
    problem = "There are no credentials for Kaggle."
    if "KAGGLE_USER" in environment or "KAGGLE_PASSWD" in environment:
        problem += " KAGGLE_USER and KAGGLE_PASSWD are set, but Kaggle's login by password is gone: tokens replace it."
    raise UserError(f"{problem} {_ADVICE}")


def _configured(configured: Mapping[str, str]) -> Credentials | None:
    values = {name: str(value) for name, value in configured.items() if value and name != "file"}
    if not values:
        return None
    where = configured.get("file", "credentials.yml")
    if "file" in configured:
        _require_private(Path(where))
    if unknown := values.keys() - {"token", "username", "key"}:
        raise UserError(
            f"{where}: kaggle has {', '.join(sorted(unknown))}; a token, or username and key, belong there."
        )
    return _complete(where, values, "username", "key")


def _from_environment(environment: Mapping[str, str]) -> Credentials | None:
    names = {"token": "KAGGLE_API_TOKEN", "username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
    values = {name: environment[variable] for name, variable in names.items() if environment.get(variable)}
    # Kaggle's notebooks give the path of a file.
    if values.get("token", "").startswith("/") and Path(values["token"]).is_file():
        values["token"] = _read(Path(values["token"]))
    return _complete("the environment", values, "KAGGLE_USERNAME", "KAGGLE_KEY") if values else None


def _from_files(environment: Mapping[str, str], home: Path) -> Credentials | None:
    own = home / ".kaggle"
    for path in (own / "access_token", own / "access_token.txt"):
        if path.is_file():
            return Credentials(str(path), token=_read(path))
    configuration = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    for folder in (environment.get("KAGGLE_CONFIG_DIR"), own, configuration):
        path = Path(folder or own) / "kaggle.json"
        if path.is_file():
            content = _read(path)
            try:
                values = {name: str(json.loads(content)[name]) for name in ("username", "key")}
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path} is damaged. Fetch it again: {SETTINGS_PAGE}") from None
            return Credentials(str(path), **values)
    if (own / "credentials.json").is_file():
        _require_private(own / "credentials.json")
        return Credentials(str(own / "credentials.json"))
    return None


def _complete(where: str, values: Mapping[str, str], username: str, key: str) -> Credentials:
    """Return the token if there is one, else name and key.

    Raises:
        UserError: one of the two is not there.
    """
    if "token" in values:
        return Credentials(where, token=values["token"])
    if missing := [name for field, name in (("username", username), ("key", key)) if field not in values]:
        raise UserError(f"The credentials for Kaggle in {where} lack {missing[0]}. {_ADVICE}")
    return Credentials(where, username=values["username"], key=values["key"])


def _usable(found: Credentials) -> Credentials:
    """Return them without the blanks and line breaks around them.

    Raises:
        UserError: they hold what no token and no key does: a header must not carry it.
    """
    secrets = {name: getattr(found, name).strip() for name in ("token", "username", "key")}
    for name, value in secrets.items():
        if value and (not value.isascii() or not value.isprintable() or " " in value):
            raise UserError(
                f"The {name} in {found.where} has characters that none has. Copy it again: {SETTINGS_PAGE}"
            )
    return replace(found, **secrets)


def _read(path: Path) -> str:
    """Return the text of a file that holds secrets.

    Raises:
        UserError: others can read it, or it cannot be read, or is empty.
    """
    _require_private(path)
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} should hold your Kaggle credentials and cannot be read.") from error
    if not text:
        raise UserError(
            f"{path} should hold your Kaggle credentials and is empty. Make new ones: {SETTINGS_PAGE}"
        )
    return text


def _require_private(path: Path) -> None:
    if sys.platform == "win32":
        return  # the mode says nothing there, and a user's folder is private by default
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(f"Others can read {path}, which holds your Kaggle credentials: chmod 600 {path}")
