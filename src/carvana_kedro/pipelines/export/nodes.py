"""Nodes of the export pipeline."""

import logging
from typing import Any

import pandas as pd

from carvana_kedro.parameters import Export, ModelTraining
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction import export
from carvana_kedro.stores.folders import Folder
from carvana_kedro.studio import StudioSettings, render_view

logger = logging.getLogger(__name__)

_STUDIO = StudioSettings(width=960, height=640)
_TOLERANCE = 1e-3
"""Tolerated difference of logits, as a share of the largest logit: ten times the rounding error of float32."""


def export_model(
    model: TrainedModel, export_folder: Folder, parameters: Export, model_training: ModelTraining
) -> dict[str, Any]:
    """Write a model in every format that the parameters name: `model.onnx`, `model.pt2`.

    Returns:
        The manifest: the names of the files, and the metadata that each of them holds.

    Raises:
        UserError: Several models were given, packages are missing, or a file cannot be written.
    """
    exportable = export.ExportableModel(model, model_training.trusted())
    files = []
    with export_folder.directory() as directory:
        for name in parameters.formats:
            file, write = export.FORMATS[name]
            write(exportable, directory / file)
            size = (directory / file).stat().st_size
            logger.info("%s: %.1f MB", export_folder.address(file), size / 1e6)
            files.append(file)
    return {"files": files, **exportable.metadata}


def check_export(
    model: TrainedModel,
    export_folder: Folder,
    export_manifest: dict[str, Any],
    model_training: ModelTraining,
) -> pd.DataFrame:
    """Compare the exported files with the network itself: see `segmentation.prediction.export.check_export`.

    Returns:
        One row per file and batch of images.

    Raises:
        UserError: onnxruntime is not installed.
    """
    image, _ = render_view(_STUDIO, 0, 3)
    paths = [export_folder.local(file) for file in export_manifest["files"]]
    table = pd.DataFrame(export.check_export(model, paths, image, model_training.trusted()))
    difference, share, largest = table[["largest_difference", "differing_pixels", "largest_logit"]].max(
        skipna=False
    )
    agree = difference <= _TOLERANCE * max(1, largest)  # False if one of them is NaN
    logger.log(
        logging.INFO if agree else logging.WARNING,
        "Exported logits differ by at most %.1e; masks differ in at most %.4f %% of the pixels",
        difference, 100 * share,
    )  # fmt: skip
    return table
