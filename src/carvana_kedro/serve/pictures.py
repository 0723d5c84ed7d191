"""From the bytes of a photograph to what the server answers."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana_kedro.errors import UserError, shown
from carvana_kedro.segmentation.prediction.composition import Color, canvas_of, color_of, compose
from carvana_kedro.segmentation.prediction.prediction import check_threshold
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.serve.bodies import Upload
from carvana_kedro.serve.limits import Limits, RefusedError
from carvana_kedro.stores.images.decoding import UnusableImageError, open_image, read_rgb
from carvana_kedro.stores.images.encoding import encode

Format = Literal["png", "webp"]
Output = Literal["cutout", "mask", "probabilities"]

PREVIEW_SIDE = 1024  # pixels of the longer side of a preview, at most
_MOST_CANVAS = 50_000_000  # pixels
_MOST_NAME = 100  # letters of the name of a file in a message


@dataclass(frozen=True)
class CutOptions:
    """The options of a request: see `from_query`.

    Attributes:
        output: What to return.
        format: Of the file.
        threshold: On the probability; None: the predictor's.
        background: `transparent`, `blur`, or a color: see `compose`.
        crop: Whether to show only the car and a margin.
        canvas: (width, height) of the picture; None: as the photograph.
    """

    output: Output = "cutout"
    format: Format = "png"
    threshold: float | None = None
    background: str | Color = "transparent"
    crop: bool = False
    canvas: tuple[int, int] | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "CutOptions":
        """Read the query of a request.

        Raises:
            RefusedError: A name or a value is unknown.

        >>> CutOptions.from_query({"threshold": "0.4", "canvas": "800x600"}).canvas
        (800, 600)
        """
        if unknown := [name for name in query if name not in _READERS]:
            raise RefusedError(400, f"Unknown parameter {shown(unknown[0])}. Known: {', '.join(_READERS)}.")
        return cls(**{name: _value(name, text) for name, text in query.items()})


def _value(name: str, text: str) -> Any:
    read, rule = _READERS[name]
    try:
        return read(text)
    except (ValueError, KeyError, UserError):
        raise RefusedError(400, f"{name} must be {rule}, not {shown(text)}.") from None


def _one_of(choices: Any) -> tuple[Callable[[str], str], str]:
    known = {choice: choice for choice in get_args(choices)}
    return known.__getitem__, " or ".join(known)


def _threshold(text: str) -> float:
    threshold = float(text)
    check_threshold(threshold)
    return threshold


def _background(text: str) -> str | Color:
    """Return a background that is no path: a request must not read files of the server."""
    if text in ("transparent", "blur"):
        return text
    if color := color_of(text):
        return color
    raise ValueError


def _canvas(text: str) -> tuple[int, int]:
    width, height = canvas_of(text)
    if width * height > _MOST_CANVAS:
        raise ValueError
    return width, height


_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "output": _one_of(Output),
    "format": _one_of(Format),
    "threshold": (_threshold, "above 0 and below 1"),
    "background": (_background, "transparent, blur or a color such as white or ffffff"),
    "crop": ({"true": True, "false": False}.__getitem__, "true or false"),
    "canvas": (_canvas, "WIDTHxHEIGHT, from 16 to 16384 pixels per side and 50 million in total"),
}


class Picture(NamedTuple):
    """A file to return.

    Attributes:
        content: The bytes of the file.
        share: Of the pixels that belong to the car.
    """

    content: bytes
    share: float


def cut(upload: Upload, options: CutOptions, predictor: Predictor, limits: Limits) -> Picture:
    """Return what a request asks for, at the size of the photograph.

    Raises:
        RefusedError: The photograph cannot be used.
    """
    image = _read(upload, limits)
    prediction = predictor.predict_one(image)
    threshold = predictor.threshold if options.threshold is None else options.threshold
    mask = prediction.mask(threshold)
    share = float(mask.mean())
    if options.output == "mask":
        return Picture(_encode(mask, options.format), share)
    if options.output == "probabilities":
        return Picture(_encode(_levels(prediction.probabilities()), options.format), share)
    picture = compose(
        image,
        prediction.alpha(mask, threshold),
        background=options.background,
        crop=options.crop,
        canvas=options.canvas,
    )
    return Picture(_encode(picture, options.format), share)


def preview(upload: Upload, predictor: Predictor, limits: Limits) -> dict[str, Any]:
    """Return a reduced photograph and its probabilities, as data URLs.

    Raises:
        RefusedError: The photograph cannot be used.
    """
    height, width = predictor.geometry.output_size
    image = _read(upload, limits, (max(height, PREVIEW_SIDE), max(width, PREVIEW_SIDE)))
    prediction = predictor.predict_one(image)
    scale = min(1, PREVIEW_SIDE / max(image.shape[:2]))
    size = tuple(max(1, round(scale * side)) for side in image.shape[:2])
    small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA) if scale < 1 else image
    probabilities = replace(prediction, size=(size[0], size[1])).probabilities()
    return {
        "width": size[1],
        "height": size[0],
        "photograph": _data_url("jpeg", _encode(cast(NDArray[np.uint8], small), "jpg")),
        "probabilities": _data_url("png", _encode(_levels(probabilities), "png")),
    }


def _read(upload: Upload, limits: Limits, at_least: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    name = shown(upload.name[:_MOST_NAME]) or "The photograph"
    try:
        with open_image(upload.content) as image:
            width, height = image.size
        if height * width > limits.pixels:
            raise RefusedError(
                413,
                f"{name} is {width}x{height} pixels: the limit of this server is {limits.pixels / 1e6:g} million.",
            )
        return cast(NDArray[np.uint8], read_rgb(upload.content, at_least))
    except UnusableImageError as error:
        raise RefusedError(422, f"{name} {error}.") from error


def _levels(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return probabilities as levels 0..255."""
    return cast(NDArray[np.uint8], cv2.convertScaleAbs(probabilities, alpha=255))


def _encode(pixels: NDArray[np.bool_] | NDArray[np.uint8], kind: str) -> bytes:
    try:
        return encode(pixels, f".{kind}")
    except UserError as error:
        raise RefusedError(422, str(error)) from error


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
