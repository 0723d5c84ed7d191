"""`carvana-kedro cut`: cut the cars out of photographs. It needs no project and does not import Kedro."""

import errno
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
from numpy.typing import NDArray
from tqdm import tqdm

from carvana_kedro.commands.photographs import STREAM, Found, Photograph, find_photographs
from carvana_kedro.errors import UserError, shown
from carvana_kedro.segmentation.prediction.composition import (
    Composition,
    canvas_of,
    check_layout,
    compose,
    read_background,
)
from carvana_kedro.segmentation.prediction.doubt import DOUBTFUL
from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.images.decoding import UnusableImageError, open_image
from carvana_kedro.stores.images.encoding import LARGEST_WEBP, encode
from carvana_kedro.stores.images.reading import read_image
from carvana_kedro.stores.machine import usable_cores
from carvana_kedro.stores.processes import map_in_threads
from carvana_kedro.weights import path_of

if TYPE_CHECKING:
    from carvana_kedro.segmentation.prediction.predictor import Predictor

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a shell: 128 + SIGINT."""

_OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
"""Errors that concern a single file: the next one can be written."""

_MOST_PIXELS = 100_000_000  # in progress at once: a photograph takes about 25 bytes per pixel
_LARGEST_STREAM = 1 << 30  # bytes


class _Result(NamedTuple):
    """What became of a photograph.

    Attributes:
        problem: Why it was not cut out.
        remark: Why to look at the cut-out.
    """

    problem: str = ""
    remark: str = ""


@dataclass
class _Summary:
    """What a command has done, for its last lines."""

    total: int
    ignored: int
    problems: list[str]
    existing: int = 0
    replaced: int = 0
    written: int = 0
    remarks: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, result: _Result) -> None:
        """Count a photograph."""
        if result.problem:
            self.problems.append(result.problem)
            return
        self.written += 1
        if result.remark:
            self.remarks.append(result.remark)

    def lines(self) -> list[str]:
        """Return the lines to print."""
        seconds = time.monotonic() - self.started
        rate = f" ({self.written / seconds:.2g} per second)" if self.written > 1 else ""
        photographs = "photograph" if self.total == 1 else "photographs"
        lines = [f"Cut out {self.written} of {self.total} {photographs} in {seconds:.1f} s{rate}."]
        if self.existing:
            lines.append(f"Cut out before, and skipped: {self.existing}. To cut them out again: --overwrite")
        if self.replaced:
            lines.append(f"Cut out before from other photographs or with other options: {self.replaced}.")
        if self.ignored:
            lines.append(f"Not images, and ignored: {self.ignored}.")
        return [*lines, *self.remarks, *self.problems]


@dataclass(frozen=True)
class _Cutter:
    """Cuts out photographs, in any thread.

    Attributes:
        predictor: Predicts the masks.
        composition: The options of `compose`.
        options: What decides how the files look: see `Photograph.mark`.
        suffix: Of a picture that is written to standard output.
        stream: The photograph that was read from standard input.
    """

    predictor: "Predictor"
    composition: Composition
    options: str
    suffix: str
    stream: bytes

    def __call__(self, photograph: Photograph) -> _Result:
        """Cut out a photograph, and write its files.

        Raises:
            UserError: A file cannot be written, or the output of the network is not finite.
        """
        mark = photograph.mark(self.options)
        try:
            pixels = read_image(photograph.source or self.stream, name=photograph.name)
        except UserError as error:
            return _Result(problem=str(error))
        prediction = self.predictor.predict_one(pixels)
        mask = prediction.mask(self.predictor.threshold)
        alpha = prediction.alpha(mask, self.predictor.threshold)
        picture = compose(pixels, alpha, **self.composition)
        if problem := self._save(photograph, mask, picture, mark):
            return _Result(problem=problem)
        if not mask.any():
            return _Result(remark=f"{photograph.name} shows no car: its cut-out is empty.")
        if prediction.doubt() > DOUBTFUL:
            return _Result(
                remark=f"{photograph.name} is unlike the photographs of the training: look at its cut-out."
            )
        return _Result()

    def _save(
        self, photograph: Photograph, mask: NDArray[np.bool_], picture: NDArray[np.uint8], mark: str
    ) -> str:
        """Write the files of a photograph. Return the problem that concerns only them; empty: there is none."""
        suffix = photograph.picture.suffix.lower() if photograph.picture else self.suffix
        try:
            content = encode(picture, suffix, software=mark)
        except UserError as error:
            return f"{photograph.name} cannot be written: {error}"
        try:
            if photograph.mask:
                _write(photograph.mask, encode(mask, ".png", software=mark))
            _write(photograph.picture, content)
        except UserError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _OF_ONE_NAME:
                return str(error)
            raise
        return ""


def _write(path: Path | None, content: bytes) -> None:
    """Write a file atomically. None: standard output.

    Raises:
        UserError: It cannot be written.
    """
    if path is None:
        try:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # the reader wants no more
            raise
        except OSError as error:
            raise UserError(f"Standard output cannot be written: {error.strerror}.") from error
        return
    with atomic_path(path) as part:
        part.write_bytes(content)


def _canvas(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    try:
        return None if value is None else canvas_of(value)
    except UserError as error:
        raise click.BadParameter(str(error)) from error


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", metavar="IN...", nargs=-1)
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
@click.option("--canvas", callback=_canvas, metavar="WxH", help="Center the car on a picture of this size.")
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
@click.option("--workers", type=click.IntRange(1, 256), help="Photographs at once; otherwise one per core.")
def cut(inputs: Sequence[str], out: str, **options: Any) -> None:
    """Cut the cars out of photographs.

    IN is a file, a folder with its subfolders, a pattern in quotes, several of these, or - for standard input. OUT is a
    folder, a file that ends in .png or .webp, or - for standard output. Cut-outs of the same photograph with the same
    options are kept, so the same command continues after an interruption. Files of other programs are not replaced.

    Exit status: 0 if every photograph is cut out, 1 if not, 2 if the command is wrong, 130 after Ctrl-C.
    """
    try:
        _cut(inputs, out, options)
    except KeyboardInterrupt:
        click.echo("Interrupted. The same command continues.", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


def _cut(inputs: Sequence[str], out: str, options: Mapping[str, Any]) -> None:
    try:
        found, composition = _check(inputs, out, options)
    except UserError as error:
        raise click.UsageError(str(error)) from error
    summary = _Summary(len(found.photographs) + len(found.problems), found.ignored, found.problems)
    try:
        decisive = _decisive(composition, options)
        todo = _choose(found.photographs, decisive, options["overwrite"], summary)
        if todo:
            cutter = _load(composition, decisive, options, reads=todo[0].source is None)
            for result in _cut_all(cutter, todo, options["workers"]):
                summary.add(result)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    finally:
        click.echo("\n".join(summary.lines()), err=True)
    if summary.problems:
        raise click.exceptions.Exit(1)


def _check(inputs: Sequence[str], out: str, options: Mapping[str, Any]) -> tuple[Found, Composition]:
    """Return the photographs and the options of `compose`. Everything is checked that takes no time.

    Raises:
        UserError: The command is wrong.
    """
    if not inputs:
        raise UserError(
            f"Two arguments are needed: IN and OUT. For example: carvana-kedro cut {shown(out)} out"
        )
    if "" in (out, options["background"], options["model"], *inputs):
        raise UserError("An argument is empty. Is a variable of the shell not set?")
    if out == STREAM and sys.stdout.isatty():
        raise UserError("A picture cannot be shown in a terminal. Redirect the output: > car.png")
    margin, canvas, threshold = options["margin"] / 100, options["canvas"], options["threshold"]
    check_layout(margin, canvas)
    if threshold is not None and not 0 < threshold < 1:  # NaN
        raise UserError(f"The threshold is above 0 and below 1, not {threshold}.")
    suffix = f".{options['kind']}" if options["kind"] else None
    if canvas and max(canvas) > LARGEST_WEBP and ".webp" in (suffix, Path(out).suffix.lower()):
        raise UserError(f"A webp image has at most {LARGEST_WEBP} pixels per side. Choose --format png.")
    try:
        background = read_background(options["background"])
        if not path_of(options["model"]).is_file():
            raise UserError(
                f"The model {shown(options['model'])} is not a file. The packaged model is called cars."
            )
        found = find_photographs(inputs, out, suffix=suffix, masks=options["masks"])
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{shown(str(error.filename))} cannot be used: {error.strerror}.") from error
    return found, {
        "background": "transparent" if background is None else background,
        "crop": options["crop"],
        "margin": margin,
        "canvas": canvas,
    }


def _decisive(composition: Composition, options: Mapping[str, Any]) -> str:
    """Return what decides how the files look, besides the photograph."""
    background = composition["background"]
    if isinstance(background, np.ndarray):
        background = sha256(background.tobytes()).hexdigest()
    return repr(
        (
            Digests().of([path_of(options["model"])])[0],
            options["threshold"],
            background,
            composition["crop"],
            composition["canvas"],
            composition["margin"] if composition["crop"] or composition["canvas"] else None,
        )
    )


def _choose(
    photographs: Sequence[Photograph], decisive: str, overwrite: bool, summary: _Summary
) -> list[Photograph]:
    """Return the photographs to cut out, and count the others in the summary."""
    todo = []
    for photograph in photographs:
        state = photograph.state(decisive)
        if overwrite or state == "new":
            todo.append(photograph)
        elif state == "changed":
            todo.append(photograph)
            summary.replaced += 1
        elif state == "done":
            summary.existing += 1
        else:
            files = " or ".join(shown(str(path)) for path in photograph.files)
            summary.problems.append(
                f"{photograph.name} is left out: {files} exists, and this command did not write it. Choose another "
                "OUT, or replace it: --overwrite"
            )
    return todo


def _load(composition: Composition, decisive: str, options: Mapping[str, Any], *, reads: bool) -> _Cutter:
    """Read standard input if it is a photograph, and load the model.

    Raises:
        UserError: The input is too large, the model cannot be read, or the machine does not have the device.
    """
    stream = sys.stdin.buffer.read(_LARGEST_STREAM + 1) if reads else b""
    if len(stream) > _LARGEST_STREAM:
        raise UserError("Standard input has more than 1 GiB.")
    from carvana_kedro.segmentation.prediction.predictor import Predictor  # takes a second

    predictor = Predictor.load(options["model"], threshold=options["threshold"], device=options["device"])
    return _Cutter(predictor, composition, decisive, f".{options['kind'] or 'png'}", stream)


def _cut_all(cutter: _Cutter, photographs: Sequence[Photograph], workers: int | None) -> Iterator[_Result]:
    """Yield the result for every photograph, in order. Each is decoded, predicted and encoded in one thread."""
    import torch

    threads = min(workers or usable_cores(), len(photographs))
    results = map_in_threads(
        cutter,
        photographs,
        size=partial(_pixels, canvas=cutter.composition["canvas"]),
        limit=_MOST_PIXELS,
        # More threads for one photograph would wait for each other on a busy machine.
        prepare=partial(torch.set_num_threads, 1),
        threads=threads,
    )
    yield from tqdm(results, "Cutting out", len(photographs), unit=" photographs", leave=False, disable=None)


def _pixels(photograph: Photograph, canvas: tuple[int, int] | None) -> int:
    """Return the number of pixels of a photograph or of its cut-out, whichever is larger."""
    pixels = canvas[0] * canvas[1] if canvas else 0
    try:
        if photograph.source:
            with open_image(photograph.source) as image:
                return max(pixels, image.width * image.height)
    except UnusableImageError:  # reading it will say why
        pass
    return pixels
