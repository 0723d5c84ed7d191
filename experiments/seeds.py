"""Train and score a recipe with several seeds, and report the median and the range of its scores.

    python -m experiments.seeds sample
    python -m experiments.seeds laptop \\
        --params "source=folder,folder.images=train,folder.masks=train_masks,folder.mask_suffix=_mask" \\
        --score "folder.images=other,folder.masks=other_masks"

For each seed, this program calls `kedro run` with `--params`, in a data folder of its own in `--runs`. Without
`--score`, it runs the whole project, and the score is that of the submission. With `--score`, it runs only
`data_ingestion` and `model_training`, and then `evaluation` with the parameters of `--score` as well. A seed that is
finished is not trained again, and an interrupted one resumes.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.measuring import Report, Row
from carvana_kedro.commands.params import parse_params, spell_params
from carvana_kedro.segmentation.training.recipe import flatten

MEASURES = {"dice": "Dice", "lowest_dice": "lowest Dice", "boundary_error": "edge, px"}
CURVES = {
    "learning_rate": "learning rate",
    "train_dice_coeff": "training Dice",
    "val_dice_coeff": "validation Dice",
    "gradient_norm": "gradient norm",
}


def main() -> None:
    """Train and score every seed, and print the tables."""
    arguments = _arguments()
    results, histories = {}, {}
    for seed in arguments.seeds:
        data = arguments.runs / arguments.recipe / str(seed)
        _train_and_score(arguments, seed, data)
        histories[seed] = pd.read_csv(data / "06_models" / arguments.recipe / "training_history.csv")
        results[seed] = _result(histories[seed], data / "08_reporting", arguments)
    table = pd.DataFrame(results).T
    report = Report(arguments.json)
    report.add("Seeds", _rows(table, "seed"))
    report.add(
        f"Median and range of {len(table)} seeds", _rows(table.agg(["median", "min", "max"]).T, "measure")
    )
    report.add(f"Epochs of the seeds {', '.join(map(str, histories))}", _epochs(list(histories.values())))
    report.end()


def _train_and_score(arguments: argparse.Namespace, seed: int, data: Path) -> None:
    params = {
        **flatten(parse_params(arguments.params)),
        "data_root": str(data),
        "recipe": arguments.recipe,
        "model_training.seed": seed,
    }
    if not arguments.score:
        _kedro_run(params)
        return
    _kedro_run(params, "--pipelines", "data_ingestion,model_training")
    _kedro_run(params | flatten(parse_params(arguments.score)), "--pipelines", "evaluation")


def _kedro_run(params: Mapping[str, Any], *options: str) -> None:
    command = [sys.executable, "-m", "kedro", "run", *options, "--params", spell_params(params)]
    if code := subprocess.run(command).returncode:
        raise SystemExit(code)  # kedro has said why


def _result(history: pd.DataFrame, reports: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the numbers of one seed: time, validation score of the best epoch, and scores of the other images."""
    name = "evaluation_metrics.json" if arguments.score else "submission_score.json"
    (metrics,) = reports.glob(f"*/{arguments.recipe}/{name}")
    scores = json.loads(metrics.read_text())
    return {
        "training, min": history["seconds"].sum() / 60,
        "validation Dice": history["val_dice_coeff"].max(),
        "best epoch": history["val_dice_coeff"].argmax() + 1,
        **{title: scores[key] for key, title in MEASURES.items() if key in scores},
    }


def _rows(table: pd.DataFrame, index: str) -> list[Row]:
    """Return a table as rows of text, with four decimals unless a number is whole."""
    text = table.map(lambda number: f"{number:.0f}" if number == int(number) else f"{number:.4f}")
    return _records(text.rename_axis(index))


def _epochs(histories: Sequence[pd.DataFrame]) -> list[Row]:
    """Return one row per epoch, with the numbers of all seeds beside each other."""
    epochs = pd.concat(histories).groupby("epoch")
    table = epochs[[*CURVES]].agg(_beside_each_other)
    table["learning_rate"] = epochs["learning_rate"].first().map("{:.5f}".format)  # the same for all seeds
    return _records(table.rename(columns=CURVES))


def _beside_each_other(numbers: "pd.Series[float]") -> str:
    return " / ".join(f"{number:.4f}" for number in numbers)


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
