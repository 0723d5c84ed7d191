"""Train and score a recipe with several seeds, and report the median and the range of its scores.

    python -m experiments.seeds sample
    python -m experiments.seeds laptop \\
        --params "source=folder,folder.images=train,folder.masks=train_masks,folder.mask_suffix=_mask" \\
        --score "folder.images=other,folder.masks=other_masks"

For each seed, this program calls `kedro run` with `--params`, in a data folder of its own in `--runs`. Without
`--score`, it runs the whole project, and the score is that of the submission, if the source has a solution. With
`--score`, it runs only `data_ingestion` and `model_training`, and then `evaluation` with the parameters of `--score` as
well. A seed that is finished is not trained again, and an interrupted one resumes. With other parameters, choose
another `--runs`: a folder holds one model of a recipe and a seed. The environment is that of `KEDRO_ENV`.

The seed decides the first weights, the order of the images and the augmentation. The images and their split stay the
same.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.measuring import Report, Row
from carvana_kedro.commands.params import parse_params, spell_params
from carvana_kedro.segmentation.training.recipe import flatten

MEASURES = {"dice": "Dice", "lowest_dice": "lowest Dice", "boundary_error": "edge, px"}
CURVES = {
    "train_dice_coeff": "training Dice",
    "val_dice_coeff": "validation Dice at the network's size",
    "gradient_norm": "gradient norm",
}
RESERVED = {"data_root", "recipe", "model_training.seed", "checkpoint"}


def main() -> None:
    """Train and score every seed, and print the tables."""
    arguments = _arguments()
    params, score = (flatten(parse_params(text)) for text in (arguments.params, arguments.score))
    if given := RESERVED & {*params, *score}:
        raise SystemExit(f"{', '.join(sorted(given))}: this program sets it for each seed. Remove it.")
    results, histories = {}, {}
    for seed in arguments.seeds:
        data = arguments.runs / arguments.recipe / str(seed)
        own = {"data_root": str(data), "recipe": arguments.recipe, "model_training.seed": seed}
        reports = data / "08_reporting"
        for earlier in _metrics(reports, arguments):
            earlier.unlink()  # of other images, perhaps
        if score:
            _kedro_run(params | own, "--pipelines", "data_ingestion,model_training")
            _kedro_run(params | score | own, "--pipelines", "evaluation")
        else:
            _kedro_run(params | own)
        models = data / "06_models" / arguments.recipe
        histories[seed] = pd.read_csv(models / "training_history.csv")
        results[seed] = {
            "training, min": histories[seed]["seconds"].sum() / 60,
            "validation Dice": json.loads((models / "validation_metrics.json").read_text())["dice"],
            **_scores(*_metrics(reports, arguments)),
        }
    table = pd.DataFrame(results).T
    report = Report(arguments.json)
    report.add("Seeds", _rows(table, "seed"))
    report.add("Median and range", _rows(table.agg(["median", "min", "max"]).T, "measure"))
    if not any("fold" in history for history in histories.values()):  # folds have a curve each
        report.add(f"Epochs of the seeds {', '.join(map(str, histories))}", _epochs(histories))
    report.end()


def _kedro_run(params: Mapping[str, Any], *options: str) -> None:
    command = [sys.executable, "-m", "kedro", "run", *options, "--params", spell_params(params)]
    if code := subprocess.run(command).returncode:
        raise SystemExit(code)  # kedro has said why


def _metrics(reports: Path, arguments: argparse.Namespace) -> list[Path]:
    """Return the file with the scores, in a list, which is empty if there is none."""
    name = "evaluation_metrics.json" if arguments.score else "submission_score.json"
    return [*reports.glob(f"*/{arguments.recipe}/{name}")]


def _scores(metrics: Path) -> dict[str, float]:
    """Return the scores by title. A submission has none if its source has no solution."""
    scores = json.loads(metrics.read_text())
    return {title: scores[key] for key, title in MEASURES.items() if scores.get(key) is not None}


def _rows(table: pd.DataFrame, index: str) -> list[Row]:
    """Return a table as rows of text, with five significant digits."""
    return _records(table.map("{:.5g}".format).rename_axis(index))


def _epochs(histories: Mapping[int, pd.DataFrame]) -> list[Row]:
    """Return one row per epoch, with the numbers of all seeds beside each other, or a dash after a seed's end."""
    seeds = pd.concat({seed: history.set_index("epoch") for seed, history in histories.items()}, axis=1)
    table = {
        title: seeds.xs(key, axis=1, level=1)
        .map("{:.4f}".format)
        .replace("nan", "-")
        .apply(" / ".join, axis=1)
        for key, title in CURVES.items()
    }
    return _records(pd.DataFrame(table))


def _records(table: pd.DataFrame) -> list[Row]:
    return [
        {str(name): value for name, value in row.items()} for row in table.reset_index().to_dict("records")
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("recipe", help="name of a recipe")
    parser.add_argument("--params", default="", help="parameters of kedro run, as in its --params")
    parser.add_argument("--score", default="", help="parameters that name other images, to score them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2017, 2018, 2019], help="random seeds")
    parser.add_argument("--runs", type=Path, default=Path("data/seeds"), help="folder of the runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
