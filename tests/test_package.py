"""The wheel, and what `kedro package` packs."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from carvana_kedro.commands.package import pack_configuration
from carvana_kedro.errors import UserError

PROJECT = Path(__file__).parents[1]


def test_the_wheel_has_every_file_of_the_package(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(
        PROJECT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    files = {path.relative_to(copy / "src").as_posix() for path in copy.glob("src/**/*") if path.is_file()}
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = copy.glob("dist/*.whl")
    with ZipFile(wheel) as packed:
        assert files <= set(packed.namelist())
        packed.extractall(tmp_path / "installed")
    assert {*CODE, ".pt"} <= {Path(name).suffix for name in files}
    # The weights are used from the installed package.
    code = (
        "import numpy as np\n"
        "from carvana_kedro import weights\n"
        "from carvana_kedro.segmentation.prediction.predictor import Predictor\n"
        "mask = Predictor.from_checkpoint('cars', device='cpu')(np.zeros((32, 48, 3), np.uint8))\n"
        "print(mask.shape, weights.__file__)"
    )
    used = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )  # fmt: skip
    assert used.stdout == f"(32, 48) {tmp_path}/installed/carvana_kedro/weights/__init__.py\n", used.stderr


CODE = (".py", ".j2", ".html", ".css", ".js")
WITHOUT_PROJECT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
    "DO_NOT_TRACK": "1"
}
SECRET = "KGAT_0123456789"
CREDENTIALS = (
    "kaggle/credentials.yml", "kaggle/Credentials.yaml", "kaggle/.credentials.yml", "kaggle/credentials.yml~",
    "kaggle/credentials.yml.bak", "kaggle/credentials/globals.yml", "kaggle/mine/credentials_kaggle.json",
    "kaggle/kaggle.json", "kaggle/token.yml", "kaggle/.env", "test/credentials-old.json", "mine/credentials.json",
    "base/credentials_mine.yml", "local/credentials.yml", "local/credentials.json", "local/globals.json",
    "local/globals.yml", "local/mine/parameters.yml", "local/catalog.yaml", "credentials.yml", "kaggle.json",
)  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with credentials in many places."""
    copy = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".viz")
    for name in ("src", "conf"):
        shutil.copytree(PROJECT / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    for name in CREDENTIALS:
        (copy / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / "conf" / name).write_text(f"kaggle: {{token: {SECRET}}}\n")
    for name in (".env", "conf/.env", "src/carvana_kedro/.env", "notebooks/mine.ipynb"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(SECRET)
    (copy / "conf/test/catalog_link.yml").symlink_to(copy / "conf/local/credentials.yml")
    return copy


def _package(project: Path) -> subprocess.CompletedProcess[str]:
    # Another copy of the project may be installed.
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "DO_NOT_TRACK": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "kedro", "package", "--no-isolation"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def test_the_package_never_holds_credentials(project: Path) -> None:
    done = _package(project)
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(project / "dist/conf-carvana_kedro.tar.gz") as packed:
        names = {member.name for member in packed if not member.isdir()}
        content = b"".join(packed.extractfile(name).read() for name in names)  # type: ignore[union-attr]
    committed = {
        path.relative_to(PROJECT).as_posix()
        for name in ("base", "kaggle", "test")
        for path in (PROJECT / "conf" / name).glob("*.yml")
        if (name, path.name) != ("kaggle", "credentials.yml")
    }
    assert names == {*committed, "conf/logging.yml", "conf/logging_rich.yml"}
    assert SECRET.encode() not in content
    (wheel,) = project.glob("dist/*.whl")
    with ZipFile(wheel) as zipped:
        others = {name for name in zipped.namelist() if not name.endswith(CODE)}
        weights = {f"carvana_kedro/weights/cars{suffix}" for suffix in (".pt", ".md")}
        assert {*weights, "carvana_kedro/py.typed"} == {name for name in others if ".dist-info/" not in name}
        assert all(SECRET.encode() not in zipped.read(name) for name in zipped.namelist())
    for name in CREDENTIALS:
        assert f"conf/{name}" in done.stdout
    source = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    subprocess.run([sys.executable, "-c", source], cwd=project, check=True, capture_output=True)
    with tarfile.open(*project.glob("dist/carvana_kedro-*.tar.gz")) as packed:
        assert not [
            name
            for name in packed.getnames()
            if "/conf" in name or name.endswith((".json", "credentials.yml"))
        ]


def test_a_run_takes_the_packed_configuration(project: Path, tmp_path: Path) -> None:
    pack_configuration(project / "conf", tmp_path / "conf.tar.gz")
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-m", "carvana_kedro", "--conf-source", str(tmp_path / "conf.tar.gz")]
    done = subprocess.run(
        [*command, "--env", "test", "--pipelines", "data_ingestion", "--params", f"data_root={tmp_path}/data"],
        cwd=tmp_path / "elsewhere", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "data/05_model_input/sample/train_index.csv").is_file()


@pytest.fixture
def installed(project: Path, tmp_path: Path) -> Path:
    """The Python of an environment with the wheel and its dependencies, and without the project."""
    assert _package(project).returncode == 0
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin/python"
    (packages,) = environment.glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "carvana" not in path.name and not (packages / path.name).exists():
            (packages / path.name).symlink_to(path)
    # pip compares the requirements of the wheel with the packages that are there.
    install = ["-m", "pip", "install", "--no-index", *map(str, project.glob("dist/*.whl"))]
    subprocess.run([python, *install], env=WITHOUT_PROJECT, check=True, capture_output=True)
    return python


def test_the_wheel_and_the_packed_configuration_run_in_empty_folders(
    project: Path, installed: Path, tmp_path: Path
) -> None:
    archive = project / "dist/conf-carvana_kedro.tar.gz"

    def call(folder: Path, *arguments: str) -> str:
        done = subprocess.run(
            [installed, "-m", *arguments], cwd=folder, env=WITHOUT_PROJECT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    empty, unpacked = tmp_path / "empty", tmp_path / "unpacked"
    empty.mkdir()
    call(empty, "carvana_kedro", "run", "--conf-source", str(archive), "--env", "test")
    assert (empty / "data/test/08_reporting/sample/sample/report.html").is_file()
    # The folder that the Dockerfile makes: `kedro` needs pyproject.toml and src, the code is in the wheel.
    (unpacked / "src").mkdir(parents=True)
    shutil.copy(project / "pyproject.toml", unpacked)
    shutil.unpack_archive(archive, unpacked)
    (unpacked / "conf/local").mkdir(exist_ok=True)
    call(unpacked, "kedro", "run", "--env", "test", "--pipelines", "data_ingestion")
    assert (unpacked / "data/test/05_model_input/sample/train_index.csv").is_file()
    assert "evaluation" in call(unpacked, "kedro", "registry", "list")
    where = subprocess.run(
        [installed, "-c", "import carvana_kedro; print(carvana_kedro.__file__)"],
        cwd=empty, env=WITHOUT_PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    assert where.stdout.startswith(f"{tmp_path}/environment/")


@pytest.mark.parametrize(
    "text", [f"kaggle: {{token: {SECRET}}}", f"kaggle: {SECRET}", f"- {SECRET}", f"a: [{SECRET}"]
)
def test_credentials_in_base_are_not_packed(project: Path, text: str) -> None:
    (project / "conf/base/credentials.yml").write_text(text)
    with pytest.raises(
        UserError, match=r"base/credentials.yml (holds credentials|is not valid YAML)"
    ) as refused:
        pack_configuration(project / "conf", project / "dist/conf.tar.gz")
    assert SECRET not in str(refused.value)
    assert not (project / "dist").exists()


def test_a_file_in_the_code_that_is_no_code_stops_the_package(project: Path) -> None:
    (project / "src/carvana_kedro/credentials.json").write_text(SECRET)
    settings = project / "pyproject.toml"
    settings.write_text(settings.read_text().replace('"*" = ["*.j2"]', '"*" = ["*.j2", "*.json"]'))
    done = _package(project)
    assert done.returncode == 1
    assert "files that are not code: carvana_kedro/credentials.json. Remove them" in done.stderr
    assert not list(project.glob("dist/*"))
