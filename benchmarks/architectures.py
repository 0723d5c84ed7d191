"""Print the parameters, sizes and forward GFLOP of every architecture.

Run `python -m benchmarks.architectures [--json]`. It counts on PyTorch's meta device, which computes nothing.
"""

import argparse
import json
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from carvana_kedro.segmentation.architectures import ARCHITECTURES, build_network

INPUT_SIZES = {  # (height, width) for which each network was designed
    "unet_original": (572, 572),
    "unet_small": (256, 384),
    "unet_128": (128, 128),
    "unet_256": (256, 256),
    "unet_512": (512, 512),
    "unet_1024": (1024, 1024),
    "unet_lite0": (256, 384),
    "unet_resnet34": (640, 960),
}


@dataclass(frozen=True)
class Measurement:
    """The size and cost of one architecture.

    Attributes:
        name: name of the architecture.
        parameters: number of trainable weights and biases.
        input_size: (height, width) in pixels.
        output_size: (height, width) in pixels.
        gflop: 10^9 floating-point operations of one image's forward pass: two per multiply-add of the convolutions.
            Other operations are not counted.
    """

    name: str
    parameters: int
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    gflop: float


def measure(name: str) -> Measurement:
    """Count the parameters and operations of an architecture at its design size."""
    height, width = INPUT_SIZES[name]
    with torch.device("meta"):
        network = build_network(name).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            logits = network(torch.empty(1, 3, height, width))
    return Measurement(
        name=name,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        input_size=(height, width),
        output_size=(logits.shape[1], logits.shape[2]),
        gflop=round(counter.get_total_flops() / 1e9, 2),
    )


def markdown(measurements: list[Measurement]) -> str:
    """Return the measurements as a Markdown table."""
    rows = ["| architecture | parameters | input → output | GFLOP forward |", "|---|---:|---|---:|"]
    for m in measurements:
        sizes = " → ".join(f"{height} x {width}" for height, width in (m.input_size, m.output_size))
        rows.append(f"| {m.name} | {m.parameters:,} | {sizes} | {m.gflop:.1f} |")
    return "\n".join(rows)


def main() -> None:
    """Print the table, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    as_json = parser.parse_args().json
    measurements = [measure(name) for name in ARCHITECTURES]
    print(json.dumps([asdict(m) for m in measurements], indent=2) if as_json else markdown(measurements))


if __name__ == "__main__":
    main()
