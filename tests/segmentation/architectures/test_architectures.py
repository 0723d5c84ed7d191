import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import ARCHITECTURES, build_network
from carvana_kedro.segmentation.architectures.base import SegmentationNetwork
from carvana_kedro.segmentation.architectures.unet_original import UNetOriginal

PARAMETERS = {
    "unet_original": 31_390_721,
    "unet_small": 1_184_649,
    "unet_lite0": 3_588_369,
    "unet_128": 46_983_745,
    "unet_256": 34_593_345,
    "unet_512": 34_611_489,
    "unet_1024": 35_371_873,
    "unet_resnet34": 24_436_241,
}
PADDED = [name for name in ARCHITECTURES if name != "unet_original"]


@pytest.fixture(params=ARCHITECTURES)
def name(request):
    return request.param


@pytest.fixture
def network(name):
    torch.manual_seed(0)
    return build_network(name, width_multiplier=1 / 32)


@pytest.fixture
def images(name):
    size = (188, 204) if name == "unet_original" else (64, 96)
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def on_meta(name):
    with torch.device("meta"):
        return build_network(name)


def test_the_number_of_parameters_is_known(name):
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) == PARAMETERS[name]


def test_every_parameter_has_a_finite_gradient(network, images):
    logits = network(images)
    assert logits.shape == (2, *network.output_size(images.shape[2:]))
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


def test_evaluation_is_deterministic_and_independent_of_the_other_images(network, images):
    network.eval()
    with torch.no_grad():
        logits = network(images)
        assert torch.equal(logits, network(images))
        torch.testing.assert_close(logits[1:], network(images[1:]), rtol=1e-4, atol=1e-5)


def test_channels_last_gives_the_same_logits(network, images):
    network.eval()
    with torch.no_grad():
        expected = network(images)
        network.to(memory_format=torch.channels_last)
        logits = network(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_finite_under_autocast(network, images):
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    logits.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_weights_survive_saving_and_loading(name, network, images):
    other = build_network(name, width_multiplier=1 / 32)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(images), network.eval()(images))


@pytest.mark.parametrize("name", PADDED)
@pytest.mark.parametrize("size", [(65, 97), (71, 64), (127, 64)])
def test_padded_networks_take_odd_sizes_that_are_not_square(network, size):
    assert network.output_size(size) == size
    assert network(torch.rand(2, 3, *size)).shape == (2, *size)


@pytest.mark.parametrize("name", PADDED)
def test_padded_networks_refuse_images_that_are_too_small(network):
    least = network.stride
    assert network.eval()(torch.rand(1, 3, least, least)).shape == (1, least, least)
    with pytest.raises(UserError, match=rf"{least - 1} x 300 .*nearest valid size is {least} x 300"):
        network.output_size((least - 1, 300))


@pytest.mark.parametrize("name", ["unet_original"])
@pytest.mark.parametrize("size", [(188, 188), (188, 220), (236, 204)])
def test_unet_original_returns_the_center_of_the_image(network, size):
    assert network(torch.rand(2, 3, *size)).shape == (2, size[0] - 184, size[1] - 184)


def test_unet_original_has_the_papers_output_size():
    network = on_meta("unet_original")
    assert network(torch.empty(3, 3, 572, 572, device="meta")).shape == (3, 388, 388)


@pytest.mark.parametrize("name", ["unet_original"])
def test_unet_original_refuses_unsupported_sizes(network):
    with pytest.raises(UserError, match="190 x 188"):
        network(torch.rand(1, 3, 190, 188))


def follow_the_valid_convolutions(length):
    """Return the output length for an input length, or None if a length cannot be halved."""
    for _ in range(4):
        length -= 4
        if length <= 0 or length % 2:
            return None
        length //= 2
    for _ in range(4):
        length = 2 * (length - 4)
    return length - 4 if length > 4 else None


class TestSizesOfValidConvolutions:
    network = UNetOriginal(width_multiplier=1 / 64)

    @given(st.integers(1, 3000), st.integers(1, 3000))
    def test_output_size_agrees_with_following_the_layers(self, height, width):
        expected = (follow_the_valid_convolutions(height), follow_the_valid_convolutions(width))
        if None in expected:
            with pytest.raises(UserError, match=f"The input size {height} x {width} "):
                self.network.output_size((height, width))
        else:
            assert self.network.output_size((height, width)) == expected

    @given(st.integers(0, 100), st.integers(0, 100))
    def test_legal_sizes_have_known_output_sizes(self, i, j):
        assert self.network.output_size((188 + 16 * i, 188 + 16 * j)) == (4 + 16 * i, 4 + 16 * j)

    @pytest.mark.parametrize(
        ("size", "message"),
        [
            ((570, 572), "heights are 556 and 572, the nearest valid widths are 572"),
            ((573, 100), "heights are 572 and 588, the nearest valid widths are 188"),
            ((0, 187), "heights are 188, the nearest valid widths are 188"),
        ],
    )
    def test_the_error_names_the_nearest_legal_sizes(self, size, message):
        with pytest.raises(UserError, match=message):
            self.network.output_size(size)


def test_the_error_about_an_unknown_name_lists_the_available_ones():
    with pytest.raises(
        UserError, match=r"'unet_2048': unknown architecture. Available: unet_original, .*unet_resnet34"
    ):
        build_network("unet_2048")


def test_every_network_is_a_segmentation_network(network):
    assert isinstance(network, SegmentationNetwork)


def test_the_narrowest_network_has_at_least_one_channel_per_layer(name, images):
    assert build_network(name, width_multiplier=1e-6)(images).isfinite().all()


class TestPretrained:
    @pytest.fixture
    def weights(self):
        from torchvision.models import resnet34

        torch.manual_seed(0)
        return resnet34(weights=None).eval()

    def test_torchvisions_weights_fit_the_encoder(self, monkeypatch, weights):
        from torchvision.models.resnet import ResNet34_Weights

        monkeypatch.setattr(ResNet34_Weights, "get_state_dict", lambda *args, **kwargs: weights.state_dict())
        encoder = build_network("unet_resnet34", pretrained=True).encoder.eval()
        images = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            x = weights.maxpool(weights.relu(weights.bn1(weights.conv1(images))))
            expected = weights.layer4(weights.layer3(weights.layer2(weights.layer1(x))))
            torch.testing.assert_close(encoder(images)[-1], expected)

    def test_a_failed_download_gives_random_weights_and_a_warning(self, monkeypatch, caplog):
        from torchvision.models.resnet import ResNet34_Weights

        def fail(*args, **kwargs):
            raise OSError("Name or service not known")

        monkeypatch.setattr(ResNet34_Weights, "get_state_dict", fail)
        with caplog.at_level(logging.WARNING):
            network = build_network("unet_resnet34", pretrained=True)
        assert "random weights" in caplog.text
        assert "Name or service not known" in caplog.text
        assert network.encoder.conv1.weight.std() > 0

    def test_pretrained_weights_need_the_full_width(self):
        with pytest.raises(UserError, match="width multiplier of 1"):
            build_network("unet_resnet34", width_multiplier=0.5, pretrained=True)

    @pytest.mark.parametrize(
        "name", [name for name in ARCHITECTURES if name not in ("unet_lite0", "unet_resnet34")]
    )
    def test_networks_without_pretrained_weights_refuse_the_option(self, name):
        with pytest.raises(UserError, match="no pretrained weights"):
            build_network(name, width_multiplier=1 / 32, pretrained=True)
