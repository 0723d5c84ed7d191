"""The review pipeline: which masks come first, which files are written, and what the sheet shows."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carvana_kedro.datasets import TableDataset
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.pipelines.review.nodes import rank_masks, write_masks
from carvana_kedro.pipelines.review.sheet import write_sheet
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.folder import FolderStore
from carvana_kedro.stores.predictions import PredictionShards
from carvana_kedro.stores.review.editable_masks import EditableMasks

SIZE = (40, 60)


def _mask(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A mask of boxes: top, left, height and width."""
    mask = np.zeros(SIZE, bool)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = True
    return mask


MASKS = {  # with their doubts
    "clear": (_mask((10, 10, 20, 30)), 2.0),
    "empty": (_mask(), 0.0),
    "full": (_mask((0, 0, 40, 60)), 1.0),
    "specks": (_mask((10, 10, 20, 30), (0, 0, 1, 1)), 3.0),
    "tiny": (_mask((10, 10, 5, 5)), 1.5),
    "two & more": (_mask((10, 10, 20, 10), (10, 30, 20, 10)), 4.0),
    "unsure": (_mask((10, 10, 20, 30)), 12.5),
}

Inputs = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of photographs."""
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(MASKS):
        Image.new("RGB", SIZE[::-1], (20 * number, 90, 80)).save(tmp_path / "photos" / f"{name}.jpg")
    return tmp_path / "photos"


@pytest.fixture
def predicted(tmp_path: Path) -> Callable[..., Inputs]:
    """`predicted(images)` returns what the inference pipeline leaves, as its files give it back."""

    def call(images: FolderStore) -> Inputs:
        index, shards = index_images(images), PredictionShards(DiskFolder(tmp_path / "shards"))
        rows = [(name, run_lengths.encode(mask)) for name, (mask, _) in MASKS.items()]
        names = [shards.write("key", number, rows[3 * number : 3 * number + 3]).name for number in range(3)]
        table = pd.DataFrame({
            **{name: index[name] for name in ("image", "width", "height")},
            "covered": [mask.mean() for mask, _ in MASKS.values()],
            "runs": [len(runs.split()) // 2 for _, runs in rows],
            "doubt": [doubt for _, doubt in MASKS.values()],
            "problems": "",
        })  # fmt: skip
        summary = TableDataset(filepath=str(tmp_path / "summary.csv"))
        summary.save(table)
        manifest = {"source": images.fingerprint(), "shards": names, "run_id": "run", "checkpoint": "cars"}
        return {
            "prediction_summary": summary.load(),
            "predictions": manifest,
            "prediction_shards": shards,
            "test_index": index,
            "test_images": images,
        }

    return call


def _written(inputs: Inputs, masks: Path) -> pd.DataFrame:
    shared = {name: inputs[name] for name in ("predictions", "prediction_shards", "test_images")}
    return write_masks(rank_masks(**inputs), editable_masks=EditableMasks(DiskFolder(masks)), **shared)


def test_masks_with_something_unusual_come_first_and_then_those_with_more_doubt(
    folder: Path, predicted: Callable[..., Inputs]
) -> None:
    ranked = rank_masks(**predicted(FolderStore(folder)))
    assert dict(zip(ranked["image"], ranked["reasons"], strict=True)) == {
        "empty": "nothing found",
        "unsure": "wide soft edge",
        "two & more": "several pieces: 50% of the mask outside the largest",
        "tiny": "small: 1.0% of the image",
        "full": "large: 100% of the image",
        "specks": "",
        "clear": "",
    }
    assert ranked["image"].tolist() == ["empty", "unsure", "two & more", "tiny", "full", "specks", "clear"]


def test_the_written_masks_are_the_predicted_ones(
    folder: Path, predicted: Callable[..., Inputs], tmp_path: Path
) -> None:
    listed = _written(predicted(FolderStore(folder)), tmp_path / "masks")
    assert (listed["mask"] == "written").all()
    for row in listed.itertuples():
        mask, _ = MASKS[str(row.image)]
        assert np.array_equal(np.asarray(Image.open(tmp_path / "masks" / str(row.file))), mask * 255)


def test_the_masks_can_be_trained_on_with_the_photographs(
    folder: Path, predicted: Callable[..., Inputs], tmp_path: Path
) -> None:
    for suffix in ("", "_mask"):
        _written(predicted(FolderStore(folder, None, suffix)), tmp_path / f"masks{suffix}")
        (tmp_path / f"masks{suffix}" / f"tiny{suffix}.png").unlink()
        index = index_images(FolderStore(folder, tmp_path / f"masks{suffix}", suffix)).set_index("image")
        assert index.loc["tiny", "problems"] == "the mask is missing"
        others = index.drop(index="tiny")
        assert (others["problems"] == "").all()
        assert dict(others["mask_area"]) == pytest.approx(
            {name: mask.mean() for name, (mask, _) in MASKS.items() if name != "tiny"}
        )


def test_images_without_a_prediction_get_no_mask(
    folder: Path, predicted: Callable[..., Inputs], tmp_path: Path
) -> None:
    inputs = predicted(FolderStore(folder))
    table = inputs["prediction_summary"]
    table.loc[table["image"] == "clear", ["doubt", "problems"]] = [np.nan, "damaged"]
    dataset = TableDataset(filepath=str(tmp_path / "again.csv"))
    dataset.save(table)
    listed = _written({**inputs, "prediction_summary": dataset.load()}, tmp_path / "masks")
    assert {*listed["image"]} == MASKS.keys() - {"clear"}
    assert not (tmp_path / "masks" / "clear.png").exists()


def test_predictions_of_other_photographs_are_refused(folder: Path, predicted: Callable[..., Inputs]) -> None:
    inputs = predicted(FolderStore(folder))
    with pytest.raises(UserError, match="does not have the images"):
        rank_masks(**{**inputs, "prediction_summary": inputs["prediction_summary"][1:]})
    Image.new("RGB", SIZE[::-1]).save(folder / "clear.jpg")
    with pytest.raises(UserError, match="changed after their masks were predicted"):
        rank_masks(**{**inputs, "test_images": FolderStore(folder)})


def test_the_sheet_shows_what_nobody_has_looked_at_and_links_to_the_masks(
    folder: Path, predicted: Callable[..., Inputs], tmp_path: Path
) -> None:
    inputs, masks = predicted(FolderStore(folder)), tmp_path / "masks"
    _written(inputs, masks)
    Image.fromarray(_mask((0, 0, 3, 3))).convert("L").save(masks / "unsure.png")
    (masks / "full.png").unlink()
    listed = _written(inputs, masks)
    shared = {name: inputs[name] for name in ("predictions", "prediction_shards", "test_images")}
    page = write_sheet(listed, editable_masks=EditableMasks(DiskFolder(masks)), **shared)
    cases = re.findall(r"<figcaption><strong>(.*?)</strong>", page)
    assert cases == ["empty", "two &amp; more", "tiny", "specks", "clear"]
    assert len(re.findall("data:image/webp;base64,", page)) == len(cases)
    assert "As predicted: 5, changed by hand: 1, removed by hand: 1." in page
    assert {*re.findall('href="(.*?)"', page)} == {
        "masks/two%20%26%20more.png",
        *(f"masks/{name}.png" for name in ("empty", "unsure", "tiny", "specks", "clear")),
    }
