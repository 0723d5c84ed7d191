"""Masks as files for a person to correct. A later run never overwrites what the person has changed."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import cv2
import numpy as np

from carvana_kedro.errors import UserError
from carvana_kedro.stores.folders import Folder

logger = logging.getLogger(__name__)

Fate = Literal["written", "kept", "removed"]
"""What became of a mask: written by this project; kept as a person has changed it; or removed by a person."""

_RECORD = ".written.json"  # hidden, so that a folder of masks is read without it
_BATCH = 256  # masks between two writes of the record


class _Version(NamedTuple):
    """A mask that this project has written: digests of its photograph and of its file."""

    photograph: str
    mask: str


_NO_FILE = _Version("", "")

_Record = dict[str, list[_Version]]
"""What each file may hold if nobody has changed it. Several versions: a run is writing the file, or was killed."""


@dataclass(frozen=True)
class EditableMasks:
    """A folder of masks: 8-bit gray png files with the values 0 and 255.

    A hidden file in the folder records the digests of what was written. A file with other content is a person's.

    Attributes:
        folder: It need not exist.
    """

    folder: Folder

    def update(
        self, photographs: Mapping[str, str], masks: Iterable[tuple[str, np.ndarray]]
    ) -> dict[str, Fate]:
        """Write masks, except those that a person has changed or removed.

        A removed mask is written again when the mask has changed. Masks of other photographs are removed if nobody has
        changed them.

        Args:
            photographs: Digest of each photograph, by the file name of its mask.
            masks: File name and (H, W) bool mask of each photograph.

        Returns:
            The fate of each mask, by file name.

        Raises:
            UserError: A person has changed masks of other photographs with the same names.
        """
        with self.folder.locked():
            self.folder.sweep()
            record = self._read()
            self._check_photographs(photographs, record)
            self._remove_others(photographs, record)
            fates: dict[str, Fate] = {}
            for batch in _batches(masks):
                contents = {name: _encoded(mask) for name, mask in batch}
                new = {
                    name: _Version(photographs[name], _digest(content)) for name, content in contents.items()
                }
                begun = {name: _with(record.get(name), version) for name, version in new.items()}
                # Before the files: the next run must not take those of a killed one for a person's.
                self._save(record | begun)
                for name, content in contents.items():
                    fates[name] = self._write(name, content, begun[name])
                record |= {name: [version] for name, version in new.items()}
            self._save(record)
        return fates

    def _write(self, name: str, content: bytes, versions: Sequence[_Version]) -> Fate:
        is_settled = len(versions) == 1
        if self.folder.stat(name) is None:
            if is_settled:
                return "removed"
        elif not self._is_one_of(versions, name):
            return "kept"
        if not is_settled:
            self.folder.put(name, content)
        return "written"

    def _check_photographs(self, photographs: Mapping[str, str], record: _Record) -> None:
        others = [
            name
            for name, photograph in photographs.items()
            if name in record
            and photograph not in [version.photograph for version in record[name]]
            and self.folder.stat(name)
            and not self._is_one_of(record[name], name)
        ]
        if others:
            raise UserError(
                f"In {self.folder}, {len(others)} masks were changed by hand, but for other photographs of the same "
                f"names, such as {others[0]}. Move these masks to another folder, and run again."
            )

    def _remove_others(self, photographs: Mapping[str, str], record: _Record) -> None:
        others = [name for name in self.folder.list("[!.]*") if name not in photographs]
        ours = [name for name in others if name in record and self._is_one_of(record[name], name)]
        self._save(record | {name: [*record[name], _NO_FILE] for name in ours})
        for name in ours:
            self.folder.remove(name)
            del record[name]
        if ours:
            logger.info("Removed %d masks of other photographs from %s", len(ours), self.folder)
        if left := [name for name in others if name not in ours]:
            logger.warning(
                "%s has %d files that are no masks of these photographs as this project wrote them, such as %s. They "
                "stay. Move them to another folder before you train on the masks.",
                self.folder, len(left), left[0],
            )  # fmt: skip

    def _read(self) -> _Record:
        try:
            content = json.loads(self.folder.read(_RECORD))
            return {name: [_Version(*version) for version in versions] for name, versions in content.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            logger.warning(
                "%s is damaged. All masks in the folder are kept as they are.", self.folder.address(_RECORD)
            )
            return {}

    def _save(self, record: _Record) -> None:
        self.folder.put(_RECORD, json.dumps(record).encode())

    def _is_one_of(self, versions: Sequence[_Version], name: str) -> bool:
        """Return whether a file has the content of one of these versions."""
        with suppress(FileNotFoundError, IsADirectoryError):
            return _digest(self.folder.read(name)) in [version.mask for version in versions]
        return False


def _with(versions: list[_Version] | None, new: _Version) -> list[_Version]:
    """Return what may be in a file while a version is written into it."""
    earlier = versions or [_NO_FILE]
    return earlier if earlier == [new] else [*earlier, new]


def _batches(masks: Iterable[tuple[str, np.ndarray]]) -> Iterator[list[tuple[str, np.ndarray]]]:
    remaining = iter(masks)
    while batch := list(islice(remaining, _BATCH)):
        yield batch


def _encoded(mask: np.ndarray) -> bytes:
    _, content = cv2.imencode(".png", mask.astype(np.uint8) * 255)
    return content.tobytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
