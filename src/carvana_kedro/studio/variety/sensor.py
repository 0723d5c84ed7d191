"""What a camera does to an image: vignetting, blur, sharpening, noise and JPEG compression."""

import cv2
import numpy as np

from .draws import chance

Array = np.ndarray


def develop(image: Array, rng: np.random.Generator) -> Array:
    """Return the image, `(H, W, 3)` uint8, as a camera stores it."""
    scale = min(image.shape[1] / 1918, image.shape[0] / 1280)
    if chance(rng, 0.5):
        image = _vignetted(image, rng.uniform(0.02, 0.22))
    soft = scale * abs(rng.normal(0, 1.1))
    if soft > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), soft)
    if chance(rng, 0.35):
        halo = cv2.GaussianBlur(image, (0, 0), max(scale * rng.uniform(1.5, 3), 0.6))
        amount = rng.uniform(0.2, 0.8)
        image = cv2.addWeighted(image, 1 + amount, halo, -amount, 0)
    noise = abs(rng.normal(0, 2.2)) * (0.5 + 0.5 * scale)
    if noise > 0.3:
        image = cv2.add(image, _noise(image.shape, rng, noise), dtype=cv2.CV_8U)
    if chance(rng, 0.4):
        image = _compressed(image, int(rng.integers(40, 90)))
    return image


def _compressed(image: Array, quality: int) -> Array:
    """Return an RGB image as JPEG keeps it. OpenCV reads and writes BGR."""
    swapped = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, stored = cv2.imencode(".jpg", swapped, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return cv2.cvtColor(np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)


def _vignetted(image: Array, depth: float) -> Array:
    """Darken the corners. `depth` is the fraction of the light that the lens keeps back there."""
    y, x = (np.linspace(-1, 1, size // 8 + 2, dtype=np.float32) ** 2 / 2 for size in image.shape[:2])
    kept = (255 * (1 - depth * (y[:, None] + x)) ** (1 / 2.2)).astype(np.uint8)
    full = cv2.resize(cv2.merge((kept, kept, kept)), image.shape[1::-1])
    return cv2.multiply(image, full, scale=1 / 255)


def _noise(shape: tuple[int, ...], rng: np.random.Generator, strength: float) -> Array:
    """Return noise of a random grain, `(H, W, 3)` int16. A random tile is repeated, which is cheap."""
    tile = 192
    noise: Array = rng.normal(0, strength, (tile, tile, 3)) * rng.uniform(0.5, 1, 3)
    if chance(rng, 0.5):  # grain larger than a pixel
        noise = 1.8 * cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.5, 1))
    repeats = -(-shape[0] // tile), -(-shape[1] // tile), 1
    return np.tile(np.round(noise).astype(np.int16), repeats)[: shape[0], : shape[1]]
