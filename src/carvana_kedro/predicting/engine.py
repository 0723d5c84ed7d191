"""The choice of who predicts shards."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

from carvana_kedro.predicting.work import Job, Work
from carvana_kedro.stores.predictions import Shard


@contextmanager
def started(work: Work, jobs: Mapping[int, Job]) -> Iterator[Iterator[tuple[int, Shard]]]:
    """Start what predicts shards. Nothing is written before the iteration begins, and all of it ends with the block.

    Args:
        work: What the shards are predicted with.
        jobs: The images of each shard, by its number. Without any, nothing is started.

    Yields:
        An iterator over the numbers of the shards and the shards, each as soon as it is written.

    Raises:
        UserError: The model cannot be built, the machine does not have the device, or the prediction fails.
    """
    if not jobs:
        yield iter(())
        return
    images = sum(len(job.readable) for job in jobs.values())
    predictor = work.build_predictor()
    with tqdm(None, "Predicting", images, unit=" images", leave=False, disable=None) as progress:
        yield work.run(predictor, jobs, progress.update)
