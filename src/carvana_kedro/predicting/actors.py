"""What runs inside a Ray cluster. Ray starts it by its name, so that each node must have this package installed."""

import logging
import os
import pickle
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from carvana_kedro import __version__
from carvana_kedro.errors import UserError
from carvana_kedro.predicting.messages import for_parent
from carvana_kedro.predicting.work import Job, Work
from carvana_kedro.stores.folders import is_address
from carvana_kedro.stores.machine import share_machine, usable_cores
from carvana_kedro.stores.predictions import Shard

VERSIONS = {"carvana-kedro": __version__, "PyTorch": torch.__version__}
"""Of what decides the masks. Ray compares its own version and Python's."""

Report = tuple[list[logging.LogRecord], "tuple[int, Shard] | BaseException | None"]
"""Log records, and what was done or raised."""


@dataclass(frozen=True)
class Order:
    """Everything that an actor needs. Ray pickles it with each actor, so that the work itself is only referred to.

    Attributes:
        work: Reference to the pickled `Work`, in a list: Ray would replace a bare reference by its content.
        folder: The working directory, which paths may be relative to.
        threaded: Whether PyTorch computes in several threads. Their number does not change a mask, but one thread does:
            PyTorch has other code for it.
        level: Of the log.
        versions: See `VERSIONS`.
    """

    work: Sequence[Any]
    folder: Path
    threaded: bool
    level: int
    versions: Mapping[str, str]

    def load(self) -> Work:
        """Return the work, in an actor.

        Raises:
            UserError: The versions on this node are others, or it does not find what a relative path leads to.
        """
        import ray

        if self.versions != VERSIONS:
            raise UserError(
                f"The node {ray.util.get_node_ip_address()} has {_listed(VERSIONS)}, but this process has "
                f"{_listed(self.versions)}. Install the same versions on all nodes."
            )
        _settle(self.threaded)
        work: Work = pickle.loads(ray.get(self.work[0]))
        try:
            os.chdir(self.folder)
        except OSError as error:
            _require_absolute(work, error)
        return work


def _settle(threaded: bool) -> None:
    """Take this actor's share of its node, as each process of `inference.devices` does."""
    import ray

    context = ray.get_runtime_context()
    ours, name = context.get_assigned_resources(), context.get_node_id()
    (node,) = (node["Resources"] for node in ray.nodes() if node["NodeID"] == name)
    kind = "GPU" if ours.get("GPU") else "CPU"
    share_machine(int(node[kind] // ours[kind]))
    cv2.setNumThreads(usable_cores())
    torch.set_num_threads(max(2, torch.get_num_threads()) if threaded else 1)


def _require_absolute(work: Work, error: OSError) -> None:
    """Check the paths of the work, on a node without the working directory.

    Raises:
        UserError: A path is relative to it.
    """
    import ray

    for folder in (work.images.images, work.shards.folder, work.predicted_images.folder):
        path = str(folder)
        if not (is_address(path) or Path(path).is_absolute()):
            raise UserError(
                f"The node {ray.util.get_node_ip_address()} cannot use the folder that {path} is relative to "
                f"({error}). Keep the data on a disk that all nodes share, and name it: --params data_root=PATH, with "
                "an absolute path."
            )


def _listed(versions: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in versions.items())


def try_out(order: Order) -> bytes:
    """Build the predictor once, to find what is wrong before anything is written.

    Returns:
        A pickled `Report`.
    """
    return _report(order.level, partial(_build, order))


def _build(order: Order) -> None:
    order.load().build_predictor()


def _report(level: int, do: Callable[[], Any]) -> bytes:
    """Return a pickled `Report`. Errors are values: Ray would wrap them, and end the other actors first."""
    with _recorded(level) as records:
        try:
            result = do()
        except Exception as error:
            result = for_parent(error)
        return pickle.dumps((_drained(records), result))


class ShardPredictor:
    """Predicts and writes shards: what `map_batches` calls in each actor. The predictor is built for the first one.

    Args:
        order: What is predicted.
        sender: The actor `Pass`, which is told that this one has found its place.
    """

    def __init__(self, order: Order, sender: Any) -> None:
        self._order = order
        self._work: Work | None = None
        sender.found_place.remote()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        """Return a pickled `Report` for every pickled pair of a number and a job."""
        tasks = [partial(self._predict, *pickle.loads(job)) for job in batch["job"]]
        return {"report": [_report(self._order.level, task) for task in tasks]}

    def _predict(self, number: int, job: Job) -> tuple[int, Shard]:
        if self._work is None:
            self._work = self._order.load()
            self._predictor = self._work.build_predictor()
        ((number, shard),) = self._work.run(self._predictor, {number: job}, on_image=lambda: None)
        return number, shard


class Pass:
    """Sends shards through Ray Data, as an actor: Ray Data itself does not run through an address ray://.

    Args:
        order: For the actors.
        jobs: The images of each shard, by its number.
        actors: Their number.
        resources: `num_cpus` and `num_gpus` of each.
    """

    THREADS = 3  # for `next` and `placed`, which wait, and for `found_place`

    def __init__(
        self, order: Order, jobs: Mapping[int, Job], actors: int, resources: Mapping[str, int]
    ) -> None:
        import ray.data

        self._found_place = threading.Event()
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"job": pickle.dumps(job)} for job in jobs.items()]
        reports = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            ShardPredictor,
            fn_constructor_args=[order, ray.get_runtime_context().current_actor],
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            # A lost actor ends the pass. By default it would wait for a place in the cluster, perhaps for ever, and
            # its shard with it.
            max_restarts=0,
            **resources,
        )
        self._rows: Iterator[dict[str, Any]] = iter(reports.iter_rows())

    def next(self) -> bytes | None:
        """Wait for the next pickled `Report`; None: there are no more."""
        row = next(self._rows, None)
        return None if row is None else row["report"]

    def found_place(self) -> None:
        """Note that an actor has started."""
        self._found_place.set()

    def placed(self) -> None:
        """Wait until an actor has started."""
        self._found_place.wait()


@contextmanager
def _recorded(level: int) -> Iterator["queue.SimpleQueue[logging.LogRecord]"]:
    """Record what is logged, in place of showing it on this node."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    root = logging.getLogger()
    handlers, root.handlers[:] = root.handlers[:], [QueueHandler(records)]
    root.setLevel(level)
    try:
        yield records
    finally:
        root.handlers[:] = handlers


def _drained(records: "queue.SimpleQueue[logging.LogRecord]") -> list[logging.LogRecord]:
    return [records.get() for _ in range(records.qsize())]
