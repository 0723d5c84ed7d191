"""A trained model: the weights of one network, or of several, with all that is needed to use them."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import SegmentationNetwork, build_network
from carvana_kedro.segmentation.extensions import Spec, is_dotted_path, is_extension, split_spec

Size = tuple[int, int]

_REQUIRED = ("architecture", "width_multiplier", "input_size", "threshold", "weights", "run_id")
_OPTIONAL = ("source", "validation_cars", "best_threshold", "trained_on", "started_from", "parameters")
_LISTS = ("validation_cars", "trained_on")


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that contain NaN or infinity.

    >>> not_finite({"head.weight": torch.tensor([1.0, torch.nan]), "head.bias": torch.tensor([0.0])})
    ['head.weight']
    """
    # The extremes are found in one pass without a copy, and are NaN if any value is.
    return [
        name
        for name, weight in weights.items()
        if weight.is_floating_point()
        and weight.numel()
        and not torch.stack(weight.aminmax()).isfinite().all()
    ]


def require_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Check that all weights are finite. A network with others predicts nothing but empty masks.

    Args:
        weights: A network's state dict, which includes the statistics of BatchNorm.
        what: What the error calls the network.

    Raises:
        UserError: Some are not.
    """
    if names := not_finite(weights):
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(
            f"{what} has weights that are NaN or infinite, in {len(names)} of {len(weights)} tensors ({shown}). Its "
            "training diverged. Use another checkpoint, or train again with a smaller learning rate: "
            "model_training.optimizer.learning_rate"
        )


@dataclass(frozen=True, eq=False)
class Member:
    """One trained network.

    Attributes:
        architecture: What `build_network` takes: a name, or a dotted path with arguments.
        width_multiplier: Scales the channels of every layer.
        input_size: (H, W) of the images that the network takes.
        threshold: On the probability, in (0, 1).
        weights: The network's state dict, on the CPU.
        run_id: Of the training run.
        source: Fingerprint of the images that it was trained on; None if unknown.
        validation_cars: Cars that it was not trained on.
        best_threshold: The best threshold on the validation images; None if there was no validation.
        trained_on: Digests of the images that it was trained on; empty if unknown, as in files of earlier versions.
        started_from: The model that its training started from, plain values: `path`, `run_id`, `architecture`, `sha256`
            of the file, and `validation_images_seen`, the number of validation images that this model was trained on;
            None: it started from no model.
        parameters: That it was trained with, plain values; None if unknown.
    """

    architecture: Spec
    width_multiplier: float
    input_size: Size
    threshold: float
    weights: Mapping[str, Tensor] = field(repr=False)
    run_id: str
    source: str | None = None
    validation_cars: tuple[str, ...] = ()
    best_threshold: float | None = None
    trained_on: tuple[str, ...] = field(default=(), repr=False)
    started_from: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = "This") -> Self:
        """Read what `to_dict` returned.

        Args:
            content: Of a file, perhaps written by an earlier version.
            where: What an error calls it.

        Raises:
            UserError: It is something else, or its weights are not finite.
        """
        if missing := [name for name in _REQUIRED if name not in content]:
            raise UserError(f"{where} is not a carvana-kedro model: it lacks {', '.join(missing)}.")
        known = {name: content[name] for name in (*_REQUIRED, *_OPTIONAL) if name in content}
        height, width = known["input_size"]
        known["input_size"] = (height, width)
        for name in _LISTS:
            known[name] = tuple(known.get(name, ()))
        require_finite(known["weights"], f"{where}: the model {known['run_id']}")
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, as they are stored in a file."""
        content = {name: getattr(self, name) for name in (*_REQUIRED, *_OPTIONAL)}
        lists = {name: list(content[name]) for name in ("input_size", *_LISTS)}
        for name in ("started_from", "parameters"):
            if content[name] is None:
                del content[name]
        return content | lists

    def name(self, trusted: Iterable[str] = ()) -> str:
        """Return the name or dotted path of the architecture, without its arguments.

        Args:
            trusted: Dotted paths that may be imported, because the run's own parameters name them.

        Raises:
            UserError: It is a dotted path that is not trusted: files must not decide which code runs.
        """
        name, _ = split_spec("architecture", self.architecture)
        if is_dotted_path(name) and name not in trusted:
            raise UserError(
                f"The model {self.run_id} needs the network {name}. Code that a model file names is imported only if "
                f"your parameters name it too. If you know this "
                f"code: --params model_training.architecture={name} (in Python: "
                f'trusted=["{name}"])'
            )
        return name

    def build_network(self, trusted: Iterable[str] = ()) -> SegmentationNetwork:
        """Build the network with its weights.

        Args:
            trusted: See `name`.

        Raises:
            UserError: The architecture is unknown or a dotted path that is not trusted, or the weights do not fit.
        """
        name = self.name(trusted)
        network = build_network(self.architecture, width_multiplier=self.width_multiplier)
        try:
            network.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise UserError(f"The weights of the model {self.run_id} do not fit {name}: {error}") from error
        return network


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """One trained network, or several whose probabilities are averaged.

    Attributes:
        members: At least one.
        checkpoint: The path that `checkpoint=` names, if the model was chosen in this way; otherwise empty.
    """

    members: tuple[Member, ...]
    checkpoint: str = ""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = "This") -> Self:
        """Read what `to_dict` returned, or a checkpoint that holds such a model.

        Args:
            content: Of a file, perhaps written by an earlier version.
            where: What an error calls it.

        Raises:
            UserError: It is something else, or its weights are not finite.
        """
        model = content.get("model", content)
        members = model.get("members", [model]) if isinstance(model, Mapping) else [{}]
        try:
            about = content.get("about") or {}  # of a checkpoint, which keeps the parameters beside the model
            known = {"parameters": about["parameters"]} if "parameters" in about else {}
            found = tuple(Member.from_dict({**known, **member}, where) for member in members)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{where} is not a carvana-kedro model: {error}") from error
        if not found:
            raise UserError(f"{where} is not a carvana-kedro model: it has no members.")
        return cls(found)

    @classmethod
    def join(cls, models: Sequence["TrainedModel"]) -> Self:
        """Join models to one whose probabilities are the mean of theirs.

        Raises:
            UserError: There are no models.
        """
        if not models:
            raise UserError("There is no model to join: pass at least one.")
        return cls(tuple(member for model in models for member in model.members))

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, as they are stored in a file.

        Several models are stored as the `members` of the first, under the joined run id.
        """
        members = [member.to_dict() for member in self.members]
        if len(members) == 1:
            return members[0]
        return {**members[0], "run_id": self.run_id, "members": members}

    @property
    def run_id(self) -> str:
        """The run ids of the members, joined by `+`."""
        return "+".join(member.run_id for member in self.members)

    @property
    def source(self) -> str | None:
        """Fingerprint of the images that the first member was trained on."""
        return self.members[0].source

    @property
    def parameters(self) -> Mapping[str, Any] | None:
        """Parameters that the first member was trained with."""
        return self.members[0].parameters

    @property
    def input_size(self) -> Size:
        """(H, W) of the images that the networks take.

        Raises:
            UserError: The members' sizes differ.
        """
        sizes = sorted({member.input_size for member in self.members})
        if len(sizes) > 1:
            listed = ", ".join(f"{height} x {width}" for height, width in sizes)
            raise UserError(
                f"Models can be averaged only if their input sizes are equal, not {listed} (height x width)."
            )
        return sizes[0]

    def threshold(self, choice: float | Literal["auto"] | None = None) -> float:
        """Return the threshold on the probability.

        Args:
            choice: A threshold, which is returned; None for the mean of the members' own; `auto` for the mean of those
                that were best on the validation images.

        Raises:
            UserError: `auto`, and a member has not been validated.
        """
        if choice is None:
            return float(np.mean([member.threshold for member in self.members]))
        if choice != "auto":
            return choice
        best = [member.best_threshold for member in self.members]
        if None in best:
            raise UserError(
                "threshold=auto: this model has not been validated, so its best threshold is unknown. Set a number, "
                "such as inference.threshold=0.5."
            )
        return float(np.mean([threshold for threshold in best if threshold is not None]))

    def digest(self) -> str:
        """Return a short hash of the weights and of what they are used with, 16 hex digits."""
        digest = hashlib.sha256()
        for member in self.members:
            facts = [
                ("architecture", member.architecture),
                ("width_multiplier", member.width_multiplier),
                ("input_size", list(member.input_size)),
            ]
            digest.update(repr(facts).encode())
            for name, weights in member.weights.items():
                digest.update(name.encode())
                digest.update(weights.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def extensions(self, trusted: Iterable[str] = ()) -> list[str]:
        """Return the names of the architectures that are not this package's own: dotted paths and smp names.

        Args:
            trusted: See `Member.name`.

        Raises:
            UserError: A dotted path is not trusted.
        """
        trusted = tuple(trusted)
        names = {member.name(trusted) for member in self.members}
        return sorted(name for name in names if is_extension(name))

    def build_networks(self, trusted: Iterable[str] = ()) -> list[SegmentationNetwork]:
        """Build the networks of all members with their weights: see `Member.build_network`.

        Raises:
            UserError: See there.
        """
        trusted = tuple(trusted)
        return [member.build_network(trusted) for member in self.members]
