from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.folders import DiskFolder, open_file
from carvana_kedro.stores.predictions import PredictionShards, SubmissionFile, write_submission
from carvana_kedro.stores.tables import Row


@pytest.fixture
def predict(model: TrainedModel, tmp_path: Path) -> Callable[[Iterable[Row]], tuple[Any, ...]]:
    """`predict(rows)` writes rows as if the model had predicted them: submission, manifest and model."""

    def call(rows: Iterable[Row]) -> tuple[SubmissionFile, dict[str, Any], TrainedModel]:
        shards = PredictionShards(DiskFolder(tmp_path / "shards"))
        found = shards.read([shards.write("key", 0, list(rows)).name])
        count = write_submission(*open_file(tmp_path / "submit.csv.gz"), found)
        made_from = {"run_id": model.run_id, "model": model.digest()}
        parameters = {"threshold": 0.5, "flip": False}
        about = {"images": count, "rows_sha256": found.sha256(), "parameters": parameters}
        predictions = {**made_from, **about}
        return SubmissionFile(*open_file(tmp_path / "submit.csv.gz")), predictions, model

    return call
