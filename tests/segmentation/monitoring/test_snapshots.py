import hashlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.monitoring.snapshots import Snapshots


@pytest.fixture
def state() -> dict[str, Any]:
    """The state of a run with a moving average, whose weights are in it twice, in the channels_last layout."""
    torch.manual_seed(0)
    network = build_network("unet_small", width_multiplier=0.25).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    ema = AveragedModel(network)
    return {
        "model": {"weights": ema.module.state_dict(), "threshold": None},
        "network": network.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 10).state_dict(),
        "history": [{"epoch": 1, "val_loss": 0.5}],
    }


def _digest(content: object) -> str:
    file = BytesIO()
    torch.save(content, file)
    return hashlib.sha256(file.getvalue()).hexdigest()


def _tensors(content: object) -> Iterator[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _tensors(value)


def test_a_file_of_a_snapshot_has_the_bytes_of_a_file_of_the_state(state: dict[str, Any]) -> None:
    snapshots = Snapshots()
    assert _digest(snapshots.take(state)) == _digest(state)
    for weight in _tensors(state):
        weight += 1
    assert _digest(snapshots.take(state)) == _digest(state)  # in the memory of the first one


def test_a_snapshot_does_not_change_with_the_state(state: dict[str, Any]) -> None:
    before = _digest(state)
    snapshot = Snapshots().take(state)
    for tensor in _tensors(state):
        tensor.zero_()
    state["history"].append({"epoch": 2})
    state["history"][0]["val_loss"] = 0.0
    state["optimizer"]["param_groups"][0]["lr"] = 5.0
    assert _digest(snapshot) == before


def test_the_memory_of_a_snapshot_is_used_again(state: dict[str, Any]) -> None:
    snapshots = Snapshots()
    first, second = (
        {tensor.data_ptr() for tensor in _tensors(snapshots.take(state)) if tensor.numel()} for _ in range(2)
    )
    assert first == second
    assert first.isdisjoint(tensor.data_ptr() for tensor in _tensors(state))
