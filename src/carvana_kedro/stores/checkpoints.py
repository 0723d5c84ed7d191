"""Checkpoints: dictionaries of tensors and plain values, one file each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from carvana_kedro.errors import UserError
from carvana_kedro.stores.atomic import atomic_path


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to `path`, whole or not at all."""
    with atomic_path(path) as part:
        torch.save(dict(content), part)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU. No code from the file is run.

    Raises:
        UserError: the file is missing or damaged, or holds more than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"There is no checkpoint {path}.") from error
    except Exception as error:  # a damaged file makes torch.load raise almost anything
        raise UserError(f"{path} is not a checkpoint of ours, or is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint of ours: it holds a {type(content).__name__}.")
    return content


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one recipe: a folder a run, named by the run's id."""

    folder: Path

    def save(self, run_id: str, name: str, content: Mapping[str, Any]) -> None:
        """Write `<folder>/<run_id>/<name>.pt`."""
        save_checkpoint(self._path(run_id, name), content)

    def load(self, run_id: str, name: str) -> dict[str, Any]:
        """Read `<folder>/<run_id>/<name>.pt`.

        Raises:
            UserError: see `load_checkpoint`.
        """
        return load_checkpoint(self._path(run_id, name))

    def _path(self, run_id: str, name: str) -> Path:
        return self.folder / run_id / f"{name}.pt"
