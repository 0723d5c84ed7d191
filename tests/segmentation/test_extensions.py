from collections.abc import Callable
from typing import Any

import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.prediction.segmenter import Segmenter
from carvana_kedro.segmentation.training.build import Run, build_training, check_recipe, choose_hardware
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.segmentation.training.losses import build_loss
from carvana_kedro.segmentation.training.optimizers import build_optimizer
from carvana_kedro.segmentation.training.recipe import Recipe
from my_extensions import DerivedFromUNet, Reordered, SignDescent, TinyNet, focal_loss

RECIPE: dict[str, Any] = {
    "architecture": "my_extensions.TinyNet",
    "input_size": {"width": 48, "height": 32},
    "batch_size": 2,
    "epochs": 1,
    "optimizer": {"name": "adamw", "learning_rate": 0.01},
    "device": "cpu",
}


def _recipe(**changes: Any) -> Recipe:
    return Recipe.from_dict({**RECIPE, **changes})


def test_a_network_is_built_by_its_dotted_path_alone_or_with_arguments() -> None:
    assert isinstance(build_network("my_extensions.TinyNet"), TinyNet)
    network = build_network({"type": "my_extensions.TinyNet", "channels": 5})
    assert network.get_parameter("reduce.weight").shape[0] == 5


def test_a_recipe_of_extensions_alone_passes_the_check_and_trains() -> None:
    recipe = _recipe(
        architecture={"type": "my_extensions.TinyNet", "dropout": 0.5},
        loss={"type": "my_extensions.focal_loss", "gamma": 1.0},
        optimizer={"name": "my_extensions.SignDescent", "learning_rate": 0.1, "damping": 0.5},
    )
    check_recipe(recipe)
    network = build_network(recipe.architecture)
    geometry = Geometry.of(network, recipe.input_size)
    run = build_training(recipe, network, geometry, choose_hardware(recipe), steps_per_epoch=3)
    assert isinstance(run.optimizer, SignDescent)
    assert run.optimizer.param_groups[0]["damping"] == 0.5
    logits, targets = torch.randn(2, 4, 4), torch.rand(2, 4, 4)
    assert run.loss(logits, targets) == focal_loss(logits, targets, gamma=1.0)
    assert run.description["architecture"] == recipe.architecture


