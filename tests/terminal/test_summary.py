"""What a run says at its end, from files as the pipelines write them."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from kedro.framework.project import configure_project
from kedro.io import DataCatalog, MemoryDataset
from kedro_viz.launchers.cli.main import viz_cli
from kedro_viz.launchers.cli.run import run as viz_run

from carvana_kedro.commands.params import parse_params
from carvana_kedro.datasets import (
    EditableMasksDataset,
    FolderDataset,
    PredictedImagesDataset,
    RecordDataset,
    SubmissionDataset,
    TableDataset,
    TextDataset,
)
from carvana_kedro.datasets.kaggle import KaggleCompetitionDataset
from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.pipeline_registry import register_pipelines
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.folder import FolderStore
from carvana_kedro.stores.review.editable_masks import EditableMasks
from carvana_kedro.terminal.summary import MADE, WORTH_OPENING, summarize

SCORES = pd.DataFrame({"image": ["a", "b", "c"], "dice": [0.9, 0.95, 1.0]})
TABLES = ("train_index", "validation_scores", "evaluation_scores", "prediction_summary", "export_check")
RECORDS: dict[str, dict[str, Any]] = {
    "predictions": {"images": 64, "parameters": {"cutouts": False}},
    "submission_score": {"images": 64, "dice": 0.98664, "dice_std": 0.0051, "lowest_dice": 0.9677},
    "submission_receipt": {"uploaded": True, "public_score": "0.9951", "private_score": "0.9949"},
    "export_manifest": {},
}
TEXTS = ("model", "trained_model", "model_card", "submission_preview", "validation_gallery", "report")
DATASETS = (*TABLES, *RECORDS, *TEXTS, "submission")

Summarize = Callable[..., list[str]]


def _catalog(data: Path, competition: str | None) -> DataCatalog:
    datasets: dict[str, Any] = {
        **{name: TableDataset(filepath=str(data / f"{name}.csv")) for name in TABLES},
        **{name: RecordDataset(filepath=str(data / f"{name}.json")) for name in RECORDS},
        **{name: TextDataset(filepath=str(data / f"{name}.txt")) for name in TEXTS},
        "submission": SubmissionDataset(filepath=str(data / "submit.csv.gz")),
        "competition": KaggleCompetitionDataset(competition),
        "tensorboard": FolderDataset(str(data / "tensorboard")),
        "predicted_images": PredictedImagesDataset(str(data / "predicted")),
        "in_memory": MemoryDataset(1),
    }
    return DataCatalog(datasets)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of all datasets."""
    folder = tmp_path_factory.mktemp("data")
    catalog = _catalog(folder, None)
    for name in TABLES:
        catalog.save(name, SCORES.assign(doubt=[2.0, 10.1, 30.0]))
    for name, record in RECORDS.items():
        catalog.save(name, record)
    for name in TEXTS:
        catalog.save(name, "text")
    catalog.save("submission", [("a", "1 2")])
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events").touch()
    return folder


@pytest.fixture(scope="module")
def summarized(data: Path) -> Summarize:
    """`summarized("model", ...)` returns the summary of a run that has made these datasets."""

    def call(*made: str, competition: str | None = None, folder: Path = data, **run_params: Any) -> list[str]:
        return summarize(run_params, made, _catalog(folder, competition), 72.9)

    return call


def test_a_whole_run_tells_what_it_made_its_scores_and_what_comes_next(
    summarized: Summarize, data: Path
) -> None:
    made = (
        "train_index", "model", "validation_scores", "model_card", "predictions", "submission",
        "prediction_summary", "validation_gallery", "submission_preview", "submission_score", "report",
    )  # fmt: skip
    deviation = np.std(SCORES["dice"])
    assert summarized(*made) == [
        "Done in 1 min 13 s: a model, 64 masks, a submission, a report",
        f"  validation  Dice 0.9500 (3 images: standard deviation {deviation:.4f}, lowest 0.9000)",
        "  submission  Dice 0.9866 (64 images: standard deviation 0.0051, lowest 0.9677)",
        "  doubtful    2 of 3 masks, most of all c (30.0), b (10.1)",
        f"  open        {data}/report.txt",
        f"              {data}/submission_preview.txt",
        f"              {data}/validation_gallery.txt",
        "  next        kedro viz run",
        f"              tensorboard --logdir {data}/tensorboard",
    ]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (("train_index",), "kedro run --pipelines model_training"),
        (("train_index", "model"), "kedro run --pipelines inference,reporting"),
        (("predictions", "submission"), "kedro run --pipelines reporting"),
        (("submission", "report"), "kedro run --pipelines submission"),
        (("evaluation_scores",), "kedro viz run"),
    ],
)
def test_the_next_command_continues_the_run_with_its_options(
    summarized: Summarize, made: tuple[str, ...], expected: str
) -> None:
    params = {"source": "folder", "folder": {"images": "my cars"}}
    lines = summarized(*made, competition="carvana", env="kaggle", runtime_params=params)
    (following,) = (line.removeprefix("  next        ") for line in lines if line.startswith("  next"))
    assert following == f"{expected} --env kaggle --params 'source=folder,folder.images=my cars'"


