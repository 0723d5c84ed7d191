"""The rules of the package: which module may import which, and the maximum size of folders and files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "src" / "carvana_kedro"
MOST_MODULES = 14
LARGEST_FILE = 2**20  # bytes
WEIGHTS = PACKAGE / "weights" / "cars.pt"  # has a limit of its own


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of `pyproject.toml` on the package in a source folder."""
    code = "import sys; from importlinter.cli import lint_imports as lint; sys.exit(lint(no_cache=True))"
    environment = {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package that a test may change."""
    return shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))


def test_the_package_keeps_its_import_rules() -> None:
    done = lint_imports(PROJECT / "src")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "forbidden", "rule"),
    [
        ("stores/tables.py", "carvana_kedro.parameters", "imports point one way"),
        ("folds.py", "carvana_kedro.scoring", "imports point one way"),
        (
            "segmentation/training/loop.py",
            "carvana_kedro.segmentation.prediction.predictor",
            "imports in segmentation point one way",
        ),
        (
            "pipelines/reporting/nodes.py",
            "carvana_kedro.pipelines.inference.nodes",
            "pipelines do not import each other",
        ),
        (
            "segmentation/hardware.py",
            "pandas",
            "predicting, segmentation, stores and studio do not import Kedro, pandas or pydantic",
        ),
        (
            "segmentation/data/samples.py",
            "carvana_kedro.stores.archives",
            "segmentation uses only file formats, processes and facts about the machine from stores",
        ),
        ("studio/canvas.py", "torch", "ingestion does not load PyTorch"),
    ],
)
def test_a_forbidden_import_is_detected(module: str, forbidden: str, rule: str, copied: Path) -> None:
    with (copied / module).open("a") as file:
        file.write(f"\nimport {forbidden}\n")
    done = lint_imports(copied.parent)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{rule} BROKEN" in done.stdout


def test_a_module_without_a_layer_is_detected(copied: Path) -> None:
    (copied / "segmentation" / "helpers.py").touch()
    done = lint_imports(copied.parent)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "helpers" in done.stdout + done.stderr


def test_no_folder_of_the_package_has_too_many_modules() -> None:
    folders = [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())]
    modules = {folder: [*folder.glob("*.py")] for folder in folders}
    assert {str(folder): len(found) for folder, found in modules.items() if len(found) > MOST_MODULES} == {}


def test_no_tracked_file_is_large() -> None:
    if not (PROJECT / ".git").exists():
        pytest.skip("needs a git checkout")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    tracked = [PROJECT / name for name in listed.stdout.split("\0") if name]
    assert PACKAGE / "__init__.py" in tracked
    large = {str(path): path.stat().st_size for path in tracked if path.is_file() and path != WEIGHTS}
    assert {name: size for name, size in large.items() if size > LARGEST_FILE} == {}
