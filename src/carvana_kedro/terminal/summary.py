"""The summary that `kedro run` prints at its end."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from kedro.io import DataCatalog

from carvana_kedro.commands.params import run_options
from carvana_kedro.results.doubt import doubtful_masks
from carvana_kedro.segmentation.training.recipe import flatten
from carvana_kedro.weights import PACKAGED

MADE = {
    "submission": "a submission",
    "evaluation_scores": "scores",
    "export_manifest": "an export",
    "submission_receipt": "a receipt",
    "cutouts": "cut-outs",
    "report": "a report",
    "review_sheet": "a review sheet",
}
"""What a person would call some datasets."""

WORTH_OPENING = (
    "review_sheet", "report", "cutouts", "turntables", "submission_preview", "validation_gallery", "model_card",
    "prediction_summary",
    "evaluation_scores", "export_check", "submission_receipt", "submission", "validation_scores", "model",
    "training_image_index",
)  # fmt: skip
"""The datasets whose files or folders show the most, best first."""

_REPORTED = ("train_index", "trained_model", "model_card")
"""Datasets without which there is nothing to report."""


def summarize(
    run_params: Mapping[str, Any], saved: Iterable[str], catalog: DataCatalog, seconds: float
) -> list[str]:
    """Return what a run has made, its scores, the files to open and what to run next.

    Args:
        run_params: Kedro's record of the run.
        saved: The datasets that the run has saved.
        catalog: The catalog of the run.
        seconds: Duration of the run.

    Returns:
        At most ten lines. Datasets that are not in files or folders are left out.
    """
    made = {name: path for name in saved if (path := _path(catalog, name))}
    if "predictions" in made and catalog.load("predictions")["parameters"]["cutouts"]:
        # Of all images, not only of those that the report shows.
        made["cutouts"] = catalog.load("predicted_images").folder.address("cutouts")
    words = ", ".join(_words(catalog, made))
    sections = {
        "model": _stand_in(catalog, made),
        "validation": _spread(catalog, "validation_scores", made),
        "evaluation": _spread(catalog, "evaluation_scores", made),
        "submission": _submission_score(catalog, made),
        "doubtful": _doubtful(catalog, made),
        "open": [made[name] for name in WORTH_OPENING if name in made][:3],
        "next": [*islice(_next_commands(catalog, made, run_params), 2)],
    }
    lines = [f"Done in {duration(seconds)}" + (f": {words}" if words else "")]
    for label, texts in sections.items():
        lines += [f"  {'' if number else label:10}  {text}" for number, text in enumerate(texts)]
    return lines


def duration(seconds: float) -> str:
    """Return a duration in words.

    >>> duration(7.4), duration(72.9), duration(7384)
    ('7 s', '1 min 13 s', '2 h 3 min')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _path(catalog: DataCatalog, name: str) -> str | None:
    """Return the path or address of a dataset's file or folder, or None if there is none or the folder is empty."""
    dataset = catalog.get(name)
    if dataset is None or not (path := dataset._describe().get("filepath")):
        return None
    # A handle always exists for Kedro, and so does a model that is optional.
    return str(path) if getattr(dataset, "is_there", dataset.exists)() else None


def _words(catalog: DataCatalog, made: Mapping[str, str]) -> Iterator[str]:
    """Yield what a person would call the things that a run has made."""
    if "train_index" in made and "model" not in made:
        yield "a split into training and validation images"
    if "model" in made:
        yield "a model"
    if "predictions" in made:
        count = catalog.load("predictions")["images"]
        yield f"{count} mask{'s' * (count != 1)}"
    for name, words in MADE.items():
        if name in made:
            yield words


def _stand_in(catalog: DataCatalog, made: Mapping[str, str]) -> list[str]:
    """Return a line on the packaged model, if a run has used it because the recipe has no model."""
    name = getattr(catalog.get("model"), "stand_in", None)
    if not name or not {"predictions", "evaluation_scores", "export_manifest", "report"} & made.keys():
        return []
    return [f"{name}, since the recipe has none: {PACKAGED[name]}"]