def test_a_loss_may_be_a_class() -> None:
    loss = build_loss({"type": "my_extensions.SquaredError", "weight": 3.0})
    assert loss(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "unet"},
            r"model_training.architecture = 'unet': unknown architecture. Available: .*unet_1024",
        ),
        ({"architecture": "nowhere.Net"}, "architecture nowhere.Net cannot be loaded: Python finds no module nowhere"),
        ({"architecture": "my_extensions.Net"}, "the module my_extensions does not define Net"),
        ({"architecture": "torch.nn.ReLU"}, "torch.nn.ReLU is not a valid architecture: it must be a class"),
        (
            {"architecture": {"type": "my_extensions.TinyNet", "depth": 3}},
            "cannot be called with {'depth': 3}: got an unexpected keyword argument 'depth'",
        ),
        ({"architecture": {"type": "unet_small", "depth": 3}}, "unet_small takes no arguments. Remove: depth"),
        ({"width_multiplier": 0.5}, "TinyNet takes no width_multiplier"),
        ({"architecture": "my_extensions.TwoLogits"}, r"returns \(1, 2, 32, 48\) for 1 image\(s\) of 32 x 48"),
        (
            {"architecture": "my_extensions.FullyConnected"},
            r"FullyConnected fails for 1 image\(s\) of 32 x 48 \(height x width\): RuntimeError: mat1 and mat2 shapes",
        ),
        (
            {"architecture": "my_extensions.GlobalNorm", "accumulation_steps": 2},
            r"GlobalNorm cannot be trained on batches of 1 image\(s\) of 32 x 48",
        ),
        ({"pretrained": True}, "TinyNet has no pretrained weights"),
        ({"architecture": "smp:Unet"}, "write smp:NAME/ENCODER, such as smp:Unet/resnet34"),
        ({"loss": {"type": "my_extensions.loss_by_image"}}, "must return a scalar tensor"),
        ({"loss": {"type": "my_extensions.focal_loss", "beta": 1}}, "cannot be called with {'beta': 1}"),
        ({"loss": {"type": "my_extensions.RECIPE"}}, "the module my_extensions does not define RECIPE"),
        ({"optimizer": {"name": "sgdd", "learning_rate": 1.0}}, "unknown optimizer. Available: sgd, rmsprop"),
        (
            {"optimizer": {"name": "my_extensions.SignDescent", "learning_rate": 1.0, "momentum": 0.9}},
            "cannot be called with .*'momentum': 0.9",
        ),
        ({"optimizer": {"name": "torch.nn.Linear", "learning_rate": 1.0}}, "torch.nn.Linear is not a valid optimizer"),
        ({"architecture": "my_extensions.OddMargin"}, "does not fit the input size 32 x 48 .*ValueError"),
        (
            {"architecture": {"type": "my_extensions.TinyNet", "dropout": 7.0}},
            "cannot be created with {'dropout': 7.0}: ValueError",
        ),
        ({"loss": {"type": "my_extensions.LossWithState"}}, r"has parameters or buffers \(weight\)"),
        ({"optimizer": {"name": "torch.optim.Adam", "learning_rate": 0.1, "fused": True}}, "has fused, which"),
        ({"optimizer": {"name": "torch.optim.NAdam", "learning_rate": 0.1, "lr": 0.5}}, "has lr, which"),
        ({"optimizer": {"name": "torch.optim.LBFGS", "learning_rate": 0.1}}, "LBFGS cannot step: TypeError"),
        ({"optimizer": {"name": "torch.optim.SparseAdam", "learning_rate": 0.1}}, "SparseAdam cannot step"),
        (
            {"optimizer": {"name": "torch.optim.Adam", "learning_rate": 0.1, "betas": [2, 3]}},
            "Adam cannot be created with .*ValueError",
        ),
        ({"callbacks": ["my_extensions.TinyNet"]}, "TinyNet, which is not a valid callback"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_recipe(_recipe(**changes))


def test_a_network_that_needs_two_images_to_learn_gets_them() -> None:
    check_recipe(_recipe(architecture="my_extensions.GlobalNorm"))


def test_an_optimizer_by_path_takes_weight_decay_only_if_it_is_set() -> None:
    weights = [torch.nn.Parameter(torch.ones(1))]
    assert build_optimizer(
        weights, name="torch.optim.Rprop", learning_rate=0.1, weight_decay=0.0, momentum=0.0
    )
    decayed = build_optimizer(weights, name="torch.optim.NAdam", learning_rate=0.1, weight_decay=0.2)
    assert decayed.param_groups[0]["weight_decay"] == 0.2


@pytest.mark.parametrize("network", [Reordered(), DerivedFromUNet()])
def test_batch_norm_is_fused_only_where_the_network_allows_it(network: Any) -> None:
    """Fused by the order of the children, this network would predict something else without a word."""
    torch.manual_seed(0)
    network.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr, operator]
    network.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    images = torch.randint(256, (1, 32, 48, 3), dtype=torch.uint8)
    segmenter = Segmenter(network, Geometry.of(network, (32, 48)))
    with torch.no_grad():
        expected = network.eval()(images.permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(segmenter(images), expected)


def test_a_resumed_run_draws_the_dropout_of_an_uninterrupted_one(setup: Callable[..., Run]) -> None:
    def fresh() -> Run:
        torch.manual_seed(0)
        recipe = _recipe(architecture={"type": "my_extensions.TinyNet", "dropout": 0.5}, epochs=2)
        network = build_network(recipe.architecture)
        _, *batches = setup()
        geometry = Geometry.of(network, (32, 48))
        steps = len(batches[0])
        return Run(
            build_training(recipe, network, geometry, choose_hardware(recipe), steps_per_epoch=steps),
            *batches,
        )

    whole = fresh()
    train(*whole)
    run = fresh()
    run.training.interrupted = lambda: run.training.steps == 4
    with pytest.raises(TrainingInterruptedError):
        train(*run)
    resumed = fresh()
    resumed.training.restore(run.training.state())
    torch.rand(7)  # whatever else draws random numbers in between
    train(*resumed)
    for one, other in zip(
        whole.training.network.parameters(), resumed.training.network.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    other_seed = fresh()
    other_seed.training.seed += 1
    train(*other_seed)
    assert whole.training.history[-1]["train_loss"] != other_seed.training.history[-1]["train_loss"]
