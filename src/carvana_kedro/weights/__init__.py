"""Trained models that are part of the package: `NAME.pt`, with its model card `NAME.md`."""

from pathlib import Path

from carvana_kedro.errors import UserError

PACKAGED = {"cars": "a network for photographs of cars, trained on rendered images alone"}
"""What each of the models is, by its name."""


def path_of(name_or_path: str | Path) -> Path:
    """Return the file of a packaged model by its name, or the path of another model, with `~` expanded.

    A name wins over a file of the working directory, which is still reached as `./cars`. A `Path` is never a name.

    Raises:
        UserError: The package has no file of this name.

    >>> path_of("cars").name, str(path_of("./models/cars.pt"))
    ('cars.pt', 'models/cars.pt')
    """
    if name_or_path not in PACKAGED:
        return Path(name_or_path).expanduser()
    path = Path(__file__).with_name(f"{name_or_path}.pt")
    if not path.is_file():
        raise UserError(
            f"The model {name_or_path} is not part of this installation: {path} does not exist. Install carvana-kedro "
            "again, or name the path of a model."
        )
    return path
