"""The choice of who predicts shards."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from tqdm import tqdm

from carvana_kedro.predicting import cluster as ray_cluster
from carvana_kedro.predicting import processes
from carvana_kedro.predicting.work import Job, Work
from carvana_kedro.stores.predictions import Shard

logger = logging.getLogger(__name__)


@contextmanager
def started(
    work: Work, jobs: Mapping[int, Job], devices: int | Literal["auto"] = 1, cluster: str | None = None
) -> Iterator[Iterator[tuple[int, Shard]]]:
    """Start what predicts shards. Nothing is written before the iteration begins, and all of it ends with the block.

    Args:
        work: What the shards are predicted with.
        jobs: The images of each shard, by its number. Without any, nothing is started.
        devices: Number of processes; `auto`: one for each GPU, and one on a CPU. One is this process.
        cluster: A Ray cluster in place of processes: `local`, or an address such as `ray://head:10001`.

    Yields:
        An iterator over the numbers of the shards and the shards, each as soon as it is written.

    Raises:
        UserError: The model cannot be built, the machine does not have the device, or the prediction fails.
    """
    if not jobs:
        yield iter(())
        return
    images = sum(len(job.readable) for job in jobs.values())
    if cluster is not None:
        with (
            _progress(images) as progress,
            ray_cluster.started(work, jobs, cluster, progress.update) as results,
        ):
            yield results
        return
    device, kind = work.predictor["device"], work.predictor["engine"]
    wanted = processes.number_of_processes(devices, device, kind)
    count = min(len(jobs), wanted)
    if count < wanted:
        logger.info(
            "%d of %d processes predict, because only so many shards are missing. "
            "A smaller inference.shard_size gives more.",
            count, wanted,
        )  # fmt: skip
    predictor = work.build_predictor() if count == 1 else None
    with _progress(images) as progress:
        if predictor:
            yield work.run(predictor, jobs, progress.update)
            return
        with processes.started(work, jobs, count, progress.update) as results:
            yield results


def _progress(images: int) -> tqdm:
    return tqdm(None, "Predicting", images, unit=" images", leave=False, disable=None)
