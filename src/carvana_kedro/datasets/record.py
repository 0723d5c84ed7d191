"""Plain values in json files."""

import json
from typing import Any

from kedro_datasets._typing import JSONPreview

from carvana_kedro.datasets.file import FileDataset
from carvana_kedro.datasets.previews import if_present
from carvana_kedro.stores.faults import damaged, reading

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
}


class RecordDataset(FileDataset[Any, Any]):
    """Plain values in a json file, whose content is checked.

    Args:
        fields: fields that the file must have, and their types: `object`, `array`, `string` or `number`.
        optional: whether a run that reads the file also starts without it.
        options: see `FileDataset`.
    """

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
        with reading(self.where):
            content = json.loads(self._folder.read(self._name))
        if self._fields is not None:
            if not isinstance(content, dict):
                raise damaged(self.where, f"it holds a {type(content).__name__} instead of named values")
            for name, kind in self._fields.items():
                if not isinstance(content.get(name), _TYPES[kind]):
                    raise damaged(self.where, f"it should hold {name}, of type {kind}")
        return content

    def save(self, data: Any) -> None:
        """Write the values."""
        with self._folder.write(self._name) as part:
            part.write_text(json.dumps(data, indent=2) + "\n", "utf-8")

    @if_present
    def preview(self) -> JSONPreview:
        """Return the values as JSON."""
        return JSONPreview(json.dumps(self.load()))
