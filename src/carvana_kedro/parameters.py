"""Frozen, typed and validated models of all parameters.

The top-level keys of the parameters are the names of the pipelines, `recipe` and `recipes`. Where data comes from and
where it goes is in `globals.yml`, and can also be set on the command line.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from carvana_kedro.errors import UserError, suggestion
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.weights import path_of

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Probability = Annotated[Number, Field(gt=0, lt=1)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Degrees = Annotated[Number, Field(ge=0, le=180)]
Count = Annotated[int, Field(strict=True, ge=1)]
NotNegativeCount = Annotated[int, Field(strict=True, ge=0)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


def _local(path: str, supported: str = "only local paths are") -> str:
    if re.search(r"^[a-z][a-z0-9+.-]+:/|://", path, re.IGNORECASE):
        raise ValueError(f"{path!r} is a URL, but {supported} supported. Copy or mount the files first")
    if not path.strip() or "\0" in path:
        raise ValueError(f"{path!r} is not a path")
    return path


def _place(path: str) -> str:
    is_address = re.match(r"(s3|gs)://[^/\s]+", path)
    return (
        path
        if is_address
        else _local(path, "only local paths, s3://BUCKET/PREFIX and gs://BUCKET/PREFIX are")
    )


def _digest_of_file(key: str, path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"model_training.{key}: {path} cannot be read: {error.strerror}") from error


LocalPath = Annotated[str, AfterValidator(_local)]
Place = Annotated[str, AfterValidator(_place)]
"""A path, or the address of an object store."""
DottedPath = Annotated[str, Field(pattern=r"^\w+(\.\w+)+$")]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "bfloat16", "float16", "tf32", "float32"]
Address = Annotated[str, Field(pattern=r"^[\w.-]+:\d{1,5}$")]
Switch = Literal["auto"] | Annotated[bool, Field(strict=True)]

_TRIED_TYPE = re.compile(
    r"(literal\[.*\]|constrained-\w+|bool|float|int|str|Loss|Custom|Optimizer|CustomOptimizer)$"
)
"""Parts of an error's location that name no key, but the type that pydantic has tried."""

_RENAMED = {
    "model_training.parts": "model_training.accumulation_steps",
    "model_training.workers": "model_training.num_workers",
    "model_training.pictures": "model_training.logged_images",
    "inference.workers": "inference.num_workers",
    "pictures": "inference.masks, inference.cutouts and inference.overlays (true or false), in a parameters file",
}
"""New names of parameters of version 0.1. To be removed in version 0.3."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataIngestion(_Frozen):
    """How the source's images are checked and split."""

    seed: Seed = 2017
    validation_fraction: Probability = 0.2
    """Share of the cars in the validation set."""
    sample_fraction: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Share of the cars that are used."""
    on_problem: Literal["stop", "skip"] = "stop"
    """Whether to stop at images that cannot be used, or to skip them."""
    mask_check_fraction: Fraction = 0.05
    """Share of the masks that are compared with the run lengths in `train_masks.csv`."""


class ImageSize(_Frozen):
    """A size in pixels."""

    width: Count
    height: Count


class Custom(BaseModel):
    """A class or function named by its dotted path, with its arguments."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: DottedPath

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value


class Loss(_Frozen):
    """Weights of the two terms of the loss, and of the mask's edge: see `segmentation_loss`."""

    bce_weight: NotNegative = 1.0
    dice_weight: NotNegative = 1.0
    border_weight: NotNegative = 0.0
    """Extra weight of the pixels near the mask's edge in the cross-entropy."""
    border_width: Count = 5
    """Width of the band on either side of the edge, in pixels of the output."""

    @model_validator(mode="after")
    def _something_is_learned(self) -> Self:
        if not self.bce_weight + self.dice_weight:
            raise ValueError("bce_weight and dice_weight must not both be 0: nothing would be learned")
        return self


