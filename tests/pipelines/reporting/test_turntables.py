from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carvana_kedro.datasets import ImageFolderDataset
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Reporting
from carvana_kedro.pipelines.reporting.turntables import draw_turntables
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.competition import open_side
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.tables import Row

Predict = Callable[[Iterable[Row]], tuple[Any, ...]]
BACKGROUND = (208, 221, 232)


def test_a_turntable_shows_every_view_beside_its_cutout(
    archives: Path, test_images: ImageStore, predict: Predict
) -> None:
    solution = open_side(archives, archives, "solution")
    index = index_images(test_images)
    turntables = draw_turntables(*predict(solution), index, test_images, Reporting())
    assert [*turntables] == [index["car"].iloc[0]]
    frames = turntables[index["car"].iloc[0]]()
    assert len(frames) == 4
    for frame, (image_id, runs) in zip(frames, sorted(solution), strict=True):
        image = test_images.read_image(image_id)  # 240 x 160 pixels: not enlarged
        mask = run_lengths.decode(runs, *image.shape[:2]).astype(bool)
        assert frame.shape == (160, 480, 3)
        photograph, cutout = frame[:, :240], frame[:, 240:]
        assert (photograph == image).all()
        assert (cutout[~mask] == BACKGROUND).all()
        assert (cutout[mask] == image[mask]).all(axis=1).mean() > 0.8  # colors at the edge are estimated


def _photographs(folder: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, (height, width) in sizes.items():
        Image.fromarray(random.integers(0, 128, (height, width, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def _solid(images: ImageSource) -> list[Row]:
    """Return masks that cover whole images."""
    return [(name, run_lengths.encode(np.ones(images.size(name), bool))) for name in images.ids()]


def _draw(images: ImageSource, predict: Predict, **reporting: Any) -> dict[str, list[np.ndarray]]:
    index = index_images(images)
    drawn = draw_turntables(*predict(_solid(images)), index, images, Reporting(**reporting))
    return {name: frames() for name, frames in drawn.items()}


def test_photographs_of_your_own_have_turntables_if_they_are_grouped(
    tmp_path: Path, predict: Predict
) -> None:
    sizes = {"car_2": (40, 60), "car_10": (60, 40), "car_1": (20, 30), "odd": (40, 60)}
    folder = str(_photographs(tmp_path / "own", sizes))
    ungrouped = ImageFolderDataset("test", folder).load()
    grouped = ImageFolderDataset("test", folder, group="(.+)_[0-9]+").load()
    assert _draw(ungrouped, predict) == {}  # type: ignore[arg-type]
    found = _draw(grouped, predict)  # type: ignore[arg-type]
    assert [*found] == ["car"]
    frames = found["car"]
    # In the order of their numbers, centered in frames of one size.
    assert [frame.shape for frame in frames] == [(60, 120, 3)] * 3
    upright = frames[2][:, :60]
    assert (upright[:, :10] == BACKGROUND).all() and (upright[:, 10:50] != BACKGROUND).any(axis=2).all()
    assert (frames[0][:40, :60] != BACKGROUND).any()


def test_the_number_of_turntables_is_a_parameter(tmp_path: Path, predict: Predict) -> None:
    sizes = {f"{car}_{view}": (40, 60) for car in "abcde" for view in (1, 2)}
    images = ImageFolderDataset("test", str(_photographs(tmp_path / "own", sizes)), group="[a-e]").load()
    for count, cars in ((0, ""), (1, "a"), (2, "ae"), (3, "ace"), (9, "abcde"), (None, "abcde")):
        assert "".join(_draw(images, predict, turntables=count)) == cars  # type: ignore[arg-type]


def test_images_that_cannot_be_read_are_left_out(broken: Path, archives: Path, predict: Predict) -> None:
    store = ImageStore(broken / "test")
    solution = open_side(archives, archives, "solution")
    index = index_images(store)
    submission, predictions, model = predict(solution)
    listed, found_later = (image_id for image_id, _ in sorted(solution)[:2])
    index.loc[index["image"] == listed, "problems"] = "cannot be read"
    predictions["problems"] = {found_later: "cannot be read"}
    for bad in (listed, found_later):
        store.image_path(bad).write_bytes(b"no image")
    (frames,) = draw_turntables(submission, predictions, model, index, store, Reporting()).values()
    assert len(frames()) == 2


def test_images_listed_after_the_prediction_have_to_be_predicted(tmp_path: Path, predict: Predict) -> None:
    sizes = {f"a_{view}": (40, 60) for view in (1, 2, 3)}
    images = ImageFolderDataset("test", str(_photographs(tmp_path / "own", sizes)), group="a").load()
    with pytest.raises(UserError, match="lacks images of test_index, such as a_3"):
        draw_turntables(*predict(_solid(images)[:2]), index_images(images), images, Reporting())  # type: ignore[arg-type]


def test_a_large_photograph_is_reduced(tmp_path: Path, predict: Predict) -> None:
    sizes = {"a_1": (640, 960), "a_2": (960, 640)}
    images = ImageFolderDataset("test", str(_photographs(tmp_path / "own", sizes)), group="a").load()
    first, second = _draw(images, predict)["a"]  # type: ignore[arg-type]
    assert first.shape == second.shape == (480, 960, 3)


@pytest.mark.parametrize("views", [1, 2])
def test_one_view_is_no_turntable(tmp_path: Path, predict: Predict, views: int) -> None:
    sizes = {f"a_{view}": (40, 60) for view in range(views)}
    images = ImageFolderDataset("test", str(_photographs(tmp_path / "own", sizes)), group="a").load()
    assert len(_draw(images, predict)) == views - 1  # type: ignore[arg-type]
