import pytest
import torch

from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.model import TrainedModel


@pytest.fixture
def model() -> TrainedModel:
    """An untrained model."""
    torch.manual_seed(0)
    content = {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": [32, 48],
        "weights": build_network("unet_small", width_multiplier=0.25).state_dict(),
        "threshold": 0.5,
        "run_id": "run",
    }
    return TrainedModel.from_dict(content)
