"""The state of a training run: what it consists of, how it is saved to a checkpoint, and how it is restored."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.data.augmentation import Augmentation
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.data.transfer import Upload, copy_async
from carvana_kedro.segmentation.hardware import Hardware
from carvana_kedro.segmentation.metrics.threshold_curve import ThresholdCurve
from carvana_kedro.segmentation.model import not_finite
from carvana_kedro.segmentation.training.average import WeightAverage
from carvana_kedro.segmentation.training.distributed import ALONE, World
from carvana_kedro.segmentation.training.optimizers import skips_updates

Record = dict[str, float]


@dataclass(frozen=True)
class Step:
    """The result of one training step, for callbacks.

    Attributes:
        number: Number of the step in its epoch, from 1.
        steps: Number of steps in the epoch.
        loss: Mean over the batch.
        dice_coeff: Mean over the images of the batch.
        gradient_norm: Norm over all weights, before clipping.
        skipped: Whether the step was skipped because its loss or gradient was not finite.
        rescaled: Whether it was skipped only because the loss scale of float16 was too large. Such steps are expected:
            this is how the scale is found.
        image_ids: Ids of the images in the batch. Of several processes, each has those of its share, except in a
            skipped step: there, all have the whole batch.
        images: (N, 3, h, w) float32 on the device, augmented, as the network received them.
        targets: (N, h, w) float32 on the device.
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
    """The progress of the current epoch.

    Attributes:
        steps: Number of steps so far, skipped ones included.
        loss, dice_coeff, gradient_norm: One number for each step that was not skipped.
        seconds: Duration of the steps.
        waited: Seconds in which the device was idle because it waited for images.
    """

    steps: int = 0
    loss: list[float] = field(default_factory=list)
    dice_coeff: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, step: Step) -> None:
        """Record a step."""
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
    """The complete state of a training run. Callbacks receive it and may read all of it.

    The result depends on these values only: the order of the images, the augmentation and the random numbers of a step
    are functions of (seed, epoch, image or step). A run that is restored from a checkpoint therefore ends like an
    uninterrupted one; on a CPU the two are bit-identical.

    Attributes:
        network: The network to train, on the device.
        geometry: Geometry of the network at its input size.
        optimizer: Updates the weights of the network.
        schedule: Learning-rate schedule, stepped after every step of the optimizer; ReduceLROnPlateau after every
            epoch.
        loss: Function from logits (N, h, w) and targets (N, h, w) in [0, 1] to a scalar.
        augmentation: Random changes of the training images.
        hardware: Device, precision and memory layout.
        seed: Seed of the augmentation and of dropout.
        epochs: Maximum number of epochs.
        description: Architecture and origin, stored with the weights.
        about: Plain values that every checkpoint holds: parameters, versions.
        threshold: On the probability, for the Dice coefficient.
        ema: Moving average of the weights. If there is one, it is validated and stored as the model.
        accumulation_steps: Number of parts that a batch is computed in, one after the other, to save memory.
        clip_gradient_norm: The norm that the gradient is scaled down to; 0: never.
        best_by: Entry of the records that decides which epoch is best: the lowest loss, or the highest Dice
            coefficient.
        patience: Number of epochs without improvement after which the run ends; 0: never.
        max_skipped_steps: Number of skipped steps after which the run stops.
        interrupted: Returns whether to save the run and stop.
        world: The processes that train the network together.
        replica: The network as it computes gradients, which are summed over the processes; None: the network itself.
        batch_size: Images per step in all processes; 0, for one process only: those that it receives.
        flop: Floating-point operations per image in a training step; 0: unknown.
        peak: Floating-point operations per second that the machine can do; 0: unknown.
        history: One record per epoch: epoch, train_loss, train_dice_coeff, val_loss, val_dice_coeff, best_threshold,
            learning_rate, gradient_norm, skipped_steps, images_per_second, data_wait_share, share_of_peak, seconds.
        progress: Progress of the current epoch.
        steps: Number of steps in all epochs, skipped ones included.
        skipped: Number of skipped steps, not counting rescaled ones (`Step.rescaled`).
        last_batch: Images, targets and logits of the last validation batch, for TensorBoard.
        curve: Scores of the last validation by threshold.
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
    ema: WeightAverage | None = None
    accumulation_steps: int = 1
    clip_gradient_norm: float = 0.0
    best_by: str = "val_dice_coeff"
    patience: int = 0
    max_skipped_steps: int = 10
    interrupted: Callable[[], bool] = lambda: False
    world: World = ALONE
    replica: DistributedDataParallel | None = None
    batch_size: int = 0
    flop: float = 0.0
    peak: float = 0.0
    history: list[Record] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    steps: int = 0
    skipped: int = 0
    last_batch: tuple[Tensor, Tensor, Tensor] | None = None
    curve: ThresholdCurve | None = None

    def __post_init__(self) -> None:
        """Build the loss scaler, and prepare how batches reach the network."""
        # Scaling is enabled for float16 only, in which small gradients would become 0.
        scaled = self.hardware.precision == torch.float16
        self.scaler = torch.amp.GradScaler(self.hardware.device.type, enabled=scaled)
        self._upload = Upload(self.hardware.device)
        # Compiled, the operations of the augmentation become a few kernels.
        self._augment = torch.compile(_augmented, dynamic=False) if self.hardware.compile else _augmented

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 1."""
        return len(self.history) + 1

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` epochs brought no improvement."""
        done = len(self.history)
        return done >= self.epochs or 0 < self.patience <= done - self.best_epoch

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch so far, from 1; of equal ones the first. 0 before the end of the first epoch."""
        if not self.history:
            return 0
        sign = -1 if self.best_by.endswith("loss") else 1
        scores = [sign * record[self.best_by] for record in self.history]
        # NaN counts as the worst score.
        return int(np.argmax(np.nan_to_num(scores, nan=-math.inf))) + 1

    @property
    def model(self) -> torch.nn.Module:
        """The network that is validated and stored: the moving average of the weights if there is one."""
        return self.network if self.ema is None else self.ema.module

    @property
    def completes_late(self) -> bool:
        """Whether the numbers of a step are read after the next one has begun; see `steps.py`.

        The first update is never late: if it is skipped, the optimizer must stay without a state.
        """
        return (
            self.hardware.asynchronous
            and skips_updates(self.optimizer)
            and not self.scaler.is_enabled()
            and self.steps > self.skipped
        )

    def seed_step(self, number: int) -> None:
        """Seed torch for a step of the epoch, from 1: dropout is a function of (seed, epoch, step, process)."""
        process = [self.world.rank] if self.world.rank else []  # other images need other numbers
        sequence = np.random.SeedSequence((self.seed, self.epoch, number - 1, *process))
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def predict(self, network: torch.nn.Module, images: Tensor) -> Tensor:
        """Compute the logits (N, h, w) of images (N, 3, h, w) at the output size."""
        with self.hardware.autocast():
            padded = self.geometry.pad(images).contiguous(memory_format=self.hardware.memory_format)
            logits: Tensor = network(padded)
        return logits

    def tensors(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Move a uint8 batch to the device as floats in [0, 1]: (N, 3, h, w) and (N, h, w)."""
        return _scaled(*self._upload(images, targets))

    def augmented(self, positions: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Move a uint8 batch to the device and augment it with this epoch's random changes of these images."""
        draws = self.augmentation.draw(self.seed, self.epoch, positions.tolist())
        if self.hardware.compile:  # a graph on a single device
            draws = copy_async(draws, self.hardware.device)
        images, targets = self._upload(images, targets)
        return self._augment(self.augmentation, images, targets, draws, self.hardware.memory_format)

    def end_epoch(self, validated: Record, images: int, seconds: float) -> None:
        """Add the epoch's record to the history.

        Args:
            validated: What `evaluate` returned.
            images: Number of images in the epoch.
            seconds: Duration of the validation.
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
        """Return the content of a checkpoint: tensors and plain values."""
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
        """Restore the run from what `state()` returned."""
        self.network.load_state_dict(state["network"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = list(state["history"])
        self.progress = Progress(**state["progress"])
        self.steps, self.skipped = state["steps"], state["skipped"]


def _scaled(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return uint8 images (N, h, w, 3) as floats in [0, 1], (N, 3, h, w), and their uint8 targets as floats too."""
    # A permuted (N, h, w, 3) tensor already has the channels_last layout: no copy.
    return images.permute(0, 3, 1, 2) / 255, targets / 255


def _augmented(
    augmentation: Augmentation,
    images: Tensor,
    targets: Tensor,
    draws: Tensor,
    memory_format: torch.memory_format,
) -> tuple[Tensor, Tensor]:
    """Return a uint8 batch augmented: see `Training.augmented`."""
    images, targets = augmentation.apply(*_scaled(images, targets), draws)
    # The targets are a part of the warped batch, which would stay in memory with them.
    return images.contiguous(memory_format=memory_format), targets.contiguous()


def divergence(network: Mapping[str, Tensor], model: Mapping[str, Tensor], last: Record | None) -> str:
    """Return how a run has diverged: weights, or losses at its end, that are not finite.

    Args:
        network: State dict of the trained network.
        model: State dict of the model, which may be the moving average.
        last: Record of the last epoch; None before the run is finished: the network may recover from a loss that is
            not finite.

    Returns:
        A part of a sentence; an empty text if the run has not diverged.
    """
    for what, weights in (("network", network), ("model", model)):
        if names := not_finite(weights):
            return f"{len(names)} of {len(weights)} tensors of the {what} are NaN or infinite, such as {names[0]}"
    losses = {name: (last or {}).get(name, 0.0) for name in ("train_loss", "val_loss")}
    return " and ".join(
        f"{name} of the last epoch is {loss}" for name, loss in losses.items() if not math.isfinite(loss)
    )
