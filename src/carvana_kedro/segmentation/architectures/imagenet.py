"""Files of ImageNet weights: state dicts of classifiers, whose encoder this package's networks share."""

import hashlib
import io
import pickle
from pathlib import Path
from textwrap import shorten

import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures.base import SegmentationNetwork

Weights = dict[str, Tensor]


def read_weights(path: Path, sha256: str | None = None) -> Weights:
    """Read a state dict, onto the CPU. No code from the file is executed.

    Args:
        path: The file.
        sha256: What the file must have, 64 hex digits; None: anything.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has another hash, or is no state dict.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise ValueError(f"{path} has the SHA-256 {found}, not {sha256}")
    try:
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is no file of weights") from error
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ValueError(f"{path} holds something other than named tensors")
    return weights


def load_encoder(network: SegmentationNetwork, path: Path) -> None:
    """Load the ImageNet weights of a file into the encoder of a network.

    Raises:
        UserError: The network takes no file, or the file cannot be read or does not fit.
    """
    network.check_pretrained()
    try:
        network.load_encoder(read_weights(path))
    except OSError as error:
        raise UserError(f"model_training.pretrained: {path} cannot be read: {error.strerror}") from error
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"model_training.pretrained: the file {path} does not hold weights of the encoder of "
            f"{type(network).__name__}: {shorten(str(error), 300)}"
        ) from error
