"""Every parameter as a frozen, typed, validated model.

The top-level keys of the parameters are the pipelines' names, `recipe` and `recipes`. What decides where things come
from and go to lies in `globals.yml`, and can be said on the command line all the same.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
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

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.training.recipe import Recipe

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

DottedPath = Annotated[str, Field(pattern=r"^\w+(\.\w+)+$")]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "bfloat16", "float16", "tf32", "float32"]
Switch = Literal["auto"] | Annotated[bool, Field(strict=True)]


_TRIED = re.compile(
    r"(literal\[.*\]|constrained-\w+|bool|float|int|str|Loss|Custom|Optimizer|CustomOptimizer)$"
)


_RENAMED = {
    "model_training.parts": "model_training.accumulation_steps",
    "model_training.workers": "model_training.num_workers",
    "model_training.pictures": "model_training.logged_images",
    "inference.workers": "inference.num_workers",
    "pictures": "inference.masks, inference.cutouts and inference.overlays (true or false), in a parameters file",
}
"""Parameters of version 0.1 that have another name now. To be removed with version 0.3."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataIngestion(_Frozen):
    """How the source's images are checked and split."""

    seed: Seed = 2017
    validation_fraction: Probability = 0.2
    """Share of the cars kept for validation."""
    sample_fraction: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Share of the cars used at all."""
    on_problem: Literal["stop", "skip"] = "stop"
    """What to do about images that cannot be used."""
    mask_check_fraction: Fraction = 0.05
    """Share of the masks held against the run lengths of `train_masks.csv`."""


class ImageSize(_Frozen):
    """A size in pixels."""

    width: Count
    height: Count


class Custom(BaseModel):
    """A class or function that is named by its dotted path, with its arguments."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: DottedPath

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value


class Loss(_Frozen):
    """Weights of the two parts of the loss, and of the mask's edge."""

    bce_weight: NotNegative = 1.0
    dice_weight: NotNegative = 1.0
    border_weight: NotNegative = 0.0
    """What a pixel at the mask's edge weighs more than others in the cross-entropy."""
    border_width: Count = 5
    """Pixels of the output on either side of the edge."""

    @model_validator(mode="after")
    def _something_is_learned(self) -> Self:
        if not self.bce_weight + self.dice_weight:
            raise ValueError("with both weights 0 nothing is learned")
        return self


class CustomOptimizer(BaseModel):
    """An optimizer that is named by its dotted path, with its other arguments."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: DottedPath
    learning_rate: Positive


class Optimizer(_Frozen):
    """One of torch's optimizers."""

    name: Literal["sgd", "rmsprop", "adam", "adamw"]
    learning_rate: Positive
    momentum: Share = 0.0
    weight_decay: NotNegative = 0.0

    @model_validator(mode="after")
    def _momentum_fits(self) -> Self:
        if self.momentum and self.name not in ("sgd", "rmsprop"):
            raise ValueError(f"{self.name} takes no momentum: leave it at 0, or choose sgd or rmsprop")
        return self


_TAKEN_BY: Mapping[str, tuple[str, ...]] = {
    "warmup_fraction": ("constant", "step", "cosine", "one_cycle", "polynomial"),
    "milestones": ("step",),
    "factor": ("step", "plateau"),
    "power": ("polynomial",),
    "patience": ("plateau",),
}


class Schedule(_Frozen):
    """How the learning rate goes over the run's steps: see `build_schedule`."""

    name: Literal["constant", "step", "cosine", "one_cycle", "polynomial", "plateau"] = "constant"
    warmup_fraction: Share = 0.0
    """Share of the steps with a rising learning rate; not for plateau."""
    milestones: Annotated[tuple[Probability, ...], Field(min_length=1)] = (0.5, 0.75)
    """For step: shares of the steps after which the rate drops."""
    factor: Probability = 0.1
    """For step and plateau: what the rate is multiplied by when it drops."""
    power: Positive = 0.9
    """For polynomial: above 1 the rate falls fastest at first, below 1 at last."""
    patience: NotNegativeCount = 3
    """For plateau: epochs without a better score before the rate drops in the next such."""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        for option, schedules in _TAKEN_BY.items():
            said = getattr(self, option) != type(self).model_fields[option].default
            if said and self.name not in schedules:
                raise ValueError(
                    f"{self.name} takes no {option}: leave it out, or choose {' or '.join(schedules)}"
                )
        if self.name == "step" and self.warmup_fraction >= min(self.milestones):
            raise ValueError(
                f"a warmup_fraction of {self.warmup_fraction} lasts beyond the first of the milestones, "
                f"{min(self.milestones)}: shorten it, or put them later"
            )
        return self


