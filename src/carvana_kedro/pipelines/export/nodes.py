"""Nodes of the export pipeline."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from carvana_kedro import provenance
from carvana_kedro.parameters import Export
from carvana_kedro.segmentation.prediction import export
from carvana_kedro.studio import StudioSettings, render_view

logger = logging.getLogger(__name__)

_STUDIO = StudioSettings(width=960, height=640)
_TOLERATED = 1e-3
"""Difference of logits, as a share of the largest: rounding in float32 leaves a tenth of it at most."""


def export_model(model: dict[str, Any], export_folder: Path, parameters: Export) -> dict[str, Any]:
    """Write a model in every format asked for: `model.onnx`, `model.pt2`.

    Returns:
        The manifest: the names of the files, and the metadata that each of them holds.

    Raises:
        UserError: several models were given, packages are missing, or a file cannot be written.
    """
    exportable = export.ExportableModel(model, provenance.model_digest(model))
    files = []
    for name in parameters.formats:
        file, write = export.FORMATS[name]
        write(exportable, export_folder / file)
        size = (export_folder / file).stat().st_size
        logger.info("%s: %.1f MB", export_folder / file, size / 1e6)
        files.append(file)
    return {"files": files, **exportable.metadata}


def check_export(model: dict[str, Any], export_folder: Path, export_manifest: dict[str, Any]) -> pd.DataFrame:
    """Hold the exported files against the network itself: see `segmentation.export.check_export`.

    Returns:
        A row for each file and batch of pictures.

    Raises:
        UserError: onnxruntime is not installed.
    """
    picture, _ = render_view(_STUDIO, 0, 3)
    paths = [export_folder / file for file in export_manifest["files"]]
    table = pd.DataFrame(export.check_export(model, paths, picture))
    difference, share, largest = table[["largest_difference", "differing_pixels", "largest_logit"]].max(
        skipna=False
    )
    agree = difference <= _TOLERATED * max(1, largest)  # not if one of them is NaN
    logger.log(
        logging.INFO if agree else logging.WARNING,
        "Exported logits are off by %.1e at most; masks differ on %.4f %% of the pixels at most",
        difference, 100 * share,
    )  # fmt: skip
    return table
