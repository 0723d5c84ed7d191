import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

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
    assert any(name.endswith(".j2") for name in files)
