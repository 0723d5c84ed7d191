"""What several tests need: a small rendered competition, and the project's own commands as real processes.

With `pytest -n auto`, pytest-xdist runs the tests in several processes. The tests of a file stay in one process.
"""

import fcntl
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before PyTorch is imported: the cores are busy with other tests
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from carvana_kedro.stores.competition import open_side
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.machine import usable_cores
from carvana_kedro.studio import StudioSettings, render_competition
from prepared_python import PreparedPython, run_in_new_python
from standin_kaggle import KEY, USERNAME, StandInKaggle
from standin_stores import StandInGS, StandInS3

PROJECT = Path(__file__).parents[1]
collect_ignore = ["gs_process.py"]  # a program, which needs packages that may be missing
Run = Kedro = Callable[..., subprocess.CompletedProcess[str]]
# A shell lets background jobs ignore Ctrl-C, and so would the programs that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = [
    "tests/test_end_to_end.py",
    "tests/docs/test_commands.py",
    "tests/test_several_processes.py",
    "tests/segmentation/training/test_launch.py",
    "tests/test_cli.py",
    "tests/test_kedro_viz.py",
    "tests/test_kaggle_end_to_end.py",
    "tests/experiments/test_seeds.py",
    "tests/docs/test_extend.py",
    "tests/segmentation/training/test_distributed.py",
    "tests/segmentation/training/test_resume.py",
    "tests/pipelines/model_training/test_nodes.py",
]
"""The files that take the longest: more than a minute each on a busy machine. The longest is the first."""

SMALL = StudioSettings(training_cars=4, test_cars=1, views=4, width=240, height=160)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes of `-n auto`. More than eight would wait for the longest file."""
    return min(8, usable_cores())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one process, since they share fixtures, and begin with the longest files."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Move the longest files to the front if there are several processes, so that none works alone at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        ranks = {str(config.rootpath / name): rank for rank, name in enumerate(LONGEST)}
        items.sort(key=lambda item: ranks.get(str(item.path), len(ranks)))


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives of a competition of 16 training and 4 test images of 240 x 160. Read only."""
    folder = tmp_path_factory.mktemp("archives")
    render_competition(SMALL, folder, num_workers=1)
    return folder


@pytest.fixture(scope="session")
def unpacked(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where those archives are unpacked. Read only."""
    folder = tmp_path_factory.mktemp("unpacked")
    open_side(archives, folder, "training")
    open_side(archives, folder, "test")
    return folder


@pytest.fixture(scope="session")
def training_images(archives: Path, unpacked: Path) -> ImageStore:
    return open_side(archives, unpacked, "training")


@pytest.fixture(scope="session")
def test_images(archives: Path, unpacked: Path) -> ImageStore:
    return open_side(archives, unpacked, "test")


@pytest.fixture
def broken(archives: Path, unpacked: Path, tmp_path: Path) -> Path:
    """The competition as unpacked folders, for a test to break."""
    for name in ("train", "train_masks", "test"):
        (found,) = unpacked.glob(f"{name}-????????????")
        shutil.copytree(found, tmp_path / "competition" / name)
    shutil.copy(archives / "sample_submission.csv.zip", tmp_path / "competition")
    return tmp_path / "competition"


@pytest.fixture(scope="session")
def on_kaggle(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same competition with the archives of both qualities, as Kaggle has them. Read only."""
    folder = tmp_path_factory.mktemp("kaggle")
    for archive in archives.glob("*.zip"):
        shutil.copy(archive, folder)
    for name in ("train", "test"):
        with ZipFile(folder / f"{name}.zip") as standard, ZipFile(folder / f"{name}_hq.zip", "w") as hq:
            for member in standard.infolist():
                hq.writestr(member.filename.replace(f"{name}/", f"{name}_hq/"), standard.read(member))
    return folder


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInS3]:
    """A stand-in for Amazon S3. Each test uses a bucket of its own."""
    with StandInS3(tmp_path_factory.mktemp("s3") / "log.txt") as server:
        yield server


@pytest.fixture(scope="session")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInGS]:
    """A stand-in for Google Cloud Storage. Each test uses a bucket of its own."""
    with StandInGS(tmp_path_factory.mktemp("gs") / "log.txt") as server:
        yield server


@pytest.fixture
def port_of_kaggle() -> Iterator[None]:
    """Reserve the port of the stand-in for Kaggle, which Kaggle's client determines, among all processes of tests."""
    with (Path(tempfile.gettempdir()) / f"standin-kaggle-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def kaggle(
    port_of_kaggle: None, on_kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StandInKaggle]:
    """A stand-in for Kaggle that serves the competition, and an account there in the environment."""
    for variable in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_USERNAME", USERNAME)
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with StandInKaggle(on_kaggle) as server:
        yield server


@pytest.fixture(scope="session")
def prepared_python() -> Iterator[PreparedPython]:
    with PreparedPython() as python:
        yield python


def _kedro(run: Run, data: Path) -> Kedro:
    def call(*arguments: str, params: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        params = ",".join(filter(None, [f"data_root={data}", params]))
        environment = {**os.environ, "DO_NOT_TRACK": "1", "COLUMNS": "200"}
        done = run("kedro", *arguments, "--params", params, cwd=PROJECT, env=environment, timeout=600)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return call


@pytest.fixture
def kedro(prepared_python: PreparedPython, tmp_path: Path) -> Kedro:
    """`kedro(...)` runs the command in the project, as a user would, with a data root of the test's own."""
    return _kedro(prepared_python.run, tmp_path / "data")


@pytest.fixture
def kedro_in_new_python(tmp_path: Path) -> Kedro:
    """`kedro`, without the imports saved."""
    return _kedro(run_in_new_python, tmp_path / "data")
