"""Whole runs of the project with `kedro run`, at the smallest size."""

import csv
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from carvana_kedro.segmentation.architectures import ARCHITECTURES
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.images.competition import ImageStore

PROJECT = Path(__file__).parents[1]
Kedro = Callable[..., subprocess.CompletedProcess[str]]

OUTPUTS = [
    "06_models/sample/model.pt",
    "06_models/sample/run_manifest.json",
    "06_models/sample/training_history.csv",
    "06_models/sample/validation_metrics.json",
    "06_models/sample/validation_scores.csv",
    "07_model_output/sample/sample/submit.csv.gz",
    "08_reporting/sample/sample/learning_curves.json",
    "08_reporting/sample/sample/learning_curves.png",
    "08_reporting/sample/sample/model_card.md",
    "08_reporting/sample/sample/report.html",
    "08_reporting/sample/sample/score_table.csv",
    "08_reporting/sample/sample/submission_preview.png",
    "08_reporting/sample/sample/submission_score.json",
    "08_reporting/sample/sample/threshold_curve.png",
    "08_reporting/sample/sample/validation_gallery.png",
]


def test_kedro_run_writes_all_outputs_and_each_pipeline_can_be_repeated(
    kedro_in_new_python: Kedro, tmp_path: Path
) -> None:
    printed = kedro_in_new_python("run", "--env", "test").stdout.splitlines()
    data = tmp_path / "data"
    assert [name for name in OUTPUTS if not (data / name).is_file()] == []
    assert not list(data.rglob("*.part"))
    assert list((data / "06_models/sample/checkpoints").glob("*/best-*.pt"))
    assert list((data / "08_reporting/tensorboard/sample").glob("*/events.*"))
    reports = data / "08_reporting/sample/sample"
    for folder, count in (("cutouts", 4), ("overlays", 4), ("turntables", 1)):
        assert len(list((reports / folder).iterdir())) == count, folder
    links = re.findall('href="([^#"]+)"', (reports / "report.html").read_text())
    assert "cutouts/" in links and "turntables/" in links
    assert [link for link in links if not (reports / link).exists()] == []
    score = json.loads((reports / "submission_score.json").read_text())
    assert score["images"] == 4
    # A tiny network, trained for seconds on three cars, finds the car roughly.
    assert score["dice"] > 0.5
    submission = (data / "07_model_output/sample/sample/submit.csv.gz").read_bytes()
    header, *rows = csv.reader(gzip.decompress(submission).decode().splitlines())
    assert header == ["img", "rle_mask"]
    assert len(rows) == 4
    assert all(runs for _, runs in rows)

    assert len(printed) <= 90
    nodes = [line for line in printed if line.startswith("[")]
    assert [line[1:].split("]")[0].split("/") for line in nodes] == [
        [f"{number:2}", str(len(nodes))] for number in range(1, len(nodes) + 1)
    ]
    (end,) = (number for number, line in enumerate(printed) if line.startswith("Done in "))
    assert len(printed) - end <= 10
    spread = f"standard deviation {score['dice_std']:.4f}, lowest {score['lowest_dice']:.4f}"
    assert f"  submission  Dice {score['dice']:.4f} (4 images: {spread})" in printed[end:]

    for pipeline in ("data_ingestion", "model_training", "inference", "reporting"):
        kedro_in_new_python("run", "--env", "test", "--pipelines", pipeline)
    # Everything is seeded: the second run predicts the same masks.
    assert (data / "07_model_output/sample/sample/submit.csv.gz").read_bytes() == submission


