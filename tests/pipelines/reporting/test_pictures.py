from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.parameters import Reporting
from carvana_kedro.pipelines.reporting.pictures import (
    _examples,
    draw_gallery,
    draw_learning_curves,
    draw_threshold_curve,
    preview_submission,
)
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.monitoring import plots
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.competition import open_side
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.folder import FolderStore
from carvana_kedro.stores.tables import Row
from finished_run import HISTORY
from models import RECIPE, blind, changed

Predict = Callable[[Iterable[Row]], tuple[Any, ...]]


def test_learning_curves_are_drawn_for_one_model_and_for_folds(model: TrainedModel) -> None:
    history = HISTORY.assign(val_loss=[1.1, float("nan")])
    one = draw_learning_curves(history, model)
    folds = pd.concat([history.assign(fold=1), (history / 2).assign(epoch=[1, 2], fold=2)])
    several = draw_learning_curves(folds, model)
    assert one.shape == several.shape == (400, 1200, 3)
    lines = [(np.abs(image.astype(int) - plots.TRAINING).max(2) < 12)[75:].sum() for image in (one, several)]
    assert lines[1] > 1.3 * lines[0]


def test_the_threshold_curve_marks_the_threshold_of_the_model(model: TrainedModel) -> None:
    curve = pd.DataFrame({"threshold": [0.1, 0.5, 0.9], "dice": [0.8, 0.9, 0.7]})
    pictures = [draw_threshold_curve(curve, changed(model, threshold=value)) for value in (0.3, 0.7)]
    columns = [np.argwhere((picture[130:520] == plots.USED).all(2))[:, 1].mean() for picture in pictures]
    # The x axis maps [0, 1] to 800 pixels.
    assert columns[1] - columns[0] == pytest.approx(0.4 * 800, abs=2)


def _scores(cars: str, dice: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"image": [f"{n}" for n in range(len(dice))], "car": [*cars], "dice": dice})


def test_each_group_of_the_gallery_has_at_most_two_views_of_a_car() -> None:
    scores = _scores("aaaabbbbccccdddd", [n / 16 for n in range(16)])
    groups = _examples(scores, size=4)
    assert [*groups] == ["Worst", "Typical", "Best"]
    assert groups["Worst"]["image"].tolist() == ["0", "1", "4", "5"]
    assert groups["Best"]["image"].tolist() == ["15", "14", "11", "10"]
    assert groups["Typical"]["image"].tolist() == ["7", "8", "6", "9"]


@pytest.mark.parametrize(("count", "sizes"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (5, [1, 1, 1]), (8, [2, 2, 2])])
def test_few_images_are_shared_among_the_groups(count: int, sizes: list[int]) -> None:
    groups = _examples(_scores("abcdefgh"[:count], [n / 100 for n in range(count)]), size=4)
    assert [len(group) for group in groups.values()] == sizes
    chosen = pd.concat(groups.values())["image"]
    assert chosen.is_unique
    assert groups["Worst"]["image"].iloc[0] == "0"


@pytest.fixture
def trained(model: TrainedModel, training_images: ImageStore) -> TrainedModel:
    """The model, as if it had been trained on the source and validated with all of its cars."""
    cars = {image_id.partition("_")[0] for image_id in training_images.ids()}
    return changed(model, source=training_images.fingerprint(), validation_cars=tuple(cars))


@pytest.fixture
def scores(training_images: ImageStore) -> pd.DataFrame:
    ids = training_images.ids()
    cars = [image_id.partition("_")[0] for image_id in ids]
    return pd.DataFrame({"image": ids, "car": cars, "dice": [n / len(ids) for n in range(len(ids))]})


def test_the_gallery_shows_worst_typical_and_best(
    trained: TrainedModel, scores: pd.DataFrame, training_images: ImageStore
) -> None:
    gallery = draw_gallery(trained, scores, training_images, RECIPE, Reporting(gallery_size=2))
    assert gallery.shape == (72 + 2 * 180 + 12, 1200, 3)
    worst = draw_gallery(trained, scores[:1], training_images, RECIPE, Reporting())
    assert worst.shape == (72 + 180 + 12, 804, 3)
    assert (gallery[72:252, 12:396] == worst[72:252, 12:396]).all()


