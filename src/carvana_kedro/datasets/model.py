"""The trained model."""

import json
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

# Kedro-Viz finds the kind of a preview by the name of this annotation.
from kedro_datasets._typing import JSONPreview

from carvana_kedro.errors import UserError


class ModelDataset(AbstractDataset[dict[str, Any], dict[str, Any]]):
    """Weights with what is needed to use them: architecture, input size, and where they come from.

    Args:
        filepath: the file.
        checkpoint: what is loaded in its place, as long as nothing is saved: a checkpoint of any run (`model.pt`,
            `best-*.pt`, `last-*.pt`), or a folder of some, whose probabilities are averaged.
        metadata: Kedro-Viz's.
    """

    def __init__(
        self, filepath: str, checkpoint: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._filepath = Path(filepath)
        self._checkpoint = Path(checkpoint) if checkpoint else None
        self.metadata = metadata

    def load(self) -> dict[str, Any]:
        """Return the model's dictionary; of several, one that has them as its `members`.

        Raises:
            UserError: there is no model yet, or a file is damaged or not one of ours.
        """
        if self._checkpoint is None and not self._filepath.is_file():
            raise UserError(
                f"There is no trained model at {self._filepath}. Train it first, with the same options: "
                "kedro run --pipelines model_training"
            )
        from carvana_kedro.stores.checkpoints import ensemble, load_checkpoint

        if self._checkpoint is None:
            return load_checkpoint(self._filepath)
        is_folder = self._checkpoint.is_dir()
        paths = sorted(self._checkpoint.glob("*.pt")) if is_folder else [self._checkpoint]
        if not paths:
            raise UserError(f"checkpoint={self._checkpoint}: there is no checkpoint, *.pt, in this folder.")
        models = []
        for path in paths:
            content = load_checkpoint(path)
            model = content.get("model", content)
            if missing := {"architecture", "weights", "run_id"} - model.keys():
                raise UserError(f"{path} is not a model of ours: it lacks {', '.join(sorted(missing))}.")
            models.append(model)
        return ensemble(models)

    def save(self, data: dict[str, Any]) -> None:
        """Write the model, whole or not at all."""
        from carvana_kedro.stores.checkpoints import save_checkpoint

        save_checkpoint(self._filepath, data)
        if self._checkpoint is not None:
            self._logger.warning(
                "checkpoint=%s is not used, since this run has a model of its own", self._checkpoint
            )
            self._checkpoint = None

    def preview(self) -> JSONPreview:
        """Return all but the weights."""
        shown = {key: value for key, value in self.load().items() if key not in ("weights", "members")}
        return JSONPreview(json.dumps(shown, indent=2))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "checkpoint": self._checkpoint and str(self._checkpoint)}

    def _exists(self) -> bool:
        return (self._checkpoint or self._filepath).exists()
