"""The measurement of a GPU: every part runs, small and on the CPU, on a machine that has neither Kedro nor pydantic."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from benchmarks.gpu.pack import SIZE, pack
from benchmarks.gpu.parts import Part, run_parts
from benchmarks.measuring import Row
from carvana_kedro.stores.competition import open_side
from carvana_kedro.studio import StudioSettings, render_competition

PROJECT = Path(__file__).parents[2]
REFUSING = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("kedro", "kedro_datasets", "omegaconf", "pydantic"):
            raise ModuleNotFoundError(f"{name} is refused")

sys.meta_path.insert(0, Refusing())
"""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `images` and `masks` of six rendered cars in five views."""
    folder = tmp_path_factory.mktemp("rendered")
    settings = StudioSettings(training_cars=6, test_cars=1, views=5, width=192, height=128)
    render_competition(settings, folder / "archives", num_workers=1)
    store = open_side(folder / "archives", folder, "training")
    assert store.masks is not None
    (folder / "images").symlink_to(store.images)
    (folder / "masks").symlink_to(store.masks)
    return folder


@pytest.fixture(scope="module")
def data(rendered: Path) -> Path:
    pack(rendered / "images", rendered / "masks", rendered / "data")
    return rendered / "data"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables under which Python finds neither Kedro nor pydantic, and uses one core."""
    folder = tmp_path_factory.mktemp("refusing")
    (folder / "sitecustomize.py").write_text(REFUSING)
    variables = {"PYTHONPATH": f"{folder}{os.pathsep}{PROJECT / 'src'}", "OMP_NUM_THREADS": "1"}
    refused = subprocess.run(
        [sys.executable, "-c", "import pydantic"], env=os.environ | variables, capture_output=True, text=True
    )
    assert "pydantic is refused" in refused.stderr
    return os.environ | variables


def _measured(data: Path, out: Path, environment: dict[str, str], *options: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--data", str(data), "--out", str(out)]
    done = subprocess.run([*command, *options], cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (out / "gpu.jsonl").read_text()
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_part_runs_without_kedro(data: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    surroundings, *lines = _measured(data, tmp_path, environment)
    assert surroundings["peak, TFLOP/s"] > 0
    assert [line for line in lines if "failed" in line or "skipped" in line] == []
    ended = [line["part"] for line in lines if "seconds" in line]
    assert len(ended) == 13
    for part in ended:
        assert [line for line in lines if line["part"] == part and len(line) > 2], part
    assert all(line["images/s"] > 0 for line in lines if "images/s" in line)
    (profile,) = [line for line in lines if line.get("what") == "profile"]
    assert len(profile["top ten"].splitlines()) == 10
    assert "convolution" in (tmp_path / "profile.txt").read_text()
    (scores,) = [line for line in lines if line.get("flip") is False]
    assert scores["images"] == 4
    assert 0 < float(scores["Dice, lowest"]) <= float(scores["Dice, median"]) < 1


def test_parts_that_may_pass_the_deadline_are_skipped(
    data: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    _, *lines = _measured(data, tmp_path, environment, "--seconds", "5", "--parts", "1:4")
    assert [line["part"] for line in lines if "s are left" in line["skipped"]] == [
        "up-sampling",
        "without average of the weights",
        "prediction, network alone",
    ]


def test_a_failed_part_does_not_keep_the_next_from_running() -> None:
    def failing() -> Iterator[Row]:
        yield {"what": "first", "images/s": 1.0}
        raise RuntimeError("out of memory")

    rows: list[Row] = []
    parts = [
        Part("failing", 0, failing),
        Part("long", 60, failing),
        Part("last", 0, lambda: [{"what": "second"}]),
    ]
    run_parts(parts, time.monotonic() + 30, rows.append)
    assert [row["part"] for row in rows] == ["failing", "failing", "long", "last", "last"]
    assert rows[1]["failed"] == "RuntimeError: out of memory"
    assert "it may need 60 s" in str(rows[2]["skipped"])
    assert rows[3]["what"] == "second"


def test_packed_images_to_train_on_are_reduced_and_the_held_out_ones_unchanged(
    rendered: Path, data: Path
) -> None:
    names = {folder.name: sorted(path.name for path in folder.iterdir()) for folder in data.iterdir()}
    assert [len(names[side]) for side in ("train", "held_out")] == [8, 4]
    for side in ("train", "held_out"):
        assert names[f"{side}_masks"] == [name.replace(".jpg", "_mask.gif") for name in names[side]]
    cars = {side: {name[:12] for name in names[side]} for side in ("train", "held_out")}
    assert not cars["train"] & cars["held_out"]
    image = cv2.imread(str(data / "train" / names["train"][0]))
    assert image is not None
    assert image.shape[1::-1] == SIZE
    name = names["held_out"][0]
    assert (data / "held_out" / name).read_bytes() == (rendered / "images" / name).read_bytes()


def test_an_existing_folder_is_not_overwritten(rendered: Path, data: Path) -> None:
    with pytest.raises(SystemExit, match="choose a new folder"):
        pack(rendered / "images", rendered / "masks", data)
