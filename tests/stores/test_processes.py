"""Workers end with a parent that is really killed; threads compute in order."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from carvana_kedro.stores import processes
from carvana_kedro.stores.processes import end_with_parent, map_in_threads
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


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: 4)


def test_results_are_in_order_whichever_thread_is_first() -> None:
    last = threading.Event()

    def wait(number: int) -> int:
        if number == 3:
            last.set()
        assert last.wait(10)  # the fourth runs although the first three have not ended
        return number * number

    assert list(map_in_threads(wait, range(9), size=lambda _: 1, limit=9)) == [n * n for n in range(9)]


@pytest.mark.parametrize(
    ("sizes", "most"), [([1] * 50, 8), ([30] * 50, 3), ([200] * 50, 1), ([40, 70] * 25, 1)]
)
def test_only_a_few_items_are_in_progress(sizes: list[int], most: int) -> None:
    taken = done = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for size in sizes:
            taken += 1
            yield size

    for size in map_in_threads(int, items(), size=int, limit=100):
        assert size == sizes[done]
        done += 1
        assert taken - done <= most
    assert done == 50


def test_an_error_is_raised_in_its_place_and_ends_the_threads() -> None:
    before = threading.active_count()

    def invert(number: int) -> float:
        return 1 / (number - 5)

    found = map_in_threads(invert, range(100), size=lambda _: 1, limit=100)
    assert [next(found) for _ in range(5)] == [1 / (number - 5) for number in range(5)]
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert threading.active_count() == before


def test_an_error_of_the_items_ends_the_threads_after_the_results_in_progress() -> None:
    ended, before = [], threading.active_count()

    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(map_in_threads(ended.append, items(), size=lambda _: 1, limit=100))
    assert sorted(ended) == [0, 1, 2][: len(ended)]
    assert threading.active_count() == before


def test_results_that_precede_an_unreadable_item_are_not_lost() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("the fourth cannot be read")

    found = map_in_threads(int, items(), size=lambda _: 1, limit=100)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="fourth"):
        next(found)


def test_every_thread_is_prepared() -> None:
    prepared: list[str] = []
    names = map_in_threads(
        lambda _: threading.current_thread().name,
        range(20),
        size=lambda _: 1,
        limit=100,
        prepare=lambda: prepared.append(threading.current_thread().name),
    )
    assert set(names) <= set(prepared)
