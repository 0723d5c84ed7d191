"""Every command in the documentation, the comments of the configuration and the messages of the code is executed.

- `kedro run`: by the project's own command, with everything that comes before the first node: parameters, context,
  catalog, hooks and selection. PATH and the like are real folders and files; results of earlier runs are empty files.
  Those of the test environment that take seconds run to the end.
- `--params ...` alone, as an advice: like `kedro run --params ...`.
- `python -m benchmarks.X` and `experiments.X`: the module starts and takes the options; it does not measure.
- `make X`: the target exists.
- `carvana-kedro cut`: by a shell, with real photographs, to the end; without arguments, its help.
- `carvana-kedro serve`: the options are read. (tests/serve starts the command.)
- `kedro viz`, `kedro server`, `kedro package` and `tensorboard`: the command starts. (tests/test_kedro_viz.py opens the
  page, tests/test_kedro_server.py sends requests, and tests/test_package.py packages.)

Left out: `pip install`; the commands of docs/how-to/extend.md, which test_extend.py executes; and `kedro airflow`,
which tests/test_airflow.py executes, because its package is not part of `dev`.
"""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from kedro.framework.project import configure_project

from carvana_kedro.cli import run
from carvana_kedro.commands.serve import serve
from my_runners import StopBeforeNodes
from prepared_python import PreparedPython

PROJECT = Path(__file__).parents[2]
ELSEWHERE = ("docs/how-to/extend.md", "CHANGELOG.md")
STARTS = ("kedro ", "carvana-kedro", "python ", "make ", "tensorboard ")
PLACEHOLDERS = {
    "folder.images=PATH": "folder.images=photos",
    "folder.masks=PATH": "folder.masks=masks",
    "source=folder,…,": "source=folder,folder.images=photos,folder.masks=masks,",
    "folder.images=…": "folder.images=photos,folder.masks=masks",
    "archives=PATH": "archives=competition",
    "$SLURM_ARRAY_TASK_ID": "3",
    "PATH": "a folder",
    "FILE": "a file",
    "recipe=NAME": "recipe=sample",
    "source=NAME": "source=sample",
    "--env ENV": "--env test",
    "cut IN OUT": "cut photos out",
}


