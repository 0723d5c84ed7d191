"""Whole runs with `data_root` in an object store, with stand-ins on the loopback interface. `make stores` runs them."""

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
from standin_stores import SECRET, SERVERS, StandInStore

PROJECT = Path(__file__).parents[1]

# Only on a disk: raw images, caches and locks. In the bucket, a lock is there only while it is held.
LOCAL = re.compile(r"01_raw/.*|02_intermediate/.*(\.sqlite|\.bits)|.*\.lock")
KINDS = ("masks", "overlays")
ON_S3 = pytest.mark.parametrize("server", SERVERS[:1], indirect=True, scope="module")
PREDICT = ",".join(f"inference.{kind}=true" for kind in KINDS)


class Project(NamedTuple):
    """A copy of the project."""

    folder: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Kedro in the environment `test`."""
        # Nothing of the user's accounts.
        accounts = ("AWS_", "GOOGLE_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(accounts)}
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


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> StandInStore:
    """Each stand-in."""
    found: StandInStore = request.getfixturevalue(request.param)
    return found


def _copy(folder: Path) -> Project:
    for name in ("conf", "src"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(PROJECT / name, folder)
    return Project(folder)


@pytest.fixture(scope="module")
def project(server: StandInStore, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with the credentials of the stand-in in `conf/local`."""
    project = _copy(tmp_path_factory.mktemp("project"))
    (project.folder / "conf/local/credentials.yml").write_text(json.dumps({"storage": server.options}))
    return project


def _new(server: StandInStore, scratch: Path) -> Data:
    address = f"{server.scheme}://{server.bucket()}/cars"
    folder = open_folder(address, scratch=scratch / "own", credentials=server.options)
    return Data(folder, scratch / "scratch")


@pytest.fixture
def data(server: StandInStore, tmp_path: Path) -> Data:
    """A data root in a bucket of its own."""
    return _new(server, tmp_path)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> DiskFolder:
    """The data root of a run on a disk."""
    folder = tmp_path_factory.mktemp("disk")
    project = _copy(tmp_path_factory.mktemp("project"))
    project.run("run", "--params", f"data_root={folder},{PREDICT}")
    return DiskFolder(folder)


@pytest.fixture(scope="module")
def finished(project: Project, server: StandInStore, tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The data root of the same run in a bucket."""
    data = _new(server, tmp_path_factory.mktemp("bucket"))
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
    assert kept == {"01_raw", "02_intermediate", "copies", "locks", "parts", "working"}
    assert not [*(finished.scratch / "parts").iterdir()]
    caches = [path for path in (finished.scratch / "02_intermediate").rglob("*") if path.is_file()]
    assert {path.suffix for path in caches} == {".sqlite", ".bits"}
    assert {path.name for path in project.folder.iterdir()} >= {"conf", "src"}
    assert not {"data", "s3:"} & {path.name for path in project.folder.iterdir()}


def test_a_run_without_the_right_ends_with_one_line(server: StandInStore, data: Data, tmp_path: Path) -> None:
    project = _copy(tmp_path / "project")
    with server.refusing() as options:
        if server.scheme == "gs":  # gcsfs logs the refusal of a caller without a key
            options = options | {"token": "anon"}
        (project.folder / "conf/local/credentials.yml").write_text(json.dumps({"storage": options}))
        with project.start("run", "--pipelines", "model_training", *data.params()) as process:
            output, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert f"{data.folder}/" in output and "Check the key, and what it may do." in output
    assert "Traceback" not in output and SECRET not in output


@ON_S3
def test_kedro_viz_previews_what_is_in_a_bucket(
    project: Project, finished: Data, tmp_path: Path, server: StandInStore
) -> None:
    viewer = Project(shutil.copytree(project.folder, tmp_path / "project"))
    settings = viewer.folder / "conf/test/globals.yml"
    chosen = f"data_root: {finished.folder}\nscratch_root: {finished.scratch}\n"
    settings.write_text(re.sub("data_root: .*\n", chosen, settings.read_text()))
    # Kedro-Viz calls no hooks, so it reads only the credentials of the environment.
    settings.with_name("credentials.yml").write_text(json.dumps({"storage": server.options}))
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


@ON_S3
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


@ON_S3
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


def test_photographs_may_be_in_a_bucket(
    project: Project, on_disk: DiskFolder, data: Data, server: StandInStore, tmp_path: Path
) -> None:
    address = f"{server.scheme}://{server.bucket()}/photographs"
    photographs = open_folder(address, credentials=server.options)
    local = tmp_path / "photographs"
    for kind, pattern in (("images", "train*/*_0[123].jpg"), ("masks", "train_masks*/*_0[123]_mask.gif")):
        (local / kind).mkdir(parents=True)
        for path in (on_disk.path / "01_raw").rglob(pattern):
            shutil.copy(path, local / kind)
            photographs.put(f"{kind}/{path.name}", path.read_bytes())
    roots = (DiskFolder(tmp_path / "data"), data.folder)
    settings = ",".join([
        "model_training.epochs=2", "folder.mask_suffix=_mask", "folder.group='(.+)_..'",
        *(f"inference.{kind}=false" for kind in ("masks", "cutouts", "overlays")),
    ])  # fmt: skip
    for folder, root in zip((local, photographs), roots, strict=True):
        chosen = f"source=folder,folder.images={folder}/images,folder.masks={folder}/masks,{settings}"
        params = f"{chosen},data_root={root},scratch_root={data.scratch}"
        printed = project.run(
            "run", "--pipelines", "data_ingestion,model_training,inference", "--params", params
        )
    assert "Copying 12 files" in printed
    same = [name for name in roots[1].list("**/*") if name.endswith((".csv", ".csv.gz"))]
    assert {"05_model_input/folder/train_index.csv", "07_model_output/folder/sample/submit.csv.gz"} < {*same}
    for name in same:
        first, second = (_comparable(name, root.read(name)) for root in roots)
        assert first == second, name

    # A machine that predicts a share copies its own photographs only.
    another = tmp_path / "another"
    share = (
        f"{chosen},data_root={data.folder},scratch_root={another},inference.share=1/3,inference.shard_size=1"
    )
    project.run("run", "--pipelines", "inference_share", "--params", f"{share},inference.threshold=0.4")
    assert len([*another.glob("copies/images/*/*.jpg")]) == 4

    # The index was made from other photographs than those that are there now.
    first, second, *_ = photographs.list("images/*")
    photographs.put(first, photographs.read(second))
    with project.start("run", "--pipelines", "model_training", "--params", params) as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert f"The index was made from other files than those that are now in {photographs}/images" in output


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


@ON_S3
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