def _loss_kind(value: Any) -> str:
    is_custom = isinstance(value, Custom | str) or (isinstance(value, Mapping) and "type" in value)
    return "Custom" if is_custom else "Loss"


def _optimizer_kind(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return "CustomOptimizer" if isinstance(name, str) and "." in name else "Optimizer"


class Augmentation(_Frozen):
    """Ranges of the random changes; one draw serves image and mask."""

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
    """A recipe: network, sizes, optimizer and all else that decides what is trained."""

    architecture: str | Custom
    """A name, or the dotted path of a class, alone or as `type` beside its arguments: see `build_network`."""
    width_multiplier: Positive = 1.0
    """Scales every layer's channels."""
    pretrained: bool = False
    """ImageNet weights, where the architecture has them."""
    input_size: ImageSize
    batch_size: Count
    accumulation_steps: Count = 1
    """Parts that a batch is computed in, one after the other, to save memory."""
    epochs: Count
    folds: Annotated[int, Field(strict=True, ge=0)] = 0
    """Car folds: so many models are trained, each without a part of the cars, and averaged; 0: one model."""
    seed: Seed = 2017
    threshold: Probability = 0.5
    loss: Annotated[
        Annotated[Loss, Tag("Loss")] | Annotated[Custom, Tag("Custom")], Discriminator(_loss_kind)
    ] = Loss()
    """Weights of this package's loss, or another one by its dotted path: see `build_loss`."""
    optimizer: Annotated[
        Annotated[Optimizer, Tag("Optimizer")] | Annotated[CustomOptimizer, Tag("CustomOptimizer")],
        Discriminator(_optimizer_kind),
    ]
    """One of torch's by name, or another one by its dotted path: see `build_optimizer`."""
    schedule: Schedule = Schedule()
    clip_gradient_norm: NotNegative = 0.0
    """The norm that the gradient is scaled down to; 0: never."""
    ema_decay: Share = 0.0
    """Of the moving average of the weights, which then is the model; 0: none."""
    augmentation: Augmentation = Augmentation()
    best_by: Literal["val_dice_coeff", "val_loss", "train_dice_coeff", "train_loss"] = "val_dice_coeff"
    """What says which epoch's model is kept."""
    early_stopping: NotNegativeCount = 0
    """Epochs without a better one after which training ends; 0: never."""
    max_skipped_steps: Count = 10
    """Steps without a finite loss and gradient after which training stops."""
    device: Device = "auto"
    precision: Precision = "auto"
    channels_last: Switch = "auto"
    compile: Switch = "auto"
    fused: Switch = "auto"
    num_workers: NotNegativeCount = 0
    """Processes that read images; 0: this one."""
    cache: Literal["none", "memory", "memmap"] = "none"
    """Where the decoded and resized images are kept: nowhere, in memory, or in a file below `05_model_input`."""
    checkpoint_minutes: NotNegative = 10
    """Between two checkpoints of one epoch; there is one after every epoch as well."""
    keep_checkpoints: Annotated[int, Field(strict=True, ge=2)] = 2
    """Of each kind; the second is there in case the first is damaged."""
    logged_images: NotNegativeCount = 2
    """Validation images shown in TensorBoard."""
    callbacks: tuple[str | dict[str, Any], ...] = ()
    """The user's own: dotted paths of classes, or `type` with arguments."""

    def to_recipe(self) -> Recipe:
        """Return the recipe as plain values."""
        return Recipe.from_dict(self.model_dump())

    def trusted(self) -> tuple[str, ...]:
        """Return the dotted path of the architecture, which may be imported when a model file names it too."""
        path = self.architecture if isinstance(self.architecture, str) else self.architecture.type
        return (path,)

    def decisive(self) -> dict[str, Any]:
        """Return the parameters that decide the resulting model, without those of speed, safety and display."""
        rest = {
            "num_workers", "cache", "checkpoint_minutes", "keep_checkpoints", "max_skipped_steps",
            "logged_images", "callbacks",
        }  # fmt: skip
        return self.model_dump(exclude=rest)

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"a batch_size of {self.batch_size} cannot be split into {self.accumulation_steps} equal parts"
            )
        return self

    @field_validator("folds")
    @classmethod
    def _one_fold_is_none(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("a single fold would leave no car to train on: 0 for one model, or 2 and more")
        return folds


class Inference(_Frozen):
    """How masks are predicted."""

    threshold: Probability | Literal["auto"] = 0.5
    """On the probability; `auto` takes what was best on the validation images."""
    flip: Annotated[bool, Field(strict=True)] = False
    """Whether the mirrored photograph is looked at as well; twice the time."""
    keep_largest: Annotated[bool, Field(strict=True)] = False
    """Whether all pieces of a mask but the largest are dropped."""
    fill_holes: Annotated[bool, Field(strict=True)] = False
    """Whether what a mask encloses becomes part of it."""
    masks: Switch = False
    """Whether masks are written as image files; `auto`: the source decides."""
    cutouts: Switch = False
    """Whether cut-outs of the cars are written; `auto`: the source decides."""
    overlays: Switch = False
    """Whether overlays of the masks on the images are written; `auto`: the source decides."""
    background: Annotated[str, Field(pattern="^(transparent|#[0-9a-fA-F]{6})$")] = "transparent"
    """What cut-outs are set on: nothing, or a color, as #ffffff."""
    on_bad_image: Literal["stop", "empty"] = "stop"
    """What to do about a photograph that is missing or cannot be read: stop, or leave its mask empty."""
    batch_size: Count = 8
    shard_size: Count = 512
    """Images in one file of predictions."""
    num_workers: NotNegativeCount = 0
    """Processes that read images; 0: this one."""
    device: Device = "auto"
    precision: Precision = "auto"
    compile: Annotated[bool, Field(strict=True)] = False
    """Whether kernels are made for the network: half a minute of compiling that pays for many photographs."""
    engine: Literal["torch", "onnxruntime"] = "torch"
    """What computes the network."""

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        if self.engine == "onnxruntime" and (self.compile or self.precision not in ("auto", "float32")):
            raise ValueError(
                "the engine onnxruntime computes in float32 and compiles nothing: leave precision at auto and compile "
                "at false, or choose torch"
            )
        return self

    def with_images(self, written: bool) -> Self:
        """Return these parameters with `written` in place of every `auto` of masks, cutouts and overlays."""
        chosen = {name: written for name in ("masks", "cutouts", "overlays") if getattr(self, name) == "auto"}
        return self.model_copy(update=chosen)

    def decisive(self) -> dict[str, Any]:
        """Return what decides the masks; the rest decides how long they take."""
        return self.model_dump(exclude={"batch_size", "num_workers", "on_bad_image"})


class Reporting(_Frozen):
    """What the pictures show."""

    gallery_size: Count = 6
    """Best and worst validation images shown, each."""
    preview_size: Count = 8
    """Test images shown."""


class Submission(_Frozen):
    """How a finished submission is handed in."""

    dry_run: Annotated[bool, Field(strict=True)] = False
    """Check the file, but do not upload it."""
    message: str = "carvana-kedro"
    """What Kaggle shows beside the scores."""
    wait_minutes: NotNegative = 30
    """How long the scores are waited for."""

    @field_validator("message")
    @classmethod
    def _message_is_a_line(cls, message: str) -> str:
        if not message.strip() or len(message) > 100 or not message.isprintable():
            raise ValueError("must be a line of 1 to 100 characters")
        return message


class Export(_Frozen):
    """How a trained model is given away."""

    formats: tuple[Literal["onnx", "program"], ...] = ("onnx", "program")
    """What is written: `model.onnx`, and `model.pt2` for torch.export.load."""

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


class Kaggle(_Frozen):
    """The competition on Kaggle."""

    competition: str
    quality: Literal["standard", "hq"]
    """Of the photographs."""
    keep_archives: Annotated[bool, Field(strict=True)]
    """Keep an archive of images after it is unpacked."""


class Folder(_Frozen):
    """Anybody's own photographs."""

    images: str | None
    masks: str | None
    """To train."""
    test: str | None
    """The photographs to predict, where they are others."""
    mask_suffix: str
    """What a mask's name has behind the photograph's."""
    group: str | None
    """Finds in a photograph's name what it shows: photographs of one group go to the same side of the split."""


class Globals(_Frozen):
    """The whole of `globals.yml`."""

    source: str
    archives: str | None
    checkpoint: str | None
    kaggle: Kaggle
    folder: Folder
    recipe: str
    data_root: str
    sample: SampleCompetition


class Parameters(_Frozen):
    """The whole of `parameters`, with what `--params` may say about `Globals` (which checks it)."""

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


def check_configuration(
    parameters: Mapping[str, Any], global_values: Mapping[str, Any], runtime_params: Mapping[str, Any]
) -> Parameters:
    """Validate all parameters of a run.

    Args:
        parameters: as Kedro has merged them, `runtime_params` included.
        global_values: `globals.yml`, as Kedro has merged it.
        runtime_params: of `--params`.

    Raises:
        UserError: a line for each mistake, naming the key, its value and what is allowed.
    """
    _validated(Globals, global_values)
    checked = _validated(Parameters, parameters)
    places = {key: runtime_params[key] for key in Globals.model_fields.keys() & runtime_params.keys()}
    _validated(Globals, {key: _merged(value, places.get(key)) for key, value in global_values.items()})
    for key in Globals.model_fields.keys() & parameters.keys():
        if parameters[key] not in (places.get(key), global_values[key]):
            raise UserError(
                f"{key} = {parameters[key]!r} in a parameters file has no effect: say it in a globals.yml of the "
                f"environment, or with --params {key}={parameters[key]}"
            )
    return checked


def _merged(value: Any, said: Any) -> Any:
    """Return a value of `globals.yml` with what the command line says about it."""
    if isinstance(value, Mapping) and isinstance(said, Mapping):
        return {**value, **said}
    return value if said is None else said


Model = TypeVar("Model", bound=BaseModel)


def _validated(model: type[Model], raw: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in sorted(set(_spelled(model, error))))
        raise UserError(f"These parameters cannot be used:\n{lines}") from error


def _spelled(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    errors = error.errors()
    # A mistake in the chosen recipe turns up twice, once in the table of recipes: say it where it acts.
    chosen = [details for details in errors if details["loc"][:1] != ("recipes",)]
    for details in chosen or errors:
        # Where a parameter may be of several types, the last part says which of them was tried.
        key = ".".join(str(part) for part in details["loc"] if not _TRIED.match(str(part)))
        if details["type"] == "extra_forbidden" and key in _RENAMED:
            yield f"{key} has a new name: {_RENAMED[key]}"
        elif details["type"] == "extra_forbidden":
            yield f"{key} = {details['input']!r}: there is no such parameter{_allowed(model, details)}"
        elif details["type"] == "missing":
            yield f"{key}: is missing"
        elif details["type"] == "value_error":
            yield f"{key}: {details['ctx']['error']}"
        else:
            yield f"{key} = {details['input']!r}: {_lower_first(details['msg'])}"


def _allowed(model: Any, details: ErrorDetails) -> str:
    *parents, last = details["loc"]
    for part in parents:
        if part in ("Loss", "Optimizer"):  # which of a union's models was tried
            model = {"Loss": Loss, "Optimizer": Optimizer}[str(part)]
            continue
        field = model.model_fields.get(part)
        # Not a field: a recipe's name among `recipes`.
        model = field.annotation if field and isinstance(field.annotation, type) else ModelTraining
    names = sorted(model.model_fields)
    close = difflib.get_close_matches(str(last), names, n=1)
    return (f"; did you mean {close[0]}? " if close else ". ") + f"There are: {', '.join(names)}"


def _lower_first(message: str) -> str:
    message = message.removeprefix("Input ")
    return message[:1].lower() + message[1:]
