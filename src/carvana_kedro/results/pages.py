"""Web pages of results: templates, and how they show numbers and names."""

import math

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from carvana_kedro.errors import shown


def templates(package: str) -> Environment:
    """Return the templates of a package, and `style.css.j2`, which all pages share."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader(__package__, "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(shown=_shown, fixed=_fixed, percent=_percent, duration=_duration)
    return environment


def _shown(value: object) -> str:
    """Return a name from outside as it can be shown in one line."""
    return shown(str(value))


def _fixed(value: float | None, digits: int = 4) -> str:
    """Return a number with a fixed number of digits, or n/a if there is none.

    >>> _fixed(0.98838), _fixed(None), _fixed(float("nan"))
    ('0.9884', 'n/a', 'n/a')
    """
    return f"{value:,.{digits}f}" if value is not None and math.isfinite(value) else "n/a"


def _percent(share: float | None, digits: int = 0) -> str:
    """Return a share in percent.

    >>> _percent(0.2134), _percent(0.2134, 1), _percent(None)
    ('21%', '21.3%', 'n/a')
    """
    number = _fixed(share if share is None else 100 * share, digits)
    return number if number == "n/a" else f"{number}%"


def _duration(seconds: float) -> str:
    """Return a duration in the unit in which it is easiest to read.

    >>> _duration(47.8), _duration(1325), _duration(86400)
    ('47.8 s', '22.1 min', '24.0 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
