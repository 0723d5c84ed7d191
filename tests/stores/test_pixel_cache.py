import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.stores import digests
from carvana_kedro.stores.pixel_cache import PixelCache

SHAPE = (5, 7)
EXPECTED = np.arange(35, dtype=np.uint8).reshape(SHAPE)


def _fill(rows: np.ndarray) -> None:
    assert (rows.shape, rows.dtype) == (SHAPE, np.uint8)
    rows[...] = EXPECTED


def _never(rows: np.ndarray) -> None:
    raise AssertionError("filled again")


def test_rows_are_filled_once(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "not yet" / "there")
    for fill in (_fill, _never):
        rows = cache.rows("source", "key", SHAPE, fill)
        assert np.array_equal(rows[:], EXPECTED)
        found = rows[np.array([3, 1]), 2:]
        assert np.array_equal(found, EXPECTED[[3, 1], 2:])
        assert found.flags.writeable
        assert np.array_equal(pickle.loads(pickle.dumps(rows))[:], EXPECTED)


@pytest.mark.parametrize(("source", "key"), [("other", "key"), ("source", "other")])
def test_another_source_or_key_has_another_file(tmp_path: Path, source: str, key: str) -> None:
    cache = PixelCache(tmp_path)
    cache.rows("source", "key", SHAPE, _fill)
    with pytest.raises(AssertionError, match="filled again"):
        cache.rows(source, key, SHAPE, _never)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"nothing"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: np.save(path, EXPECTED.T),
        lambda path: np.save(path, EXPECTED.astype(np.int8)),
        lambda path: np.save(path, EXPECTED + 1),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x23"),
        lambda path: path.with_suffix(".digest").unlink(),
        lambda path: path.with_suffix(".digest").write_bytes(b"\xff"),
    ],
    ids=["empty", "other", "cut", "shape", "type", "content", "one byte", "no digest", "damaged digest"],
)
def test_a_damaged_or_wrong_file_is_filled_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], object]
) -> None:
    cache = PixelCache(tmp_path)
    cache.rows("source", "key", SHAPE, _fill)
    spoil(tmp_path / "source-key.npy")
    assert np.array_equal(cache.rows("source", "key", SHAPE, _fill)[:], EXPECTED)
    assert "source-key.npy is damaged. The images are decoded again." in caplog.text
    assert np.array_equal(cache.rows("source", "key", SHAPE, _never)[:], EXPECTED)


def test_damage_is_noticed_although_the_file_was_found_whole_and_has_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_TICK_NS", -(1 << 62))  # everything is remembered at once
    cache, path = PixelCache(tmp_path), tmp_path / "source-key.npy"
    for fill in (_fill, _never):
        cache.rows("source", "key", SHAPE, fill)
    times = path.stat()
    time.sleep(0.05)  # longer than a tick of the kernel's clock
    with path.open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"\xff")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert np.array_equal(cache.rows("source", "key", SHAPE, _fill)[:], EXPECTED)


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    def fail(rows: np.ndarray) -> None:
        rows[:2] = 1
        raise UserError("car_3.jpg is missing.")

    cache = PixelCache(tmp_path)
    with pytest.raises(UserError, match=r"car_3\.jpg is missing"):
        cache.rows("source", "key", SHAPE, fail)
    assert [path.name for path in tmp_path.iterdir()] == [".pixels.lock"]
    assert np.array_equal(cache.rows("source", "key", SHAPE, _fill)[:], EXPECTED)


BUILDER = """
import sys, time
from pathlib import Path
from carvana_kedro.stores import digests
from carvana_kedro.stores.pixel_cache import PixelCache

def fill(rows):
    rows[:2] = 9
    print("filling", flush=True)
    sys.stdin.readline()
    rows[...] = 3

PixelCache(Path(sys.argv[1])).rows("source", "key", (5, 7), fill)
print("built", flush=True)
"""


def _builder(folder: Path) -> subprocess.Popen[str]:
    builder = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert builder.stdout is not None
    assert builder.stdout.readline() == "filling\n"
    return builder


def test_the_partial_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    with _builder(tmp_path) as builder:
        os.kill(builder.pid, signal.SIGKILL)
    (left,) = tmp_path.glob("*.part")
    PixelCache(tmp_path).rows("source", "another", SHAPE, _fill)
    assert not left.exists()
    assert np.array_equal(PixelCache(tmp_path).rows("source", "key", SHAPE, _fill)[:], EXPECTED)


def test_two_processes_fill_one_file(tmp_path: Path) -> None:
    with _builder(tmp_path) as builder:
        found = []
        waiting = threading.Thread(
            target=lambda: found.append(PixelCache(tmp_path).rows("source", "key", SHAPE, _never)[:])
        )
        waiting.start()
        time.sleep(0.3)
        assert found == []
        assert len(list(tmp_path.glob("*.part"))) == 1
        assert builder.communicate("go\n")[0] == "built\n"
        waiting.join(10)
    assert np.array_equal(found[0], np.full(SHAPE, 3, np.uint8))


def test_a_complete_file_is_used_while_another_is_filled(tmp_path: Path) -> None:
    PixelCache(tmp_path).rows("source", "finished", SHAPE, _fill)
    with _builder(tmp_path) as builder:
        assert np.array_equal(PixelCache(tmp_path).rows("source", "finished", SHAPE, _never)[:], EXPECTED)
        builder.kill()


def test_free_space_is_checked_before_writing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Caching decoded images needs 1000\.0 TB"):
        PixelCache(tmp_path).rows("source", "key", (10**6, 10**9), _never)
    assert list(tmp_path.glob("*.npy*")) == []


def test_space_is_allocated_before_rows_are_filled(tmp_path: Path) -> None:
    shape = (64, 1 << 20)
    allocated = []

    def look(rows: np.ndarray) -> None:
        (part,) = tmp_path.glob("*.part")
        allocated.append(part.stat().st_blocks * 512)

    PixelCache(tmp_path).rows("source", "key", shape, look)
    assert allocated[0] >= 64 << 20
