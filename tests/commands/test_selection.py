"""`kedro run` up to the first node: short names of nodes work, and wrong names are told in one line."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from kedro.framework.project import configure_project

from carvana_kedro.cli import run
from my_runners import StopBeforeNodes

PROJECT = Path(__file__).parents[2]


def _nodes(tmp_path: Path, *options: str) -> list[str]:
    """Return the nodes that a command would run."""
    StopBeforeNodes.last = {}
    defaults = (
        "--env",
        "test",
        "--runner",
        "my_runners.StopBeforeNodes",
        "--params",
        f"data_root={tmp_path}",
    )
    run.main([*defaults, *options], standalone_mode=False)
    return StopBeforeNodes.last["nodes"]  # type: ignore[no-any-return]


def _refusal(tmp_path: Path, *options: str) -> str:
    with pytest.raises(click.ClickException) as refused:
        _nodes(tmp_path, *options)
    message = refused.value.format_message()
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    configure_project("carvana_kedro")


@pytest.mark.parametrize("option", ["--nodes", "--to-nodes"])
@pytest.mark.parametrize("name", ["split_cars", "data_ingestion.split_cars"])
def test_a_node_needs_no_namespace(tmp_path: Path, option: str, name: str) -> None:
    (tmp_path / "02_intermediate/sample").mkdir(parents=True)
    (tmp_path / "02_intermediate/sample/training_image_index.csv").touch()
    nodes = _nodes(tmp_path, option, name)
    assert nodes[-1] == "data_ingestion.split_cars"
    assert len(nodes) == (1 if option == "--nodes" else 2)


def test_nodes_of_a_range_need_no_namespace(tmp_path: Path) -> None:
    nodes = _nodes(tmp_path, "--from-nodes", "index_training_images", "--to-nodes", "split_cars")
    assert nodes == ["data_ingestion.index_training_images", "data_ingestion.split_cars"]
    pipelines = ("--pipelines", "data_ingestion,model_training")
    nodes = _nodes(
        tmp_path, *pipelines, "--nodes", "index_training_images,split_cars,model_training.train_model"
    )
    assert len(nodes) == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--nodes", "train_modle"], "--nodes: unknown node 'train_modle'. Did you mean model_training.train_model?"),
        (["--nodes", "train_model,x"], "--nodes: unknown node 'x'. Available: data_ingestion.index_training_images"),
        (["--from-nodes", "x"], "--from-nodes: unknown node 'x'"),
        (["--to-nodes", "predict_mask"], "--to-nodes: unknown node 'predict_mask'. Did you mean inference.predict"),
        (["--nodes", "export_model"], "is not in this run, but in the pipeline export. Add --pipelines export."),
        (["--pipelines", "inference", "--nodes", "train_model"], "but in the pipeline model_training"),
        (["--nodes", "data_ingestion.train_model"], "Did you mean model_training.train_model?"),
        (["--tags", "gpu"], "--tags: no node of this run has 'gpu'. Available: network, pictures"),
        (["--namespaces", "train"], "--namespaces: no node of this run has 'train'. Available: data_ingestion,"),
        (["--from-inputs", "modl"], "--from-inputs: unknown dataset 'modl'. Did you mean model?"),
        (["--to-outputs", "x"], "--to-outputs: unknown dataset 'x'. Available: "),
        (["--to-outputs", "exported_model"], "--to-outputs: "),
        (["--load-versions", "modl:2026-01-01T00.00.00.000Z"], "--load-versions: unknown dataset 'modl'"),
        (["--load-versions", "model:2026-01-01T00.00.00.000Z"], "--load-versions: model has no versions"),
        (["--nodes", "train_model", "--to-nodes", "split_cars"], "No node is selected by all of these options"),
        (["--runner", "ParallelRunner"], "--runner: ParallelRunner cannot run this project"),
        (["--runner", "kedro.runner.ParallelRunner"], "--runner: ParallelRunner cannot run this project"),
        (["--runner", "Foo"], "--runner: unknown runner 'Foo'. Available: SequentialRunner, ThreadRunner."),
        (["--runner", "no.such.Runner"], "--runner: unknown runner 'no.such.Runner'"),
        (["--runner", "pathlib.Path"], "--runner: unknown runner 'pathlib.Path'"),
        (["--runner-params", "workers=3"], "--runner-params: "),
        (["--runner-params", "max_workers=[3"], "--runner-params: "),
        (["--params", "checkpoint=${x}"], "--params: checkpoint="),
        (["--config", "pyproject.toml"], "pyproject.toml cannot be read as YAML"),
        (["--config", "conf/base/globals.yml"], "globals.yml should contain   run: "),
    ],
)  # fmt: skip
def test_a_wrong_selection_is_told_in_one_line(tmp_path: Path, options: list[str], expected: str) -> None:
    assert expected in _refusal(tmp_path, *options)


@pytest.mark.parametrize("runner", ["SequentialRunner", "ThreadRunner"])
def test_the_other_runners_work(kedro: Any, runner: str, tmp_path: Path) -> None:
    kedro("run", "--env", "test", "--pipelines", "data_ingestion", "--runner", runner)
    assert (tmp_path / "data/05_model_input/sample/train_index.csv").is_file()


@pytest.mark.parametrize("command", ["kedro run", "carvana_kedro"])
def test_a_file_of_options_is_read_by_both_commands(command: str, tmp_path: Path) -> None:
    data = tmp_path / "#1, 01"
    config = tmp_path / "run.yml"
    config.write_text(
        f"run: {{env: test, runner: my_runners.StopBeforeNodes, to_nodes: [split_cars], params: 'data_root={data}'}}"
    )
    arguments = [*command.split(), "--config", str(config), "--from-nodes", "index_training_images"]
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT / "tests"), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_file_of_options_may_hold_parameters_as_a_mapping_or_as_text(tmp_path: Path) -> None:
    config = tmp_path / "run.yml"
    data = tmp_path / "#1/01"
    for params in (f"{{data_root: '{data}', inference: {{background: '#ffffff'}}}}", f"'data_root={data}'"):
        config.write_text(f"run: {{env: test, runner: my_runners.StopBeforeNodes, params: {params}}}")
        run.main(["--config", str(config)], standalone_mode=False)
        dataset = StopBeforeNodes.last["catalog"].get("train_index")
        assert str(dataset._describe()["filepath"]) == str(data / "05_model_input/sample/train_index.csv")
    config.write_text("run: {env: test, params: {data_root: #1\n}}")
    with pytest.raises(click.ClickException, match="data_root = None"):
        run.main(["--config", str(config)], standalone_mode=False)
