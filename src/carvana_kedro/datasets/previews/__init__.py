"""Previews for Kedro-Viz, which finds the kind of a preview by the name of the annotation of what `preview` returns."""

import base64
import re
from collections.abc import Callable
from functools import wraps
from io import BytesIO
from typing import Any, Concatenate, ParamSpec, TypeVar

from kedro.io import AbstractDataset
from kedro_datasets._typing import HTMLPreview, ImagePreview
from PIL import Image, ImageOps

Data = TypeVar("Data", bound=AbstractDataset)
Arguments = ParamSpec("Arguments")

_SHAPE = 3 / 2  # width / height
# Kedro-Viz makes texts as wide as 60 % of the window, also in the narrower side panel.
_STYLE = (
    "<style>[class$=preview-html] .html-renderer {width: auto; padding-right: 24px} "
    ".html-renderer figure {margin: 12px 0} .html-renderer img {max-width: 100%}</style>"
)
# After an underscore: Kedro-Viz looks for the second of a pair only up to a line break, even one within a tag.
_GUARD = '<i class="line\nbreak"></i>'


def if_present(preview: Callable[Concatenate[Data, Arguments], Any]) -> Callable[..., Any]:
    """Decorate a method `preview` of a dataset: it returns None, no preview, if the data do not exist or are empty."""

    @wraps(preview)
    def preview_if_present(self: Data, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
        return (self.exists() and preview(self, *args, **kwargs)) or None

    return preview_if_present


def preview_of(image: Image.Image) -> ImagePreview:
    """Return an image for Kedro-Viz: a png file in base64, on white.

    Margins give it the shape of the side panel, into which Kedro-Viz stretches it.
    """
    width, height = image.size
    shape = max(width, round(_SHAPE * height)), max(height, round(width / _SHAPE))
    content = BytesIO()
    ImageOps.pad(on_white(image), shape, color="white").save(content, "png", compress_level=3)
    return ImagePreview(base64.b64encode(content.getvalue()).decode())


def on_white(image: Image.Image) -> Image.Image:
    """Return an RGB image with white in place of what is transparent."""
    solid = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")


def html_preview(html: str) -> HTMLPreview:
    """Return HTML for Kedro-Viz, which also takes line breaks and pairs of underscores for Markdown.

    >>> html_preview("<p>a_b\\n  c</p><pre>d\\n  e</pre>").removesuffix(_STYLE).replace(_GUARD, "|")
    '<p>a_|b c</p><pre>d<br>  e</pre>'
    """
    prose_and_code = re.split("(<pre>.*?</pre>)", html, flags=re.DOTALL)
    for number, block in enumerate(prose_and_code):
        prose_and_code[number] = "<br>".join(block.splitlines()) if number % 2 else " ".join(block.split())
    text = re.sub(r"_(?![^<>]*>)", f"_{_GUARD}", "".join(prose_and_code))  # not within tags
    return HTMLPreview(text + _STYLE)
