"""The files of `kedro package`: only configuration that is known to hold no credentials."""

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import yaml

from carvana_kedro.errors import UserError
from carvana_kedro.weights import PACKAGED

_PACKED = ("catalog", "globals", "logging", "parameters")
_SUFFIXES = (".yml", ".yaml", ".json")
_CODE = (".py", ".j2", ".html", ".css", ".js", "/py.typed")
_WEIGHTS = tuple(f"carvana_kedro/weights/{name}{suffix}" for name in PACKAGED for suffix in (".pt", ".md"))


def pack_configuration(conf: Path, archive: Path) -> list[Path]:
    """Pack the configuration that a run of the package needs.

    Packed are the catalogs, globals, parameters and logging of every environment but `local`, and `credentials.yml` of
    `base`, which names credentials without holding any.

    Args:
        conf: the folder of the configuration.
        archive: the `.tar.gz` file to write.

    Returns:
        The files that are left out.

    Raises:
        UserError: `conf/base` holds credentials.
    """
    files = sorted(path for path in conf.rglob("*") if not path.is_dir())
    packed = [path for path in files if _is_packed(path, conf)]
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        # Kedro wants a folder for every environment, also for an empty one.
        for folder in [conf, *sorted(path for path in conf.iterdir() if path.is_dir())]:
            tar.add(folder, folder.relative_to(conf.parent), recursive=False)
        for path in packed:
            tar.add(path, path.relative_to(conf.parent))
    return [path for path in files if path not in packed]


def check_wheel(wheel: Path) -> None:
    """Check that a wheel holds the code, its templates, the marker of its types and the packaged models only.

    Raises:
        UserError: there are other files; the wheel is deleted.
    """
    with ZipFile(wheel) as packed:
        others = [
            name
            for name in packed.namelist()
            if not name.endswith((*_CODE, *_WEIGHTS)) and ".dist-info/" not in name and not name.endswith("/")
        ]
    if others:
        wheel.unlink()
        raise UserError(
            f"The wheel would hold files that are not code: {', '.join(others)}. Remove them from src/, delete the "
            "folder build/ and package again."
        )


def _is_packed(path: Path, conf: Path) -> bool:
    """Tell whether a file belongs into the archive.

    Raises:
        UserError: it is the file of credentials in `conf/base`, and it holds values.
    """
    parts = path.relative_to(conf).parts
    if path.is_symlink() or path.suffix not in _SUFFIXES:
        return False
    if parts == ("base", "credentials.yml"):
        if any(_values(_content(path))):
            raise UserError(
                f"{path} holds credentials. Move them to conf/local/credentials.yml, and package again."
            )
        return True
    return (
        parts[0] != "local"
        and not any(part.lower().startswith(("credentials", ".")) for part in parts)
        and path.name.startswith(_PACKED)
    )


def _content(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes())
    except yaml.YAMLError:
        # No cause: its message would quote the line, and with it the secret.
        raise UserError(
            f"{path} is not valid YAML, so it may hold credentials. Correct or remove it."
        ) from None


def _values(content: Any) -> Iterator[Any]:
    """Yield the values of nested mappings that are not empty."""
    if isinstance(content, Mapping):
        for value in content.values():
            yield from _values(value)
    elif content:
        yield content
