"""Workers end with a parent that is really killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carvana_kedro.stores.processes import end_with_parent
from processes import wait_until_ended

POOL = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from carvana_kedro.stores.processes import end_with_parent

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(2, mp_context=context, initializer=end_with_parent) as pool:
        futures = [pool.submit(time.sleep, seconds) for seconds in (0, 0, 600)]
        futures[1].result()
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the state of processes from /proc")
@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_idle_and_busy_workers_end_when_their_parent_is_killed(tmp_path: Path, start_method: str) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    command = [sys.executable, str(script), start_method]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    wait_until_ended(workers)


def test_a_process_that_multiprocessing_did_not_start_goes_on() -> None:
    end_with_parent()
    assert os.getppid() > 0
