"""Every network computes the numbers in `golden_logits.json`, so a change of its arithmetic is noticed.

The weights and images depend on the names of the tensors alone, not on PyTorch's initializers and random numbers. All
is computed in float64, so the numbers are the same on every CPU up to rounding. After an intended change of a network,
write the file again: `python tests/segmentation/architectures/test_golden_logits.py`. Models that were trained before
such a change predict something else after it.
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import Tensor

from carvana_kedro.segmentation.architectures import ARCHITECTURES, build_network
from carvana_kedro.segmentation.architectures.base import SegmentationNetwork

GOLDEN = Path(__file__).with_name("golden_logits.json")
WIDTH = 1 / 8
SIZES = {"unet_original": ((188, 204), (220, 236))}
PADDED_SIZES = ((64, 128), (131, 150))  # the second is odd at several scales
RANGES = {"weight": (0.5, 1.5), "bias": (0.0, 0.5), "running_mean": (-0.5, 0.5), "running_var": (0.5, 2.0)}
MODES = ("evaluation", "training")
TOLERANCE = 1e-9
"""As a share of the largest of the numbers that are compared."""

Numbers = dict[str, list[float]]


def numbers(name: str, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Return float64 numbers that depend on the name alone. NumPy guarantees that the stream never changes."""
    raw = np.random.PCG64(crc32(name.encode())).random_raw(math.prod(shape))
    return torch.from_numpy(low + (high - low) * (raw / 2.0**64)).reshape(shape)


def known_weights(name: str, before: Tensor) -> Tensor:
    """Return weights that keep the scale of the features, and statistics unlike those of a new network."""
    shape = tuple(before.shape)
    if not before.is_floating_point():
        return before  # a counter
    if before.dim() == 4:
        limit = math.sqrt(6 / math.prod(shape[1:]))  # He et al. 2015
        return numbers(name, shape, -limit, limit)
    low, high = RANGES[name.rpartition(".")[2]]
    return numbers(name, shape, low, high)


def known_network(name: str) -> SegmentationNetwork:
    network = build_network(name, width_multiplier=WIDTH).double()
    network.load_state_dict({key: known_weights(key, value) for key, value in network.state_dict().items()})
    return network


def summary(values: Tensor, count: int) -> list[float]:
    """Return mean, standard deviation, and some of the values, the first and the last among them."""
    array = values.detach().numpy().ravel()
    chosen = array[np.linspace(0, array.size - 1, count).round().astype(int)]
    return [float(f"{number:.12g}") for number in (array.mean(), array.std(), *chosen)]


def computed(name: str, size: tuple[int, int], mode: str) -> Numbers:
    """Compute what is stored: logits, the gradient of a weighted sum of them, and BatchNorm's statistics."""
    network = known_network(name).train(mode == "training")
    images = numbers("images", (2, 3, *size), 0, 1).requires_grad_()
    logits = network(images)
    (gradient,) = torch.autograd.grad((logits * numbers("sum", tuple(logits.shape), -1, 1)).sum(), images)
    found = {
        "shape": [float(length) for length in logits.shape],
        "logits": summary(logits, 16),
        "gradient": summary(gradient, 6),
    }
    for statistic in ("running_mean", "running_var") if mode == "training" else ():
        buffers = network.state_dict()
        chosen = [buffers[key] for key in sorted(buffers) if key.endswith(statistic)]
        found[statistic] = summary(torch.cat(chosen), 6)
    return found


def golden() -> Mapping[str, Mapping[str, Numbers]]:
    content: dict[str, Any] = json.loads(GOLDEN.read_text())
    return content


def case(size: tuple[int, int], mode: str) -> str:
    return f"{size[0]} x {size[1]}, {mode}"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_network_has_golden_logits() -> None:
    assert golden().keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_computes_its_golden_numbers(name: str, which: int, mode: str) -> None:
    size = SIZES.get(name, PADDED_SIZES)[which]
    expected, found = golden()[name][case(size, mode)], computed(name, size, mode)
    assert found.keys() == expected.keys()
    for kind, values in expected.items():
        np.testing.assert_allclose(
            found[kind], values, rtol=0, atol=TOLERANCE * np.abs(values).max(), err_msg=kind
        )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_golden_logits_depend_on_every_weight(name: str) -> None:
    """So no layer is dead in the test above, whose numbers would then not notice a change of that layer."""
    network = known_network(name).eval()
    logits = network(numbers("images", (2, 3, *SIZES.get(name, PADDED_SIZES)[1]), 0, 1))
    assert logits.std() > 0.1
    (logits * numbers("sum", tuple(logits.shape), -1, 1)).sum().backward()
    assert [key for key, weight in network.named_parameters() if weight.grad.norm() < 1e-6] == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float32_gives_the_golden_logits_up_to_rounding(name: str) -> None:
    size = SIZES.get(name, PADDED_SIZES)[1]
    with torch.inference_mode():
        logits = known_network(name).eval().float()(numbers("images", (2, 3, *size), 0, 1).float())
    expected = golden()[name][case(size, "evaluation")]["logits"]
    np.testing.assert_allclose(summary(logits, 16), expected, rtol=0, atol=1e-3 * np.abs(expected).max())


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit("Usage: python tests/segmentation/architectures/test_golden_logits.py")
    content = {
        name: {
            case(size, mode): computed(name, size, mode)
            for size in SIZES.get(name, PADDED_SIZES)
            for mode in MODES
        }
        for name in ARCHITECTURES
    }
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
