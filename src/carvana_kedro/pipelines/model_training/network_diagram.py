"""A diagram of a network, which Kedro-Viz shows at the node that trains."""

from itertools import pairwise

from kedro.pipeline.preview_contract import MermaidPreview, Meta

from carvana_kedro.segmentation.architectures.unet import WIDTHS

_EXAMPLE = "unet_small"
_SIZE = (384, 256)  # (width, height): that of the recipe `sample`
# As large as it is, and low enough for the page: Kedro-Viz would cut off its top.
_STYLE: Meta = {
    "flowchart": {"useMaxWidth": False, "rankSpacing": 16, "nodeSpacing": 20, "padding": 6},
    "textStyle": {"whiteSpace": "nowrap"},
}


def draw_example_network() -> MermaidPreview:
    """Draw a padded U-Net with the shapes of its feature maps. Dotted arrows copy details from encoder to decoder.

    Kedro passes no parameters, so the diagram is that of one architecture, whatever the run's recipe is.
    """
    widths = WIDTHS[_EXAMPLE]
    depth = len(widths.encoder)
    sizes = [f"{_SIZE[0] >> level} x {_SIZE[1] >> level}" for level in range(depth + 1)]
    down = [*(f"e{level}" for level in range(depth)), "centre"]
    up = ["centre", *(f"d{level}" for level in reversed(range(depth)))]
    lines = [
        "flowchart TB",
        f'image["{_EXAMPLE}: 3 channels, {sizes[0]}"] --> e0',
        *map(_stage, down, (*widths.encoder, widths.centre[-1]), sizes),
        *map(_stage, up[1:], widths.decoder, sizes[-2::-1]),
        *(f"{source} --> {target}" for source, target in pairwise([*down, *up[1:]])),
        *(f"e{level} -.-> d{level}" for level in range(depth)),
        f'd0 --> mask["mask: {sizes[0]}"]',
    ]
    return MermaidPreview("\n".join(lines), meta=_STYLE)


def _stage(name: str, channels: int, size: str) -> str:
    return f'{name}["{channels} channels, {size}"]'
