"""Parts that measure steps of training on one batch that is on the device already."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn.functional import interpolate
from torch.profiler import ProfilerActivity

from benchmarks.contenders import BenchmarkImages, OldStyle, OneBatch, Task, ThisProject
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.roofline import Work
from benchmarks.measuring import Row, compare, race, repeat, synchronize
from carvana_kedro.segmentation.architectures import unet
from carvana_kedro.segmentation.data.geometry import Size
from carvana_kedro.segmentation.data.samples import CachedSamples

CLASSIC: Size = (683, 1024)  # (height, width)
DOUBLED: Size = (640, 960)  # divisible by 64: every up-sampling doubles exactly
EMA_DECAY = 0.998

Upsample = Callable[[Tensor, Size], Tensor]


def eager(bench: Bench) -> Iterator[Row]:
    """Measure a step of unet_1024 at both sizes, with the inputs of its convolutions and its profile."""
    task = bench.task("unet_1024", CLASSIC)
    ours, batches = _start(bench, task)
    yield {"what": "inputs of convolutions", **_inputs_of_convolutions(ours, batches)}
    yield _timed(bench, task, ours, batches)
    yield step(bench, bench.task("unet_1024", DOUBLED))
    yield _profiled(ours, batches, bench.out / "profile.txt")


def upsampling(bench: Bench) -> Iterator[Row]:
    """Measure ways to double the size of feature maps: alone, and in a step of unet_1024."""
    variants = {
        "in float32, as autocast does it": _under_autocast,
        "this project": unet.upsample,
    }
    task = bench.task("unet_1024", DOUBLED)
    for name, upsample in variants.items():
        forward, backward = _milliseconds(bench, task, upsample)
        yield {"upsample": name, "forward, ms": forward, "backward, ms": backward}
    for name, upsample in variants.items():
        with patch.object(unet, "upsample", upsample):
            yield {"upsample": name, **step(bench, task)}


def without_average(bench: Bench) -> Iterator[Row]:
    """Measure a step of unet_1024 without the moving average of the weights."""
    yield step(bench, bench.task("unet_1024", CLASSIC), ema_decay=0.0)


def compiled(bench: Bench, size: Size) -> Iterator[Row]:
    """Measure a compiled step of unet_1024, and the time to the first step."""
    with _only_traced(bench.tiny):
        yield step(bench, bench.task("unet_1024", size), compile=True)


def small_batch(bench: Bench) -> Iterator[Row]:
    """Measure a step of unet_1024 with two images, as in its recipe."""
    yield step(bench, bench.task("unet_1024", (1024, 1024), 2))


def resnet34(bench: Bench) -> Iterator[Row]:
    """Measure a step of unet_resnet34 at the size of the recipe `best`."""
    yield step(bench, bench.task("unet_resnet34", (1024, 1536), 8))


def against_old_style(bench: Bench) -> Iterator[Row]:
    """Compare with the old style on the same device: a step, then an epoch of full-size images."""
    task = bench.task("unet_1024", CLASSIC)
    device = bench.hardware.device
    float32, autocast = (OldStyle(task.network, device, autocast=on) for on in (False, True))
    ours = ThisProject(task, bench.hardware, EMA_DECAY)
    batch = OneBatch(task, device)
    contenders = {
        "old style, as written": partial(_with_defaults, float32, batch.for_old_style),
        "old style, bfloat16": partial(_with_defaults, autocast, batch.for_old_style),
        "this project": partial(ours.epoch, batch),
    }
    for row in compare(contenders, 2, task.steps * task.batch_size):
        yield {"what": f"step, {task}", **row}
    store, workers = bench.held_out_images, bench.num_workers
    source = BenchmarkImages(store, bench.repeated(store.ids(), 240))
    cached = source.batches(task, CachedSamples(source.samples(task)))
    contenders = {
        "old style, as written": partial(_with_defaults, float32, source.old_style(task, workers)),
        "old style, bfloat16": partial(_with_defaults, autocast, source.old_style(task, workers)),
        "this project": partial(ours.epoch, source.batches(task, num_workers=workers)),
        "this project, memory": partial(ours.epoch, cached),
    }
    for row in compare(contenders, 1, cached.images):
        yield {"what": f"epoch with {workers} workers, {task}", **row}


def step(bench: Bench, task: Task, *, ema_decay: float = EMA_DECAY, compile: bool = False) -> Row:
    """Measure steps of this project on one batch."""
    return _timed(bench, task, *_start(bench, task, ema_decay, compile))


def _start(
    bench: Bench, task: Task, ema_decay: float = EMA_DECAY, compile: bool = False
) -> tuple[ThisProject, OneBatch]:
    hardware = replace(bench.hardware, compile=compile)
    return ThisProject(task, hardware, ema_decay), OneBatch(task, hardware.device)


def _timed(bench: Bench, task: Task, ours: ThisProject, batches: OneBatch) -> Row:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    timing = race({"": partial(ours.epoch, batches)}, rounds=2)[""]
    speed = task.steps * task.batch_size / timing.best
    work = Work.of(task)
    allowed = bench.ceilings.training_speed(work)
    return {
        "what": f"step, {task}",
        "compiled": ours.run.hardware.compile,
        "average of the weights": ours.run.ema is not None,
        "images/s": speed,
        "roofline, images/s": allowed,
        "share of roofline": speed / allowed,
        "share of peak": work.training_flop * speed / bench.ceilings.peak,
        "ms per step": 1000 * timing.best / task.steps,
        "before the first timed step, s": timing.warm_up - timing.best,
        "peak memory, GB": torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0,
    }


def _inputs_of_convolutions(ours: ThisProject, batches: OneBatch) -> Row:
    """Take one step, and return the convolutions whose input has another precision or layout than the hardware's."""
    convolutions = {
        name: module for name, module in ours.run.network.named_modules() if isinstance(module, nn.Conv2d)
    }
    hardware, wrong = ours.run.hardware, []

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        dtype, last = inputs[0].dtype, inputs[0].is_contiguous(memory_format=torch.channels_last)
        if dtype != hardware.precision or last < hardware.channels_last:
            wrong.append(f"{name}: {dtype}, {'channels_last' if last else 'contiguous'}")

    hooks = [module.register_forward_pre_hook(partial(look, name)) for name, module in convolutions.items()]
    ours.epoch(batches.shortened(1))
    for hook in hooks:
        hook.remove()
    return {"convolutions": len(convolutions), "wrong": len(wrong), "which": "; ".join(wrong[:6])}


