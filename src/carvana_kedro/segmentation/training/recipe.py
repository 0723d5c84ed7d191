"""A recipe: everything that says how one network is trained, as plain values.

This module needs neither torch nor pydantic: the parameters file's validated form becomes a `Recipe`, and so does the
same file read with PyYAML alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.extensions import Spec, is_extension

Switch = Literal["auto"] | bool


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that says how a network is trained.

    Attributes:
        architecture: What `build_network` takes: a name, or a dotted path alone or with arguments.
        input_size: (height, width) of the images that the network takes.
        batch_size: Images per step of the optimizer.
        epochs: Passes over the training images.
        optimizer: Arguments of `build_optimizer`: `name`, `learning_rate`, ...
        width_multiplier: Scales the channels of every layer.
        pretrained: Start from ImageNet weights; a path: from those of this file.
        init_from: Start from the weights of this model, a name or a path, and ignore `pretrained`: see `read_start`.
        accumulation_steps: Parts that a batch is computed in, one after the other, to save memory.
        folds: Car folds: the number of models, each trained without a part of the cars; 0 for one model.
        seed: Of the weights, the order of the images and the augmentation.
        threshold: On the probability, in (0, 1).
        loss: Arguments of `segmentation_loss`; or `type`, the dotted path of another loss, with its arguments.
        schedule: Arguments of `build_schedule`: `name`, `warmup_fraction`, ...
        clip_gradient_norm: The norm that the gradient is scaled down to; 0: never.
        ema_decay: Decay of the moving average of the weights, which then is the model; 0: no average.
        augmentation: Arguments of `Augmentation`.
        best_by: The number of an epoch's record that decides which model is kept.
        early_stopping: Epochs without a better one after which training ends; 0: never.
        max_skipped_steps: Steps without a finite loss and gradient after which training stops.
        device, precision, channels_last, compile, fused: See `Hardware.choose`.
        num_workers: Processes that read images; 0: this one.
        cache: Where decoded images are kept: see `Cache`.
        checkpoint_minutes: Between two checkpoints within one epoch.
        keep_checkpoints: Checkpoints of each kind that are kept.
        logged_images: Validation images shown in TensorBoard.
        devices: Processes on each machine, each with a GPU of its own or on the CPU; auto: all GPUs, or one process.
        nodes: Machines.
        rendezvous: HOST:PORT at which several machines find each other.
        batch_norm: Whether BatchNorm's statistics in training are those of the images of all processes (global), or
            of each alone (local).
        max_restarts: How often training starts again after a process has been lost.
        callbacks: The user's own: dotted paths, or mappings with `type` and arguments.
    """

    architecture: Spec
    input_size: tuple[int, int]
    batch_size: int
    epochs: int
    optimizer: Mapping[str, Any]
    width_multiplier: float = 1.0
    pretrained: bool | str = False
    init_from: str | None = None
    accumulation_steps: int = 1
    folds: int = 0
    seed: int = 2017
    threshold: float = 0.5
    loss: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    clip_gradient_norm: float = 0.0
    ema_decay: float = 0.0
    augmentation: Mapping[str, float] = field(default_factory=dict)
    best_by: str = "val_dice_coeff"
    early_stopping: int = 0
    max_skipped_steps: int = 10
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "bfloat16", "float16", "tf32", "float32"] = "auto"
    channels_last: Switch = "auto"
    compile: Switch = "auto"
    fused: Switch = "auto"
    num_workers: int = 0
    cache: Literal["auto", "none", "memory", "memmap", "device"] = "auto"
    checkpoint_minutes: float = 10
    keep_checkpoints: int = 2
    logged_images: int = 2
    devices: Literal["auto"] | int = "auto"
    nodes: int = 1
    rendezvous: str | None = None
    batch_norm: Literal["global", "local"] = "global"
    max_restarts: int = 3
    callbacks: tuple[Spec, ...] = ()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read a recipe as it stands in the parameters file.

        Args:
            content: The recipe, its `input_size` as `{width, height}`.

        Raises:
            UserError: A key is unknown, or one that has no default is missing.

        >>> Recipe.from_dict({
        ...     "architecture": "unet_small", "input_size": {"width": 96, "height": 64}, "batch_size": 4, "epochs": 2,
        ...     "optimizer": {"name": "adamw", "learning_rate": 0.003},
        ... }).input_size
        (64, 96)
        """
        names = [entry.name for entry in fields(cls)]
        if unknown := sorted(content.keys() - set(names)):
            raise UserError(f"Unknown key in a recipe: {', '.join(unknown)}. Available: {', '.join(names)}.")
        required = ("architecture", "input_size", "batch_size", "epochs", "optimizer")
        if missing := [name for name in required if name not in content]:
            raise UserError(f"A recipe lacks {', '.join(missing)}.")
        size = content["input_size"]
        values = {**content, "input_size": (size["height"], size["width"])}
        return cls(**values | {"callbacks": tuple(values.get("callbacks", ()))})

    def extensions(self) -> list[str]:
        """Return the dotted paths and smp names of the network, the loss and the optimizer, which decide the result."""
        names = [
            self.architecture if isinstance(self.architecture, str) else self.architecture.get("type"),
            self.loss.get("type"),
            self.optimizer.get("name"),
        ]
        return [name for name in names if isinstance(name, str) and is_extension(name)]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters as one mapping, with the keys joined by dots.

    >>> flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [3]})
    {'a.b': 1, 'a.c.d': 2, 'e': [3]}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