class CustomOptimizer(BaseModel):
    """An optimizer named by its dotted path, with its arguments."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: DottedPath
    learning_rate: Positive


class Optimizer(_Frozen):
    """One of PyTorch's optimizers."""

    name: Literal["sgd", "rmsprop", "adam", "adamw"]
    learning_rate: Positive
    momentum: Share = 0.0
    weight_decay: NotNegative = 0.0

    @model_validator(mode="after")
    def _momentum_fits(self) -> Self:
        if self.momentum and self.name not in ("sgd", "rmsprop"):
            raise ValueError(f"{self.name} takes no momentum: leave it at 0, or choose sgd or rmsprop")
        return self


_SCHEDULES_WITH: Mapping[str, tuple[str, ...]] = {
    "warmup_fraction": ("constant", "step", "cosine", "one_cycle", "polynomial"),
    "milestones": ("step",),
    "factor": ("step", "plateau"),
    "power": ("polynomial",),
    "patience": ("plateau",),
}


class Schedule(_Frozen):
    """Learning rate over the steps of a run: see `build_schedule`."""

    name: Literal["constant", "step", "cosine", "one_cycle", "polynomial", "plateau"] = "constant"
    warmup_fraction: Share = 0.0
    """Share of the steps in which the learning rate rises; not for plateau."""
    milestones: Annotated[tuple[Probability, ...], Field(min_length=1)] = (0.5, 0.75)
    """For step: shares of the steps after which the rate drops."""
    factor: Probability = 0.1
    """For step and plateau: the factor by which the rate is multiplied when it drops."""
    power: Positive = 0.9
    """For polynomial: above 1 the rate falls fastest at the beginning, below 1 at the end."""
    patience: NotNegativeCount = 3
    """For plateau: number of epochs without improvement that are tolerated. After one more, the rate drops."""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        for option, schedules in _SCHEDULES_WITH.items():
            is_set = getattr(self, option) != type(self).model_fields[option].default
            if is_set and self.name not in schedules:
                raise ValueError(
                    f"{self.name} takes no {option}: leave it out, or choose {' or '.join(schedules)}"
                )
        if self.name == "step" and self.warmup_fraction >= min(self.milestones):
            raise ValueError(
                f"with a warmup_fraction of {self.warmup_fraction}, the warm-up does not end before the first "
                f"milestone, {min(self.milestones)}: choose a smaller warmup_fraction or larger milestones"
            )
        return self


def _loss_kind(value: Any) -> str:
    is_custom = isinstance(value, Custom | str) or (isinstance(value, Mapping) and "type" in value)
    return "Custom" if is_custom else "Loss"


