"""Whole runs with `data_root` in Amazon S3, with a stand-in on the loopback interface. `make s3` runs these tests."""

import gzip
import io
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
from typing import NamedTuple

import pandas as pd
import pytest
import torch

from carvana_kedro.stores.checkpoints import read_checkpoint
from carvana_kedro.stores.folders import DiskFolder, Folder, open_folder
from processes import killed_afterwards
from standin_s3 import NEEDS_S3, SECRET, StandInS3

PROJECT = Path(__file__).parents[1]
pytestmark = NEEDS_S3

# Only on a disk: raw images, caches and locks. In the bucket, a lock is there only while it is held.
LOCAL = re.compile(r"01_raw/.*|02_intermediate/.*(\.sqlite|\.bits)|.*\.lock")
KINDS = ("masks", "overlays")
PREDICT = ",".join(f"inference.{kind}=true" for kind in KINDS)


class Project(NamedTuple):
    """A copy of the project with the credentials of the stand-in in `conf/local`."""

    folder: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Kedro in the environment `test`."""
        # Nothing of the user's account at Amazon.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return subprocess.Popen(
            [sys.executable, "-m", "kedro", *arguments], cwd=self.folder, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            env=environment
            | {"DO_NOT_TRACK": "1", "COLUMNS": "300", "KEDRO_ENV": "test", "TMPDIR": str(self.folder.parent)},
        )  # fmt: skip

    def run(self, *arguments: str) -> str:
        """Run Kedro to its end, and return what it prints."""
        with self.start(*arguments) as process:
            output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        assert SECRET not in output
        return output


class Data(NamedTuple):
    """A data root in a bucket, and the folder on the disk for what stays there."""

    folder: Folder
    scratch: Path

    def params(self, *more: str) -> tuple[str, str]:
        """Return the option that chooses them."""
        return "--params", ",".join([f"data_root={self.folder}", f"scratch_root={self.scratch}", *more])

    def names(self) -> set[str]:
        return {*self.folder.list("**/*")}


@pytest.fixture(scope="module")
def project(s3: StandInS3, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    for name in ("conf", "src"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(PROJECT / name, folder)
    (folder / "conf/local/credentials.yml").write_text(json.dumps({"storage": s3.options}))
    return Project(folder)


def _new(s3: StandInS3, scratch: Path) -> Data:
    folder = open_folder(f"s3://{s3.bucket()}/cars", scratch=scratch / "own", credentials=s3.options)
    return Data(folder, scratch / "scratch")


@pytest.fixture
def data(s3: StandInS3, tmp_path: Path) -> Data:
    """A data root in a bucket of its own."""
    return _new(s3, tmp_path)


@pytest.fixture(scope="module")
def on_disk(project: Project, tmp_path_factory: pytest.TempPathFactory) -> DiskFolder:
    """The data root of a run on a disk."""
    folder = tmp_path_factory.mktemp("disk")
    project.run("run", "--params", f"data_root={folder},{PREDICT}")
    return DiskFolder(folder)


@pytest.fixture(scope="module")
def finished(project: Project, s3: StandInS3, tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The data root of the same run in a bucket."""
    data = _new(s3, tmp_path_factory.mktemp("bucket"))
    printed = project.run("run", *data.params(PREDICT))
    assert f"{data.folder}/08_reporting/sample/sample/report.html" in printed
    return data


def _unnumbered(names: set[str]) -> set[str]:
    """Return names without the times and machines in those of TensorBoard's files."""
    return {re.sub(r"tfevents\..*", "tfevents", name) for name in names if not LOCAL.fullmatch(name)}


def _comparable(name: str, content: bytes) -> object:
    """Return what two runs have in common: times differ."""
    if name.endswith("history.csv"):
        columns = ["epoch", "train_loss", "val_loss", "train_dice_coeff", "val_dice_coeff", "run_id"]
        return pd.read_csv(io.BytesIO(content))[columns].to_csv()
    return content


def test_a_run_in_a_bucket_writes_what_a_run_on_a_disk_writes(on_disk: DiskFolder, finished: Data) -> None:
    names = finished.names()
    assert _unnumbered(names) == _unnumbered({*on_disk.list("**/*")})
    same = [name for name in names if name.endswith((".csv", ".csv.gz", ".png", ".jpg", ".webp"))]
    assert len(same) > 20
    for name in same:
        contents = (folder.read(name) for folder in (on_disk, finished.folder))
        first, second = (_comparable(name, content) for content in contents)
        assert first == second, name
    assert not any(SECRET.encode() in finished.folder.read(name) for name in names)


def test_the_disk_keeps_only_what_is_scratch(project: Project, finished: Data) -> None:
    kept = {path.name for path in finished.scratch.iterdir()}
    assert kept == {"01_raw", "02_intermediate", "copies", "parts", "working"}
    assert not [*(finished.scratch / "parts").iterdir()]
    caches = [path for path in (finished.scratch / "02_intermediate").rglob("*") if path.is_file()]
    assert {path.suffix for path in caches} == {".sqlite", ".bits"}
    assert {path.name for path in project.folder.iterdir()} >= {"conf", "src"}
    assert not {"data", "s3:"} & {path.name for path in project.folder.iterdir()}


