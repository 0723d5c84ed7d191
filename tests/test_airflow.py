"""The DAG that `kedro airflow create` writes, read and run by a real Airflow. `make airflow` runs these tests."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path

import pytest

from carvana_kedro.pipeline_registry import DEFAULT

PROJECT = Path(__file__).parents[1]
MISSING = [name for name in ("airflow", "kedro_airflow") if find_spec(name) is None]
pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(bool(MISSING), reason="needs Airflow and kedro-airflow: run `make airflow`"),
]
READ_DAGS = """
import json, sys
from airflow.dag_processing.dagbag import DagBag

bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
(dag,) = bag.dags.values()
tasks = {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
print(json.dumps({"dag": dag.dag_id, "tasks": tasks, "max_active_runs": dag.max_active_runs}))
"""


def _call(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(project / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(project / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(project / "src"),
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, with the DAG that the command of the guide writes for the environment `test`."""
    for name in ("conf", "src"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(PROJECT / name, tmp_path)
    guide = (PROJECT / "docs/how-to/airflow.md").read_text()
    (command,) = re.findall(r"^kedro airflow create .*$", guide, re.MULTILINE)
    arguments = shlex.split(command, comments=True)[1:]
    created = _call(tmp_path, "-m", "kedro", *arguments, "--env", "test", "--target-dir", "dags")
    assert created.returncode == 0, created.stdout + created.stderr
    assert [path.name for path in (tmp_path / "dags").iterdir()] == ["carvana_kedro_test_dag.py"]
    return tmp_path


def _test_dag(project: Path) -> subprocess.CompletedProcess[str]:
    """Let Airflow run the DAG, in one process and without a scheduler."""
    migrated = _call(project, "-m", "airflow", "db", "migrate")
    assert migrated.returncode == 0, migrated.stdout + migrated.stderr
    return _call(project, "-m", "airflow", "dags", "test", "carvana-kedro")


def test_the_edges_are_those_between_the_pipelines(project: Path) -> None:
    read = _call(project, "-c", READ_DAGS, str(project / "dags"))
    assert read.returncode == 0, read.stdout + read.stderr
    found = json.loads(read.stdout.splitlines()[-1])
    assert (found["dag"], found["max_active_runs"]) == ("carvana-kedro", 1)
    pipelines = {
        name.replace("_", "-"): import_module(f"carvana_kedro.pipelines.{name}").create_pipeline()
        for name in DEFAULT
    }
    expected = {
        (first, second)
        for first, second in permutations(pipelines, 2)
        if pipelines[first].all_outputs() & pipelines[second].inputs()
    }
    assert set(found["tasks"]) == set(pipelines)
    assert {(task, other) for task, others in found["tasks"].items() for other in others} == expected
    assert len(expected) >= len(DEFAULT)


def test_airflow_runs_all_tasks(project: Path) -> None:
    done = _test_dag(project)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert all(f"end task task_id={name.replace('_', '-')}" in done.stdout for name in DEFAULT)
    assert (project / "data/test/08_reporting/sample/sample/report.html").is_file()


def test_a_failed_run_fails_its_task(project: Path) -> None:
    settings = project / "conf/test/globals.yml"
    settings.write_text(settings.read_text().replace("recipe: sample", "recipe: none_such"))
    (dag,) = (project / "dags").iterdir()
    dag.write_text(dag.read_text().replace("retries=1", "retries=0"))  # a retry waits for five minutes
    done = _test_dag(project)
    assert done.returncode != 0
    assert "Unknown recipe 'none_such'" in done.stdout + done.stderr
    assert not (project / "data").exists()
