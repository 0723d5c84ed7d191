"""Nodes of the review pipeline."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pandas as pd

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.prediction.doubt import DOUBTFUL
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.images.folder import FolderStore
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import PredictionShards
from carvana_kedro.stores.review.editable_masks import EditableMasks

logger = logging.getLogger(__name__)

_PREDICT_AGAIN = "Predict again, with the same options: kedro run --pipelines inference,review"
_SPECKS = 0.01  # share of a mask outside its largest piece that needs no look
_SMALL, _LARGE = 0.02, 0.8  # shares of the image


def rank_masks(
    prediction_summary: pd.DataFrame,
    predictions: dict[str, Any],
    prediction_shards: PredictionShards,
    test_index: pd.DataFrame,
    test_images: ImageSource,
) -> pd.DataFrame:
    """Rank the predicted masks: those that a person should look at come first.

    Args:
        prediction_summary: One row per image: image, width, height, runs, doubt, problems.
        predictions: The manifest of the predictions.
        prediction_shards: The predicted masks.
        test_index: The images: image, digest.
        test_images: The source of the images.

    Returns:
        One row per image with a mask: image, width and height (pixels), covered (share of the image that the mask
        covers), doubt (see `segmentation.prediction.doubt`), reasons (what is unusual, separated by `; `) and digest
        (of the photograph). Empty masks come first, then those with other reasons; within each group, those with
        more doubt.

    Raises:
        UserError: The images have changed since they were predicted, or the summary has other images.
    """
    if predictions["source"] != test_images.fingerprint():
        raise UserError(
            f"Files in {test_images.images} changed after their masks were predicted. {_PREDICT_AGAIN}"
        )
    if {*prediction_summary["image"]} != {*test_index["image"]}:
        raise UserError(
            f"prediction_summary.csv does not have the images of test_index.csv. {_PREDICT_AGAIN}"
        )
    readable = prediction_summary[prediction_summary["problems"] == ""]
    table = readable.merge(test_index[["image", "digest"]], on="image", validate="1:1")
    table["doubt"] = table["doubt"].astype(float)
    masks = predicted_masks(table, predictions, prediction_shards)
    reasons = {image_id: "; ".join(_reasons(mask)) for image_id, mask in masks}
    table["reasons"] = table["image"].map(reasons)
    unsure = table["doubt"] > DOUBTFUL
    table.loc[unsure, "reasons"] = "wide soft edge; " + table.loc[unsure, "reasons"]
    table["reasons"] = table["reasons"].str.removesuffix("; ")
    # A network that finds nothing is not in doubt.
    ranks = pd.DataFrame(
        {"has": table["reasons"] != "", "empty": table["runs"] == 0, "doubt": table["doubt"]}
    )
    order = ranks.sort_values(["has", "empty", "doubt"], ascending=False, kind="stable").index
    return table.loc[
        order, ["image", "width", "height", "covered", "doubt", "reasons", "digest"]
    ].reset_index(drop=True)


def predicted_masks(
    table: pd.DataFrame, predictions: dict[str, Any], prediction_shards: PredictionShards
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the ids and the predicted masks, (H, W) bool, of some images, in the order of the predictions.

    Args:
        table: The images: image, width, height.
        predictions: The manifest of the predictions.
        prediction_shards: The predicted masks.
    """
    sizes = dict(zip(table["image"], zip(table["height"], table["width"], strict=True), strict=True))
    for image_id, runs in prediction_shards.read(predictions["shards"]):
        if image_id in sizes:
            yield image_id, run_lengths.decode(runs, *map(int, sizes[image_id])).astype(bool)


def _reasons(mask: np.ndarray) -> Iterator[str]:
    """Yield what is unusual about a mask, (H, W) bool."""
    covered = float(mask.mean())
    if not covered:
        yield "nothing found"
        return
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA] / mask.sum()
    if (outside := 1 - areas.max()) > _SPECKS:
        yield f"several pieces: {outside:.0%} of the mask outside the largest"
    if covered < _SMALL:
        yield f"small: {covered:.1%} of the image"
    if covered > _LARGE:
        yield f"large: {covered:.0%} of the image"


def write_masks(
    ranked_masks: pd.DataFrame,
    predictions: dict[str, Any],
    prediction_shards: PredictionShards,
    test_images: ImageSource,
    editable_masks: EditableMasks,
) -> pd.DataFrame:
    """Write the predicted masks as files for a person to correct.

    Args:
        ranked_masks: What `rank_masks` returns.
        predictions: The manifest of the predictions.
        prediction_shards: The predicted masks.
        test_images: The source of the images.
        editable_masks: Where masks are written. What a person has changed there stays.

    Returns:
        `ranked_masks` without the digests, with two more columns: file (name of the mask) and mask (`written`; or, by a
        person, `kept` as it was changed, or `removed`).

    Raises:
        UserError: A person has changed masks of other photographs with the same names.
    """
    # So that `folder.mask_suffix`, which may tell the user's masks from photographs, finds these too.
    suffix = test_images.mask_suffix if isinstance(test_images, FolderStore) else ""
    listed = ranked_masks.assign(file=ranked_masks["image"] + f"{suffix}.png")
    masks = predicted_masks(listed, predictions, prediction_shards)
    fates = editable_masks.update(
        dict(zip(listed["file"], listed["digest"], strict=True)),
        ((f"{image_id}{suffix}.png", mask) for image_id, mask in masks),
    )
    listed["mask"] = listed["file"].map(fates)
    counts = Counter(fates.values())
    logger.info(
        "%d masks in %s: %d written, %d kept as they were changed by hand, %d removed by hand",
        len(fates), editable_masks.folder, counts["written"], counts["kept"], counts["removed"],
    )  # fmt: skip
    return listed.drop(columns="digest")
