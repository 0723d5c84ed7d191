"""`carvana-kedro cut`: cut the cars out of photographs. It needs no project and does not import Kedro."""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
from tqdm import tqdm

from carvana_kedro.commands.photographs import STREAM, Found, Photograph, find_photographs, record_options
from carvana_kedro.errors import UserError, shown
from carvana_kedro.segmentation.prediction.composition import (
    Composition,
    check_layout,
    compose,
    read_background,
)
from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.images.decoding import UnusableImageError, open_image
from carvana_kedro.stores.images.encoding import encode
from carvana_kedro.stores.images.reading import read_image
from carvana_kedro.stores.machine import usable_cores
from carvana_kedro.stores.processes import map_in_threads
from carvana_kedro.weights import path_of

if TYPE_CHECKING:
    from carvana_kedro.segmentation.prediction.predictor import Predictor

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a shell: 128 + SIGINT."""

_MOST_PIXELS = 100_000_000  # in progress at once: a photograph takes about 25 bytes per pixel
_LARGEST_STREAM = 1 << 30  # bytes


class _Result(NamedTuple):
    """What became of a photograph. `problem`: why it was not cut out; `is_empty`: no car was found."""

    name: str
    problem: str = ""
    is_empty: bool = False


@dataclass
class _Summary:
    """What a command has done, for its last lines."""

    total: int
    ignored: int
    problems: list[str]
    existing: int = 0
    written: int = 0
    empty: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, result: _Result) -> None:
        """Count a photograph."""
        if result.problem:
            self.problems.append(result.problem)
            return
        self.written += 1
        if result.is_empty:
            self.empty.append(result.name)

    def lines(self) -> list[str]:
        """Return the lines to print."""
        seconds = time.monotonic() - self.started
        rate = f" ({self.written / seconds:.2g} per second)" if self.written > 1 else ""
        photographs = "photograph" if self.total == 1 else "photographs"
        lines = [f"Cut out {self.written} of {self.total} {photographs} in {seconds:.1f} s{rate}."]
        if self.existing:
            lines.append(f"Cut out before, and skipped: {self.existing}. To cut them out again: --overwrite")
        if self.ignored:
            lines.append(f"Not images, and ignored: {self.ignored}.")
        return [
            *lines,
            *(f"{name} shows no car: its cut-out is empty." for name in self.empty),
            *self.problems,
        ]


@dataclass(frozen=True)
class _Cutter:
    """Cuts out photographs, in any thread.

    Attributes:
        predictor: Predicts the masks.
        composition: The options of `compose`.
        suffix: Of a picture that is written to standard output.
        stream: The photograph that was read from standard input.
    """

    predictor: "Predictor"
    composition: Composition
    suffix: str
    stream: bytes

    def __call__(self, photograph: Photograph) -> _Result:
        """Cut out a photograph, and write its files.

        Raises:
            UserError: A file cannot be written, or the network computes no finite numbers.
        """
        try:
            pixels = read_image(photograph.source or self.stream)
        except UserError as error:
            return _Result(photograph.name, str(error))
        prediction = self.predictor.predict_one(pixels)
        mask = prediction.mask(self.predictor.threshold)
        alpha = prediction.alpha(mask, self.predictor.threshold)
        if photograph.mask:  # first: a photograph with a picture is done
            _write(photograph.mask, encode(mask, ".png"))
        suffix = photograph.picture.suffix.lower() if photograph.picture else self.suffix
        picture = compose(pixels, alpha, **self.composition)
        try:
            content = encode(picture, suffix)
        except UserError as error:
            return _Result(photograph.name, f"{photograph.name} cannot be written: {error}")
        _write(photograph.picture, content)
        return _Result(photograph.name, is_empty=not alpha.any())


def _write(path: Path | None, content: bytes) -> None:
    """Write a file atomically. None: standard output."""
    if path is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    with atomic_path(path) as part:
        part.write_bytes(content)


def _size(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Return the (width, height) of `--canvas`."""
    if value is None:
        return None
    if not (found := re.fullmatch(r"(\d+)x(\d+)", value)):
        raise click.BadParameter(f"{value} is not like 800x600, width x height.")
    return int(found[1]), int(found[2])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@click.argument("out", metavar="OUT")
