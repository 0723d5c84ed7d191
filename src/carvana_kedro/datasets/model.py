"""The trained model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

# Kedro-Viz finds the kind of a preview by the name of this annotation.
from kedro_datasets._typing import JSONPreview

from carvana_kedro.datasets.previews import if_present
from carvana_kedro.errors import UserError
from carvana_kedro.weights import PACKAGED, path_of

if TYPE_CHECKING:
    from carvana_kedro.segmentation.model import TrainedModel


class ModelDataset(AbstractDataset["TrainedModel", "TrainedModel | None"]):
    """A trained model in one file: weights, and all that is needed to use them.

    Args:
        filepath: The file.
        checkpoint: What is loaded instead, as long as nothing is saved: a checkpoint of any run (`model.pt`,
            `best-*.pt`, `last-*.pt`), a folder of checkpoints, whose probabilities are averaged, or the name of a
            packaged model.
        fallback: Name of a packaged model that is loaded if there is no model and training has not begun; None: none.
        optional: Whether to load None if there is no model yet, instead of raising an error.
        metadata: For Kedro-Viz.
    """

    def __init__(
        self,
        filepath: str,
        checkpoint: str | None = None,
        fallback: str | None = None,
        optional: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if fallback is not None and fallback not in PACKAGED:
            raise UserError(f"fallback={fallback}: the packaged models are {', '.join(PACKAGED)}.")
        self._filepath = Path(filepath)
        self._checkpoint = checkpoint or None
        self._fallback = fallback
        self._optional = optional
        self.metadata = metadata

    @property
    def stand_in(self) -> str | None:
        """The name of the packaged model that is loaded because there is no other; None if there is one.

        It does not stand in for a model that is damaged, nor for one whose training was interrupted.
        """
        folder = self._filepath.parent
        is_begun = self._filepath.exists() or any(folder.rglob("*.pt")) or any(folder.rglob("run.json"))
        return None if self._checkpoint or is_begun else self._fallback

    def load(self) -> "TrainedModel | None":
        """Return the model, or None if there is none and it is optional.

        Raises:
            UserError: There is no model yet, or a file is damaged or not a carvana-kedro model.
        """
        chosen = self._checkpoint or self.stand_in
        if chosen is None and not self._filepath.exists():
            if self._optional:
                return None
            raise UserError(
                f"The model {self._filepath} does not exist. Train it first, with the same options: "
                "kedro run --pipelines model_training"
            )
        # Imported here: data_ingestion reads the catalog, and should not wait for torch.
        from carvana_kedro.segmentation.model import TrainedModel
        from carvana_kedro.stores.checkpoints import load_checkpoint

        paths = self._paths(chosen)
        if not paths:
            raise UserError(
                f"checkpoint={self._checkpoint}: the folder contains no *.pt file. Set another one."
            )
        model = TrainedModel.join(
            [TrainedModel.from_dict(load_checkpoint(path), str(path)) for path in paths]
        )
        if self._checkpoint is None or path_of(self._checkpoint).resolve() == self._filepath.resolve():
            return model
        return replace(model, checkpoint=self._checkpoint)

    def save(self, data: "TrainedModel") -> None:
        """Write the model, whole or not at all."""
        from carvana_kedro.stores.checkpoints import save_checkpoint

        save_checkpoint(self._filepath, data.to_dict())
        if self._checkpoint is not None:
            self._logger.warning(
                "checkpoint=%s is ignored, because this run trained a new model", self._checkpoint
            )
            self._checkpoint = None

    @if_present
    def preview(self) -> JSONPreview:
        """Return everything but the weights and the list of images."""
        from carvana_kedro.stores.checkpoints import load_values

        paths = self._paths(self._checkpoint or self.stand_in)
        content = load_values(paths[0]) if paths and paths[0].exists() else {}
        hidden = ("weights", "members", "trained_on")
        shown = {key: value for key, value in content.items() if key not in hidden}
        return JSONPreview(shown and json.dumps(shown, indent=2))

    def _paths(self, chosen: str | None) -> list[Path]:
        """Return the files of the model: those of `chosen`, or of the recipe's own if it is None."""
        if chosen is None:
            return [self._filepath]
        path = path_of(chosen)
        return sorted(path.glob("*.pt")) if path.is_dir() else [path]

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "checkpoint": self._checkpoint}

    def _exists(self) -> bool:
        if self._checkpoint is not None and not path_of(self._checkpoint).exists():
            # Training, which is the advice where a model is missing, would not create it.
            raise UserError(
                f"checkpoint={self._checkpoint}: there is no such file or folder. Correct the path, or choose a "
                f"packaged model: {', '.join(PACKAGED)}."
            )
        return self._optional or bool(self._checkpoint or self.stand_in) or self._filepath.exists()
