"""Masks that were decoded before, kept as packed bits."""

import hashlib
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

_SIZE = np.dtype("<u4")


class KeptMasks:
    """A folder of decoded masks, one file per content of a mask's file.

    Unpacking the bits takes a tenth of the time of decoding a gif. A mask of 1918 x 1280 pixels takes 8 kB on the disk.
    Files need no lock and no atomic write: a damaged or half-written one fails its checksum, and the mask is decoded
    again. The folder may be removed at any time.

    Args:
        folder: need not exist yet. None: nothing is kept.
        decoder: identifies the code that decodes. What other code has decoded is not used.
    """

    def __init__(self, folder: Path | None = None, decoder: bytes = b"") -> None:
        """Store the arguments."""
        self._folder = folder
        self._decoder = decoder

    def mask_of(self, content: bytes, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
        """Return the kept mask, or decode and keep it.

        Args:
            content: of the mask's file.
            decode: returns the mask, (H, W) uint8 with values 0 and 1. Its errors are passed on, and nothing is kept.
        """
        folder = self._folder  # another thread may set it to None
        if folder is None:
            return decode(content)
        path = folder / f"{hashlib.sha256(self._decoder + content).hexdigest()[:32]}.bits"
        mask = _read(path)
        if mask is None:
            mask = decode(content)
            self._keep(path, mask)
        return mask

    def _keep(self, path: Path, mask: np.ndarray) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_pack(mask))
        except OSError as error:
            self._folder = None
            logger.warning("Decoded masks are not kept, and are decoded at each reading: %s.", error)


def _pack(mask: np.ndarray) -> bytes:
    """Return the size and the bits of a mask, compressed, with zlib's checksum."""
    return zlib.compress(np.array(mask.shape, _SIZE).tobytes() + np.packbits(mask).tobytes(), 1)


def _unpack(packed: bytes) -> np.ndarray:
    content = zlib.decompress(packed)
    start = 2 * _SIZE.itemsize
    height, width = np.frombuffer(content[:start], _SIZE).tolist()
    bits = np.frombuffer(content, np.uint8, offset=start)
    return np.unpackbits(bits, count=height * width).reshape(height, width)


def _read(path: Path) -> np.ndarray | None:
    """Return the mask in a file, or None if there is no such file or it is damaged."""
    try:
        return _unpack(path.read_bytes())
    except (OSError, zlib.error, ValueError):
        return None
