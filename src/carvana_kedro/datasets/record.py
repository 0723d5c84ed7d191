"""Plain values in json files."""

import json
from typing import Any

from kedro_datasets._typing import JSONPreview
from kedro_datasets.json import JSONDataset

from carvana_kedro.datasets.file import FormatDataset
from carvana_kedro.datasets.previews import if_present
from carvana_kedro.stores.faults import damaged

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
}


class RecordDataset(FormatDataset[Any, Any]):
    """Plain values in a json file, whose content is checked.

    Args:
        fields: fields that the file must have, and their types: `object`, `array`, `string` or `number`.
        optional: whether a run that reads the file also starts without it.
        options: see `FormatDataset`.
    """

    FORMAT = JSONDataset

    def __init__(
        self, *, fields: dict[str, str] | None = None, optional: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self._fields = fields
        self.optional = optional

    def load(self) -> Any:
        """Return the values, or None if the file is missing and optional.

        Raises:
            UserError: the file is missing, cannot be read or is damaged.
        """
        if self.optional and not self.is_there():
            return None
        content = super().load()
        if self._fields is not None:
            if not isinstance(content, dict):
                raise damaged(self.where, f"it holds a {type(content).__name__} instead of named values")
            for name, kind in self._fields.items():
                if not isinstance(content.get(name), _TYPES[kind]):
                    raise damaged(self.where, f"it should hold {name}, of type {kind}")
        return content

    @if_present
    def preview(self) -> JSONPreview:
        """Return the values as JSON."""
        return JSONPreview(json.dumps(self.load()))
