"""The archives have Kaggle's format, and depend only on the settings."""

import csv
import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.stores import run_lengths
from carvana_kedro.studio import StudioSettings, car_id, render_competition, render_view, sample_folder
from processes import wait_until_ended

SETTINGS = StudioSettings(seed=5, training_cars=2, test_cars=1, views=3, width=240, height=160)
ARCHIVES = {
    "train.zip",
    "train_masks.zip",
    "train_masks.csv.zip",
    "test.zip",
    "metadata.csv.zip",
    "sample_submission.csv.zip",
    "solution.csv.zip",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("competition")
    render_competition(SETTINGS, path, num_workers=1)
    return path


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return archive.namelist()


def read(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def table(path: Path) -> list[dict[str, str]]:
    assert names(path) == [path.name.removesuffix(".zip")]
    return list(csv.DictReader(io.StringIO(read(path, path.name.removesuffix(".zip")).decode())))


def test_only_the_archives_of_kaggle_are_written(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == ARCHIVES


@pytest.mark.parametrize(
    ("archive", "pattern", "count"),
    [
        ("train.zip", r"train/[0-9a-f]{12}_0[1-3]\.jpg", 6),
        ("train_masks.zip", r"train_masks/[0-9a-f]{12}_0[1-3]_mask\.gif", 6),
        ("test.zip", r"test/[0-9a-f]{12}_0[1-3]\.jpg", 3),
    ],
)
def test_images_have_names_like_those_of_kaggle(folder: Path, archive: str, pattern: str, count: int) -> None:
    found = names(folder / archive)
    assert len(found) == len(set(found)) == count
    assert all(re.fullmatch(pattern, name) for name in found)
    assert found == sorted(found)


def test_jpgs_show_the_rendered_images(folder: Path) -> None:
    image, _ = render_view(SETTINGS, 1, 2)
    jpeg = read(folder / "train.zip", f"train/{car_id(SETTINGS, 1)}_02.jpg")
    with Image.open(io.BytesIO(jpeg)) as opened:
        assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (240, 160))
        assert np.abs(np.asarray(opened).astype(int) - image).mean() < 4


def test_masks_are_palette_gifs_of_zero_and_one(folder: Path) -> None:
    for name in names(folder / "train_masks.zip"):
        with Image.open(io.BytesIO(read(folder / "train_masks.zip", name))) as mask:
            assert (mask.format, mask.mode, mask.size) == ("GIF", "P", (240, 160))
            assert getattr(mask, "n_frames", 1) == 1
            assert mask.getpalette()[:6] == [0, 0, 0, 255, 255, 255]  # type: ignore[index]
            assert set(np.unique(np.asarray(mask))) == {0, 1}
            assert set(np.unique(np.asarray(mask.convert("L")))) == {0, 255}


def test_training_rows_encode_the_same_masks(folder: Path) -> None:
    rows = table(folder / "train_masks.csv.zip")
    assert [f"train/{row['img']}" for row in rows] == names(folder / "train.zip")
    for row in rows:
        gif = read(folder / "train_masks.zip", f"train_masks/{row['img'].removesuffix('.jpg')}_mask.gif")
        with Image.open(io.BytesIO(gif)) as mask:
            np.testing.assert_array_equal(run_lengths.decode(row["rle_mask"], 160, 240), np.asarray(mask))


def test_the_solution_holds_the_masks_of_the_test_set(folder: Path) -> None:
    rows = {row["img"]: row["rle_mask"] for row in table(folder / "solution.csv.zip")}
    assert [f"test/{name}" for name in rows] == names(folder / "test.zip")
    _, mask = render_view(SETTINGS, 2, 3)
    np.testing.assert_array_equal(run_lengths.decode(rows[f"{car_id(SETTINGS, 2)}_03.jpg"], 160, 240), mask)


def test_the_sample_submission_is_valid_and_holds_no_masks(folder: Path) -> None:
    rows = table(folder / "sample_submission.csv.zip")
    assert [f"test/{row['img']}" for row in rows] == names(folder / "test.zip")
    assert {row["rle_mask"] for row in rows} == {"1 1"}


def test_the_folder_depends_on_the_kinds_of_variety_but_not_on_their_order() -> None:
    folders = {
        variety: sample_folder(Path("sample"), StudioSettings(variety=variety))
        for variety in ("none", "all", "walls", "walls+paint", "paint+walls")
    }
    assert folders["none"].name == "rendered-5edd9aa6984c"  # as before there was variety
    assert folders["walls+paint"] == folders["paint+walls"]
    assert len(set(folders.values())) == 4


@pytest.mark.parametrize("variety", ["some", "walls+", "", "walls,paint", "all+walls"])
def test_unknown_kinds_of_variety_are_rejected(variety: str) -> None:
    with pytest.raises(ValueError, match=r"variety must be none, all, or some of walls\+paint"):
        StudioSettings(variety=variety)


def test_a_varied_competition_has_the_same_files(tmp_path: Path) -> None:
    settings = replace(SETTINGS, variety="all", views=2)
    render_competition(settings, tmp_path, num_workers=2)
    assert {path.name for path in tmp_path.iterdir()} == ARCHIVES
    image, mask = render_view(settings, 1, 2)
    jpeg = read(tmp_path / "train.zip", f"train/{car_id(settings, 1)}_02.jpg")
    with Image.open(io.BytesIO(jpeg)) as opened:
        assert np.abs(np.asarray(opened).astype(int) - image).mean() < 6
    rows = {row["img"]: row["rle_mask"] for row in table(tmp_path / "train_masks.csv.zip")}
    np.testing.assert_array_equal(run_lengths.decode(rows[f"{car_id(settings, 1)}_02.jpg"], 160, 240), mask)


def test_metadata_has_one_row_per_car_sorted_by_id(folder: Path) -> None:
    rows = table(folder / "metadata.csv.zip")
    assert list(rows[0]) == ["id", "year", "make", "model", "trim1", "trim2"]
    assert [row["id"] for row in rows] == sorted(car_id(SETTINGS, car) for car in range(SETTINGS.cars))


def test_bytes_do_not_depend_on_the_number_of_workers(folder: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    render_competition(
        SETTINGS, tmp_path, num_workers=2, on_image=lambda done, total: progress.append((done, total))
    )
    assert progress == [(done, 9) for done in range(1, 10)]
    for name in ARCHIVES:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_an_interrupted_rendering_leaves_no_archive(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_competition(SETTINGS, tmp_path, num_workers=1, on_image=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_workers_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_workers must be at least 1, not 0"):
        render_competition(SETTINGS, tmp_path, num_workers=0)


def test_rendering_in_this_process_does_not_change_its_threads(tmp_path: Path) -> None:
    before = cv2.getNumThreads()
    render_competition(
        StudioSettings(training_cars=1, test_cars=1, views=1, width=96, height=64), tmp_path, num_workers=1
    )
    assert cv2.getNumThreads() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_cars": 0}, "training_cars must be between 1 and"),
        ({"test_cars": -1}, "test_cars must be between"),
        ({"views": 100}, "views must be between 1 and 99, not 100"),
        ({"width": 10}, "width must be between"),
        ({"height": 100_000}, "height must be between"),
        ({"seed": -1}, "seed must be between"),
        ({"width": 1918.0}, "width must be an integer, not 1918.0"),
        ({"views": True}, "views must be an integer, not True"),
    ],
)
def test_settings_out_of_range_are_rejected(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudioSettings(**changes)


RENDERING = """
import sys
from pathlib import Path
from carvana_kedro.studio import StudioSettings, render_competition

if __name__ == "__main__":
    settings = StudioSettings(seed=5, training_cars=500, test_cars=1, views=3, width=240, height=160)
    render_competition(settings, Path(sys.argv[1]), num_workers=2, on_image=lambda *_: print(flush=True))
"""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the state of processes from /proc")
def test_processes_that_render_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "rendering.py"
    script.write_text(RENDERING)
    command = [sys.executable, str(script), str(tmp_path / "competition")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()  # the first image
        workers = _children(parent.pid)
        parent.kill()
    assert len(workers) >= 2
    wait_until_ended(workers)


def test_a_killed_process_that_renders_is_an_error(tmp_path: Path) -> None:
    def kill_a_worker(*_: int) -> None:
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)  # type: ignore[arg-type]

    many = StudioSettings(seed=5, training_cars=50, test_cars=1, views=3, width=240, height=160)
    with pytest.raises(UserError, match="A process that renders the sample was killed"):
        render_competition(many, tmp_path, num_workers=2, on_image=kill_a_worker)