@pytest.mark.parametrize("removed", [False, True])
def test_after_a_review_the_next_command_trains_on_its_masks(tmp_path: Path, removed: bool) -> None:
    masks = tmp_path / "review" / "masks"
    EditableMasks(DiskFolder(masks)).update({"a.png": "digest"}, [("a.png", np.ones((2, 2), bool))])
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").touch()
    catalog = DataCatalog({
        "review_sheet": TextDataset(filepath=str(tmp_path / "review.html")),
        "review_list": MemoryDataset(pd.DataFrame({"mask": ["removed" if removed else "written"]})),
        "editable_masks": EditableMasksDataset(str(masks)),
        "source": MemoryDataset(SourceDescription(name="folder")),
        "test_images": MemoryDataset(FolderStore(photos), copy_mode="assign"),
    })  # fmt: skip
    catalog.save("review_sheet", "text")
    params = {
        "source": "folder",
        "folder": {"images": "others", "test": "photos", "group": "(.+)_", "mask_background": "white"},
        "checkpoint": "cars",
        "inference": {"flip": True},
        "recipe": "laptop",
    }
    lines = summarize({"env": "test", "runtime_params": params}, ["review_sheet"], catalog, 3.0)
    (command,) = (line.removeprefix("  next        ") for line in lines if "data_ingestion" in line)
    words = shlex.split(command)
    assert words[:-1] == [
        "kedro",
        "run",
        "--pipelines",
        "data_ingestion,model_training",
        "--env",
        "test",
        "--params",
    ]
    assert parse_params(words[-1]) == {
        "source": "folder",
        "folder": {"images": str(photos), "masks": str(masks), "group": "(.+)_"},
        "recipe": "few_shot",
        **({"data_ingestion": {"on_problem": "skip"}} if removed else {}),
    }


@pytest.mark.parametrize("missing", ["trained_model", "train_index", "model_card"])
def test_without_a_trained_model_there_is_nothing_to_report(
    summarized: Summarize, data: Path, tmp_path: Path, missing: str
) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    (path,) = folder.glob(f"{missing}.*")
    path.unlink()
    lines = summarized("predictions", "submission", folder=folder)
    assert not [line for line in lines if "--pipelines reporting" in line]


def test_kedro_viz_takes_the_options_of_the_run(
    summarized: Summarize, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"source": "folder", "folder": {"images": "my cars"}}
    lines = summarized("model_card", env="kaggle", runtime_params=params)
    (command,) = (line.removeprefix("  next        ") for line in lines if "kedro viz" in line)
    options: dict[str, Any] = {}
    monkeypatch.setattr(viz_run, "callback", options.update)
    result = CliRunner().invoke(viz_cli, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert (options["env"], options["params"]) == ("kaggle", params)


@pytest.mark.parametrize("value", ["my,cars", "(.+)_[0-9]{1,2}"])
def test_kedro_viz_is_not_suggested_with_options_that_it_cannot_read(
    summarized: Summarize, value: str
) -> None:
    lines = summarized("model_card", runtime_params={"folder": {"group": value}})
    assert not [line for line in lines if "kedro viz" in line]


def test_the_cutouts_of_all_images_come_before_those_of_the_report(
    summarized: Summarize, data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    assert "cut-outs" not in summarized("predictions", folder=folder)[0]
    cutouts = folder / "predicted" / "cutouts"
    record = {"images": 64, "parameters": {"cutouts": True}}
    (folder / "predictions.json").write_text(json.dumps(record))
    lines = summarized("predictions", "submission", "cutouts", "report", folder=folder)
    assert lines[0].endswith("64 masks, a submission, cut-outs, a report")
    assert f"              {cutouts}" in lines


def test_an_empty_folder_is_not_worth_opening(summarized: Summarize, tmp_path: Path) -> None:
    (tmp_path / "tensorboard").mkdir()
    assert summarized("tensorboard", "model_card", folder=tmp_path) == [
        "Done in 1 min 13 s",
        "  next        kedro viz run",
    ]


def test_a_single_image_has_no_spread(summarized: Summarize, tmp_path: Path) -> None:
    _catalog(tmp_path, None).save("validation_scores", SCORES[:1])
    assert "  validation  Dice 0.9000 (1 image)" in summarized("validation_scores", folder=tmp_path)


def test_the_summary_knows_datasets_that_pipelines_make() -> None:
    configure_project("carvana_kedro")
    made = {name for pipeline in register_pipelines().values() for name in pipeline.all_outputs()}
    assert {*MADE, *WORTH_OPENING} <= made


def test_the_scores_of_kaggle_are_those_of_the_submission(summarized: Summarize) -> None:
    assert "  submission  public 0.9951, private 0.9949" in summarized(
        "submission_receipt", "submission_score"
    )


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("submission_score", {"images": 0, "dice": None}),
        ("submission_receipt", {"uploaded": False}),
        ("submission_receipt", {"uploaded": True, "public_score": "", "private_score": ""}),
    ],
)
def test_a_submission_without_a_score_has_no_line(
    summarized: Summarize, tmp_path: Path, name: str, record: dict[str, Any]
) -> None:
    (tmp_path / f"{name}.json").write_text(json.dumps(record))
    assert not [line for line in summarized(name, folder=tmp_path) if line.startswith("  submission")]


def test_what_a_run_left_in_memory_or_did_not_write_is_left_out(
    summarized: Summarize, tmp_path: Path
) -> None:
    lines = summarized("in_memory", "not_in_the_catalog", "model", "validation_scores", folder=tmp_path)
    assert lines == [
        "Done in 1 min 13 s",
        "  next        kedro viz run",
    ]


@given(made=st.sets(st.sampled_from(DATASETS)), competition=st.sampled_from([None, "carvana"]))
def test_a_summary_has_at_most_ten_lines_and_names_files_that_exist(
    summarized: Summarize, made: set[str], competition: str | None
) -> None:
    lines = summarized(*made, competition=competition)
    assert len(lines) <= 10
    assert lines[0].startswith("Done in 1 min 13 s")
    start = next((number for number, line in enumerate(lines) if line.startswith("  open")), len(lines) - 2)
    paths = [line[14:] for line in lines[start:-2]]
    assert all(Path(path).is_file() for path in paths)
    assert len(paths) <= 3
