"""Start training from the weights of a trained model."""

import logging

from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.extensions import Spec
from carvana_kedro.segmentation.model import Member, TrainedModel
from carvana_kedro.stores.checkpoints import load_checkpoint
from carvana_kedro.weights import path_of

logger = logging.getLogger(__name__)

_SHOWN = 3
_LEAST = 0.1
"""Smallest share of the network's weights. Networks of two architectures share a few by chance, such as a bias."""


def read_start(name_or_path: str) -> Member:
    """Read the model that training starts from. No code from the file is executed.

    Args:
        name_or_path: `model_training.init_from`: see `path_of`.

    Raises:
        UserError: The file is missing, damaged, not a carvana-kedro model, or holds several networks.
    """
    try:
        path = path_of(name_or_path)
        members = TrainedModel.from_dict(load_checkpoint(path), str(path)).members
    except UserError as error:
        raise UserError(f"model_training.init_from: {error}") from error
    if len(members) > 1:
        raise UserError(
            f"model_training.init_from: {path} holds {len(members)} networks, but training starts from one. Name a "
            "checkpoint of one of its runs: best-*.pt"
        )
    return members[0]


def fitting_weights(network: SegmentationNetwork, architecture: Spec, start: Member) -> dict[str, Tensor]:
    """Return the weights of a model whose names and shapes are those of a network.

    Args:
        network: The network, which may be on the meta device.
        architecture: Its name, for the error.
        start: The model.

    Raises:
        UserError: Hardly any weights fit.
    """
    own = network.state_dict()
    fitting = {
        name: weight
        for name, weight in start.weights.items()
        if name in own and weight.shape == own[name].shape
    }
    sizes = {name: weights.numel() for name, weights in network.named_parameters()}
    taken, total = sum(sizes[name] for name in fitting.keys() & sizes.keys()), sum(sizes.values())
    if taken < _LEAST * total:
        raise UserError(
            f"model_training.init_from: the model {start.run_id} is a {start.architecture}, and only {taken:,} of its "
            f"weights fit the network {architecture}, which has {total:,}. Set model_training.architecture to "
            f"{start.architecture} (and the same width_multiplier), or choose another model."
        )
    return fitting


def load_start(network: SegmentationNetwork, architecture: Spec, start: Member) -> None:
    """Copy the weights of a model that fit into a network, and log how many do.

    Raises:
        UserError: Hardly any weights fit.
    """
    fitting = fitting_weights(network, architecture, start)
    network.load_state_dict(fitting, strict=False)
    others = [name for name in network.state_dict() if name not in fitting]
    shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
    logger.info(
        "Training starts from the weights of the model %s (%s): %d of the network's %d tensors are taken%s",
        start.run_id, start.architecture, len(fitting), len(fitting) + len(others),
        f", {len(others)} have none of their name and shape and start as without init_from: {shown}" if others else "",
    )  # fmt: skip
