import pytest
import torch
from torch import Tensor, nn

from carvana_kedro.segmentation.architectures import SegmentationNetwork, build_network
from carvana_kedro.segmentation.architectures.unet import WIDTHS, UNet
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.segmentation.prediction.segmenter import Segmenter
from pretended_cuda import GPU, Operations, is_channels_last, pretended_cuda

# Not narrower: torch enlarges fewer than 16 channels in another layout.
NETWORKS = [
    ("unet_small", 1.0, (64, 96)),
    ("unet_lite0", 1.0, (64, 96)),
    ("unet_resnet34", 0.5, (64, 96)),
    ("unet_original", 0.25, (188, 204)),
]


@pytest.mark.parametrize(("architecture", "width_multiplier", "size"), NETWORKS)
def test_on_a_gpu_every_convolution_gets_bfloat16_in_channels_last(
    architecture: str, width_multiplier: float, size: tuple[int, int]
) -> None:
    network = build_network(architecture, width_multiplier=width_multiplier)
    segmenter = Segmenter(network, Geometry.of(network, size))
    assert not segmenter.needs_autocast
    segmenter.convert_weights(GPU.precision)
    with pretended_cuda(segmenter):
        images = torch.empty(2, *segmenter.geometry.output_size, 3, dtype=torch.uint8, device=GPU.device)
        with Operations() as operations:
            logits = segmenter(images)
    convolutions = [module for module in segmenter.modules() if isinstance(module, nn.Conv2d)]
    assert len(operations.inputs_of_convolutions) == len(convolutions)
    for features in operations.inputs_of_convolutions:
        assert (features.device, features.dtype) == (GPU.device, torch.bfloat16)
        assert is_channels_last(features), features.stride()
    assert (logits.dtype, logits.shape) == (torch.float32, (2, *segmenter.geometry.output_size))


class Normalized(SegmentationNetwork):
    """A network of other people: its BatchNorm cannot be folded, and it adds a float32 tensor."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.convolution = nn.Conv2d(3, 1, kernel_size=1)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        standardized = self.norm(images - self.mean)
        return self.convolution(standardized + torch.ones(3, 1, 1))[:, 0]


def test_other_networks_run_under_autocast_with_statistics_and_buffers_in_float32() -> None:
    torch.manual_seed(0)
    network = Normalized().train()
    network(torch.rand(4, 3, 8, 16))  # statistics that are not 0 and 1
    predictor = Predictor([network], (8, 16), device="cpu", precision="bfloat16")
    (segmenter,) = predictor._segmenters
    assert segmenter.needs_autocast
    dtypes = {name: tensor.dtype for name, tensor in segmenter.network.state_dict().items()}
    assert dtypes.pop("convolution.weight") == dtypes.pop("convolution.bias") == torch.bfloat16
    assert dtypes.pop("norm.num_batches_tracked") == torch.int64
    assert set(dtypes.values()) == {torch.float32}
    images = torch.randint(256, (2, 8, 16, 3), dtype=torch.uint8)
    expected = Predictor([network], (8, 16), device="cpu", precision="float32").logits(images)
    torch.testing.assert_close(predictor.logits(images), expected, rtol=0.02, atol=0.02)


def test_a_class_derived_from_a_network_of_this_package_keeps_autocast() -> None:
    class Derived(UNet):
        pass

    widths = WIDTHS["unet_small"]
    needs = [
        Segmenter(network, Geometry.of(network, (64, 96))).needs_autocast
        for network in (UNet(widths, 0.1), Derived(widths, 0.1))
    ]
    assert needs == [False, True]
