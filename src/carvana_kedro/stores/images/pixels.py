"""Checks of the arrays that callers pass: what an image is, and what a mask is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_IMAGE = "An image must be (H, W, 3) uint8 RGB in 0..255"
_MASK = "A mask must be (H, W) bool, or integers 0 and 1"


def check_image(image: Any) -> None:
    """Check that an object is an image: `(H, W, 3)` uint8 RGB with at least one pixel, in any memory layout.

    Raises:
        TypeError: It is not a NumPy array.
        ValueError: It has another dtype or shape. The message says how to convert it.

    >>> check_image(np.full((2, 2, 3), 0.5))
    Traceback (most recent call last):
        ...
    ValueError: An image must be (H, W, 3) uint8 RGB in 0..255, not float64 of shape (2, 2, 3) with values from 0.5 to \
0.5. Pass (255 * image).round().astype(np.uint8).
    """
    _check_array(image, _IMAGE, 'np.asarray(image.convert("RGB"))', "image.cpu().numpy(), channels last")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"{_IMAGE}, not {_described(image)}. {_image_advice(image)}")


def as_mask(mask: Any) -> NDArray[np.bool_]:
    """Check that an object is a mask, and return it as bool. A bool mask is returned itself, and is not scanned.

    Args:
        mask: `(H, W)` bool, or integers 0 and 1, in any memory layout.

    Raises:
        TypeError: It is not a NumPy array.
        ValueError: It has another dtype, shape or value. The message says how to convert it.

    >>> as_mask(np.array([[0, 255]], dtype=np.uint8))
    Traceback (most recent call last):
        ...
    ValueError: A mask must be (H, W) bool, or integers 0 and 1, not uint8 of shape (1, 2) with values from 0 to 255. \
Pass mask > 127.
    """
    _check_array(mask, _MASK, "np.asarray(mask) > 127", "mask.cpu().numpy()")
    if mask.ndim == 2 and mask.dtype == np.bool_:
        return np.asarray(mask)
    if (
        mask.ndim == 2
        and mask.dtype.kind in "ui"
        and (not mask.size or (mask.min() >= 0 and mask.max() <= 1))
    ):
        return np.asarray(mask.astype(np.bool_))
    raise ValueError(f"{_MASK}, not {_described(mask)}. {_mask_advice(mask)}")


def check_same_size(image: NDArray[Any], mask: NDArray[Any]) -> None:
    """Check that an image and a mask, or two masks, have the same height and width.

    Raises:
        ValueError: They do not.
    """
    if image.shape[:2] != mask.shape[:2]:
        raise ValueError(f"The sizes differ: (height, width) is {image.shape[:2]} and {mask.shape[:2]}.")


def _check_array(array: Any, rule: str, from_pillow: str, from_torch: str) -> None:
    if not isinstance(array, np.ndarray):
        advice = {"PIL": f" Pass {from_pillow}.", "torch": f" Pass {from_torch}."}
        kind = type(array)
        raise TypeError(
            f"{rule}, as a NumPy array, not {kind.__module__}.{kind.__qualname__}."
            f"{advice.get(kind.__module__.partition('.')[0], '')}"
        )


def _described(array: NDArray[Any]) -> str:
    text = f"{array.dtype} of shape {array.shape}"
    if array.size and array.dtype.kind in "buif":
        text += f" with values from {array.min():.6g} to {array.max():.6g}"
    return text


def _image_advice(image: NDArray[Any]) -> str:
    """Return what to do with an array that is no image."""
    if not image.size:
        return "It has no pixels."
    if image.ndim == 2:
        return "It is gray: pass np.stack([image] * 3, axis=-1), as uint8."
    if image.ndim != 3:
        return "Pass one image at a time."
    channels = image.shape[2]
    if channels == 3:
        return _color_advice(image)
    if image.shape[0] in (1, 3, 4) and channels not in (1, 4):
        return "Its channels come first: pass image.transpose(1, 2, 0)."
    if channels == 4:
        return "It has an alpha channel: pass image[..., :3]."
    return "It is gray: pass np.repeat(image, 3, axis=2)." if channels == 1 else "Pass three channels."


def _color_advice(image: NDArray[Any]) -> str:
    """Return how to convert three channels of another dtype to uint8."""
    if image.dtype == np.bool_:
        return "Pass image * np.uint8(255)."
    if image.dtype.kind not in "uif" or not (image.min() >= 0 and np.isfinite(image.max())):
        return "Convert the colors to 0..255 first. If they are normalized, pass the original image."
    largest = image.max()
    if image.dtype.kind == "f" and largest <= 1:
        return "Pass (255 * image).round().astype(np.uint8)."
    if largest <= 255:
        return "Pass image.round().astype(np.uint8)."
    return "Scale the colors to 0..255 first; for 16 bits, pass (image / 257).round().astype(np.uint8)."


def _mask_advice(mask: NDArray[Any]) -> str:
    """Return what to do with an array that is no mask."""
    if mask.ndim == 3 and 1 in (mask.shape[0], mask.shape[2]):
        return f"Pass {'mask[..., 0]' if mask.shape[2] == 1 else 'mask[0]'}."
    if mask.ndim != 2:
        return "Pass one mask with two dimensions."
    if mask.dtype.kind == "f" and mask.size and mask.min() >= 0 and mask.max() <= 1:
        return "Pass mask > 0.5, or compare it with the threshold of your probabilities."
    if mask.dtype.kind in "uif" and mask.size and mask.min() >= 0 and mask.max() == 255:
        return "Pass mask > 127."
    return "Compare it with the value of the object: mask == value."
