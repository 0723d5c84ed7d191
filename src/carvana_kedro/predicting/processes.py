"""Several processes of this machine that predict shards, each on its own GPU or with its share of the cores."""

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import cv2
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.predicting import messages
from carvana_kedro.predicting.messages import Parent, Worker
from carvana_kedro.predicting.work import Job, Work
from carvana_kedro.segmentation.hardware import choose_device
from carvana_kedro.segmentation.prediction import onnx
from carvana_kedro.stores.machine import share_machine, usable_cores
from carvana_kedro.stores.predictions import Shard
from carvana_kedro.stores.processes import end_with_parent

logger = logging.getLogger(__name__)

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def number_of_processes(devices: int | Literal["auto"], device: str, engine: str = "torch") -> int:
    """Return how many processes predict.

    Args:
        devices: Their number; `auto`: one for each GPU, and one on a CPU.
        device: Of `Predictor`.
        engine: Of `Predictor`.

    Raises:
        UserError: There are fewer GPUs, or the machine does not have the device.
    """
    if devices == 1:
        return 1
    kind = _kind_of_device(device, engine)
    gpus = (
        max(1, torch.cuda.device_count()) if kind == "cuda" else 1
    )  # ONNX Runtime may find one that PyTorch does not
    if devices == "auto":
        return gpus
    if kind != "cpu" and devices > gpus:
        raise UserError(
            f"inference.devices={devices}: PyTorch finds only {gpus} on this machine (device={kind}). Choose at most "
            f"{gpus}, or auto for all."
        )
    return devices


def _kind_of_device(device: str, engine: str) -> str:
    if engine == "onnxruntime":
        return onnx.choose_device(device)
    return choose_device(device).type  # type: ignore[arg-type]


@contextmanager
def started(
    work: Work, jobs: Mapping[int, Job], count: int, on_image: Callable[[], object]
) -> Iterator[Iterator[tuple[int, Shard]]]:
    """Start processes that predict shards, and wait until they are ready. They end with the block.

    Shards are dealt by number. The processes log through this one, which needs no signal handlers: Ctrl-C raises an
    error here, and if this process is killed, the others notice that it has ended.

    Args:
        work: What the shards are predicted with.
        jobs: The images of each shard, by its number.
        count: Number of processes.
        on_image: Called after each image, in this process.

    Yields:
        An iterator over the numbers of the shards and the shards, each as soon as it is written. The processes begin
        when the iteration begins.

    Raises:
        UserError: As `Work.build_predictor` and `Work.run` in a process; or a process was killed.
    """
    logger.info("Starting %d processes that predict", count)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # what training has left belongs to this process, and would be missing in the others
    content = pickle.dumps(work)  # multiprocessing's pickler would move the weights to shared memory
    with messages.started(
        lambda rank: _start(rank, count, work), count, content, partial(_death, count=count)
    ) as (ranks, found):
        yield _results(ranks, jobs, found, on_image)


def _start(rank: int, count: int, work: Work) -> Worker:
    on_gpu = _kind_of_device(work.predictor["device"], work.predictor["engine"]) == "cuda"
    gpu = _visible_gpus()[rank] if on_gpu else None
    threads = _threads(torch.get_num_threads(), count)
    return Worker.start(_predict, count, threads, gpu, name=f"predict-{rank}")


def _threads(threads: int, count: int) -> int:
    """Return how many threads each process gets of those that one process would use: its share, but not one of several.

    With one thread, PyTorch has other code for convolutions of 1 x 1, and their sums differ in the last bit. From two
    threads on, their number does not change a result.
    """
    return max(min(threads, 2), threads // count)


def _visible_gpus() -> list[str]:
    """Return how CUDA_VISIBLE_DEVICES calls each of the GPUs that PyTorch finds."""
    named = os.environ.get(_VISIBLE)
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def _results(
    ranks: Sequence[Worker],
    jobs: Mapping[int, Job],
    found: Iterator[tuple[str, Any]],
    on_image: Callable[[], object],
) -> Iterator[tuple[int, Shard]]:
    """Deal the shards to the processes, and yield those that are written."""
    numbers = list(jobs)
    dealt = [{number: jobs[number] for number in numbers[rank :: len(ranks)]} for rank in range(len(ranks))]
    for rank, part in zip(ranks, dealt, strict=True):
        rank.send(pickle.dumps(part))
    for kind, content in found:
        if kind == "image":
            on_image()
        else:
            yield content


def _death(cause: str, count: int) -> UserError:
    advice = "Its output above may say why."
    if "SIGKILL" in cause:
        advice = "The usual cause is too little memory: lower inference.batch_size or inference.devices."
    return UserError(
        f"One of the {count} processes that predict {cause}. {advice} Finished shards are kept: the same command "
        "continues."
    )


def _predict(parent: Parent, processes: int, threads: int, gpu: str | None) -> None:
    """Do the work that the parent sends: the main function of a process.

    Args:
        parent: The process that started this one.
        processes: How many share the machine.
        threads: In which PyTorch computes.
        gpu: What CUDA_VISIBLE_DEVICES becomes, so that this GPU is the only one; None: it stays.
    """
    end_with_parent()
    if gpu is not None:
        os.environ[_VISIBLE] = gpu  # before CUDA starts
    share_machine(processes)
    torch.set_num_threads(threads)
    cv2.setNumThreads(usable_cores())
    work: Work = parent.receive()
    predictor = work.build_predictor()
    parent.tell("ready")
    jobs: Mapping[int, Job] = parent.receive()
    for result in work.run(predictor, jobs, on_image=lambda: parent.tell("image")):
        parent.tell("shard", result)
