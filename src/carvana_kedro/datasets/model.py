"""The trained model."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Kedro-Viz finds the kind of a preview by the name of this annotation.
from kedro_datasets._typing import JSONPreview

from carvana_kedro.datasets.file import FileDataset, Storage, open_stored, open_stored_file
from carvana_kedro.datasets.previews import if_present
from carvana_kedro.errors import UserError
from carvana_kedro.stores.folders import Folder, is_address
from carvana_kedro.weights import PACKAGED, path_of

if TYPE_CHECKING:
    from carvana_kedro.segmentation.model import TrainedModel


class ModelDataset(FileDataset["TrainedModel", "TrainedModel | None"]):
    """A trained model in one file: weights, and all that is needed to use them.

    Args:
        filepath: The file: a path or an address.
        checkpoint: What is loaded instead, as long as nothing is saved: a checkpoint of any run (`model.pt`,
            `best-*.pt`, `last-*.pt`), a folder of checkpoints, whose probabilities are averaged, or the name of a
            packaged model.
        fallback: Name of a packaged model that is loaded if there is no model and training has not begun; None: none.
        optional: Whether to load None if there is no model yet, instead of raising an error.
        storage: See `FileDataset`.
        metadata: For Kedro-Viz.
    """

    def __init__(
        self,
        filepath: str,
        checkpoint: str | None = None,
        fallback: str | None = None,
        optional: bool = False,
        storage: Storage | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if fallback is not None and fallback not in PACKAGED:
            raise UserError(f"fallback={fallback}: the packaged models are {', '.join(PACKAGED)}.")
        super().__init__(filepath, storage, metadata)
        self._checkpoint = checkpoint or None
        self._fallback = fallback
        self._optional = optional

    @property
    def stand_in(self) -> str | None:
        """The name of the packaged model that is loaded because there is no other; None if there is one.

        It does not stand in for a model that is damaged, nor for one whose training was interrupted.
        """
        is_begun = self.is_there() or self._folder.list("**/*.pt") or self._folder.list("**/run.json")
        return None if self._checkpoint or is_begun else self._fallback

    def load(self) -> "TrainedModel | None":
        """Return the model, or None if there is none and it is optional.

        Raises:
            UserError: There is no model yet, or a file is damaged or not a carvana-kedro model.
        """
        chosen = self._checkpoint or self.stand_in
        if chosen is None and not self.is_there():
            if self._optional:
                return None
            raise UserError(
                f"The model {self.where} does not exist. Train it first, with the same options: "
                "kedro run --pipelines model_training"
            )
        # Imported here: data_ingestion reads the catalog, and should not wait for torch.
        from carvana_kedro.segmentation.model import TrainedModel
        from carvana_kedro.stores.checkpoints import read_checkpoint

        files = self._files(chosen)
        if not files:
            raise UserError(
                f"checkpoint={self._checkpoint}: the folder contains no *.pt file. Set another one."
            )
        model = TrainedModel.join(
            [
                TrainedModel.from_dict(read_checkpoint(folder, name), folder.address(name))
                for folder, name in files
            ]
        )
        if self._checkpoint is None or _resolved(self._checkpoint) == _resolved(self.where):
            return model
        return replace(model, checkpoint=self._checkpoint)

    def save(self, data: "TrainedModel") -> None:
        """Write the model, whole or not at all."""
        from carvana_kedro.stores.checkpoints import write_checkpoint

        write_checkpoint(self._folder, self._name, data.to_dict())
        if self._checkpoint is not None:
            self._logger.warning(
                "checkpoint=%s is ignored, because this run trained a new model", self._checkpoint
            )
            self._checkpoint = None

    @if_present
    def preview(self) -> JSONPreview:
        """Return everything but the weights and the list of images."""
        from carvana_kedro.stores.checkpoints import load_values

        files = self._files(self._checkpoint or self.stand_in)
        content = {}
        with suppress(FileNotFoundError, IndexError):
            folder, name = files[0]
            content = load_values(folder.local(name))
        hidden = ("weights", "members", "trained_on")
        shown = {key: value for key, value in content.items() if key not in hidden}
        return JSONPreview(shown and json.dumps(shown, indent=2))

    def _files(self, chosen: str | None) -> list[tuple[Folder, str]]:
        """Return folders and names of the files of `chosen`; None: of the recipe's own model."""
        if chosen is None:
            return [(self._folder, self._name)]
        path = str(path_of(chosen)) if not is_address(chosen) else chosen
        folder = open_stored(path, self.storage)
        names = folder.list("*.pt")
        if names or Path(path).is_dir():
            return [(folder, name) for name in names]
        return [open_stored_file(path, self.storage)]

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self.where, "checkpoint": self._checkpoint}

    def _exists(self) -> bool:
        if self._checkpoint is not None and not all(
            folder.stat(name) for folder, name in self._files(self._checkpoint)
        ):
            # Training, which is the advice where a model is missing, would not create it.
            raise UserError(
                f"checkpoint={self._checkpoint}: there is no such file or folder. Correct the path, or choose a "
                f"packaged model: {', '.join(PACKAGED)}."
            )
        return self._optional or bool(self._checkpoint or self.stand_in) or self.is_there()


def _resolved(place: str) -> Path:
    return path_of(place).resolve()