def _profiled(ours: ThisProject, batches: OneBatch, path: Path, steps: int = 3) -> Row:
    """Profile a few steps: the table goes to a file, the ten most expensive kernels into the row."""
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        ours.epoch(batches.shortened(steps))
        synchronize()
    events = profiler.key_averages()
    by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    path.write_text(events.table(sort_by=by, row_limit=40, max_name_column_width=90))
    # An operation, the kernels that it starts, and the annotations around it all have the time: only kernels count.
    kernels = [
        event
        for event in events
        if not on_gpu or (event.device_type == DeviceType.CUDA and not event.is_user_annotation)
    ]
    top = sorted(kernels, key=lambda event: getattr(event, by), reverse=True)[:10]
    total = sum(getattr(event, by) for event in kernels)
    lines = [f"{getattr(event, by) / total:.1%} {event.key[:100]}" for event in top]
    return {"what": "profile", "ms per step": total / steps / 1000, "top ten": "\n".join(lines)}


def _milliseconds(bench: Bench, task: Task, upsample: Upsample) -> tuple[float, float]:
    """Time doubling the features of the last decoder stage of unet_1024, forward and backward."""
    height, width = task.input_size
    features = torch.randn(
        task.batch_size,
        24,
        height // 2,
        width // 2,
        device=bench.hardware.device,
        dtype=bench.hardware.precision,
    ).contiguous(memory_format=torch.channels_last)
    features.requires_grad_()
    with bench.hardware.autocast():
        enlarged = upsample(features, task.input_size)
        gradient = torch.randn_like(enlarged)
        forward = partial(upsample, features, task.input_size)
        backward = partial(torch.autograd.grad, enlarged, features, gradient, retain_graph=True)
        timings = race(
            {"forward": partial(repeat, 10, forward), "backward": partial(repeat, 10, backward)}, rounds=3
        )
    return 100 * timings["forward"].best, 100 * timings["backward"].best


def _under_autocast(features: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(features, size, mode="bilinear", align_corners=False)


def _with_defaults(old: OldStyle, loader: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Train an epoch in the old style with torch's default for cuDNN, which this project changes."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        return old.epoch(loader)
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _only_traced(tiny: bool) -> Iterator[None]:
    """Ignore `torch.compile` if everything is small: building kernels takes the same minute for any size."""
    if not tiny:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
