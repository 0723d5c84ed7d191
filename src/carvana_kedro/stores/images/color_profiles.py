"""Conversion of images with a color profile to sRGB."""

import io
import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

logger = logging.getLogger(__name__)

_NOT_VISIBLE = 2
"""Levels of 255. A profile that changes no color by more than this is taken as sRGB."""


def to_srgb(image: Image.Image, profile: bytes | None, name: Path | str) -> Image.Image | None:
    """Convert an image from its color profile to sRGB.

    The intent is relative colorimetric with black point compensation: white stays white, and black stays black.

    Args:
        image: of mode L, RGB or CMYK.
        profile: ICC profile of the file. None: the file has a profile, but it cannot be extracted.
        name: of the image, for the warning about a profile that cannot be used.

    Returns:
        The image of mode RGB. None if the colors are used as they are: the profile is sRGB, or cannot be used.
    """
    try:
        mode, transform = _find_transform(profile or b"", image.mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError) as error:
        _warn_once(name, str(error) if profile else "it is damaged")
        return None
    return ImageCms.applyTransform(image.convert(mode), transform) if transform else None


@lru_cache(maxsize=32)
def _find_transform(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the mode that the transform takes, and the transform, which is None if the profile is sRGB."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if mode == "L" and source.profile.xcolor_space.strip() == "RGB":
        mode = "RGB"  # some programs write gray images with the profile of the screen
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return mode, None if mode != "CMYK" and _is_identity(transform, mode) else transform


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.arange(0, 256, 1 if mode == "L" else 15, dtype=np.uint8)
    grid = (
        levels[None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    )
    before = Image.fromarray(grid)
    after = ImageCms.applyTransform(before, transform)
    assert after is not None  # it is None only if the image is changed in place
    change = np.abs(np.asarray(after).astype(int) - np.asarray(before.convert("RGB")))
    return bool(change.max() <= _NOT_VISIBLE)


@lru_cache(maxsize=4096)
def _warn_once(name: Path | str, reason: str) -> None:
    logger.warning(
        "%s: the color profile cannot be used (%s). The colors are taken as sRGB.", name, reason.strip()
    )
