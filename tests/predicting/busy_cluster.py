"""What a driver meets in a cluster, for tests: python busy_cluster.py MODEL IMAGES FOLDER PARAMETERS

PARAMETERS are those of `Inference`, as JSON. It starts a local cluster, and prints a line of JSON for each thing that
it tries.
"""

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Inference
from carvana_kedro.predicting import driver
from carvana_kedro.predicting.actors import Order, try_out
from carvana_kedro.prediction_plan import PredictionPlan
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.checkpoints import load_checkpoint
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.machine import usable_cores
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards
from models import RECIPE


class Told(list[tuple[str, Any]]):
    """Keeps what the driver tells its parent."""

    def tell(self, kind: str, content: Any = None) -> None:
        """Keep a message."""
        self.append((kind, content))

    def shards(self) -> list[int]:
        """Return the numbers of the finished shards, sorted."""
        return sorted(content[0] for kind, content in self if kind == "shard")


def tell(**facts: Any) -> None:
    """Print a line of JSON."""
    print(json.dumps(facts), flush=True)  # noqa: T201


def cores(order: Order) -> list[int]:
    """Return how many cores each kind of thread of an actor with one core uses."""
    order.load()
    return [usable_cores(), cv2.getNumThreads()]


def refused(order: Order) -> str:
    """Return the error of an order in the cluster."""
    import ray

    return str(pickle.loads(ray.get(ray.remote(try_out).remote(order)))[1])


def try_all(plan: PredictionPlan) -> None:
    """Try things in a connected cluster."""
    import ray

    told, jobs = Told(), {number: plan.jobs[number] for number in range(3)}
    ours = driver._Driver(told, pickle.dumps(plan.work), "local", threaded=True)  # type: ignore[arg-type]
    ours.try_out()

    order = replace(ours._order, folder=Path("/no/such/folder"))
    tell(cores=ray.get(ray.remote(cores).options(num_cpus=1).remote(order)))
    shards = PredictionShards(DiskFolder(Path("shards")))
    relative = [ray.put(pickle.dumps(replace(plan.work, shards=shards)))]
    tell(folder=refused(replace(order, work=relative)))
    tell(versions=refused(replace(order, versions={"PyTorch": "0.9"})))

    # Somebody takes a place after the trial.
    other = ray.remote(type("Other", (), {"ping": lambda self: None})).options(num_cpus=1).remote()
    ray.get(other.ping.remote())
    patience, driver._PLACED_WITHIN = driver._PLACED_WITHIN, 3
    try:
        ours.predict(jobs)
    except UserError as error:
        tell(refused=str(error), shards=told.shards())
    driver._PLACED_WITHIN = patience
    ray.kill(other)

    # A pass writes all shards, but is lost with all of its reports. An image is removed meanwhile.
    passes, real = [], ours._pass

    def losing(missing: Any) -> Any:
        passes.append(list(missing))
        found = list(real(missing))
        if len(passes) > 1:
            yield from found
            return
        (plan.work.predicted_images.folder.path / jobs[0].names[0]).unlink()
        raise driver._LostError("a test")

    ours._pass = losing  # type: ignore[method-assign]
    ours.predict(jobs)
    tell(passes=passes, shards=told.shards())


if __name__ == "__main__":
    model, images, folder = (Path(argument) for argument in sys.argv[1:4])
    store = ImageStore(images)
    plan = PredictionPlan.make(
        TrainedModel.from_dict(load_checkpoint(model)),
        index_images(store),
        store,
        PredictionShards(DiskFolder(folder / "shards")),
        PredictedImages(DiskFolder(folder)),
        Inference.model_validate_json(sys.argv[4]),
        RECIPE,
        SourceDescription(name="mine"),
    )
    with driver._connected("local", len(pickle.dumps(plan.work))):
        try_all(plan)
