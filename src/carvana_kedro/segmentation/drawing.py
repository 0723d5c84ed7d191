"""Pictures of masks. All images are (H, W, 3) uint8 RGB, all masks (H, W) bool or {0, 1}."""

from collections.abc import Sequence

import cv2
import numpy as np

CAR = (0, 158, 115)
"""Colours that people with any colour vision tell apart (Okabe & Ito 2008)."""
HIT, MISS, FALSE_ALARM = (240, 240, 240), (230, 159, 0), (0, 114, 178)


def overlay(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = CAR) -> np.ndarray:
    """Tint the masked part of an image and draw the mask's outline."""
    inside = mask.astype(bool)
    tinted = image.copy()
    tinted[inside] = (0.6 * image[inside] + 0.4 * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(image.shape) / 600))
    return cv2.drawContours(tinted, outlines, -1, colour, thickness)


def agreement(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Paint where both masks agree on car (light), the car was missed (orange) or imagined (blue)."""
    predicted, expected = prediction.astype(bool), target.astype(bool)
    picture = np.zeros((*target.shape, 3), np.uint8)
    picture[predicted & expected] = HIT
    picture[~predicted & expected] = MISS
    picture[predicted & ~expected] = FALSE_ALARM
    return picture


def comparison(image: np.ndarray, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Set side by side: the image, the masks' agreement, the expected and the predicted overlay."""
    parts = [image, agreement(prediction, target), overlay(image, target), overlay(image, prediction)]
    return np.concatenate(parts, axis=1)


def captioned(image: np.ndarray, caption: str, width: int) -> np.ndarray:
    """Resize an image to a width and write a caption above it."""
    height = round(image.shape[0] * width / image.shape[1])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.concatenate([text_bar(caption, width), small])


def text_bar(text: str, width: int) -> np.ndarray:
    """Write a line of text on white, (28, width, 3)."""
    bar = np.full((28, width, 3), 255, np.uint8)
    return cv2.putText(bar, text, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)


def grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Set pictures of any sizes in rows, on white.

    Raises:
        ValueError: there are no pictures.
    """
    if not pictures:
        raise ValueError("A grid needs at least one picture.")
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + 8), columns * (width + 8), 3), 255, np.uint8)
    for position, picture in enumerate(pictures):
        top, left = position // columns * (height + 8), position % columns * (width + 8)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet
