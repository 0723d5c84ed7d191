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
        metadata: Kedro-Viz's.
    """

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> dict[str, Any]:
        """Return the model's dictionary.

        Raises:
            UserError: there is no model yet, or the file is damaged.
        """
        if not self._filepath.is_file():
            raise UserError(
                f"There is no trained model at {self._filepath}. Train it first, with the same options: "
                "kedro run --pipelines model_training"
            )
        from carvana_kedro.stores.checkpoints import load_checkpoint

        return load_checkpoint(self._filepath)

    def save(self, data: dict[str, Any]) -> None:
        """Write the model, whole or not at all."""
        from carvana_kedro.stores.checkpoints import save_checkpoint

        save_checkpoint(self._filepath, data)

    def preview(self) -> JSONPreview:
        """Return all but the weights."""
        return JSONPreview(json.dumps({k: v for k, v in self.load().items() if k != "weights"}, indent=2))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}

    def _exists(self) -> bool:
        return self._filepath.is_file()