def _spread(catalog: DataCatalog, name: str, made: Mapping[str, str]) -> list[str]:
    """Return a line on the scores in a table with one row per image, or no line without the table."""
    if name not in made:
        return []
    dice = catalog.load(name)["dice"]
    return [_score_line(dice.mean(), dice.std(ddof=0), dice.min(), len(dice))]


def _submission_score(catalog: DataCatalog, made: Mapping[str, str]) -> list[str]:
    """Return a line on the score of the submission: Kaggle's, or the one of the source's solution."""
    if "submission_receipt" in made:
        receipt = catalog.load("submission_receipt")
        if receipt.get("public_score"):
            return [f"public {receipt['public_score']}, private {receipt['private_score']}"]
    score = catalog.load("submission_score") if "submission_score" in made else {}
    if "dice_std" not in score:  # the source has no solution, or an earlier version wrote the file
        return []
    return [_score_line(score["dice"], score["dice_std"], score["lowest_dice"], score["images"])]


def _doubtful(catalog: DataCatalog, made: Mapping[str, str]) -> list[str]:
    """Return a line on the masks to look at, if there are any."""
    if "prediction_summary" not in made:
        return []
    text = doubtful_masks(catalog.load("prediction_summary"))
    return [text] if text else []


def _score_line(mean: float, deviation: float, lowest: float, images: int) -> str:
    if images == 1:
        return f"Dice {mean:.4f} (1 image)"
    return f"Dice {mean:.4f} ({images} images: standard deviation {deviation:.4f}, lowest {lowest:.4f})"


def _options_to_train(catalog: DataCatalog, run_params: Mapping[str, Any]) -> str:
    """Return the options that train on the reviewed masks and their photographs, instead of those of a prediction."""
    params = run_params.get("runtime_params") or {}
    values = {key: params[key] for key in params if key not in ("checkpoint", "inference", "model_training")}
    # The reviewed masks are white on black.
    folder = {
        key: value for key, value in params.get("folder", {}).items() if key in ("group", "mask_suffix")
    }
    folder |= {
        "images": str(catalog.load("test_images").images),
        "masks": _path(catalog, "editable_masks"),
    }
    values |= {"source": "folder", "folder": folder, "recipe": "few_shot"}
    if (catalog.load("review_list")["mask"] == "removed").any():
        values["data_ingestion"] = {**params.get("data_ingestion", {}), "on_problem": "skip"}
    return run_options({**run_params, "runtime_params": values})


def _next_commands(
    catalog: DataCatalog, made: Mapping[str, str], run_params: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what may follow a run, the next step first.

    Args:
        catalog: The catalog of the run.
        made: Paths of the files that it has made, by dataset.
        run_params: Kedro's record of the run, whose options are repeated.
    """
    options = run_options(run_params)
    masks = _path(catalog, "editable_masks") if "review_sheet" in made else None
    if masks and catalog.load("source").name == "folder":
        yield f"kedro run --pipelines data_ingestion,model_training{_options_to_train(catalog, run_params)}"
    if "train_index" in made and not {"model", "predictions"} & made.keys():
        yield f"kedro run --pipelines model_training{options}"
    if "model" in made and "submission" not in made:
        yield f"kedro run --pipelines inference,reporting{options}"
    if "submission" in made and "report" not in made and all(_path(catalog, name) for name in _REPORTED):
        yield f"kedro run --pipelines reporting{options}"
    if "submission" in made and "competition" in catalog and catalog.load("competition").name:
        yield f"kedro run --pipelines submission{options}"
    # Kedro-Viz splits --params at every comma, and evaluates braces.
    if not any(
        set(",{}") & set(str(value)) for value in flatten(run_params.get("runtime_params") or {}).values()
    ):
        yield f"kedro viz run{options}"
    if events := _path(catalog, "tensorboard"):
        yield f"tensorboard --logdir {shlex.quote(events)}"
