"""The model card: what a model is, what it was trained on, how good it is, and its limits (Mitchell et al. 2019)."""

import re
from collections.abc import Iterable
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import shown
from carvana_kedro.results.summary import RunSummary

_WORST_IMAGES = 10


def write_model_card(
    run_manifest: dict[str, Any],
    validation_scores: pd.DataFrame,
    validation_threshold_curve: pd.DataFrame,
    recipes: dict[str, Any],
    source: SourceDescription,
) -> str:
    """Write the model card, from the template `model_card.md.j2`.

    Args:
        run_manifest: what `describe_run` returns.
        validation_scores: one row per image: image, car, and the measures.
        validation_threshold_curve: one row per threshold: threshold, and dice (the mean Dice coefficient).
        recipes: all recipes by name, to find what the run changed in its own.
        source: the description of the source of the images.

    Returns:
        The card as Markdown.
    """
    summary = RunSummary(run_manifest, validation_scores, validation_threshold_curve, recipes, source)
    worst = validation_scores.nsmallest(_WORST_IMAGES, "dice")[["image", "dice", "boundary_error"]]
    templates = Environment(
        loader=PackageLoader(__package__, ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters.update(text=_text, code=_code, one_line=shown)
    return templates.get_template("model_card.md.j2").render(
        summary=summary,
        run=summary.run,
        parameters=summary.parameters,
        folds=summary.folds,
        source=source,
        measures=_markdown(summary.measures),
        car_dice=list(summary.car_dice.items()),
        worst=_markdown(worst.round(4)),
        fence=_fence(summary.recipe, 3),
    )


def _markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown, with the numbers aligned to the right."""
    lines: list[Iterable[object]] = [
        table.columns,
        ["---", *["---:"] * (len(table.columns) - 1)],
        *table.itertuples(index=False),
    ]
    return "\n".join(f"| {' | '.join(_text(cell) for cell in line)} |" for line in lines)


def _text(value: object) -> str:
    """Return a value as Markdown that shows it as it is, in one line.

    >>> print(_text("<b>|car_01|</b>"), _text("_x_"))
    \\<b\\>\\|car_01\\|\\</b\\> \\_x\\_
    """
    # Underscores inside words, as in most names, do not start an emphasis.
    return re.sub(r"[\\`*\[\]<>|&~#$]|\b_|_\b|^_|_$", r"\\\g<0>", shown(str(value)))


def _code(value: object) -> str:
    """Return a value as Markdown code in a line.

    >>> print(_code("car"), _code("a`b"))
    `car` `` a`b ``
    """
    text = shown(str(value))
    fence = _fence(text, 1)
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _fence(code: str, least: int) -> str:
    """Return a row of backticks, at least `least`, that is longer than any in the code."""
    return "`" * max(least, *(len(found) + 1 for found in re.findall("`+", code)), 0)