def _optimizer_kind(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return "CustomOptimizer" if isinstance(name, str) and "." in name else "Optimizer"


class Augmentation(_Frozen):
    """Ranges of the random changes. An image and its mask are changed in the same way."""

    shift: Fraction = 0.0625
    scale: Fraction = 0.1
    rotation: Degrees = 45.0
    rotation_probability: Fraction = 0.5
    flip_probability: Fraction = 0.5
    hue: Degrees = 0.0
    saturation: Fraction = 0.0
    value: Fraction = 0.0
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0


class ModelTraining(_Frozen):
    """A recipe: network, sizes, optimizer and everything else that decides how a model is trained."""

    architecture: str | Custom
    """A name, or the dotted path of a class, alone or as `type` with arguments: see `build_network`."""
    width_multiplier: Positive = 1.0
    """Scales the number of channels of every layer."""
    pretrained: Annotated[bool, Field(strict=True)] | LocalPath = False
    """Whether to start from ImageNet weights, which not every architecture has; a path: from those of this file."""
    init_from: LocalPath | None = None
    """Model whose weights training starts from, instead of ImageNet weights: `cars`, which comes with the package, or
    the path of a model or checkpoint."""
    input_size: ImageSize
    batch_size: Count
    accumulation_steps: Count = 1
    """Number of parts that a batch is computed in, one after the other, to save memory."""
    epochs: Count
    folds: Annotated[int, Field(strict=True, ge=0)] = 0
    """Folds of the cars. One model is trained without each fold, and the models are averaged; 0: a single model."""
    seed: Seed = 2017
    threshold: Probability = 0.5
    loss: Annotated[
        Annotated[Loss, Tag("Loss")] | Annotated[Custom, Tag("Custom")], Discriminator(_loss_kind)
    ] = Loss()
    """Weights of this package's loss, or the dotted path of another loss: see `build_loss`."""
    optimizer: Annotated[
        Annotated[Optimizer, Tag("Optimizer")] | Annotated[CustomOptimizer, Tag("CustomOptimizer")],
        Discriminator(_optimizer_kind),
    ]
    """One of PyTorch's optimizers by name, or the dotted path of another one: see `build_optimizer`."""
    schedule: Schedule = Schedule()
    clip_gradient_norm: NotNegative = 0.0
    """The norm that the gradient is scaled down to; 0: never."""
    ema_decay: Share = 0.0
    """Decay of the moving average of the weights, which is then the model; 0: no average."""
    augmentation: Augmentation = Augmentation()
    best_by: Literal["val_dice_coeff", "val_loss", "train_dice_coeff", "train_loss"] = "val_dice_coeff"
    """Score that decides which epoch's model is kept."""
    early_stopping: NotNegativeCount = 0
    """Number of epochs without improvement after which training ends; 0: never."""
    max_skipped_steps: Count = 10
    """Number of steps without a finite loss and gradient after which training stops."""
    device: Device = "auto"
    precision: Precision = "auto"
    channels_last: Switch = "auto"
    compile: Switch = "auto"
    fused: Switch = "auto"
    num_workers: NotNegativeCount = 0
    """Processes that read images; 0: this one."""
    cache: Literal["auto", "none", "memory", "memmap", "device"] = "auto"
    """Where decoded and resized images are kept: nowhere, in memory, in a file below `05_model_input`, or in the memory
    of the GPU; `auto`: where they fit."""
    checkpoint_minutes: NotNegative = 10
    """Minutes between two checkpoints within an epoch. Every epoch also ends with a checkpoint."""
    keep_checkpoints: Annotated[int, Field(strict=True, ge=2)] = 2
    """Number of checkpoints of each kind to keep, in case the newest is damaged."""
    logged_images: NotNegativeCount = 2
    """Number of validation images shown in TensorBoard."""
    devices: Literal["auto"] | Count = "auto"
    """Processes on each machine that train together, each on its own GPU or on the CPU; `auto`: one per GPU, or one
    without GPUs."""
    nodes: Count = 1
    """Machines that train together. The same command is started on each."""
    rendezvous: Address | None = None
    """HOST:PORT of one of several machines, where they find each other; the same on all."""
    batch_norm: Literal["global", "local"] = "global"
    """Whether several processes normalize by the statistics of the whole batch, as one process does, or each by those
    of its share, which saves messages."""
    max_restarts: NotNegativeCount = 3
    """How often all processes start again, from the last checkpoint, after one of several has died."""
    callbacks: tuple[str | dict[str, Any], ...] = ()
    """Callbacks of the user: dotted paths of classes, or mappings with `type` and arguments."""

    def to_recipe(self) -> Recipe:
        """Return the recipe as plain values."""
        return Recipe.from_dict(self.model_dump())

    def trusted(self) -> tuple[str, ...]:
        """Return the dotted path of the architecture. It may be imported if a model file names it too."""
        path = self.architecture if isinstance(self.architecture, str) else self.architecture.type
        return (path,)

    def decisive(self) -> dict[str, Any]:
        """Return the parameters that decide the resulting model, without those for speed, safety and display.

        A file of weights is represented by its SHA-256.

        Raises:
            UserError: The file cannot be read.
        """
        rest = {
            "num_workers", "cache", "checkpoint_minutes", "keep_checkpoints", "max_skipped_steps",
            "logged_images", "callbacks", "devices", "nodes", "rendezvous", "max_restarts",
        }  # fmt: skip
        if self.batch_norm == "global":  # as one process: the id of a run says nothing of it
            rest.add("batch_norm")
        content = self.model_dump(exclude=rest)
        if self.init_from:
            content["init_from"] = _digest_of_file("init_from", path_of(self.init_from))
            content["pretrained"] = False  # not loaded
        elif isinstance(self.pretrained, str):
            content["pretrained"] = _digest_of_file("pretrained", Path(self.pretrained))
        return content

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"a batch_size of {self.batch_size} cannot be split into {self.accumulation_steps} equal parts"
            )
        return self

    @model_validator(mode="after")
    def _processes_fit(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(
                f"{self.nodes} nodes need model_training.rendezvous=HOST:PORT: the name of one of the machines and a "
                "free port on it, the same on all machines"
            )
        processes = self.nodes * (1 if self.devices == "auto" else self.devices)
        part = self.batch_size // self.accumulation_steps
        if processes > part:
            raise ValueError(
                f"{processes} processes (devices x nodes) cannot share a batch of {self.batch_size} images in "
                f"{self.accumulation_steps} part(s): each needs an image of each part. Choose fewer devices or "
                "accumulation_steps, or a larger batch_size"
            )
        return self

    @field_validator("folds")
    @classmethod
    def _one_fold_is_none(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError(
                "one fold would leave no cars to train on: choose 0 for a single model, or at least 2 folds"
            )
        return folds


class Inference(_Frozen):
    """How masks are predicted."""

    threshold: Probability | Literal["auto"] = 0.5
    """Threshold on the probability; `auto`: the best one on the validation images."""
    flip: Annotated[bool, Field(strict=True)] = False
    """Whether to average over the image and its mirror image, which takes twice the time."""
    keep_largest: Annotated[bool, Field(strict=True)] = False
    """Whether to keep only the largest connected part of a mask."""
    fill_holes: Annotated[bool, Field(strict=True)] = False
    """Whether to fill the holes of a mask."""
    masks: Switch = False
    """Whether to write masks as image files; `auto`: the source decides."""
    cutouts: Switch = False
    """Whether to write cut-outs of the cars; `auto`: the source decides."""
    overlays: Switch = False
    """Whether to write the images with their masks as overlays; `auto`: the source decides."""
    background: Annotated[str, Field(pattern="^(transparent|#[0-9a-fA-F]{6})$")] = "transparent"
    """Background of the cut-outs: transparent, or a color such as #ffffff."""
    on_bad_image: Literal["stop", "empty"] = "stop"
    """Whether to stop at an image that is missing or cannot be read, or to leave its mask empty."""
    batch_size: Count = 8
    shard_size: Count = 512
    """Number of images in one file of predictions."""
    num_workers: NotNegativeCount = 0
    """Processes that read images; 0: this one, and on a GPU as many threads as there are cores."""
    device: Device = "auto"
    precision: Precision = "auto"
    compile: Annotated[bool, Field(strict=True)] = False
    """Whether to compile the network. This takes half a minute, so it is useful for many images only."""
    engine: Literal["torch", "onnxruntime"] = "torch"
    """Library that runs the network."""
    devices: Count | Literal["auto"] = "auto"
    """Processes that predict, each on a GPU of its own; `auto`: one for each GPU, and one on a CPU."""
    cluster: Annotated[str, Field(pattern=r"^(local|ray://[^/\s]+:[0-9]{1,5})$")] | None = None
    """Ray cluster that predicts: `local`, or the address of another one, such as ray://head:10001; None: no cluster."""
    share: str | None = None
    """The part of the shards that a run of `inference_share` predicts: `3/8` is the third of eight; None: all."""

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        if self.engine == "onnxruntime" and (self.compile or self.precision not in ("auto", "float32")):
            raise ValueError(
                "the engine onnxruntime computes in float32 and does not compile: leave precision at auto and compile "
                "at false, or choose torch"
            )
        return self

    @field_validator("share")
    @classmethod
    def _share_is_part_of_all(cls, share: str | None) -> str | None:
        parts = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", "1/1" if share is None else share)
        if not parts or not 1 <= int(parts[1]) <= int(parts[2]):
            raise ValueError("must be like 3/8, the third of eight shares: from 1/8 to 8/8")
        return share

    @model_validator(mode="after")
    def _cluster_is_the_only_choice(self) -> Self:
        if self.cluster and (self.devices not in ("auto", 1) or self.share):
            other = "share" if self.share else "devices"
            raise ValueError(
                f"cluster and {other} exclude each other: the cluster decides how many actors predict"
            )
        return self

    def has_shard(self, number: int) -> bool:
        """Return whether a shard belongs to the share. Shards are dealt by number."""
        share, shares = (int(part) for part in (self.share or "1/1").split("/"))
        return number % shares == share - 1

    def with_images(self, written: bool) -> Self:
        """Return these parameters with `written` in place of every `auto` of masks, cutouts and overlays."""
        chosen = {name: written for name in ("masks", "cutouts", "overlays") if getattr(self, name) == "auto"}
        return self.model_copy(update=chosen)

    def decisive(self) -> dict[str, Any]:
        """Return the parameters that decide the masks, without those that only decide how long it takes."""
        return self.model_dump(
            exclude={"batch_size", "num_workers", "on_bad_image", "devices", "cluster", "share"}
        )


class Reporting(_Frozen):
    """Number of pictures."""

    gallery_size: Count = 4
    """Number of the worst, of the typical and of the best validation images."""
    preview_size: Count = 8
    """Number of test images in the preview, of cut-outs and of overlays."""
    turntables: NotNegativeCount | None = 2
    """Number of cars whose views are animated; None: all."""


class Submission(_Frozen):
    """How a finished submission is uploaded."""

    dry_run: Annotated[bool, Field(strict=True)] = False
    """Whether to check the file without uploading it."""
    message: str = "carvana-kedro"
    """Message that Kaggle shows next to the scores."""
    wait_minutes: NotNegative = 30
    """How long to wait for the scores."""

    @field_validator("message")
    @classmethod
    def _message_is_a_line(cls, message: str) -> str:
        if not message.strip() or len(message) > 100 or not message.isprintable():
            raise ValueError("must be one line of 1 to 100 characters")
        return message


class Export(_Frozen):
    """How a trained model is exported."""

    formats: tuple[Literal["onnx", "program"], ...] = ("onnx", "program")
    """Formats to write: `onnx` is `model.onnx`; `program` is `model.pt2`, for torch.export.load."""

    @field_validator("formats")
    @classmethod
    def _something_is_written(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        if not formats:
            raise ValueError("must name onnx, program or both")
        return formats


class SampleCompetition(_Frozen):
    """The competition that the studio renders: see `carvana_kedro.studio.StudioSettings`."""

    seed: Seed
    training_cars: Count
    test_cars: Count
    views: Annotated[int, Field(ge=1, le=16, strict=True)]
    width: Annotated[int, Field(ge=96, le=8192, strict=True)]
    height: Annotated[int, Field(ge=64, le=8192, strict=True)]
    variety: str

    @field_validator("variety")
    @classmethod
    def _kinds_are_known(cls, variety: str) -> str:
        from carvana_kedro.studio import StudioSettings  # OpenCV: most commands do without

        return StudioSettings(variety=variety).variety


class Kaggle(_Frozen):
    """The competition on Kaggle."""

    competition: str
    quality: Literal["standard", "hq"]
    """Quality of the images."""
    keep_archives: Annotated[bool, Field(strict=True)]
    """Whether to keep an archive of images after unpacking it."""


class Folder(_Frozen):
    """A folder of the user's own images."""

    images: Place | None
    masks: Place | None
    """Folder of the masks, for training."""
    test: Place | None
    """Folder of the images to predict; None: those in `images`."""
    mask_suffix: str
    """What follows the image's name in the name of its mask."""
    group: str | None
    """Regular expression for the start of a name: images that share the match go to the same side of the split."""
    mask_background: str | NotNegativeCount | None
    """Value of the background in masks, if it is not black."""
    mask_values: str | NotNegativeCount | tuple[str | NotNegativeCount, ...] | None
    """Values of the object in masks, if there are more than two values."""


class Globals(_Frozen):
    """The content of `globals.yml`."""

    source: str
    archives: LocalPath | None
    checkpoint: Place | None
    kaggle: Kaggle
    folder: Folder
    recipe: str
    data_root: Place
    scratch_root: LocalPath | None
    """Folder on a disk for what is never in an object store; None: `data_root`, or `data` if that is an address."""
    sample: SampleCompetition


class Parameters(_Frozen):
    """The content of `parameters`, including entries of `Globals` from `--params`, which `Globals` checks."""

    recipe: str
    recipes: dict[str, ModelTraining]
    data_ingestion: DataIngestion
    model_training: ModelTraining
    inference: Inference
    reporting: Reporting
    submission: Submission
    export: Export
    source: Any = None
    archives: Any = None
    checkpoint: Any = None
    kaggle: Any = None
    folder: Any = None
    data_root: Any = None
    scratch_root: Any = None


def check_configuration(
    parameters: Mapping[str, Any], global_values: Mapping[str, Any], runtime_params: Mapping[str, Any]
) -> Parameters:
    """Validate all parameters of a run.

    Args:
        parameters: The parameters, merged by Kedro, with `runtime_params`.
        global_values: The content of `globals.yml`, merged by Kedro.
        runtime_params: The values of `--params`.

    Raises:
        UserError: Parameters are invalid. The message has one line per mistake: the key, its value and what is allowed.
    """
    _validated(Globals, global_values)
    checked = _validated(Parameters, parameters)
    overrides = {key: runtime_params[key] for key in Globals.model_fields.keys() & runtime_params.keys()}
    _validated(
        Globals, {key: _merged(value, overrides.get(key, value)) for key, value in global_values.items()}
    )
    for key in Globals.model_fields.keys() & parameters.keys():
        if parameters[key] not in (overrides.get(key), global_values[key]):
            raise UserError(
                f"{key} = {parameters[key]!r} in a parameters file has no effect: set it in the environment's "
                f"globals.yml, or with --params {key}={parameters[key]}"
            )
    return checked


def _merged(value: Any, override: Any) -> Any:
    """Return a value of `globals.yml` with its override from the command line."""
    if isinstance(value, Mapping) and isinstance(override, Mapping):
        return {**value, **override}
    return override


Model = TypeVar("Model", bound=BaseModel)


def _validated(model: type[Model], raw: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in sorted(set(_mistakes(model, error))))
        raise UserError(f"Invalid parameters:\n{lines}") from error


def _mistakes(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    """Yield a description of each mistake: the key, its value and what is allowed."""
    errors = error.errors()
    # A mistake in the chosen recipe appears twice: in `recipes` and in `model_training`. Report it only in the latter.
    chosen = [details for details in errors if details["loc"][:1] != ("recipes",)]
    for details in chosen or errors:
        key = ".".join(str(part) for part in details["loc"] if not _TRIED_TYPE.match(str(part)))
        in_recipe = re.sub(r"^recipes\.[^.]+\.", "model_training.", key)
        if details["type"] == "extra_forbidden" and in_recipe in _RENAMED:
            yield f"{key} has a new name: {_RENAMED[in_recipe]}"
        elif details["type"] == "extra_forbidden":
            yield f"{key} = {details['input']!r}: unknown parameter. {_available(model, details)}"
        elif details["type"] == "missing":
            yield f"{key} is missing"
        elif details["type"] == "value_error":
            yield f"{key}: {details['ctx']['error']}"
        else:
            yield f"{key} = {details['input']!r}: {_lower_first(details['msg'])}"


def _available(model: Any, details: ErrorDetails) -> str:
    """Return a suggestion for an unknown parameter, and the names of those in its place."""
    *parents, last = details["loc"]
    for part in parents:
        if part in ("Loss", "Optimizer"):  # the model of the union that was tried
            model = {"Loss": Loss, "Optimizer": Optimizer}[str(part)]
            continue
        field = model.model_fields.get(part)
        # Not a field: the name of a recipe in `recipes`.
        model = field.annotation if field and isinstance(field.annotation, type) else ModelTraining
    names = sorted(model.model_fields)
    return f"{suggestion(str(last), names)}Available: {', '.join(names)}"


def _lower_first(message: str) -> str:
    message = message.removeprefix("Input ")
    return message[:1].lower() + message[1:]
