from typing import Any

import pytest
import torch

from carvana_kedro.segmentation.architectures import build


@pytest.fixture
def model() -> dict[str, Any]:
    """An untrained model, as training stores it."""
    torch.manual_seed(0)
    return {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": [32, 48],
        "weights": build("unet_small", width_multiplier=0.25).state_dict(),
        "threshold": 0.5,
        "run_id": "run",
    }
