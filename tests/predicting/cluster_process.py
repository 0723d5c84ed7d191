"""A process that predicts in a cluster, for tests to kill: python cluster_process.py MODEL IMAGES FOLDER PARAMETERS

PARAMETERS are those of `Inference`, as JSON. It writes the shards below FOLDER, and FOLDER/submit.csv.gz. It does not
use Kedro's runner or catalog.
"""

import json
import logging
import sys
from pathlib import Path

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Inference
from carvana_kedro.pipelines.inference.nodes import predict_masks
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.checkpoints import load_checkpoint
from carvana_kedro.stores.folders import DiskFolder, open_file
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards, write_submission
from models import RECIPE

if __name__ == "__main__":
    model, images, folder = (Path(argument) for argument in sys.argv[1:4])
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    store, shards = ImageStore(images), PredictionShards(DiskFolder(folder / "shards"))
    predictions = predict_masks(
        TrainedModel.from_dict(load_checkpoint(model)),
        index_images(store),
        store,
        shards,
        PredictedImages(DiskFolder(folder)),
        Inference.model_validate_json(sys.argv[4]),
        RECIPE,
        SourceDescription(name="mine"),
    )
    write_submission(*open_file(folder / "submit.csv.gz"), shards.read(predictions["shards"]))
    (folder / "predictions.json").write_text(json.dumps(predictions))
