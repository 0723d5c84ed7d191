"""Credentials for Kaggle."""

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
Create a token at {SETTINGS_PAGE} and put it into one of these places. The first one found is used:
  conf/local/credentials.yml               kaggle: {{token: KGAT_...}}   or   kaggle: {{username: ..., key: ...}}
  the environment                          KAGGLE_API_TOKEN              or   KAGGLE_USERNAME and KAGGLE_KEY
  Kaggle's own files                       ~/.kaggle/access_token        or   kaggle.json   or   kaggle auth login
The file must be readable only by you: chmod 600 FILE"""


@dataclass(frozen=True)
class Credentials:
    """A token, or a name and a key. With neither, the tokens that `kaggle auth login` stored are used.

    `repr` does not show the secrets, so that they do not appear in logs.
    """

    where: str
    """Where they were found, for error messages."""
    token: str = field(default="", repr=False)
    username: str = field(default="", repr=False)
    key: str = field(default="", repr=False)

    @property
    def expires(self) -> bool:
        """Whether these are the tokens of `kaggle auth login`, which expire and are renewed."""
        return not (self.token or self.key)


def find_credentials(
    configured: Mapping[str, str], environment: Mapping[str, str] = os.environ, home: Path | None = None
) -> Credentials:
    """Return the credentials from the project's configuration, the environment or Kaggle's own files.

    Args:
        configured: entry `kaggle` of `credentials.yml`: `token`, or `username` and `key`, and `file`, the path of the
            configuration file. May be empty.
        environment: environment variables.
        home: the user's home folder, if it is not that of this process.

    Raises:
        UserError: there are no credentials, or they are incomplete or invalid, or other users can read their file. The
            message does not contain them.
    """
    found = (
        _configured(configured)
        or _from_environment(environment)
        or _from_files(environment, home or Path.home())
    )
    if found:
        return _strip(found)
    problem = "No Kaggle credentials were found."
    if "KAGGLE_USER" in environment or "KAGGLE_PASSWD" in environment:
        problem += (
            " KAGGLE_USER and KAGGLE_PASSWD are set, but Kaggle accepts only tokens and keys, not passwords."
        )
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
            f"{where}: kaggle has unknown keys: {', '.join(sorted(unknown))}. Set token, or username and key."
        )
    return _complete(where, values, "username", "key")


def _from_environment(environment: Mapping[str, str]) -> Credentials | None:
    names = {"token": "KAGGLE_API_TOKEN", "username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
    values = {name: environment[variable] for name, variable in names.items() if environment.get(variable)}
    # Kaggle notebooks set it to the path of a file.
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
                raise UserError(f"{path} is damaged. Download it again: {SETTINGS_PAGE}") from None
            return Credentials(str(path), **values)
    if (own / "credentials.json").is_file():
        _require_private(own / "credentials.json")
        return Credentials(str(own / "credentials.json"))
    return None


def _complete(where: str, values: Mapping[str, str], username: str, key: str) -> Credentials:
    """Return credentials with the token if there is one, else with name and key.

    Raises:
        UserError: name or key is missing.
    """
    if "token" in values:
        return Credentials(where, token=values["token"])
    if missing := [name for field, name in (("username", username), ("key", key)) if field not in values]:
        raise UserError(f"The Kaggle credentials in {where} lack {missing[0]}. {_ADVICE}")
    return Credentials(where, username=values["username"], key=values["key"])


def _strip(found: Credentials) -> Credentials:
    """Return the credentials without surrounding whitespace.

    Raises:
        UserError: they contain characters that are not allowed in an HTTP header.
    """
    secrets = {name: getattr(found, name).strip() for name in ("token", "username", "key")}
    for name, value in secrets.items():
        if value and (not value.isascii() or not value.isprintable() or " " in value):
            raise UserError(
                f"The {name} in {found.where} has invalid characters. Copy it again: {SETTINGS_PAGE}"
            )
    return replace(found, **secrets)


def _read(path: Path) -> str:
    """Return the text of a file with credentials.

    Raises:
        UserError: other users can read the file, or it cannot be read, or it is empty.
    """
    _require_private(path)
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} should hold your Kaggle credentials, but cannot be read.") from error
    if not text:
        raise UserError(
            f"{path} should hold your Kaggle credentials, but is empty. Create new ones: {SETTINGS_PAGE}"
        )
    return text


def _require_private(path: Path) -> None:
    if sys.platform == "win32":
        return  # Windows has no such mode, and home folders are private by default
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(f"Other users can read {path}, which holds your Kaggle credentials: chmod 600 {path}")