def test_predictions_of_an_earlier_model_are_not_presented_as_those_of_a_new_one(
    kedro: Kedro, tmp_path: Path
) -> None:
    def run(pipelines: str, params: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        return kedro("run", "--env", "test", "--pipelines", pipelines, params=params, check=check)

    short = "model_training.epochs=1"
    run("data_ingestion,model_training,inference", short)
    first = json.loads((tmp_path / "data/06_models/sample/run_manifest.json").read_text())["run_id"]
    again = f"{short},model_training.seed=5"
    run("model_training", again)
    second = json.loads((tmp_path / "data/06_models/sample/run_manifest.json").read_text())["run_id"]
    assert first != second
    for pipeline in ("reporting", "submission"):
        done = run(pipeline, f"{again},submission.dry_run=true", check=False)
        assert f"predicted with: run {first}" in done.stderr and f"used now: run {second}" in done.stderr
        assert "Traceback" not in done.stderr
    # Those of a model that was named stay valid.
    (checkpoint, *_) = (tmp_path / "data/06_models/sample/checkpoints" / first).glob("best-*.pt")
    run("inference", f"{again},checkpoint={checkpoint}")
    run("reporting", again)
    score = json.loads((tmp_path / "data/08_reporting/sample/sample/submission_score.json").read_text())
    assert score["run_id"] == first


def test_the_packaged_model_is_used_until_the_recipe_is_trained(
    kedro: Kedro, training_images: ImageStore, tmp_path: Path
) -> None:
    photographs, data = tmp_path / "photographs", tmp_path / "data"
    photographs.mkdir()
    for image_id in training_images.ids()[:2]:
        Image.fromarray(training_images.read_image(image_id)).save(photographs / f"{image_id}.png")
    params = f"source=folder,folder.images={photographs}"

    def predict(more: str = "") -> tuple[str, dict[str, Any]]:
        printed = kedro("run", "--env", "test", "--pipelines", "inference", params=params + more).stdout
        manifest = json.loads((data / "07_model_output/folder/sample/predictions.json").read_text())
        assert len(list((data / "07_model_output/folder/sample/cutouts").glob("*.png"))) == 2
        return printed, manifest

    printed, cars = predict()
    assert "The recipe sample has no trained model yet. This run uses cars: a network for photog" in printed
    assert "\n  model       cars, since the recipe has none: a network for photographs of cars" in printed
    assert cars["checkpoint"] == ""  # nobody has chosen it, so its masks do not count as the next model's

    kedro("run", "--env", "test", "--pipelines", "data_ingestion,model_training")
    printed, own = predict()
    assert "cars" not in printed.replace(str(tmp_path), "")
    assert own["checkpoint"] == ""
    assert not {own["run_id"], own["model"], *own["shards"]} & {
        cars["run_id"],
        cars["model"],
        *cars["shards"],
    }
    printed, named = predict(",checkpoint=cars")
    assert (named["shards"], named["rows_sha256"]) == (cars["shards"], cars["rows_sha256"])
    assert "since the recipe has none" not in printed

    model = data / "06_models/sample/model.pt"
    model.write_bytes(model.read_bytes()[:-1000])
    done = kedro("run", "--env", "test", "--pipelines", "inference", params=params, check=False)
    assert "model.pt is truncated" in done.stderr
    shutil.rmtree(model.parent)
    assert predict()[1] == cars


def test_an_interrupted_training_resumes(kedro: Kedro, tmp_path: Path) -> None:
    kedro("run", "--env", "test", "--pipelines", "data_ingestion")
    train = ("run", "--env", "test", "--pipelines", "model_training")
    epochs = "model_training.epochs=40"

    def interrupt(number: signal.Signals) -> str:
        """Train until there is a new checkpoint, then send the signal; return the output."""
        before = {path.name for path in tmp_path.rglob("last-*.pt")}
        command = [
            sys.executable,
            "-m",
            "kedro",
            *train,
            "--params",
            f"data_root={tmp_path / 'data'},{epochs}",
        ]
        process = subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "DO_NOT_TRACK": "1", "COLUMNS": "200"},
        )  # fmt: skip
        while process.poll() is None and {path.name for path in tmp_path.rglob("last-*.pt")} <= before:
            time.sleep(0.005)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 1), output
        return output

    interrupt(signal.SIGKILL)
    output = interrupt(signal.SIGTERM)
    assert "Traceback" not in output
    assert "Everything is saved. The same command resumes it." in " ".join(output.split())
    done = kedro(*train, params=epochs)
    assert "resumes in epoch" in " ".join(done.stdout.split())
    history = pd.read_csv(tmp_path / "data/06_models/sample/training_history.csv")
    assert history["epoch"].tolist() == list(range(1, 41))
    again = kedro(*train, params=epochs)
    assert "is finished, and nothing that decides its result has changed" in " ".join(again.stdout.split())
    other = kedro(*train, params="model_training.epochs=1")
    assert "in parameters.epochs: 40 -> 1" in " ".join(other.stdout.split())
    assert len(list((tmp_path / "data/06_models/sample/checkpoints").glob("*/run.json"))) == 2


