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


def read_start(name_or_path: str) -> Member:
    """Read the model that training starts from. No code from the file is executed.

    Args:
        name_or_path: `model_training.init_from`: see `path_of`.

    Raises:
        UserError: The file is missing, damaged, not a carvana-kedro model, or holds several networks.
    """
    try:
        path = path_of(name_or_path).expanduser()
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
        UserError: Not a single parameter fits.
    """
    own = network.state_dict()
    fitting = {
        name: weight
        for name, weight in start.weights.items()
        if name in own and weight.shape == own[name].shape
    }
    if fitting.keys().isdisjoint(name for name, _ in network.named_parameters()):
        raise UserError(
            f"model_training.init_from: no weights of the model {start.run_id}, whose architecture is "
            f"{start.architecture}, fit the network {architecture}. Choose model_training.architecture="
            f"{start.architecture}, or another model."
        )
    return fitting


def load_start(network: SegmentationNetwork, architecture: Spec, start: Member) -> None:
    """Copy the weights of a model that fit into a network, and log how many do.

    Raises:
        UserError: Not a single parameter fits.
    """
    fitting = fitting_weights(network, architecture, start)
    network.load_state_dict(fitting, strict=False)
    others = [name for name in network.state_dict() if name not in fitting]
    shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
    logger.info(
        "Training starts from the weights of the model %s (%s): %d of the network's %d tensors are taken%s",
        start.run_id, start.architecture, len(fitting), len(fitting) + len(others),
        f", {len(others)} have no weights of their name and shape and are initialized anew: {shown}" if others else "",
    )  # fmt: skip
