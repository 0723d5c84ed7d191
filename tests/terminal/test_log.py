"""The layout of log lines, in a terminal, in a file and from a subfolder."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kedro.logging import RichHandler
from rich.console import Console

from carvana_kedro.terminal.log import HANDLER, TerminalFormatter, format_as_text

PROJECT = Path(__file__).parents[2]


def _formatted(message: str, *args: object, level: int = logging.INFO, name: str = "carvana_kedro.scoring",
               wraps: bool = False) -> str:  # fmt: skip
    return TerminalFormatter(wraps).format(logging.LogRecord(name, level, "", 0, message, args, None))


def test_the_lines_of_nodes_are_headings_and_all_others_are_indented() -> None:
    assert _formatted("[1/2] train_model", name="carvana_kedro.terminal.hooks") == "[1/2] train_model"
    assert _formatted("%d images\n  none empty", 3) == "  3 images\n    none empty"
    assert _formatted("slow\n", name="torch", level=logging.WARNING) == "  WARNING: slow"


def test_control_characters_are_escaped() -> None:
    assert _formatted("a\x1b[31mb\rc", name="another_package") == r"  a\x1b[31mb\rc"


def test_paths_below_the_working_directory_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _formatted("in %s/data/a.csv: '%s/b'", tmp_path, tmp_path) == "  in data/a.csv: 'b'"
    for text in (
        f"/mnt{tmp_path}/a",
        f"file://{tmp_path}/a",
        f"{tmp_path}-2/a",
        f"data_root={tmp_path}/a",
        str(tmp_path),
        f"{tmp_path}/",
    ):
        assert _formatted("%s", text) == f"  {text}"
    monkeypatch.chdir("/")
    assert _formatted("https://kaggle.com/c and /data/a") == "  https://kaggle.com/c and data/a"


def test_a_record_with_an_error_has_its_traceback() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    first, second, *_, last = TerminalFormatter().format(record).splitlines()
    assert (first, second, last) == (
        "  ERROR: failed",
        "Traceback (most recent call last):",
        "ValueError: no",
    )


@given(words=st.lists(st.text("abc-/", min_size=1, max_size=30), min_size=1), width=st.integers(40, 120))
def test_a_terminal_wraps_lines_at_words(words: list[str], width: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        lines = _formatted("%s", " ".join(words), wraps=True).split("\n")
    assert " ".join(lines).split() == words
    assert all(len(line) <= width for line in lines)
    assert all(line.startswith("    ") for line in lines[1:])


def test_text_is_shown_as_it_is_by_rich_too() -> None:
    stream = io.StringIO()
    handler = RichHandler(console=Console(file=stream, width=200))
    root, logger = logging.getLogger(), logging.getLogger("carvana_kedro.test")
    root.addHandler(handler)
    try:
        format_as_text()
        logger.warning("%s is damaged:\n  %s", "[red]car[/blue]", "a\x1b[31mb\rc")
    finally:
        root.removeHandler(handler)
    first, second = stream.getvalue().splitlines()
    assert "[red]car[/blue] is damaged:" in first
    assert r"  a\x1b[31mb\rc" in second


def test_only_the_handler_of_the_terminal_gets_the_layout() -> None:
    own, other = logging.StreamHandler(io.StringIO()), logging.StreamHandler(io.StringIO())
    own.name = HANDLER
    root = logging.getLogger()
    root.handlers += [own, other]
    try:
        format_as_text()
        logging.getLogger("carvana_kedro.test").warning("slow")
    finally:
        root.removeHandler(own)
        root.removeHandler(other)
    assert own.stream.getvalue() == "  WARNING: slow\n"
    assert other.stream.getvalue() == "slow\n"


INGEST = [sys.executable, "-m", "kedro", "run", "--env", "test", "--pipelines", "data_ingestion"]


def _ingest(tmp_path: Path, folder: Path, **environment: str) -> str:
    """Run the first pipeline in a folder of the project, and return what it prints."""
    # Relative to the project, as the default is.
    data_root = os.path.relpath(tmp_path / "data", PROJECT)
    done = subprocess.run(
        [*INGEST, "--params", f"data_root={data_root}"], cwd=folder, check=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "DO_NOT_TRACK": "1", **environment},
    )  # fmt: skip
    return done.stdout


def test_a_run_from_a_subfolder_prints_the_same_and_writes_into_the_project(tmp_path: Path) -> None:
    before, _, below = _ingest(tmp_path, PROJECT / "docs").partition("[1/2] ")
    assert before.count("INFO") == 1  # Kedro names its logging before it loads the project
    assert list((tmp_path / "data" / "02_intermediate" / "sample" / "masks").glob("*.bits"))
    lines = _ingest(tmp_path, PROJECT).splitlines()
    assert lines[0].startswith("[1/2] index_training_images  ")
    assert any(line.startswith("[2/2] split_cars") for line in lines)
    assert any(line.startswith("Done in ") for line in lines)
    assert "\x1b" not in "".join(lines)
    only_first = ("Rendering", "Unpacking")
    assert [line.split()[0] for line in below.splitlines()[1:] if line.split()[0] not in only_first] == [
        line.split()[0] for line in lines[1:]
    ]


def test_a_run_outlives_the_reader_of_its_log(tmp_path: Path) -> None:
    command = [*INGEST, "--params", f"data_root={tmp_path}"]
    with subprocess.Popen(
        command, cwd=PROJECT, env={**os.environ, "DO_NOT_TRACK": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as run:  # fmt: skip
        assert run.stdout and run.stderr
        assert run.stdout.readline().startswith("[1/2]")
        run.stdout.close()
        assert "BrokenPipe" not in run.stderr.read()
    assert run.returncode == 0
    assert (tmp_path / "05_model_input" / "sample" / "train_index.csv").is_file()


def test_kedros_own_logging_is_one_setting(tmp_path: Path) -> None:
    output = _ingest(tmp_path, PROJECT, KEDRO_LOGGING_CONFIG="conf/logging_rich.yml", COLUMNS="200")
    assert "INFO     Running node: split_cars" in output
    assert "[2/2]" not in output
    assert "INFO     Done in " in output


def test_a_run_continues_if_its_log_cannot_be_written(tmp_path: Path) -> None:
    command = [*INGEST, "--params", f"data_root={tmp_path}"]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            command, cwd=PROJECT, env={**os.environ, "DO_NOT_TRACK": "1"}, text=True, check=True,
            stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert run.stderr.count("The log cannot be written") == 1
    assert "Traceback" not in run.stderr and "Logging error" not in run.stderr
    assert (tmp_path / "05_model_input" / "sample" / "train_index.csv").is_file()