def test_kedro_viz_previews_what_is_in_a_bucket(
    project: Project, finished: Data, tmp_path: Path, s3: StandInS3
) -> None:
    viewer = Project(shutil.copytree(project.folder, tmp_path / "project"))
    settings = viewer.folder / "conf/test/globals.yml"
    chosen = f"data_root: {finished.folder}\nscratch_root: {finished.scratch}\n"
    settings.write_text(re.sub("data_root: .*\n", chosen, settings.read_text()))
    # Kedro-Viz calls no hooks, so it reads only the credentials of the environment.
    settings.with_name("credentials.yml").write_text(json.dumps({"storage": s3.options}))
    viewer.run("viz", "build", "--include-previews")
    nodes = [json.loads(path.read_text()) for path in (viewer.folder / "build/api/nodes").iterdir()]
    shown = {node["filepath"] for node in nodes if node.get("preview") and node.get("filepath")}
    for name in (
        "06_models/sample/model.pt", "06_models/sample/checkpoints", "06_models/sample/validation_scores.csv",
        "07_model_output/sample/sample", "07_model_output/sample/sample/submit.csv.gz",
        "08_reporting/sample/sample/learning_curves.json", "08_reporting/sample/sample/validation_gallery.png",
        "08_reporting/sample/sample/cutouts", "08_reporting/sample/sample/report.html",
    ):  # fmt: skip
        assert f"{finished.folder}/{name}" in shown


def test_the_other_pipelines_run_in_a_bucket(project: Project, finished: Data) -> None:
    export = "export.formats=['program']"
    params = finished.params("submission.dry_run=true", export)
    printed = project.run("run", "--pipelines", "submission,review,evaluation,export", *params)
    names = finished.names()
    for name in (
        "06_models/sample/export/model.pt2", "06_models/sample/export/parity.csv",
        "07_model_output/sample/review/review.html", "07_model_output/sample/review/masks/.written.json",
        "07_model_output/sample/sample/submission_receipt.json",
        "08_reporting/sample/sample/evaluation_scores.csv",
    ):  # fmt: skip
        assert name in names
    assert "4 written, 0 kept" in printed
    # What a person corrects in the bucket stays.
    review = finished.folder.folder("07_model_output/sample/review/masks")
    mask = min(review.list("*.png"))
    review.put(mask, b"corrected")
    assert "3 written, 1 kept" in project.run("run", "--pipelines", "review", *finished.params())
    assert review.read(mask) == b"corrected"


def test_a_checkpoint_may_be_in_a_bucket(project: Project, finished: Data, tmp_path: Path) -> None:
    runs = finished.folder.folder("06_models/sample/checkpoints")
    best = max(runs.list("*/best-*.pt"))
    params = f"data_root={tmp_path / 'data'},scratch_root={finished.scratch},checkpoint={runs}/"
    project.run("run", "--pipelines", "inference", "--params", f"{params}{best}")
    manifest = json.loads((tmp_path / "data/07_model_output/sample/sample/predictions.json").read_text())
    assert manifest["run_id"] == best.partition("/")[0]
    with project.start("run", "--pipelines", "inference", "--params", f"{params}nothing.pt") as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert f"checkpoint={runs}/nothing.pt: there is no such file or folder" in output


def _interrupt(process: subprocess.Popen[str], begun: Callable[[], bool], number: signal.Signals) -> str:
    """Send a signal to a process once it has begun; return what it printed."""
    with killed_afterwards() as processes:
        processes.append(process)
        while not begun():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 1), output
    return output


def test_a_killed_run_in_a_bucket_resumes(project: Project, on_disk: DiskFolder, data: Data) -> None:
    project.run("run", "--pipelines", "data_ingestion", *data.params())
    train = ("run", "--pipelines", "model_training", *data.params())
    models, events = data.folder.folder("06_models/sample"), data.folder.folder("08_reporting/tensorboard")

    def saved() -> set[str]:
        return {*models.list("checkpoints/*/last-*.pt")}

    _interrupt(project.start(*train), lambda: len(saved()) > 0, signal.SIGKILL)
    assert data.folder.stat("06_models/.sample.lock")  # of the killed process
    assert not events.list("**/*")
    before = saved()
    printed = _interrupt(project.start(*train), lambda: not saved() <= before, signal.SIGTERM)
    assert "Its lock is taken over" in printed and "resumes in epoch" in printed
    assert "Everything is saved. The same command resumes it." in printed
    # Of the killed attempt too: its files were on the disk.
    assert len(events.list("sample/*/events.*")) == 2
    assert not [name for name in data.names() if name.endswith(".lock")]
    assert "resumes in epoch" in project.run(*train)
    # As if the process had been killed after its last epoch, before it copied its events.
    written = {*events.list("sample/*/events.*")}
    events.remove(max(written))
    assert "is finished" in project.run(*train)
    assert {*events.list("sample/*/events.*")} == written
    # Bit for bit the model of a run that was not interrupted.
    states = [
        read_checkpoint(folder, "06_models/sample/model.pt")["weights"] for folder in (on_disk, data.folder)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    # Ctrl-C while no training is under way: Kedro calls no hook.
    lock = "07_model_output/sample/.sample.lock"
    index = project.start("run", "--pipelines", "inference", *data.params("inference.batch_size=1"))
    printed = _interrupt(index, lambda: data.folder.stat(lock) is not None, signal.SIGINT)
    assert data.folder.stat(lock) is None

    predict = ("run", "--pipelines", "inference", *data.params("inference.shard_size=1", PREDICT))
    output = data.folder.folder("07_model_output/sample/sample")
    _interrupt(project.start(*predict), lambda: bool(output.list("shards/*/*.csv")), signal.SIGKILL)
    found = {name: output.stat(name) for name in output.list("shards/*/*.csv")}
    assert output.stat("submit.csv.gz") is None
    assert "Its lock is taken over" in project.run(*predict)
    assert {name: output.stat(name) for name in found} == found  # not predicted again
    whole = on_disk.folder("07_model_output/sample/sample")
    rows = [gzip.decompress(folder.read("submit.csv.gz")) for folder in (whole, output)]
    assert rows[0] == rows[1]
    for kind in KINDS:
        assert {name: output.read(name) for name in output.list(f"{kind}/*")} == {
            name: whole.read(name) for name in whole.list(f"{kind}/*")
        }
