"""A diagram of a network, which Kedro-Viz shows at the node that trains."""

from itertools import pairwise

from kedro.pipeline.preview_contract import MermaidPreview

from carvana_kedro.segmentation.architectures.unet import WIDTHS

_EXAMPLE = "unet_small"
_SIZE = (384, 256)  # (width, height): that of the recipe `sample`


def draw_example_network() -> MermaidPreview:
    """Draw a padded U-Net with the shapes of its feature maps.

    Kedro passes no parameters, so the diagram is that of one architecture, whatever the run's recipe is.
    """
    widths = WIDTHS[_EXAMPLE]
    depth = len(widths.encoder)
    sizes = [f"{_SIZE[0] >> level} x {_SIZE[1] >> level}" for level in range(depth + 1)]
    down = [*(f"e{level}" for level in range(depth)), "centre"]
    up = ["centre", *(f"d{level}" for level in reversed(range(depth)))]
    lines = [
        "flowchart TB",
        f'image["{_EXAMPLE}: image<br>3 channels, {sizes[0]}"] --> e0',
        *map(_stage, down, (*widths.encoder, widths.centre[-1]), sizes),
        *map(_stage, up[1:], widths.decoder, sizes[-2::-1]),
        *(f"{above} -- halved --> {below}" for above, below in pairwise(down)),
        *(f"{below} -- doubled --> {above}" for below, above in pairwise(up)),
        *(f"e{level} -. concatenated .-> d{level}" for level in range(depth)),
        f'd0 --> mask["logits of the mask<br>{sizes[0]}"]',
    ]
    return MermaidPreview("\n".join(lines))


def _stage(name: str, channels: int, size: str) -> str:
    return f'{name}["{channels} channels<br>{size}"]'
