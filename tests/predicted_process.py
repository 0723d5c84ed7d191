"""A predicting process for tests to kill: python predicted_process.py MODEL IMAGES FOLDER PARAMETERS

PARAMETERS are those of `inference`, in JSON. It predicts the shards that are missing, prints a line after each, and
writes FOLDER/submit.csv.gz; with a share, it only predicts the shards. It does not use Kedro's runner or catalog.
"""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Inference
from carvana_kedro.pipelines.inference.nodes import predict_masks
from carvana_kedro.pipelines.inference_share.nodes import predict_share
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.checkpoints import load_checkpoint
from carvana_kedro.stores.folders import DiskFolder, open_file
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards, Shard, write_submission
from carvana_kedro.stores.tables import Row
from models import RECIPE


class PrintShards(PredictionShards):
    def write(self, key: str, number: int, rows: Sequence[Row], *args: Any) -> Shard:
        shard = super().write(key, number, rows, *args)
        print(f"shard {number} {' '.join(image_id for image_id, _ in rows)}", flush=True)  # noqa: T201
        return shard


def _predict(model: TrainedModel, images: ImageStore, folder: Path, parameters: Inference) -> None:
    shards = PrintShards(DiskFolder(folder))
    source = SourceDescription(name="mine")
    inputs = (
        model,
        index_images(images),
        images,
        shards,
        PredictedImages(DiskFolder(folder)),
        parameters,
        RECIPE,
        source,
    )
    if parameters.share:
        predict_share(*inputs)
        return
    predictions = predict_masks(*inputs)
    write_submission(*open_file(folder / "submit.csv.gz"), shards.read(predictions["shards"]))


if __name__ == "__main__":
    model, images, folder = map(Path, sys.argv[1:4])
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    parameters = Inference(batch_size=2, shard_size=3, **json.loads(sys.argv[4]))
    _predict(TrainedModel.from_dict(load_checkpoint(model)), ImageStore(images), folder, parameters)
    print("done", flush=True)  # noqa: T201
