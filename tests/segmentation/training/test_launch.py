"""Real processes, really killed. The training that they run is in `launched_process.py`."""

import json
import logging
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import launched_process
from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.training import launch
from carvana_kedro.segmentation.training.distributed import LostProcessError, noticing_lost_processes
from carvana_kedro.segmentation.training.launch import report_step, run_in_processes, stop_requested
from carvana_kedro.stores.machine import usable_cores
from ports import free_port
from processes import children, killed_afterwards, wait_until_ended

TESTS = Path(launched_process.__file__).parent
PROGRAM = "import launched_process; launched_process.main()"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """`start(folder, **options)` starts or resumes the training in a session of its own."""

    def start_process(folder: Path, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), json.dumps(options)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        )  # fmt: skip
        processes.append(process)
        return process

    with killed_afterwards() as processes:
        yield start_process


@pytest.fixture(scope="module")
def weight(start: Start, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The weight after an uninterrupted training."""
    return _finish(start(tmp_path_factory.mktemp("uninterrupted")))[0]


def _finish(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Return the weight after the training, and what it printed."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return json.loads(output.splitlines()[-1])["weight"], output


def _until(process: subprocess.Popen[str], text: str) -> str:
    """Return what a training prints up to a line that begins with a text."""
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if line.startswith(text):
            return "".join(lines)
    pytest.fail(f"There is no line {text} in {''.join(lines)}")


def _starting_rank(process: subprocess.Popen[str]) -> int:
    """Return a rank that has just been started, and has not loaded PyTorch yet."""
    while not (ranks := children(process.pid)[1:]):  # the first child tracks semaphores
        assert process.poll() is None
        time.sleep(0.01)
    return ranks[0]


def _ranks(folder: Path) -> list[int]:
    """Return the processes of the first and the second rank."""
    return [int((folder / f"{rank}.pid").read_text()) for rank in range(2)]


def test_a_training_whose_processes_are_killed_goes_on_from_its_checkpoint(
    start: Start, weight: float, tmp_path: Path
) -> None:
    process = start(tmp_path)
    os.kill(_starting_rank(process), signal.SIGKILL)
    _until(process, "step 13\n")
    os.kill(_ranks(tmp_path)[1], signal.SIGKILL)
    _until(process, "step 28\n")
    os.kill(_ranks(tmp_path)[0], signal.SIGKILL)
    again, output = _finish(process)
    assert again == weight
    assert "Process 1 of 2 was killed by SIGKILL. All processes start again (restart 3 of 3)" in output
    found = re.search(
        r"from the last checkpoint.\nINFO Process 1 starts after step (\d+)\nINFO Training goes on. The restart has",
        output[output.index("(restart 3 of 3)") :],
    )
    assert found and int(found[1]) >= 25  # later on a busy machine, where this process sees step 28 late
    assert "Traceback" not in output
    assert "process 2" not in output  # it starts, too


def test_processes_that_die_again_without_a_step_are_not_started_for_ever(
    start: Start, tmp_path: Path
) -> None:
    process = start(tmp_path, max_restarts=100)
    os.kill(_starting_rank(process), signal.SIGKILL)
    _until(
        process, "WARNING Process 1 of 2 was killed by SIGKILL. All processes start again (restart 1 of 100)"
    )
    os.kill(_starting_rank(process), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "and it has made no step since the last restart: training stops." in output
    assert "Traceback" not in output


def test_a_process_that_dies_once_too_often_ends_the_training(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path, max_restarts=0)
    _until(process, "step 3\n")
    os.kill(_ranks(tmp_path)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Process 2 of 2 was killed by SIGKILL, and model_training.max_restarts=0 is used up" in output


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_stopped_is_noticed(start: Start, weight: float, tmp_path: Path, rank: int) -> None:
    process = start(tmp_path, silence=2)
    _until(process, "step 13\n")
    ranks = _ranks(tmp_path)
    os.kill(ranks[rank], signal.SIGSTOP)
    wait_until_ended([ranks[1 - rank]])
    os.kill(
        ranks[rank], signal.SIGCONT
    )  # the launcher has sent SIGTERM, and would send SIGKILL after 30 seconds
    again, output = _finish(process)
    assert again == weight
    assert (
        f"Process {2 - rank} of 2 has lost the connection to another one (no sign of life for 2 seconds: "
        in output
    )
    assert "All processes start again (restart 1 of 3)" in output and "Traceback" not in output


def test_a_process_may_be_waited_for_longer_than_it_may_be_silent() -> None:
    assert run_in_processes(launched_process.wait_for_second, 3.0, devices=2, silence=1) == 1


def test_a_stopped_process_that_is_not_replaced_ends_the_training(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path, silence=2, max_restarts=0)
    _until(process, "step 13\n")
    stopped, other = _ranks(tmp_path)
    os.kill(stopped, signal.SIGSTOP)
    wait_until_ended([other])
    os.kill(stopped, signal.SIGCONT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "See whether the other processes, their machines and the network are well." in output
    assert "The same command resumes from the last checkpoint." in output and "Traceback" not in output


def test_after_every_end_the_same_command_resumes_and_nothing_is_left(
    start: Start, weight: float, tmp_path: Path
) -> None:
    def end(step: int, *signals: signal.Signals, group: bool = True, code: int = 1) -> tuple[int, int, str]:
        """Train until a step, and send signals to all processes, as a terminal does, or to the parent only.

        Returns:
            After which steps the training started and stopped, 0 if it does not say so; and its output.
        """
        process = start(tmp_path)
        if step:
            before = _until(process, f"step {step}\n")
            ranks = _ranks(tmp_path)
        else:
            before, ranks = "", [_starting_rank(process)]
        for number in signals:
            (os.killpg if group else os.kill)(process.pid, number)
            if len(signals) > 1 and "finishing" not in before:
                before += _until(process, "WARNING SIGINT: finishing the step and saving.")
        output, _ = process.communicate(timeout=120)
        assert process.returncode == code, output
        wait_until_ended(ranks)
        found = [re.search(f"{word} after step (\\d+)", before + output) for word in ("starts", "Stopped")]
        began, stopped = [int(match[1]) if match else 0 for match in found]
        return began, stopped, before + output

    began, stopped, output = end(13, signal.SIGINT)
    assert output.count("SIGINT: finishing the step and saving. A second signal stops at once.") == 1
    assert "All processes start again" not in output and "Traceback" not in output
    assert began == 0 and stopped >= 13
    began, again, _ = end(stopped + 8, signal.SIGTERM)
    assert began == stopped and again >= stopped + 8
    began, stopped, _ = end(again + 8, signal.SIGTERM, group=False)
    assert began == again and stopped >= again + 8
    # A second signal does what it does elsewhere: KeyboardInterrupt. The first one has saved after its step.
    (tmp_path / "busy").touch()
    began, never, _ = end(stopped + 8, signal.SIGINT, signal.SIGINT, code=-signal.SIGINT)
    assert began == stopped and never == 0
    (tmp_path / "busy").unlink()
    end(stopped + 20, signal.SIGKILL, group=False, code=-signal.SIGKILL)
    *_, output = end(0, signal.SIGINT)  # while the processes start
    assert "TrainingInterruptedError: " in output and "Traceback" not in output
    assert _finish(start(tmp_path))[0] == weight


def test_two_machines_train_together_and_restart_together(
    start: Start, weight: float, tmp_path: Path
) -> None:
    port = free_port()
    machines = [start(tmp_path, devices=1, nodes=2, rendezvous=f"127.0.0.1:{port}") for _ in range(2)]
    while not (tmp_path / "checkpoint.json").exists():
        time.sleep(0.01)
    os.kill(_ranks(tmp_path)[1], signal.SIGKILL)
    results = [_finish(machine) for machine in machines]
    assert [result[0] for result in results] == [weight, weight]
    assert all("All processes start again (restart 1 of 3)" in output for _, output in results)
    assert sum("Process 1 of 1 on this machine was killed by SIGKILL" in output for _, output in results) == 1


@pytest.mark.parametrize("error", [UserError("photo.jpg is damaged."), KeyError("a bug")])
def test_an_error_of_one_process_ends_all_and_is_not_tried_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(type(error)) as caught:
        run_in_processes(launched_process.fail, error, devices=2)
    assert str(caught.value) == str(error)
    assert "start again" not in caplog.text
    assert ("in fail\n" in caplog.text) == (not isinstance(error, UserError))
    assert multiprocessing.active_children() == []


def test_an_error_of_one_process_leaves_no_semaphores() -> None:
    fail = "import launched_process as p; p.run_in_processes(p.fail, p.UserError('photo.jpg is damaged.'), devices=2)"
    done = subprocess.run(
        [sys.executable, "-c", fail], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 1
    assert "photo.jpg is damaged." in done.stderr
    assert "leaked" not in done.stderr


def _state() -> dict[str, Any]:
    """Return what starting processes might change in this one."""
    loggers = [
        each for each in logging.getLogger().manager.loggerDict.values() if isinstance(each, logging.Logger)
    ]
    return {
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "handlers": list(logging.getLogger().handlers),
        "loggers": {
            each.name: (each.level, each.propagate, each.disabled, list(each.handlers)) for each in loggers
        },
        "disabled": logging.getLogger().manager.disable,
        "threads": threading.enumerate(),
        "torch": (torch.get_num_threads(), torch.get_rng_state().tolist(), dist.is_initialized()),
        "method": multiprocessing.get_start_method(allow_none=True),
        "main": sys.modules["__main__"],
        "children": multiprocessing.active_children(),
        "folder": Path.cwd(),
        "temporary": {path.name for path in Path(tempfile.gettempdir()).glob("*torch*")},
        "files": len(list(Path("/proc/self/fd").iterdir())),
    }


def test_this_process_is_as_before_and_shows_the_log_of_the_first_process(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # other tests that run meanwhile do not write there
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # of each process, before they share the machine
    caplog.set_level(logging.INFO, "carvana_kedro")
    run = partial(run_in_processes, launched_process.surroundings, devices=2)
    run()  # loads modules, whose loggers and one process that tracks semaphores stay
    caplog.clear()
    before = _state()
    size, total, threads, cores = run()
    after = _state()
    assert [name for name in before if before[name] != after[name]] == []
    assert (size, total, threads) == (2, 2, 1)
    assert cores == max(1, usable_cores() // 2)
    assert [record.getMessage() for record in caplog.records] == ["Only from process 1"]


def test_another_thread_than_the_main_one_is_refused() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(UserError, match="must be started by the main thread"):
        pool.submit(run_in_processes, launched_process.surroundings, devices=2).result()


def test_a_rendezvous_that_is_no_address_is_refused() -> None:
    with pytest.raises(UserError, match="It should be HOST:PORT"):
        run_in_processes(launched_process.surroundings, devices=1, nodes=2, rendezvous="nowhere")


def test_a_loopback_address_is_left_to_pytorch() -> None:
    assert launch._own_address(None) == ("127.0.0.1", False)
    # Every machine has it, so PyTorch decides.
    assert launch._own_address("127.0.0.1:29500") == ("127.0.0.1", False)
    assert (launch._interface("127.0.0.1") or "").startswith("lo")
    assert launch._interface("203.0.113.1") is None  # of no machine: RFC 5737


def test_a_machine_recognizes_its_own_address_in_a_network() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has only the loopback interface")
        own = probe.getsockname()[0]
    assert launch._own_address(f"{own}:29500") == (own, True)
    assert launch._own_address("203.0.113.1:29500") == (own, False)
    assert launch._interface(own) in {name for _, name in socket.if_nameindex()} - {"lo"}


def test_outside_of_ranks_nothing_is_reported_and_no_stop_requested() -> None:
    report_step(3)
    assert not stop_requested()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), True),
        (dist.DistNetworkError("the server is gone"), True),
        (RuntimeError("[enforce fail at /gloo/transport/tcp/pair.cc:446] 8 vs 4"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (UserError("/data/gloo/transport/7.jpg cannot be read"), False),
        (ValueError("gloo"), False),
    ],
)
def test_only_a_lost_connection_means_a_lost_process(error: Exception, lost: bool) -> None:
    with pytest.raises(LostProcessError if lost else type(error)), noticing_lost_processes():
        raise error
