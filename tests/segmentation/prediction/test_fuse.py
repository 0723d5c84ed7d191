import pytest
import torch
from torch import nn

from carvana_kedro.segmentation.architectures import ARCHITECTURES, build_network
from carvana_kedro.segmentation.prediction.fuse import fuse_batch_norm


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_folding_removes_every_batch_norm_and_keeps_the_logits(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, width_multiplier=1 / 8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics like those of a trained network
            for values, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                nn.init.uniform_(values, low, high)
    images = torch.rand(2, 3, 220, 236 if name == "unet_original" else 230)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fuse_batch_norm(network)
    with torch.no_grad():
        expected, found = network.eval()(images), folded(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
