"""Prediction in a Ray cluster: Ray Data hands shards to actors, each with a predictor of its own.

Ray runs in a process of its own, which `driver.drive` is the main function of: it changes the environment, the signal
handlers and the logging of the process that it runs in, and ends it if it loses its node.
"""

import importlib.util
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from carvana_kedro.errors import UserError
from carvana_kedro.predicting import driver, messages
from carvana_kedro.predicting.messages import Worker
from carvana_kedro.predicting.work import Job, Work
from carvana_kedro.stores.predictions import Shard

_REACHABLE_WITHIN = 10  # seconds


def check_cluster(cluster: str) -> None:
    """Check that Ray is installed, and that something listens at the address of the cluster.

    Args:
        cluster: `local`, or an address such as `ray://head:10001`.

    Raises:
        UserError: Ray Data is missing, or nothing listens.
    """
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            f'inference.cluster={cluster} needs Ray Data: pip install "carvana-kedro[ray]". Without it, '
            "inference.devices predicts in several processes of this machine."
        )
    if cluster == "local":
        return
    host, _, port = cluster.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACHABLE_WITHIN).close()
    except OSError as error:
        raise UserError(
            f"inference.cluster={cluster}: nothing answers there ({error}). Start Ray on the head node with `ray start "
            "--head`. The address is that of its client server, on port 10001 if you choose no other."
        ) from error


@contextmanager
def started(
    work: Work, jobs: Mapping[int, Job], cluster: str, on_images: Callable[[int], object]
) -> Iterator[Iterator[tuple[int, Shard]]]:
    """Connect to a cluster, or start one on this machine, and try out the model there. It ends with the block.

    Args:
        work: What the shards are predicted with.
        jobs: The images of each shard, by its number.
        cluster: `local`, or an address such as `ray://head:10001`.
        on_images: Called with the number of images of each shard that is finished, in this process.

    Yields:
        An iterator over the numbers of the shards and the shards, each as soon as it is written.

    Raises:
        UserError: See `check_cluster`; or the cluster runs other versions, or has nothing to compute with; the model
            cannot be built there; the prediction fails; or too much of the cluster was lost.
    """
    check_cluster(cluster)
    content = pickle.dumps(pickle.dumps(work))  # the driver hands it on as it is
    with messages.started(lambda _: _start(cluster), 1, content, _death) as ((process,), found):
        yield _results(process, jobs, (content for _, content in found), on_images)


def _start(cluster: str) -> Worker:
    return Worker.start(driver.drive, cluster, torch.get_num_threads() > 1, name="ray-driver")


def _results(
    process: Worker,
    jobs: Mapping[int, Job],
    shards: Iterator[tuple[int, Shard]],
    on_images: Callable[[int], object],
) -> Iterator[tuple[int, Shard]]:
    process.send(pickle.dumps(jobs))
    for number, shard in shards:
        on_images(len(jobs[number].readable))
        yield number, shard


def _death(cause: str) -> UserError:
    return UserError(f"The process that drives Ray {cause}. {driver.CONTINUES}")