@click.option(
    "--model",
    default="cars",
    show_default=True,
    metavar="NAME|PATH",
    help="The packaged model cars, or a file.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="On the probability; otherwise the model's.",
)
@click.option(
    "--background",
    default="transparent",
    show_default=True,
    metavar="COLOR|FILE|blur|transparent",
    help="What is behind the car: '#fff', white, a picture, or the blurred photograph.",
)
@click.option("--crop", is_flag=True, help="Show only the car and a margin.")
@click.option("--canvas", callback=_size, metavar="WxH", help="Center the car on a picture of this size.")
@click.option(
    "--margin",
    type=click.FloatRange(0, 50, max_open=True),
    default=5,
    show_default=True,
    metavar="PERCENT",
    help="Free space on each side, with --crop and --canvas.",
)
@click.option(
    "--mask", "masks", is_flag=True, help="Also write NAME_mask.png, the mask of the whole photograph."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["png", "webp"]),
    help="Of the cut-outs; otherwise as OUT ends, or png.",
)
@click.option("--overwrite", is_flag=True, help="Also cut out photographs that were cut out before.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where the network computes.",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Photographs in work at once; otherwise one per core."
)
def cut(inputs: Sequence[str], out: str, **options: Any) -> None:
    """Cut the cars out of photographs.

    IN is a file, a folder with its subfolders, a pattern in quotes, several of these, or - for standard input. OUT is a
    folder, a file that ends in .png or .webp, or - for standard output. In a folder, cut-outs with the same options are
    kept unless the photograph is newer, so the same command continues after an interruption.

    Exit status: 0 if every photograph is cut out, 1 if not, 2 if the command is wrong, 130 after Ctrl-C.
    """
    try:
        found, composition = _check(inputs, out, options)
    except UserError as error:
        raise click.UsageError(str(error)) from error
    summary = _Summary(len(found.photographs) + len(found.problems), found.ignored, found.problems)
    try:
        todo = _choose(found, composition, options)
        summary.existing = len(found.photographs) - len(todo)
        if todo:
            cutter = _load(composition, options, reads=todo[0].source is None)
            for result in _cut_all(cutter, todo, options["workers"]):
                summary.add(result)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("Interrupted. The same command continues.", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    finally:
        click.echo("\n".join(summary.lines()), err=True)
    if summary.problems:
        raise click.exceptions.Exit(1)


def _check(inputs: Sequence[str], out: str, options: Mapping[str, Any]) -> tuple[Found, Composition]:
    """Return the photographs and the options of `compose`. Everything is checked that takes no time.

    Raises:
        UserError: The command is wrong.
    """
    if out == STREAM and sys.stdout.isatty():
        raise UserError("A picture cannot be shown in a terminal. Redirect the output: > car.png")
    margin, canvas = options["margin"] / 100, options["canvas"]
    check_layout(margin, canvas)
    background = read_background(options["background"])
    if not path_of(options["model"]).is_file():
        raise UserError(
            f"The model {shown(options['model'])} is not a file. The packaged model is called cars."
        )
    suffix = f".{options['kind']}" if options["kind"] else None
    found = find_photographs(inputs, out, suffix=suffix, masks=options["masks"])
    return found, {
        "background": "transparent" if background is None else background,
        "crop": options["crop"],
        "margin": margin,
        "canvas": canvas,
    }


def _choose(found: Found, composition: Composition, options: Mapping[str, Any]) -> list[Photograph]:
    """Return the photographs that are not cut out yet with these options.

    Raises:
        UserError: The model cannot be read, or the options cannot be recorded.
    """
    if not found.folder:
        return found.photographs
    background = composition["background"]
    decisive = {
        "model": Digests().of([path_of(options["model"])])[0],
        "threshold": options["threshold"],
        **composition,
        "background": sha256(background.tobytes()).hexdigest()
        if isinstance(background, np.ndarray)
        else background,
    }
    since = record_options(found.folder, json.dumps(decisive))
    return [each for each in found.photographs if options["overwrite"] or not each.is_done(since)]


def _load(composition: Composition, options: Mapping[str, Any], *, reads: bool) -> _Cutter:
    """Read standard input if it is a photograph, and load the model.

    Raises:
        UserError: The input is too large, the model cannot be read, or the machine does not have the device.
    """
    stream = sys.stdin.buffer.read(_LARGEST_STREAM + 1) if reads else b""
    if len(stream) > _LARGEST_STREAM:
        raise UserError("Standard input has more than 1 GiB.")
    from carvana_kedro.segmentation.prediction.predictor import Predictor  # takes a second

    predictor = Predictor.load(options["model"], threshold=options["threshold"], device=options["device"])
    return _Cutter(predictor, composition, f".{options['kind'] or 'png'}", stream)


def _cut_all(cutter: _Cutter, photographs: Sequence[Photograph], workers: int | None) -> Iterator[_Result]:
    """Yield the result for every photograph, in order. Each is decoded, predicted and encoded in one thread."""
    import torch

    threads = min(workers or usable_cores(), len(photographs))
    results = map_in_threads(
        cutter,
        photographs,
        size=_pixels,
        limit=_MOST_PIXELS,
        # More threads for one photograph would wait for each other on a busy machine.
        prepare=partial(torch.set_num_threads, 1),
        threads=threads,
    )
    yield from tqdm(results, "Cutting out", len(photographs), unit=" photographs", leave=False, disable=None)


def _pixels(photograph: Photograph) -> int:
    """Return the number of pixels of a photograph; 0 if it cannot be read, which is reported later."""
    try:
        if photograph.source:
            with open_image(photograph.source) as image:
                return image.width * image.height
    except UnusableImageError:
        pass
    return 0
