"""Mistakes on the command line or in files stop `kedro run` with a message, before any node and without a traceback."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carvana_kedro.cli import _causes

PROJECT = Path(__file__).parents[1]
Kedro = Callable[..., subprocess.CompletedProcess[str]]
FIRST_NODE = re.compile(r"\[ *1/")


def _refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    message = done.stderr.partition("Error: ")[2]
    assert message
    assert (done.stdout + done.stderr).count(message.splitlines()[0]) == 1
    assert "No nodes ran" not in done.stdout
    return message


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (
            "model_training.epohcs=3",
            "model_training.epohcs = 3: unknown parameter. Did you mean epochs?",
        ),
        ("model_training.architecture=unet", "model_training.architecture = 'unet'"),
        ("inference.threshold=-0.5", "inference.threshold = -0.5: should be greater than 0"),
        ("modeltraining.epochs=3", "Did you mean model_training?"),
        ("recipe=nope", "Unknown recipe 'nope'. Available: best, few_shot, laptop, sample,"),
        ("source=nope", "Unknown source 'nope'. Available: archives, folder, kaggle, sample"),
        ("kaggle.quality=best", "kaggle.quality = 'best': should be 'standard' or 'hq'"),
        ("kaggle.qualty=hq", "kaggle.qualty = 'hq': unknown parameter. Did you mean quality?"),
        ("folder=/photographs", "folder = '/photographs'"),
        ("submission.dry_run=perhaps", "submission.dry_run = 'perhaps'"),
        ("model_training.input_size.width=20", "64 x 20 (height x width) is too small"),
        ("recipe=unet_original", "unet_original"),
        (
            "model_training.batch_size=1,model_training.input_size.width=32,model_training.input_size.height=32",
            "cannot be trained on batches of 1",
        ),
        ("inference.device=mps", "device=mps: PyTorch finds no such device"),
        ("inference.share=9/8", "inference.share: must be like 3/8"),
        ("inference.share=1/2", "inference.share=1/2 is for the pipeline inference_share"),
        ("recipes=null", "recipes"),
    ],
)
def test_a_wrong_parameter_stops_before_any_node(
    kedro: Kedro, params: str, expected: str, tmp_path: Path
) -> None:
    done = kedro("run", "--env", "test", params=params, check=False)
    assert expected in _refused(done)
    assert not FIRST_NODE.search(done.stdout)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("source=archives", "Set it: --params source=archives,archives=PATH"),
        ("source=archives,archives=nowhere", "nowhere does not exist."),
        ("source=folder", "--params source=folder,folder.images=PATH"),
        ("source=folder,folder.images=nowhere", "folder.masks=PATH"),
        ("source=folder,folder.images=nowhere,folder.masks=nowhere", "nowhere"),
    ],
)
def test_a_missing_source_stops_the_first_node(kedro: Kedro, params: str, expected: str) -> None:
    done = kedro("run", "--env", "test", "--pipelines", "data_ingestion", params=params, check=False)
    assert expected in _refused(done)
    assert "[2/2]" not in done.stdout


def test_the_pipeline_of_shares_needs_a_share(kedro: Kedro) -> None:
    done = kedro("run", "--env", "test", "--pipelines", "inference_share", check=False)
    assert "Say which part, such as the third of eight" in _refused(done)
    assert "cars" not in done.stdout


def test_a_share_needs_the_index_of_the_test_images(kedro: Kedro) -> None:
    done = kedro(
        "run", "--env", "test", "--pipelines", "inference_share", params="inference.share=1/2", check=False
    )
    assert "kedro run --to-nodes inference.select_test_images --env test --params" in _refused(done)


def test_the_pipelines_that_predict_cannot_run_together(kedro: Kedro) -> None:
    done = kedro(
        "run", "--env", "test", "--pipelines", "inference,inference_share",
        params="inference.share=1/2", check=False,
    )  # fmt: skip
    assert "cannot run together" in _refused(done)


def test_an_unknown_pipeline_lists_the_pipelines(kedro: Kedro) -> None:
    for option in ("--pipeline", "--pipelines"):
        message = _refused(kedro("run", "--env", "test", option, "inferense", check=False))
        assert (
            "Unknown pipeline 'inferense'. Did you mean inference? Available: data_ingestion, evaluation"
            in message
        )


def test_the_error_names_an_invalid_configuration_file(kedro: Kedro, tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("credentials*"))
    (tmp_path / "conf/test/globals.yml").write_text("source: [folder\n")
    message = _refused(kedro("run", "--env", "test", "--conf-source", str(tmp_path / "conf"), check=False))
    assert "globals.yml" in message


def test_the_error_names_an_unknown_environment(kedro: Kedro) -> None:
    assert "conf/kagle" in _refused(kedro("run", "--env", "kagle", check=False))


@pytest.mark.parametrize(
    ("pipeline", "missing", "maker"),
    [
        ("model_training", "train_index", "data_ingestion"),
        ("reporting", "submission", "data_ingestion,model_training,inference"),
    ],
)
def test_missing_inputs_are_listed_with_the_command_that_creates_them(
    kedro: Kedro, pipeline: str, missing: str, maker: str
) -> None:
    done = kedro("run", "--env", "test", "--pipeline", pipeline, check=False)
    message = _refused(done)
    assert f"{missing} (" in message
    assert f"kedro run --pipelines {maker} --env test" in message
    assert not FIRST_NODE.search(done.stdout)


def test_the_suggested_command_has_the_options_of_the_run(kedro: Kedro, tmp_path: Path) -> None:
    # With an interrupted training, no packaged model is used.
    begun = tmp_path / "data/06_models/unet_256/checkpoints/a/last-1.pt"
    begun.parent.mkdir(parents=True)
    begun.touch()
    done = kedro("run", "--env", "test", "--pipeline", "inference", params="recipe=unet_256", check=False)
    message = _refused(done)
    assert f"model ({tmp_path}/data/06_models/unet_256/model.pt)" in message
    options = f"--env test --params data_root={tmp_path}/data,recipe=unet_256"
    assert f"kedro run --pipelines data_ingestion,model_training {options}" in message


def test_the_package_runs_without_the_kedro_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "carvana_kedro", "--env", "test", "--pipelines", "data_ingestion"]
    for params, code in ((f"data_root={tmp_path}", 0), ("inference.threshold=2", 1)):
        done = subprocess.run([*command, "--params", params], cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == code
        assert "Traceback" not in done.stdout + done.stderr
    assert "inference.threshold = 2" in done.stderr
    assert (tmp_path / "05_model_input" / "sample" / "train_index.csv").is_file()


def test_a_path_may_be_relative_to_the_working_directory(
    kedro: Kedro, archives: Path, tmp_path: Path
) -> None:
    params = f"source=archives,archives={os.path.relpath(archives, PROJECT)},model_training.epochs=1"
    kedro("run", "--env", "test", params=params)
    score = tmp_path / "data/08_reporting/archives/sample/submission_score.json"
    assert json.loads(score.read_text())["images"] == 4


def _rename_test_set(folder: Path) -> str:
    for path in sorted((folder / "test").iterdir()):
        path.rename(path.with_name(f"my_{path.name}"))
    return "the image is missing"


def _rename_test_folder(folder: Path) -> str:
    (folder / "test").rename(folder / "tset")
    return "test/ or test.zip, but holds: "


def _remove_a_mask(folder: Path) -> str:
    path = sorted((folder / "train_masks").iterdir())[0]
    path.unlink()
    return f"{path.stem.removesuffix('_mask')}: the mask is missing"


def _truncate_an_image(folder: Path) -> str:
    path = sorted((folder / "train").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-1000])
    return f"{path.stem}: the image is truncated"


@pytest.mark.parametrize(
    "damage", [_rename_test_set, _rename_test_folder, _remove_a_mask, _truncate_an_image]
)
def test_the_error_names_bad_data(kedro: Kedro, broken: Path, damage: Callable[[Path], str]) -> None:
    expected = damage(broken)
    done = kedro("run", "--env", "test", params=f"source=archives,archives={broken}", check=False)
    message = _refused(done)
    assert expected in message
    assert "] train_model" not in done.stdout


def test_bad_images_can_be_skipped(kedro: Kedro, broken: Path, tmp_path: Path) -> None:
    without_mask = sorted((broken / "train").iterdir())[0].stem
    _remove_a_mask(broken)
    params = f"source=archives,archives={broken},data_ingestion.on_problem=skip"
    kedro("run", "--env", "test", "--pipeline", "data_ingestion", params=params)
    data = tmp_path / "data"
    index = (data / "02_intermediate/archives/training_image_index.csv").read_text()
    assert f"{without_mask}," in index
    sides = [
        (data / f"05_model_input/archives/{side}_index.csv").read_text() for side in ("train", "validation")
    ]
    assert sum(side.count("\n") - 1 for side in sides) == 15
    assert not any(without_mask in side for side in sides)


def test_a_model_is_scored_only_on_the_split_it_was_trained_with(kedro: Kedro) -> None:
    kedro("run", "--env", "test", params="model_training.epochs=1")
    # Another seed chooses another one of the four cars for validation.
    params = ",".join(["model_training.epochs=1", "data_ingestion.seed=5"])
    kedro("run", "--env", "test", "--pipeline", "data_ingestion", params=params)
    done = kedro(
        "run", "--env", "test", "--nodes", "model_training.evaluate_model", params=params, check=False
    )
    assert "The model was trained with another split" in _refused(done)


def test_an_index_of_another_source_is_refused(kedro: Kedro, broken: Path) -> None:
    params = f"source=archives,archives={broken}"
    kedro("run", "--env", "test", "--pipeline", "data_ingestion", params=params)
    shutil.rmtree(broken / "train")
    shutil.copytree(broken / "test", broken / "train")
    done = kedro("run", "--env", "test", "--pipeline", "model_training", params=params, check=False)
    assert "The index was made from other files" in _refused(done)


def test_a_fault_of_the_machine_is_told_in_a_line(kedro: Kedro, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    message = _refused(kedro("run", "--env", "test", check=False))
    assert f"{tmp_path / 'data'}" in message
    assert "A file is where a folder should be. Move the file away." in message


def test_an_error_that_hides_its_context_is_not_told_as_that_context() -> None:
    try:
        try:
            (Path(__file__) / "missing").read_text()
        except OSError:
            raise RuntimeError("the kernel failed") from None
    except RuntimeError as error:
        assert list(_causes(error)) == [error]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"image\n"])
def test_a_damaged_output_of_an_earlier_run_is_told_in_a_line(
    kedro: Kedro, tmp_path: Path, content: bytes
) -> None:
    folder = tmp_path / "data" / "05_model_input" / "sample"
    folder.mkdir(parents=True)
    (folder / "split_parameters.json").write_text("{}")
    for name in ("train_index", "validation_index"):
        (folder / f"{name}.csv").write_bytes(content)
    message = _refused(kedro("run", "--env", "test", "--pipelines", "model_training", check=False))
    assert f"{folder / 'train_index.csv'} is damaged" in message
    assert message.count("\n") == 1