def test_a_run_with_archives_of_the_competition(kedro: Kedro, archives: Path, tmp_path: Path) -> None:
    kedro("run", "--env", "test", params=f"source=archives,archives={archives},model_training.epochs=2")
    metrics = json.loads((tmp_path / "data/06_models/sample/validation_metrics.json").read_text())
    assert metrics["images"] == 4
    assert np.isfinite(metrics["dice"])
    score = json.loads((tmp_path / "data/08_reporting/archives/sample/submission_score.json").read_text())
    assert score["images"] == 4


def test_a_run_with_a_folder_of_images(kedro: Kedro, training_images: ImageStore, tmp_path: Path) -> None:
    """The images have several sizes, formats and orientations; the masks have several modes."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    rotated = Image.Exif()
    rotated[0x0112] = 6
    for number, image_id in enumerate(training_images.ids()):
        size = (240 + 10 * (number % 4), 160 + 7 * (number % 3))
        image = Image.fromarray(training_images.read_image(image_id)).resize(size)
        mask = Image.fromarray(training_images.read_mask(image_id) * 255).resize(
            size, Image.Resampling.NEAREST
        )
        kind = number % 4
        if kind == 0:
            image.rotate(90, expand=True).save(images / f"{image_id}.JPG", exif=rotated)
        else:
            image.save(images / f"{image_id}.{('', 'png', 'webp', 'tiff')[kind]}")
        if kind == 1:
            mask = mask.point(lambda value: value // 255)
        elif kind == 2:
            mask = mask.convert("RGB")
        elif kind == 3:
            white = Image.new("L", size, 255)
            mask = Image.merge("RGBA", (white, white, white, mask))
        mask.save(masks / f"{image_id}-car.png")
    names = "folder.mask_suffix=-car,folder.group=([^_]+)_.*"
    params = f"source=folder,folder.images={images},folder.masks={masks},{names}"
    kedro("run", "--env", "test", params=params)
    data = tmp_path / "data"
    index = pd.read_csv(data / "02_intermediate/folder/training_image_index.csv", keep_default_na=False)
    assert (index["problems"] == "").all()
    assert index["car"].nunique() == 4
    assert len(set(zip(index["width"], index["height"], strict=True))) == 12
    assert len(list((data / "08_reporting/folder/sample/turntables").glob("*.webp"))) == 2
    assert json.loads((data / "06_models/sample/validation_metrics.json").read_text())["dice"] > 0.5
    submission = gzip.decompress((data / "07_model_output/folder/sample/submit.csv.gz").read_bytes()).decode()
    sizes = {row.image: (row.height, row.width) for row in index.itertuples()}
    for name, runs in list(csv.reader(submission.splitlines()))[1:]:
        run_lengths.check(runs, *sizes.pop(name.removesuffix(".jpg")))
    assert not sizes
    done = kedro("run", "--env", "test", "--pipelines", "submission", params=params, check=False)
    assert "This source has no sample_submission.csv" in done.stderr


def test_every_recipe_trains(kedro: Kedro, tmp_path: Path) -> None:
    conf = PROJECT / "conf/base/parameters_model_training.yml"
    recipes = yaml.safe_load(conf.read_text())["recipes"]
    assert {recipe["architecture"] for recipe in recipes.values()} == set(ARCHITECTURES)
    kedro("run", "--env", "test", "--pipeline", "data_ingestion")
    small = {"epochs": 1, "width_multiplier": 0.05, "pretrained": "false", "num_workers": 0}
    for name in recipes:
        size = 188 if name == "unet_original" else 64
        values = {**small, "input_size.width": size, "input_size.height": size}
        folds = recipes[name].get("folds", 0)
        if folds:
            values["folds"] = 2
        if "init_from" in recipes[name]:
            values["width_multiplier"] = 1  # that of the model that it starts from
        params = ",".join(
            [f"recipe={name}", *(f"model_training.{key}={value}" for key, value in values.items())]
        )
        kedro("run", "--env", "test", "--pipeline", "model_training", params=params)
        if folds:
            kedro("run", "--env", "test", "--pipelines", "inference,reporting", params=params)
            reports = tmp_path / "data/08_reporting/sample" / name
            # Scores are out of fold, so every image of the four cars has one.
            assert len(pd.read_csv(tmp_path / "data/06_models" / name / "validation_scores.csv")) == 16
            assert (reports / "submission_preview.png").is_file()
            assert (
                "each by the model that was not trained on its car" in (reports / "model_card.md").read_text()
            )
        manifest = json.loads((tmp_path / "data/06_models" / name / "run_manifest.json").read_text())
        assert manifest["recipe"] == name
        assert manifest["parameters"]["architecture"] == recipes[name]["architecture"]
