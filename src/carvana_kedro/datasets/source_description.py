"""What the catalog says about the chosen source, for the nodes that depend on it."""

import json
from typing import Any

# Kedro-Viz finds the kind of a preview by the name of this annotation.
from kedro_datasets._typing import JSONPreview
from pydantic import BaseModel, ConfigDict, ValidationError

from carvana_kedro.datasets.competition import SourceDataset
from carvana_kedro.errors import UserError


class SourceDescription(BaseModel):
    """A source's own settings.

    Attributes:
        name: the source's name in the catalog.
        limits: sentences for the model card: what a model trained on this source is not known to do.
        reproduce: parameters of the source that a command has to repeat to read the same images.
        writes_images: whether inference writes masks, cut-outs and overlays where its parameters say `auto`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    limits: tuple[str, ...] = ()
    reproduce: tuple[str, ...] = ()
    writes_images: bool = False


class SourceDescriptionDataset(SourceDataset[SourceDescription]):
    """The description of the chosen source, as the catalog gives it.

    Args:
        name: the source's name.
        limits: see `SourceDescription`, as for the next two.
        reproduce: names of parameters.
        writes_images: the default of inference.
        metadata: Kedro-Viz's.

    Raises:
        UserError: a value has the wrong type.
    """

    def __init__(
        self,
        name: str,
        limits: list[str],
        reproduce: list[str],
        writes_images: bool,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        values = {"name": name, "limits": limits, "reproduce": reproduce, "writes_images": writes_images}
        try:
            self._description = SourceDescription.model_validate(values)
        except ValidationError as error:
            lines = [f"\n  {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}" for wrong in error.errors()]
            raise UserError(f"_sources.{name}.about in the catalog is not valid:{''.join(lines)}") from error
        self.metadata = metadata

    def load(self) -> SourceDescription:
        """Return the description."""
        return self._description

    def preview(self) -> JSONPreview:
        """Return the description as JSON."""
        return JSONPreview(json.dumps(self._description.model_dump(), indent=2))

    def _describe(self) -> dict[str, Any]:
        return {"name": self._description.name}
