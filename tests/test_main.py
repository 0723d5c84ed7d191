"""The command `carvana-kedro`, also called as `python -m carvana_kedro`.

`cut`: tests/commands/test_cut.py. `serve`: tests/serve.
"""

import os
import subprocess
import sys
from pathlib import Path

from carvana_kedro import __version__

PROJECT = Path(__file__).parents[1]


def _command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "carvana_kedro", *arguments],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip


def test_run_takes_the_options_of_kedro_run(tmp_path: Path) -> None:
    options = [
        "--conf-source",
        str(PROJECT / "conf"),
        "--env",
        "test",
        "--params",
        f"data_root={tmp_path}/data",
    ]
    done = _command("run", *options, "--pipelines", "data_ingestion", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "data/05_model_input/sample/train_index.csv").is_file()


def test_options_without_a_command_are_those_of_run(tmp_path: Path) -> None:
    done = _command("--pipelines", "nonsense", folder=tmp_path)
    assert done.returncode == 1
    assert "Unknown pipeline 'nonsense'" in done.stderr
    done = _command("--nonsense", folder=tmp_path)
    assert done.returncode == 2
    assert "carvana_kedro run [OPTIONS]" in done.stderr
    assert "No such option" in done.stderr


def test_the_version_is_printed(tmp_path: Path) -> None:
    done = _command("--version", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"carvana-kedro, version {__version__}\n")


def test_an_unknown_command_is_an_error(tmp_path: Path) -> None:
    done = _command("cutt", "photos", folder=tmp_path)
    assert done.returncode == 2
    assert "No such command 'cutt'" in done.stderr


def test_the_help_lists_the_commands(tmp_path: Path) -> None:
    for option in ("-h", "--help"):
        done = _command(option, folder=tmp_path)
        assert done.returncode == 0
        assert "cut    Cut cars out of photographs." in done.stdout
        assert "run    Run the pipelines" in done.stdout
        assert "serve  Serve a page" in done.stdout
        assert done.stderr == ""


def test_main_returns_to_a_python_program(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.ps1 = '>>>'  # as in a notebook\n"
        "from carvana_kedro.__main__ import main\n"
        f"main(['--conf-source', {str(PROJECT / 'conf')!r}, '--env', 'test', '--pipelines', 'data_ingestion',\n"
        f"      '--params', 'data_root={tmp_path}/data'])\n"
        "print('returned')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "returned"
