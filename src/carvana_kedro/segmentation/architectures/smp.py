"""The networks of segmentation-models-pytorch (the extra `smp`), by names such as `smp:Unet/resnet34`."""

import logging
from typing import Any

import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures.base import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from carvana_kedro.segmentation.extensions import SMP_PREFIX

logger = logging.getLogger(__name__)

_OTHER_NORMALIZATION = ("dpn", "inception", "xception")  # encoders


class SmpNetwork(SegmentationNetwork):
    """A network of segmentation-models-pytorch, https://github.com/qubvel-org/segmentation_models.pytorch.

    Images are in [0, 1], as for every network here. The network standardizes them with ImageNet's mean and
    standard deviation.

    Args:
        architecture: Name of the class: `Unet`, `FPN`, ...
        encoder: Name of the encoder: `resnet34`, `efficientnet-b0`, `mit_b0`, ... Encoders that smp takes from timm at
            run time (`tu-...`) are not supported, because their names can point to a download.

    Raises:
        UserError: The package is not installed, a name is unknown, or the two do not go together.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: str, encoder: str) -> None:
        """Build the network with random weights."""
        super().__init__()
        smp = _import_smp()
        known = {model.__name__: model for model in smp.MODEL_ARCHITECTURES_MAPPING.values()}
        _check_name("architecture", architecture, known)
        if encoder.startswith("tu-"):
            raise UserError(
                f"model_training.architecture: the encoder {encoder} is not supported, because it comes "
                "from timm. Choose an encoder whose name does not begin with tu-, such as resnet34."
            )
        _check_name("encoder", encoder, smp.encoders.encoders)
        try:
            self.model = known[architecture](encoder, encoder_weights=None)
        except (TypeError, ValueError) as error:
            raise UserError(f"{SMP_PREFIX}{architecture}/{encoder} cannot be built: {error}") from error
        self.architecture, self.encoder_name = architecture, encoder
        self.name = f"{SMP_PREFIX}{architecture}/{encoder}"
        self.stride = int(self.model.encoder.output_stride)
        self._has_imagenet_weights = "imagenet" in smp.encoders.encoders[encoder]["pretrained_settings"]
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    @classmethod
    def from_name(cls, name: str, width_multiplier: float = 1.0) -> "SmpNetwork":
        """Build the network that a name such as `smp:Unet/resnet34` stands for.

        Raises:
            UserError: The name has another form, or see the class.
        """
        architecture, slash, encoder = name.removeprefix(SMP_PREFIX).partition("/")
        if not slash:
            raise UserError(
                f"model_training.architecture = {name!r}: write {SMP_PREFIX}NAME/ENCODER, such as "
                f"{SMP_PREFIX}Unet/resnet34."
            )
        return cls(architecture, encoder)

    def forward(self, images: Tensor) -> Tensor:
        """Predict logits: (N, 3, H, W) to (N, H, W)."""
        logits: Tensor = self.model((images - self.mean) / self.std)
        return logits.squeeze(1)

    def output_size(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the logits for an input size, both (height, width): the same size.

        Raises:
            UserError: A side is no multiple of the stride. The message names the nearest legal size.
        """
        legal = [max(self.stride, self.stride * round(side / self.stride)) for side in input_size]
        if tuple(legal) != tuple(input_size) and self.model.requires_divisible_input_shape:
            raise UserError(
                f"The input size {input_size[0]} x {input_size[1]} (height x width) does not fit "
                f"{self.name}: both sides must be multiples of {self.stride}. The "
                f"nearest valid size is {legal[0]} x {legal[1]}."
            )
        return super().output_size(input_size)

    def check_pretrained(self) -> None:
        """Check that smp has ImageNet weights for the encoder.

        Raises:
            UserError: It has none.
        """
        if not self._has_imagenet_weights:
            raise UserError(
                f"The encoder {self.encoder_name} has no ImageNet weights: set model_training.pretrained to false."
            )
        if self.encoder_name.startswith(_OTHER_NORMALIZATION):
            raise UserError(
                f"The ImageNet weights of {self.encoder_name} expect another normalization of the images than this "
                "project's: set model_training.pretrained to false, or choose another encoder, such as resnet34."
            )

    def load_pretrained(self) -> None:
        """Load ImageNet weights into the encoder; log a warning if they cannot be downloaded.

        Raises:
            UserError: There are none for this encoder.
        """
        self.check_pretrained()
        smp = _import_smp()
        try:
            pretrained = getattr(smp, self.architecture)(self.encoder_name, encoder_weights="imagenet")
        except Exception as error:  # the errors of the download libraries have no common base
            logger.warning(
                "The encoder starts from random weights: its ImageNet weights cannot be downloaded (%s)",
                error,
            )
            return
        self.model.encoder.load_state_dict(pretrained.encoder.state_dict())


def _import_smp() -> Any:
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise UserError(
            f"Architectures {SMP_PREFIX}NAME/ENCODER need segmentation-models-pytorch: "
            'pip install "carvana-kedro[smp]"'
        ) from error
    return segmentation_models_pytorch


def _check_name(kind: str, name: str, known: Any) -> None:
    if name not in known:
        raise UserError(
            f"model_training.architecture: segmentation-models-pytorch has no {kind} {name!r}. "
            f"Available: {', '.join(known)}."
        )
