"""The process that drives Ray: it connects, and sends shards through the cluster until all are predicted.

A cluster may lose actors and nodes. Then a pass over the missing shards ends, and the next one takes what is left of
the cluster.
"""

import logging
import multiprocessing
import os
import pickle
import secrets
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from carvana_kedro.errors import UserError
from carvana_kedro.predicting.actors import VERSIONS, Order, Pass, try_out
from carvana_kedro.predicting.messages import Parent
from carvana_kedro.predicting.work import Job, Work
from carvana_kedro.stores.machine import usable_cores
from carvana_kedro.stores.predictions import Shard

logger = logging.getLogger(__name__)

# In seconds.
_PLACED_WITHIN = 90  # an actor must find a place in the cluster
_LOOKS = 2  # between two looks at the nodes
_SETTLED_WITHIN = 5  # after an actor was lost, until Ray knows whether its node was
_ENDS_WITHIN = 30  # after a node was lost, if no shard comes
_VISIBLE_WITHIN = 30  # a shard that another node wrote: network file systems cache folders

_FRUITLESS = 3  # passes in a row without a shard, after which the run ends
_HEAD = {"node:__internal_head__": 0.001}  # Ray's own name

CONTINUES = "Finished shards are kept: the same command continues."


def drive(parent: Parent, cluster: str, threaded: bool) -> None:
    """Do the work that the parent sends: the main function of the process.

    Args:
        parent: The process that started this one.
        cluster: `local`, or an address such as `ray://head:10001`.
        threaded: See `Order`.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    parent.gone = sys.exit  # Ray then ends in order
    content: bytes = parent.receive()
    with _connected(cluster, len(content)):
        driver = _Driver(parent, content, cluster, threaded)
        driver.try_out()
        parent.tell("ready")
        driver.predict(parent.receive())


def _end_with_parent() -> None:
    """End this process when its parent has ended, even if that was killed. A cluster then frees its actors at once."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ENDS_WITHIN)
    os._exit(1)


@contextmanager
def _connected(cluster: str, size: int) -> Iterator[None]:
    """Connect to a cluster, or start a local one for work of this size in bytes.

    Raises:
        UserError: It cannot be started or reached, or runs other versions.
    """
    with _options(cluster, size) as options:
        import ray  # reads the environment

        try:
            _end_at_sigterm()
            _connect(ray, cluster, options)
            _end_at_sigterm()  # Ray sets its own handler
            logging.getLogger("ray").setLevel(logging.CRITICAL)
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already
            ray.shutdown()


def _connect(ray: Any, cluster: str, options: Mapping[str, Any]) -> None:
    """Connect the module `ray` to a cluster, or start a local one.

    Raises:
        UserError: It fails, at an address twice: the process that Ray starts there for each client ends at once now
            and then.
    """
    try:
        try:
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
        except Exception as first:
            if cluster == "local":
                raise
            logger.warning("inference.cluster=%s: %s. Connecting again.", cluster, _text(first))
            ray.shutdown()
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except Exception as error:  # RuntimeError, ConnectionError and others
        raise UserError(f"inference.cluster={cluster}: {_text(error)}") from error


