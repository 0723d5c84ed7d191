"""A predicting process for tests to kill: python predicted_process.py MODEL IMAGES FOLDER WORKERS

It predicts the shards that are missing, prints a line after each, and writes FOLDER/submit.csv.gz. It does not use
Kedro's runner or catalog.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Inference
from carvana_kedro.pipelines.inference.nodes import predict_masks
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.checkpoints import load_checkpoint
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards, Shard, write_submission
from carvana_kedro.stores.tables import Row
from models import RECIPE


class PrintShards(PredictionShards):
    def write(self, key: str, number: int, rows: Sequence[Row], *args: Any) -> Shard:
        shard = super().write(key, number, rows, *args)
        print(f"shard {number} {' '.join(image_id for image_id, _ in rows)}", flush=True)  # noqa: T201
        return shard


if __name__ == "__main__":
    model, images, folder, workers = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    store, shards = ImageStore(images), PrintShards(folder)
    parameters = Inference(batch_size=2, shard_size=3, num_workers=workers)
    predictions = predict_masks(
        TrainedModel.from_dict(load_checkpoint(model)),
        index_images(store),
        store,
        shards,
        PredictedImages(folder),
        parameters,
        RECIPE,
        SourceDescription(name="mine"),
    )
    write_submission(folder / "submit.csv.gz", shards.read(predictions["shards"]))
    print("done", flush=True)  # noqa: T201
