import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.hardware import (
    choose_device,
    choose_precision,
    mixed_precision,
    usable_workers,
)


def test_auto_is_the_best_there_is() -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == best


def test_a_device_that_is_not_there_is_told() -> None:
    # No machine has both.
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match=rf"device={absent}: .*There is: .*cpu"):
        choose_device(absent)


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_what_convolutions_run_in(name: str, dtype: torch.dtype) -> None:
    device = torch.device("cpu")
    assert choose_precision(name, device) == dtype  # type: ignore[arg-type]
    with mixed_precision(device, dtype):
        assert torch.nn.Conv2d(1, 1, 1)(torch.zeros(1, 1, 4, 4)).dtype == dtype


def test_there_are_no_more_workers_than_processors() -> None:
    assert usable_workers(0) == 0
    assert usable_workers(1) == 1
    assert 1 <= usable_workers(10_000) < 10_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_is_bfloat16_on_a_recent_gpu() -> None:
    assert choose_precision("auto", torch.device("cuda")) == torch.bfloat16
