"""Trained models that come with the package, each known by a name."""

from pathlib import Path

from carvana_kedro.errors import UserError

NAMES = ("cars",)


def path_of(name_or_path: str) -> Path:
    """Return the file of a model.

    Args:
        name_or_path: A name of `NAMES`, or the path of another model. A path that is spelled like a name needs `./`.

    Raises:
        UserError: The package has no file of this name.
    """
    if name_or_path not in NAMES:
        return Path(name_or_path)
    path = Path(__file__).with_name(f"{name_or_path}.pt")
    if not path.is_file():
        raise UserError(
            f"The model {name_or_path} is not part of this installation: {path} does not exist. Install carvana-kedro "
            "again, or name the path of a model."
        )
    return path
