"""What a training run holds, and how it is put down in a checkpoint and taken up again."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.data.augmentation import Augmentation
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.hardware import Hardware
from carvana_kedro.segmentation.metrics.threshold_curve import ThresholdCurve

Record = dict[str, float]


@dataclass(frozen=True)
class Step:
    """What came of one step, for callbacks.

    Attributes:
        number: of the epoch, from 1.
        steps: in the epoch.
        loss: mean over the batch.
        dice_coeff: mean over the batch's images.
        gradient_norm: over all weights, before clipping.
        skipped: whether loss or gradient was no finite number, so that nothing was learned.
        rescaled: whether it was skipped only because float16's loss scale was too large, which is how it is found.
        image_ids: of the batch.
        images: (N, 3, h, w) float32, as the network saw them, on the device.
        targets: (N, h, w) float32.
    """

    number: int
    steps: int
    loss: float
    dice_coeff: float
    gradient_norm: float
    skipped: bool
    rescaled: bool
    image_ids: Sequence[str]
    images: Tensor
    targets: Tensor


@dataclass
class Progress:
    """How far the epoch under way has come.

    `steps` counts all of them; the lists have a number for each that was not skipped. Times are in seconds.
    """

    steps: int = 0
    loss: list[float] = field(default_factory=list)
    dice_coeff: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, step: Step) -> None:
        """Count a step."""
        self.steps += 1
        if not step.skipped:
            self.loss.append(step.loss)
            self.dice_coeff.append(step.dice_coeff)
            self.gradient_norm.append(step.gradient_norm)

    def means(self) -> Record:
        """Return the means over the steps that were not skipped."""
        names = ("loss", "dice_coeff", "gradient_norm")
        return {name: float(np.mean(getattr(self, name) or [math.nan])) for name in names}


@dataclass
class Training:
    """All that a training run holds; callbacks are handed it and may look at everything.

    The result is a function of these values alone: the order of the images, the augmentation and the random numbers of
    a step are functions of (seed, epoch, image or step). So a run that is restored from a checkpoint ends like an
    uninterrupted one, on a CPU bit for bit.

    Attributes:
        network: on the device.
        geometry: of the network at its input size.
        optimizer: steps the network's weights.
        schedule: stepped after every step of the optimizer; ReduceLROnPlateau after every epoch.
        loss: (logits (N, h, w), targets (N, h, w) in [0, 1]) to a scalar.
        augmentation: of the training images.
        hardware: what to compute on, and how.
        seed: of the augmentation.
        epochs: how many there will be at most.
        description: architecture and origin, stored with the weights.
        about: plain values that every checkpoint holds: parameters, versions.
        threshold: on the probability, for the Dice coefficient.
        ema: of the weights (EMA), which is then what is validated and stored as the model.
        accumulation_steps: how many parts a batch is split into, one after the other, to save memory.
        clip_gradient_norm: the norm that the gradient is scaled down to; 0: never.
        best_by: the number of the epochs' records that says which is best; of losses the lowest, else the highest.
        patience: epochs without a better one after which the run ends; 0: never.
        max_skipped_steps: the run stops when so many steps were skipped.
        interrupted: tells whether to save and leave.
        flop: operations a training step takes for an image, and
        peak: operations a second that the machine is capable of, for the share of it that was used; 0: not known.
        history: a record an epoch: epoch, train_loss, train_dice_coeff, val_loss, val_dice_coeff, best_threshold,
            learning_rate, gradient_norm, skipped_steps, images_per_second, data_wait_share, share_of_peak, seconds.
        progress: of the epoch under way.
        steps: of the optimizer in all epochs, skipped ones included.
        skipped: how many steps were skipped, those apart that found float16's loss scale.
        last_batch: images, targets and logits of the last validation batch, for pictures.
        curve: of the last validation, by threshold.
    """

    network: SegmentationNetwork
    geometry: Geometry
    optimizer: Optimizer
    schedule: LRScheduler
    loss: Callable[[Tensor, Tensor], Tensor]
    augmentation: Augmentation
    hardware: Hardware
    seed: int
    epochs: int
    description: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    threshold: float = 0.5
    ema: AveragedModel | None = None
    accumulation_steps: int = 1
    clip_gradient_norm: float = 0.0
    best_by: str = "val_dice_coeff"
    patience: int = 0
    max_skipped_steps: int = 10
    interrupted: Callable[[], bool] = lambda: False
    flop: float = 0.0
    peak: float = 0.0
    history: list[Record] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    steps: int = 0
    skipped: int = 0
    last_batch: tuple[Tensor, Tensor, Tensor] | None = None
    curve: ThresholdCurve | None = None

    def __post_init__(self) -> None:
        """float16 loses small gradients: its loss is scaled up before the backward pass."""
        scaled = self.hardware.precision == torch.float16
        self.scaler = torch.amp.GradScaler(self.hardware.device.type, enabled=scaled)

    @property
    def epoch(self) -> int:
        """The epoch under way, from 1."""
        return len(self.history) + 1

    @property
    def finished(self) -> bool:
        """Whether the run has its epochs, or has waited long enough for a better one."""
        waited = len(self.history) - self.best_epoch
        return len(self.history) >= self.epochs or 0 < self.patience <= waited

    @property
    def best_epoch(self) -> int:
        """The best epoch so far, from 1; the first of equals. 0 if there is none yet."""
        if not self.history:
            return 0
        sign = -1 if self.best_by.endswith("loss") else 1
        scores = [sign * record[self.best_by] for record in self.history]
        # NaN is worse than any number.
        return int(np.argmax(np.nan_to_num(scores, nan=-math.inf))) + 1

    @property
    def model(self) -> torch.nn.Module:
        """The network that is validated and stored: the average of the weights where there is one."""
        return self.network if self.ema is None else self.ema.module

    def seed_step(self) -> None:
        """Seed torch for this step: dropout is a function of (seed, epoch, step), like everything that is random."""
        sequence = np.random.SeedSequence((self.seed, self.epoch, self.progress.steps))
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def predict(self, network: torch.nn.Module, images: Tensor) -> Tensor:
        """Return the logits (N, h, w) of images (N, 3, h, w) fitted to the output size."""
        with self.hardware.autocast():
            logits: Tensor = network(self.geometry.pad(images))
        return logits

    def tensors(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Move a uint8 batch to the device as floats in [0, 1]: (N, 3, h, w) and (N, h, w)."""
        # (N, h, w, 3) seen as (N, 3, h, w) is what channels_last means: no copy.
        device = self.hardware.device
        images = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
        return images, targets.to(device, non_blocking=True).float() / 255

    def augmented(self, positions: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return a uint8 batch on the device, changed as this epoch's draws for these images say."""
        images, targets = self.tensors(images, targets)
        draws = self.augmentation.draw(self.seed, self.epoch, positions.tolist())
        return self.augmentation.apply(images, targets, draws.to(images.device, non_blocking=True))

    def end_epoch(self, validated: Record, images: int, seconds: float) -> None:
        """Add the epoch's record to the history.

        Args:
            validated: what `evaluate` found.
            images: that were trained on.
            seconds: of the validation.
        """
        trained, progress = self.progress.means(), self.progress
        speed = images / progress.seconds
        self.history.append(
            {
                "epoch": self.epoch,
                "train_loss": trained["loss"],
                "train_dice_coeff": trained["dice_coeff"],
                **validated,
                "learning_rate": float(self.schedule.get_last_lr()[0]),
                "gradient_norm": trained["gradient_norm"],
                "skipped_steps": progress.steps - len(progress.loss),
                "images_per_second": speed,
                "data_wait_share": progress.waited / progress.seconds,
                "share_of_peak": self.flop * speed / self.peak if self.flop and self.peak else math.nan,
                "seconds": progress.seconds + seconds,
            }
        )
        self.progress = Progress()
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(self.history[-1][self.best_by])

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: tensors and plain values."""
        return {
            "model": {
                **self.description,
                "best_threshold": self.history[-1]["best_threshold"] if self.history else None,
                "weights": self.model.state_dict(),
            },
            "network": self.network.state_dict(),
            "ema": self.ema and self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "progress": asdict(self.progress),
            "steps": self.steps,
            "skipped": self.skipped,
            "finished": self.finished,
            "best_epoch": self.best_epoch,
            "about": dict(self.about),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the run where `state()` was asked for."""
        self.network.load_state_dict(state["network"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = list(state["history"])
        self.progress = Progress(**state["progress"])
        self.steps, self.skipped = state["steps"], state["skipped"]
