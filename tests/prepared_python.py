"""A Python process that has imported the project, and runs each program in a fork of itself.

A program has a process, arguments, environment, output and exit code of its own, as with `python -m`. Only the imports
are saved, which take longer than most commands of the tests. But all forks have the same order of sets: what must not
depend on it is tested with `run_in_new_python`.
"""

import gc
import json
import os
import random
import runpy
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

IMPORTED = (
    "torch._dynamo",  # PyTorch imports it with the first optimizer
    "carvana_kedro.cli",
    "carvana_kedro.settings",
    *(
        f"carvana_kedro.pipelines.{path.name}"
        for path in (Path(__file__).parents[1] / "src/carvana_kedro/pipelines").iterdir()
        if (path / "__init__.py").exists()
    ),
)


def run_in_new_python(
    module: str, *arguments: str, cwd: Path, env: dict[str, str], timeout: int
) -> subprocess.CompletedProcess[str]:
    """Run a module with `python -m`."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True)


class PreparedPython:
    """The process. It imports the modules when it runs the first program."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[1],  # Kedro reads its logging configuration when it is imported
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.communicate()

    def run(
        self, module: str, *arguments: str, cwd: Path, env: dict[str, str], timeout: int
    ) -> subprocess.CompletedProcess[str]:
        """Do the same with the imports saved. After the timeout, in seconds, SIGALRM kills the program."""
        with TemporaryDirectory() as folder:
            output, errors = Path(folder, "stdout"), Path(folder, "stderr")
            program = {
                "module": module, "arguments": arguments, "cwd": str(cwd), "env": env, "timeout": timeout,
                "stdout": str(output), "stderr": str(errors),
            }  # fmt: skip
            assert self._server.stdin and self._server.stdout
            self._server.stdin.write(json.dumps(program) + "\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
            assert answer, f"the prepared Python has ended with exit code {self._server.wait()}"
            return subprocess.CompletedProcess(
                [module, *arguments], int(answer), output.read_text(), errors.read_text()
            )


def _become(program: dict[str, Any]) -> None:
    """Let this process, a fork, run a program."""
    signal.alarm(program["timeout"])
    for descriptor, path in enumerate((os.devnull, program["stdout"], program["stderr"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the one of the server has read ahead
    os.chdir(program["cwd"])
    os.environ.clear()
    os.environ.update(program["env"])
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [program["cwd"], *(path for path in added if path and path not in sys.path)]
    # A new process would have other random numbers, too.
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].seed()
    sys.argv = [program["module"], *program["arguments"]]
    runpy.run_module(program["module"], run_name="__main__", alter_sys=True)


def _serve() -> None:
    """Run the programs that the standard input names, one a line, and print their exit codes."""
    while line := sys.stdin.readline():
        for name in IMPORTED:
            import_module(name)
        gc.freeze()  # else the collector of each fork would copy the pages of all that is imported
        if (pid := os.fork()) == 0:
            _become(json.loads(line))
            return
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
