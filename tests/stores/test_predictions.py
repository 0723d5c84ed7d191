import csv
import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from carvana_kedro.stores.predictions import PredictionShards, read_submission, write_submission
from carvana_kedro.stores.tables import Row

ROWS = [("0123456789ab_01", "1 2 5 3"), ("0123456789ab_02", "")]


def test_shards_are_read_back_in_order(tmp_path: Path) -> None:
    shards = PredictionShards(tmp_path)
    names = [shards.write("key", number, [row]) for number, row in enumerate(ROWS)]
    assert list(shards.read(names)) == ROWS
    assert list(shards.read(reversed(names))) == ROWS[::-1]


def test_a_submission_is_what_kaggle_reads(tmp_path: Path) -> None:
    path = tmp_path / "submit.csv.gz"
    assert write_submission(path, ROWS) == 2
    with gzip.open(path, "rt") as file:
        assert list(csv.reader(file)) == [
            ["img", "rle_mask"],
            ["0123456789ab_01.jpg", "1 2 5 3"],
            ["0123456789ab_02.jpg", ""],
        ]
    assert list(read_submission(path)) == ROWS


def test_a_noisy_mask_is_written_and_read(tmp_path: Path) -> None:
    # In a process of its own: the csv module's limit is the process's.
    program = """
import sys
from pathlib import Path
from carvana_kedro.stores.predictions import PredictionShards, read_submission, write_submission
folder = Path(sys.argv[1])
rows = [("a", " ".join(f"{n} 1" for n in range(1, 400_000, 2)))]
shards = PredictionShards(folder)
write_submission(folder / "submit.csv.gz", shards.read([shards.write("key", 0, rows)]))
assert list(read_submission(folder / "submit.csv.gz")) == rows
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.csv.gz", "two.csv.gz"):
        write_submission(tmp_path / name, ROWS)
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()


def test_a_failure_leaves_the_old_submission(tmp_path: Path) -> None:
    path = tmp_path / "submit.csv.gz"
    write_submission(path, ROWS)
    before = path.read_bytes()

    def rows() -> Iterator[Row]:
        yield ROWS[0]
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        write_submission(path, rows())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