def _files(*patterns: str) -> dict[str, str]:
    """Return the text of the committed files by name."""
    listed = subprocess.run(
        ["git", "ls-files", *patterns, ":!*.pt"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return {
        name: (PROJECT / name).read_text() for name in listed.stdout.splitlines() if name not in ELSEWHERE
    }


def _lines(block: str) -> Iterator[str]:
    """Yield the commands of a fenced block, with the variables that the block sets."""
    variables: dict[str, str] = {}
    for line in block.replace("\\\n", " ").splitlines():
        if assigned := re.fullmatch(r"([A-Z]+)=(\S+)", line):
            variables[assigned[1]] = assigned[2]
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        for command in line.split(" && "):
            yield re.sub(r"\s+#.*", "", command).strip()


def _in_markdown(text: str) -> Iterator[str]:
    fences = r"^```(\w*)\n(.*?)^```"
    for _, block in re.findall(fences, text, re.DOTALL | re.MULTILINE):
        yield from _lines(block)
    # Inline code may be broken into two lines.
    rest = re.sub(fences, "", text, flags=re.DOTALL | re.MULTILINE)
    yield from (re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", rest))


def _in_strings(text: str) -> Iterator[str]:
    """Yield the commands of comments and messages; those with values that only a run knows are left out."""
    joined = re.sub(r'"\n\s+f?"', "", text)
    yield from (
        found.rstrip(". ") for found in re.findall(r"kedro run(?: --[a-z-]+ [^\s\"`{}<]+)*(?![\w{])", joined)
    )
    yield from re.findall(
        r"--params ([^\s\"`{}]+=(?:'[^'\s]*'|[^\s\"`{}])*[^\s\"`{}.,:;)])(?![\w{.,]*{)", joined
    )


def _commands() -> dict[str, str]:
    """Return where each command stands, by command."""
    found: dict[str, str] = {}
    for name, text in _files("*.md").items():
        for command in _in_markdown(text):
            if command.startswith(STARTS):
                found.setdefault(command, name)
            elif command.startswith("--params "):
                found.setdefault(f"kedro run {command}", name)
    for name, text in _files("conf", "notebooks", "src").items():
        for command in _in_strings(text):
            found.setdefault(
                command if command.startswith("kedro") else f"kedro run --params {command}", name
            )
    return {
        command: name
        for command, name in found.items()
        if not re.search(r"\.\.\.|\ba\.b=|--help$|-m$|^kedro airflow\b", command)
    }


COMMANDS = _commands()
RUNS = sorted(command for command in COMMANDS if command.startswith("kedro run"))
MODULES = sorted(command for command in COMMANDS if re.match(r"python (-m|\S+\.py)", command))
TARGETS = sorted(command for command in COMMANDS if command.startswith("make "))
PROGRAMS = sorted(
    command for command in COMMANDS if re.match(r"kedro (viz|server|package)|tensorboard", command)
)

SERVES = sorted(command for command in COMMANDS if command.startswith("carvana-kedro serve"))
CUTS = sorted(command for command in COMMANDS if command.startswith("carvana-kedro cut"))


def _filled(command: str) -> str:
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, f"'{value}'" if value.startswith("a ") else value)
    return command


@pytest.fixture
def workplace(unpacked: Path, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands of the documentation name; it is the working directory."""
    names = {"photos": "train-????????????", "masks": "train_masks-????????????"}
    for name, pattern in {**names, "train": names["photos"], "train_masks": names["masks"]}.items():
        shutil.copytree(*unpacked.glob(pattern), tmp_path / name)
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(path.name.replace("_mask.", ".")))
    shutil.copytree(archives, tmp_path / "competition")
    (tmp_path / "a folder").mkdir()
    for file in ("a file", "data/06_models/laptop/model.pt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    configure_project("carvana_kedro")
    return tmp_path


def _start(command: str) -> list[str]:
    """Return the nodes that a command would run, after all that comes before the first one."""
    arguments = shlex.split(command)[2:]
    options = ["--conf-source", str(PROJECT / "conf"), "--runner", "my_runners.StopBeforeNodes"]
    StopBeforeNodes.last = {}
    run.main([*arguments, *options], standalone_mode=False)
    return StopBeforeNodes.last["nodes"]  # type: ignore[no-any-return]


def _start_with_results(command: str) -> list[str]:
    """Do the same with the results of the earlier runs that the command needs, as empty files."""
    try:
        return _start(command)
    except click.ClickException as error:
        missing = re.findall(r"^  \w+ \((.+)\)$", error.message, re.MULTILINE)
        assert missing, error.message
        for path in map(Path, missing):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return _start(command)


def test_the_commands_are_found() -> None:
    assert len(RUNS) > 30
    assert "kedro run --params submission.dry_run=true" in RUNS
    assert any(COMMANDS[command].startswith("conf/") for command in RUNS)
    assert MODULES
    assert PROGRAMS
    assert TARGETS
    assert len(CUTS) > 5
    assert SERVES
    executed = {*SERVES, *RUNS, *MODULES, *TARGETS, *PROGRAMS, *CUTS}
    assert [command for command in COMMANDS if command not in executed] == []


NO_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="needs ray[data]: run `make ray`")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(run, marks=[pytest.mark.ray, NO_RAY] if "inference.cluster" in run else [])
        for run in RUNS
    ],
)
def test_kedro_run_starts_as_printed(command: str, workplace: Path) -> None:
    assert _start_with_results(_filled(command))


@pytest.mark.parametrize("command", [command for command in RUNS if "--env test" in command])
def test_commands_of_the_test_environment_run(
    command: str, kedro: Callable[..., object], tmp_path: Path
) -> None:
    kedro(*shlex.split(command)[1:])
    assert list((tmp_path / "data").rglob("*.csv"))


def test_the_group_of_the_guide_arrives_as_it_is_typed(workplace: Path, kedro: Callable[..., object]) -> None:
    (command,) = [
        command
        for command in RUNS
        if command.endswith("photos,folder.masks=masks,folder.group='(.+)_[0-9]+'")
    ]
    params = (
        shlex.split(command)[-1]
        .replace("=photos", f"={workplace}/photos")
        .replace("=masks", f"={workplace}/masks")
    )
    kedro("run", "--env", "test", "--pipelines", "data_ingestion", params=params)
    index = (workplace / "data/02_intermediate/folder/training_image_index.csv").read_text()
    assert re.search(r"^(\w+)_\d+,\1,", index, re.MULTILINE)


@pytest.fixture
def in_project(prepared_python: PreparedPython) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a module in the folder of the project, as `python -m` does."""
    return partial(prepared_python.run, cwd=PROJECT, env={**os.environ}, timeout=600)


@pytest.mark.parametrize("command", MODULES)
def test_modules_take_the_options(
    command: str, in_project: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    first, *arguments = shlex.split(_filled(command).replace("…", "'a folder'"))[1:]
    if first.endswith(".py"):
        program = [sys.executable, first, *arguments, "--help"]
        done = subprocess.run(program, cwd=PROJECT, capture_output=True, text=True)
        assert f"Usage: python {first}" in done.stderr
        return
    assert first == "-m"
    done = in_project(*arguments, "--help")
    assert done.returncode == 0, done.stderr
    assert [option for option in arguments if option.startswith("--") and option not in done.stdout] == []


@pytest.mark.parametrize("command", TARGETS)
def test_targets_exist(command: str) -> None:
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=PROJECT, check=True, capture_output=True)


@pytest.mark.parametrize("command", PROGRAMS)
def test_programs_start(command: str, in_project: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    program, *arguments = shlex.split(command)
    subcommands = itertools.takewhile(lambda argument: not argument.startswith("-"), arguments)
    module = ["kedro", *subcommands] if program == "kedro" else ["tensorboard.main"]
    done = in_project(*module, "--help")
    assert done.returncode == 0
    assert [
        option for option in shlex.split(command) if option.startswith("-") and option not in done.stdout
    ] == []


@pytest.mark.parametrize("command", CUTS)
def test_cut_writes_pictures(command: str, workplace: Path) -> None:
    first, *_ = photographs = sorted((workplace / "photos").iterdir())
    shutil.copy(first, workplace / "car.jpg")
    for path in photographs[3:]:
        path.unlink()
    arguments = _filled(command).removeprefix("carvana-kedro cut")
    shell = f"{shlex.quote(sys.executable)} -m carvana_kedro cut {arguments or '--help'}"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pictures = [path for path in workplace.rglob("*.*") if path.suffix in (".png", ".webp")]
    assert not arguments or (pictures and all(path.stat().st_size for path in pictures))


@pytest.mark.parametrize(
    "name", ["#1, 01", "it's", "a,b=c", "a,recipe=b", '"$HOME" `x`', "no", " a ", "[^_]+", "a: b"]
)
def test_the_advised_command_has_the_parameters_of_the_run(name: str, workplace: Path) -> None:
    data = workplace / name
    with pytest.raises(click.ClickException) as refused:
        run.main(
            [
                "--conf-source", str(PROJECT / "conf"), "--env", "test", "--pipelines", "model_training,inference",
                "--params", "data_root='{}',submission.message='{}'".format(str(data).replace("'", "''"), "a''b"),
            ],
            standalone_mode=False,
        )  # fmt: skip
    advice = refused.value.message.partition("Create them first: ")[2]
    assert _start(advice)
    dataset = StopBeforeNodes.last["catalog"].get("train_index")
    assert str(dataset._describe()["filepath"]) == f"{data}/05_model_input/sample/train_index.csv"
    assert StopBeforeNodes.last["catalog"].load("params:submission.message") == "a'b"


@pytest.mark.parametrize("command", SERVES)
def test_the_options_of_serve_are_read(command: str) -> None:
    serve.make_context("serve", shlex.split(_filled(command))[2:])