@contextmanager
def _options(cluster: str, size: int) -> Iterator[dict[str, Any]]:
    """Prepare the environment for Ray, and return the arguments of `ray.init`."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="ray")
    if cluster != "local":
        yield {"address": cluster}
        return
    # Listen on the loopback interface only, and to this run only.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's name for using the address 127.0.0.1
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield {
            "address": "local",
            "num_cpus": usable_cores(),
            "include_dashboard": False,
            "object_store_memory": 4 * size + (80 << 20),  # bytes; Ray refuses less than 75 MB
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": folder,
        }


def _end_at_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def _text(error: BaseException) -> str:
    """Return what an error of Ray says, without the tracebacks of other processes."""
    lines = str(error).strip().splitlines()
    traces = any("ray::" in line or line.startswith("Traceback") for line in lines)
    return (lines[-1] if traces else " ".join(lines)) if lines else repr(error)


class _LostError(Exception):
    """A node of the cluster was lost."""


class _Driver:
    """Sends shards through the cluster that Ray is connected to."""

    def __init__(self, parent: Parent, content: bytes, cluster: str, threaded: bool) -> None:
        import ray

        self._parent = parent
        self._work: Work = pickle.loads(content)
        self._cluster = cluster
        self._order = Order([ray.put(content)], Path.cwd(), threaded, logging.getLogger().level, VERSIONS)

    def try_out(self) -> None:
        """Build the predictor once in the cluster.

        Raises:
            UserError: There is no place for it, or it cannot be built there.
        """
        import ray

        _, resources = _places(self._cluster, self._work.predictor["device"])
        trial = ray.remote(try_out).options(max_retries=0, **resources).remote(self._order)
        started = time.monotonic()
        while not ray.wait([trial], timeout=_LOOKS)[0]:
            _places(self._cluster, self._work.predictor["device"])  # raises an error if there is none left
            self._require_place(resources, started)
        try:
            report = ray.get(trial)
        except ray.exceptions.RayError as error:
            raise UserError(
                f"inference.cluster={self._cluster} cannot predict: {_text(error)}. Install the same version of "
                'carvana-kedro on all of its nodes: pip install "carvana-kedro[ray]"'
            ) from error
        self._unpacked(report)

    def predict(self, jobs: Mapping[int, Job]) -> None:
        """Predict shards, and tell the parent of each.

        Raises:
            UserError: A shard cannot be predicted, or the cluster was lost.
        """
        import ray

        missing, fruitless = dict(jobs), 0
        while missing:
            before = len(missing)
            try:
                for report in self._pass(missing):
                    number, shard = self._unpacked(report)
                    self._require_visible(shard)
                    del missing[number]
                    self._parent.tell("shard", (number, shard))
            except (ray.exceptions.RayError, _LostError) as error:
                # Some are written, but their reports were lost.
                for number, shard in self._work.finished(missing).items():
                    del missing[number]
                    self._parent.tell("shard", (number, shard))
                fruitless = 0 if len(missing) < before else fruitless + 1
                if fruitless == _FRUITLESS:
                    raise UserError(
                        f"inference.cluster={self._cluster} loses actors before they finish a shard: {_text(error)}. "
                        f"The usual cause is too little memory: lower inference.batch_size. {CONTINUES}"
                    ) from error
                logger.warning(
                    "A part of the cluster was lost (%s). Continuing with the rest: %d shards are missing.",
                    _text(error),
                    len(missing),
                )
            except ConnectionError as error:
                raise UserError(
                    f"inference.cluster={self._cluster}: the connection was lost ({_text(error)}). {CONTINUES}"
                ) from error

    def _pass(self, jobs: Mapping[int, Job]) -> Iterator[bytes]:
        """Yield the reports of shards, until all are predicted or a part of the cluster is lost."""
        import ray

        nodes = _nodes()
        places, resources = _places(self._cluster, self._work.predictor["device"])
        actor = ray.remote(Pass).options(
            num_cpus=0, max_restarts=0, max_concurrency=Pass.THREADS, resources=_HEAD
        )
        running = actor.remote(self._order, jobs, min(places, len(jobs)), resources)
        placed, started = running.placed.remote(), time.monotonic()
        try:
            while True:
                report = running.next.remote()
                lost_at = 0.0
                while not ray.wait([report], timeout=_LOOKS)[0]:
                    if not ray.wait([placed], timeout=0)[0]:
                        self._require_place(resources, started)
                    # Ray Data reports a lost actor. This is for what it does not report.
                    if lost := nodes - _nodes():
                        lost_at = lost_at or time.monotonic()
                        if time.monotonic() > lost_at + _ENDS_WITHIN:
                            raise _LostError(f"{len(lost)} of {len(nodes)} nodes")
                content = ray.get(report)
                if content is None:
                    return
                yield content
        except ray.exceptions.RayError:
            until = time.monotonic() + _SETTLED_WITHIN
            while nodes == _nodes() and time.monotonic() < until:
                time.sleep(_LOOKS)
            raise
        finally:
            with suppress(Exception):  # it may be lost, and so may the connection
                ray.kill(running)

    def _require_place(self, resources: Mapping[str, float], started: float) -> None:
        """Check that an actor without a place has not waited too long for one. It would wait for ever.

        Raises:
            UserError: It has.
        """
        import ray

        if time.monotonic() > started + _PLACED_WITHIN:
            raise UserError(
                f"inference.cluster={self._cluster} has found no place for an actor with {_listed(resources)} within "
                f"{_PLACED_WITHIN} seconds. Free now: {_listed(ray.available_resources())}. Others seem to use it: run "
                f"again later. {CONTINUES}"
            )

    def _unpacked(self, report: bytes) -> Any:
        """Return the result of a report, or raise it if it is an error, and log what was logged."""
        records, result = pickle.loads(report)
        for record in records:
            self._parent.tell("log", record)
        if isinstance(result, BaseException):
            raise result
        return result

    def _require_visible(self, shard: Shard) -> None:
        """Check that the shards are written where this machine sees them.

        Raises:
            UserError: A shard does not appear.
        """
        folder, until = self._work.shards.folder, time.monotonic() + _VISIBLE_WITHIN
        while folder.stat(shard.name) is None:
            if time.monotonic() > until:
                raise UserError(
                    f"A node of inference.cluster={self._cluster} has written {folder.address(shard.name)}, but this "
                    "machine does not see it. Keep the data on a disk that all nodes share: --params data_root=PATH"
                )
            folder.list("*/*")  # a network file system may look again only if its folders are read
            time.sleep(0.2)


def _nodes() -> set[str]:
    """Return the ids of the nodes that Ray believes to be alive."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _places(cluster: str, device: str) -> tuple[int, dict[str, int]]:
    """Return how many actors fit into the cluster, and what each asks for.

    It is one GPU each. Without GPUs, an actor takes a whole node, as one process does: on the smallest node of the
    cluster, and as many of its size as fit on the others.

    Raises:
        UserError: The cluster has nothing to compute with. Actors would wait for ever.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(min(node.get("GPU", 0), node.get("CPU", 0))) for node in nodes)
    if gpus and device in ("auto", "cuda"):
        return gpus, {"num_cpus": 1, "num_gpus": 1}
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if device == "cuda" or not cpus:
        wanted = "GPU" if device == "cuda" else "CPU"
        raise UserError(
            f"inference.cluster={cluster} has no {wanted} to predict with (inference.device={device}). Its "
            f"{len(nodes)} nodes offer: {_listed(ray.cluster_resources())}. Start nodes with `ray start "
            f"--address=HEAD:PORT`, and wait until `ray status` lists them. {CONTINUES}"
        )
    return sum(count // min(cpus) for count in cpus), {"num_cpus": min(cpus)}


def _listed(resources: Mapping[str, float]) -> str:
    shown = {"CPU": "CPUs", "num_cpus": "CPUs", "GPU": "GPUs", "num_gpus": "GPUs"}
    return (
        ", ".join(f"{count:g} {shown[name]}" for name, count in resources.items() if name in shown)
        or "nothing"
    )
