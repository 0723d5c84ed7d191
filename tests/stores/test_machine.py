import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.stores import machine
from carvana_kedro.stores.machine import (
    format_size,
    free_shared_memory,
    require_memory,
    require_space,
    usable_cores,
)


def test_enough_space_passes(tmp_path: Path) -> None:
    require_space(tmp_path, 1, "writing")
    require_space(tmp_path / "not" / "yet" / "there", 0, "writing")
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_an_error_with_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    with pytest.raises(UserError) as raised:
        require_space(folder, 1 << 60, "unpacking TRAIN.zip")
    message = str(raised.value)
    assert message.startswith("Unpacking TRAIN.zip needs 1152921.5 TB, but only ")
    assert f" is free on the disk of {folder}. Free some space" in message
    assert "--params data_root=PATH" in message
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="on the disk of relative"):
        require_space(Path("relative"), 1 << 60, "writing")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (123_456, "123.5 kB"),
        (5_000_000, "5.0 MB"),
        (16_300_000_000, "16.3 GB"),
        (2_500_000_000_000, "2.5 TB"),
        (1 << 60, "1152921.5 TB"),
    ],
)
def test_sizes_are_formatted_in_decimal_units(size: int, text: str) -> None:
    assert format_size(size) == text


def test_usable_cores_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize(("processes", "expected"), [(1, 5), (2, 2), (8, 1)])
def test_processes_of_one_run_share_the_cores(
    processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_sharing", 1)  # restored after the test
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    machine.share_machine(processes)
    assert usable_cores() == expected


@pytest.mark.parametrize(
    ("meminfo", "limit", "stat", "available"),
    [
        ("MemTotal: 99 kB\nMemAvailable:    8000 kB\n", None, None, "8.2 MB"),
        ("MemAvailable: 8000 kB\n", "max\n", "anon 5\n", "8.2 MB"),
        ("MemAvailable: 8000 kB\n", "7000000\n", "anon 1000000\nfile 9000000\n", "6.0 MB"),
        ("MemAvailable: 8000 kB\n", "7000000\n", "anon 8000000\n", "0 B"),
        ("MemFree: 1 kB\n", None, None, None),
        (None, None, None, None),
    ],
)
def test_available_memory_is_read_from_linux(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meminfo: str | None,
    limit: str | None,
    stat: str | None,
    available: str | None,
) -> None:
    for name, content in (("meminfo", meminfo), ("memory.max", limit), ("memory.stat", stat)):
        if content is not None:
            (tmp_path / name).write_text(content)
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    require_memory(0, "keeping the images in memory")
    if available is None:
        require_memory(1 << 60, "keeping the images in memory")
        return
    message = rf"^Keeping the images in memory needs 9\.0 MB, but only {available} of memory.*cache=memmap.*input_size"
    with pytest.raises(UserError, match=message):
        require_memory(9_000_000, "keeping the images in memory")


def test_the_available_memory_of_this_machine_is_known() -> None:
    require_memory(1000, "keeping the images in memory")
    if sys.platform == "linux":
        with pytest.raises(UserError, match=r"needs 1152921\.5 TB"):
            require_memory(1 << 60, "keeping the images in memory")


def test_processes_of_one_run_share_the_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_sharing", 1)
    monkeypatch.setattr(machine, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=101))
    assert free_shared_memory() == 101
    machine.share_machine(2)
    assert free_shared_memory() == 50


def test_shared_memory_is_measured_where_it_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "linux":
        assert free_shared_memory() is not None
    monkeypatch.setattr(machine, "_SHARED_MEMORY", tmp_path / "absent")
    assert free_shared_memory() is None
