"""Several processes train as one does. Each number of processes is started once, for all tests."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from benchmarks.distributed import (
    CASES,
    OTHERS,
    RECIPE,
    built,
    differences,
    largest_difference,
    run_everywhere,
)
from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.architectures.global_batch_norm import GlobalBatchNorm
from carvana_kedro.segmentation.training import build
from carvana_kedro.segmentation.training.distributed import ALONE, World
from carvana_kedro.segmentation.training.loop import train
from ranks import LONGER, Found, everything

SIZES = (1, 2, 4)


@pytest.fixture(scope="module")
def found() -> dict[int, list[Found]]:
    return {size: run_everywhere(everything, size) for size in SIZES}


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def rows(found: dict[int, list[Found]]) -> dict[tuple[Any, Any], dict[str, Any]]:
    everywhere = {size: [rank.results for rank in ranks] for size, ranks in found.items()}
    return {(row["case"], row["processes"]): row for row in differences(everywhere)}


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("case", CASES)
def test_several_processes_train_as_one_does(
    rows: dict[tuple[Any, Any], dict[str, Any]], case: str, size: int
) -> None:
    row = rows[case, size]
    assert row["skipped steps"] == rows[case, 1]["skipped steps"] == (case == "skipped steps")
    assert max(row[part] for part in ("network", "ema", "optimizer", "history") if part in row) < 1e-10


@pytest.mark.parametrize("size", SIZES[1:])
def test_the_first_step_in_float32_is_that_of_one_process(
    rows: dict[tuple[Any, Any], dict[str, Any]], size: int
) -> None:
    assert rows["first step in float32", size]["network"] < 1e-6


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("case", [*CASES, *OTHERS])
def test_all_processes_have_the_same_weights_and_history(
    rows: dict[tuple[Any, Any], dict[str, Any]], case: str, size: int
) -> None:
    assert rows[case, size]["between processes"] == 0


def test_local_batch_norm_and_dropout_depend_on_the_number_of_processes(
    found: dict[int, list[Found]],
) -> None:
    for case in OTHERS:
        one, two = (found[size][0].results[case].state["network"] for size in (1, 2))
        assert largest_difference(one, two) > 1e-4, case


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("image", "image_05 cannot be read"),
        ("workers", "image_05 cannot be read"),
        ("validation image", "image_13 cannot be read"),
        ("callback", "the disk is full"),
        ("interruption", "interrupted: Training was interrupted in epoch 2, after step 1"),
    ],
)
def test_an_error_of_one_process_is_raised_in_all(
    found: dict[int, list[Found]], size: int, failure: str, message: str
) -> None:
    for rank in found[size]:
        assert rank.messages[failure].startswith(message)


@pytest.mark.parametrize("size", SIZES)
def test_all_processes_keep_the_images_in_the_same_way(found: dict[int, list[Found]], size: int) -> None:
    assert [rank.caches for rank in found[size]] == [[True, False]] * size


@pytest.mark.parametrize("size", SIZES)
def test_an_error_in_validation_is_noticed_within_a_batch(found: dict[int, list[Found]], size: int) -> None:
    assert all(rank.validation_images_read <= size for rank in found[size])


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_batch_with_too_few_images_for_the_processes_is_refused(
    found: dict[int, list[Found]], size: int
) -> None:
    for rank in found[size]:
        assert f"too few images for {size} processes" in rank.messages["shares"]


@pytest.mark.parametrize("size", SIZES)
def test_a_resumed_run_ends_like_an_uninterrupted_one_of_as_many_processes(
    found: dict[int, list[Found]], size: int
) -> None:
    for rank in found[size]:
        assert rank.interrupted["steps"] == 3
        for part in ("network", "ema", "optimizer"):
            assert largest_difference(rank.uninterrupted[part], rank.resumed[part]) == 0


def test_one_process_goes_on_from_a_checkpoint_of_two(float64: None, found: dict[int, list[Found]]) -> None:
    run = built(LONGER, ALONE)
    run.training.restore(copy.deepcopy(found[2][0].interrupted))
    train(*run)
    for part in ("network", "ema", "optimizer"):
        assert largest_difference(found[1][0].uninterrupted[part], run.training.state()[part]) < 1e-10


def test_whole_items_are_dealt_from_the_last_on_and_collected_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for size in range(1, 5):
        for count in range(7):
            worlds = [World(rank, size) for rank in range(size)]
            hands = [world.deal(range(count)) for world in worlds]
            if count:
                assert hands[0][-1] == count - 1  # the leader draws pictures of it
            monkeypatch.setattr(World, "gather", lambda self, hand, hands=hands: [h[::-1] for h in hands])
            assert [worlds[0].collect(hands[0])] == [list(range(count))]


def test_shares_have_the_announced_sizes() -> None:
    for size in range(1, 5):
        for count in range(1, 12):
            for parts in range(1, 5):
                batch = torch.arange(count).numpy()
                split = [len(part) for part in torch.arange(count).chunk(parts)]
                shares = [World(rank, size).share_sizes(count, parts) for rank in range(size)]
                assert [sum(sizes) for sizes in zip(*shares, strict=True)] == split
                for rank, sizes in enumerate(shares):
                    assert len(World(rank, size).share(batch, parts)) == sum(sizes)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_global_batch_norm_is_batch_norm_where_the_mean_is_large(
    affine: bool, momentum: float | None
) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.BatchNorm2d(4, affine=affine, momentum=momentum))
    exact, converted = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    GlobalBatchNorm.convert(converted, lambda tensor: tensor)
    features = torch.randn(6, 4, 20, 30) / 10 + 100

    def results(network: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        images = features.to(dtype).requires_grad_()
        for _ in range(2):
            outputs = network(images)
        outputs.pow(3).sum().backward()
        assert images.grad is not None
        gradients = {name: weight.grad for name, weight in network.named_parameters()}
        return {
            "outputs": outputs.detach(),
            "images": images.grad,
            **gradients,
            **dict(network.named_buffers()),
        }

    expected = results(exact, torch.float64)
    errors = [
        {name: float((value - expected[name]).abs().max()) for name, value in found.items()}
        for found in (results(plain, torch.float32), results(converted, torch.float32))
    ]
    for name, of_torch in errors[0].items():  # float32 itself is this inexact, and each value is rounded
        rounding = torch.finfo(torch.float32).eps * float(expected[name].abs().max())
        assert errors[1][name] <= 2 * of_torch + rounding, name


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d, (6, 4)),
        (nn.BatchNorm1d, (6, 4, 5)),
        (nn.BatchNorm2d, (6, 4, 5, 3)),
        (nn.BatchNorm3d, (6, 4, 5, 3, 2)),
    ],
)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_each_batch_norm_becomes_a_global_one_of_the_same_results(
    layer: Any, shape: tuple[int, ...], momentum: float | None
) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(layer(4, momentum=momentum, dtype=torch.float64))
    converted: Any = build._with_global_batch_norm(copy.deepcopy(plain), World(), torch.device("cpu"))
    assert type(converted[0]) is GlobalBatchNorm
    for _ in range(2):
        features = torch.randn(shape, dtype=torch.float64).requires_grad_()
        gradients = [
            torch.autograd.grad(network(features).pow(3).sum(), (features, *network.parameters()))
            for network in (plain, converted)
        ]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)
    torch.testing.assert_close(plain.state_dict(), converted.state_dict(), rtol=0, atol=1e-14)
    torch.testing.assert_close(plain.eval()(features), converted.eval()(features))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_global_batch_norm_does_not_break_the_graph_of_a_compiled_network(momentum: float | None) -> None:
    network = nn.BatchNorm2d(2, momentum=momentum)
    GlobalBatchNorm.convert(network, lambda tensor: tensor)
    graphs = CompileCounter()
    torch.compile(lambda features: network(features).relu(), backend=graphs)(torch.randn(3, 2, 4, 4))
    assert graphs.frame_count == 1


def test_global_batch_norm_communicates_in_training_only() -> None:
    network = nn.BatchNorm2d(2, track_running_stats=False)
    features = torch.randn(3, 2, 4, 4)
    expected = network.eval()(features)
    totals = []
    GlobalBatchNorm.convert(network, lambda tensor: totals.append(tensor) or tensor)
    assert torch.equal(network(features), expected)
    assert totals == []
    network.train()(features)
    assert len(totals) == 2


def test_global_batch_norm_refuses_one_value_per_channel_of_all_processes() -> None:
    network = nn.BatchNorm2d(2)
    GlobalBatchNorm.convert(network, lambda tensor: tensor)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.randn(1, 2, 1, 1))
    cast(GlobalBatchNorm, network).total = lambda tensor: 2 * tensor
    network(torch.randn(1, 2, 1, 1))


class _OtherBatchNorm(nn.BatchNorm2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).relu()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_another_class_of_batch_norm_is_refused(device: str) -> None:
    network: Any = nn.Sequential(nn.Conv2d(3, 4, 1), _OtherBatchNorm(4))
    with pytest.raises(UserError, match=r"batch_norm=local, or devices=1"):
        build._with_global_batch_norm(network, World(0, 2), torch.device(device))


@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, GlobalBatchNorm.convert])
def test_global_batch_norm_leaves_the_names_of_the_weights(convert: Any) -> None:
    network = build_network("unet_small", width_multiplier=0.25)
    before = network.state_dict()
    arguments = () if convert is nn.SyncBatchNorm.convert_sync_batchnorm else (lambda tensor: tensor,)
    network = convert(network, *arguments) or network
    assert network.state_dict().keys() == before.keys()
    kinds = {type(module) for module in network.modules()}
    assert nn.BatchNorm2d not in kinds and kinds & {nn.SyncBatchNorm, GlobalBatchNorm}


@pytest.mark.parametrize(
    ("batch_size", "parts", "nodes", "images", "expected"),
    [
        (16, 1, 1, 1000, 8),
        (4, 1, 1, 1000, 4),
        (16, 4, 1, 1000, 4),
        (16, 1, 1, 6, 6),
        (16, 4, 1, 6, 2),
        (16, 1, 2, 6, 3),
    ],
)
def test_automatic_devices_can_share_a_batch(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, parts: int, nodes: int, images: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    recipe = replace(LONGER, device="cuda", batch_size=batch_size, accumulation_steps=parts, nodes=nodes)
    assert build.count_devices(recipe, images) == expected


def test_a_local_batch_norm_needs_several_values_in_each_process() -> None:
    recipe = replace(RECIPE, input_size=(32, 32), batch_size=2, devices=2)
    build.check_recipe(recipe)
    build.check_recipe(replace(recipe, batch_size=4, batch_norm="local"))
    with pytest.raises(UserError, match=r"batches of 1 image\(s\)"):
        build.check_recipe(replace(recipe, batch_norm="local"))
