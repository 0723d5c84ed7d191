import logging
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from carvana_kedro.parameters import Export
from carvana_kedro.pipelines.export.nodes import check_export, export_model
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.export import FORMATS
from carvana_kedro.stores.folders import DiskFolder
from models import RECIPE


def test_a_model_is_exported_and_checked(
    model: TrainedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = export_model(model, DiskFolder(tmp_path), Export(), RECIPE)
    assert (
        manifest["files"] == ["model.onnx", "model.pt2"] == sorted(path.name for path in tmp_path.iterdir())
    )
    assert manifest["model_digest"] == model.digest()
    caplog.set_level(logging.INFO, "carvana_kedro")
    table = check_export(model, DiskFolder(tmp_path), manifest, RECIPE)
    assert len(table) == 10
    assert table["differing_pixels"].max() == 0
    assert caplog.records[-1].levelname == "INFO"

    for change in (100, float("nan")):
        model.members[0].weights["head.bias"].add_(change)
        check_export(model, DiskFolder(tmp_path), manifest, RECIPE)
        assert caplog.records[-1].levelname == "WARNING"


def test_only_the_requested_formats_are_written(model: TrainedModel, tmp_path: Path) -> None:
    manifest = export_model(model, DiskFolder(tmp_path), Export(formats=("program",)), RECIPE)
    assert manifest["files"] == ["model.pt2"] == [path.name for path in tmp_path.iterdir()]


def test_the_parameter_allows_exactly_the_formats_that_can_be_written() -> None:
    (names, _) = get_args(Export.model_fields["formats"].annotation)
    assert get_args(names) == tuple(FORMATS) == Export().formats
    with pytest.raises(ValidationError, match="must name onnx, program or both"):
        Export(formats=())
