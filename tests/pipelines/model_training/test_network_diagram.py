import re

import torch

from carvana_kedro.pipelines.model_training.network_diagram import draw_example_network
from carvana_kedro.segmentation.architectures import build_network


def test_the_diagram_has_the_shapes_of_the_network() -> None:
    network = build_network("unet_small")
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> None:
        module = network.get_submodule(name)
        module.register_forward_hook(lambda _, __, output: shapes.update({name: tuple(output.shape[1:])}))

    stages = [
        *(f"encoder.{level}" for level in range(5)),
        "centre",
        *(f"decoder.{level}" for level in range(5)),
    ]
    for name in stages:
        keep(name)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 256, 384))
    drawn = re.findall(
        r'^\w+\["(\d+) channels, (\d+) x (\d+)"\]', draw_example_network().content, re.MULTILINE
    )
    assert [tuple(map(int, shape)) for shape in drawn] == [
        (channels, width, height) for channels, height, width in map(shapes.__getitem__, stages)
    ]