def test_with_folds_the_model_that_was_not_trained_on_a_car_predicts_it(
    trained: TrainedModel, scores: pd.DataFrame, training_images: ImageStore
) -> None:
    expected = draw_gallery(trained, scores[:1], training_images, RECIPE, Reporting())
    scores = scores.assign(run_id="run+run")
    folds = TrainedModel.join([blind(trained), changed(trained, validation_cars=())])
    assert (draw_gallery(folds, scores[:1], training_images, RECIPE, Reporting()) != expected).any()
    folds = TrainedModel.join([changed(blind(trained), validation_cars=()), trained])
    assert (draw_gallery(folds, scores[:1], training_images, RECIPE, Reporting()) == expected).all()
    without_cars = TrainedModel.join([changed(trained, validation_cars=())] * 2)
    with pytest.raises(UserError, match="folds do not fit these cars"):
        draw_gallery(without_cars, scores, training_images, RECIPE, Reporting())


def test_a_gallery_of_another_source_is_refused(
    trained: TrainedModel, scores: pd.DataFrame, training_images: ImageStore
) -> None:
    with pytest.raises(UserError, match="trained on other files"):
        draw_gallery(changed(trained, source="another"), scores, training_images, RECIPE, Reporting())


def test_the_gallery_takes_images_of_different_sizes(model: TrainedModel, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number, (height, width) in enumerate([(40, 60), (90, 30), (20, 200)]):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(pixels[..., 0] > 128).save(tmp_path / "masks" / f"{number}.png")
    images = FolderStore(tmp_path / "images", tmp_path / "masks")
    trained = changed(model, source=images.fingerprint())
    gallery = draw_gallery(trained, _scores("abc", [0.5, 0.6, 0.7]), images, RECIPE, Reporting())
    assert gallery.shape == (72 + 180 + 12, 1200, 3)


def test_the_preview_takes_evenly_spaced_rows(
    archives: Path, test_images: ImageStore, predict: Predict
) -> None:
    found = predict(open_side(archives, archives, "solution"))
    every, *_ = preview_submission(*found, test_images, RECIPE, Reporting(preview_size=4))
    two, *_ = preview_submission(*found, test_images, RECIPE, Reporting(preview_size=2))
    width = every.shape[1] // 4
    assert (two[:, :width] == every[:, :width]).all()
    below = slice(28, None)  # the title
    assert (two[below, width : 2 * width] == every[below, 3 * width : 4 * width]).all()


def test_every_image_of_the_preview_has_a_cutout_and_an_overlay(
    archives: Path, test_images: ImageStore, predict: Predict
) -> None:
    solution = open_side(archives, archives, "solution")
    # More images are asked for than there are.
    _, overlays, cutouts = preview_submission(*predict(solution), test_images, RECIPE, Reporting())
    assert [*overlays] == [*cutouts] == [image_id for image_id, _ in solution]
    for image_id, runs in solution:
        image = test_images.read_image(image_id)
        mask = run_lengths.decode(runs, *image.shape[:2]).astype(bool)
        cutout, overlay = cutouts[image_id](), overlays[image_id]()
        assert cutout.shape == (*image.shape[:2], 4)
        # The mask is that of the submission. Its edge is soft.
        far_inside, far_outside = (_shrunk(area, 3) for area in (mask, ~mask))
        assert (cutout[far_inside] == np.dstack([image, np.full_like(mask, 255, np.uint8)])[far_inside]).all()
        assert not cutout[far_outside].any()
        assert (overlay[~mask] == image[~mask]).all()
        assert (overlay[mask] != image[mask]).any(axis=1).mean() > 0.9


def _shrunk(area: np.ndarray, pixels: int) -> np.ndarray:
    """Return the pixels whose neighbors, up to a distance, are all in an area."""
    window = (2 * pixels + 1, 2 * pixels + 1)
    padded = np.pad(area, pixels, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, window).all(axis=(2, 3))


def test_an_image_that_cannot_be_read_has_an_empty_box_and_no_cutout(
    broken: Path, archives: Path, predict: Predict
) -> None:
    store = ImageStore(broken / "test")
    found = predict(open_side(archives, archives, "solution"))
    whole, *_ = preview_submission(*found, store, RECIPE, Reporting(preview_size=4))
    bad = store.ids()[0]
    store.image_path(bad).write_bytes(b"no image")
    preview, overlays, cutouts = preview_submission(*found, store, RECIPE, Reporting(preview_size=4))
    assert bad not in overlays and bad not in cutouts and len(cutouts) == 3
    width = whole.shape[1] // 4
    assert preview.shape[1] == whole.shape[1]
    middle = whole.shape[0] // 2, slice(width // 3, width // 2)
    assert not preview[middle].any()
    assert whole[middle].any()
