"""The Dice coefficient of the validation at every threshold."""

import numpy as np
import torch
from torch import Tensor


class ThresholdCurve:
    """Counts the pixels whose probability reaches each threshold from 0.00 to 0.99, to compare thresholds.

    >>> curve = ThresholdCurve()
    >>> curve.add(torch.tensor([[[4.0, 0.5, -4.0]]]), torch.tensor([[[1.0, 0.0, 0.0]]]))
    >>> curve.dice()[[30, 80]].tolist(), curve.best_threshold()
    ([0.6666666666666666, 1.0], 0.81)
    """

    thresholds = np.arange(100) / 100
    """Thresholds on the probability, `(100,)`; a pixel is positive if its probability is not less."""

    def __init__(self) -> None:
        self._positive: list[np.ndarray] = []
        self._true_positive: list[np.ndarray] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Count the pixels of a batch; the counting runs on the device of the batch.

        Args:
            logits: `(N, h, w)` of a floating-point dtype.
            targets: `(N, h, w)` in [0, 1]; pixels above 0.5 belong to the object.
        """
        images = len(logits)
        # One cell per (image, target, bin), so that a single bincount does all of the counting. It is fastest with
        # numbers that are short.
        cells = logits.sigmoid().mul_(100).int().clamp_(0, 99)  # (N, h, w), the bins
        cells += (targets > 0.5).int().mul_(100)
        cells += torch.arange(0, 200 * images, 200, dtype=torch.int32, device=cells.device)[:, None, None]
        counts = torch.bincount(cells.flatten(), minlength=200 * images).reshape(images, 2, 100)
        reaching = counts.flip(2).cumsum(2).flip(2).cpu().numpy()  # (N, 2, 100)
        self._positive.append(reaching.sum(1))
        self._true_positive.append(reaching[:, 1])

    def extend(self, other: "ThresholdCurve") -> None:
        """Add the images of another curve after those of this one."""
        self._positive += other._positive
        self._true_positive += other._true_positive

    @property
    def positive(self) -> np.ndarray:
        """Number of pixels that reach each threshold, `(images, 100)`."""
        return np.concatenate(self._positive)

    @property
    def true_positive(self) -> np.ndarray:
        """Number of pixels of the object that reach each threshold, `(images, 100)`."""
        return np.concatenate(self._true_positive)

    def constant(self, threshold: float) -> tuple[int, int]:
        """Return the number of images with an empty mask, and with a full one, at a threshold in (0, 1)."""
        marked = self.positive[:, min(max(round(100 * threshold), 1), 99)]
        # At threshold 0 every pixel is positive.
        return int((marked == 0).sum()), int((marked == self.positive[:, 0]).sum())

    def dice(self) -> np.ndarray:
        """Return the Dice coefficient at each threshold, averaged over the images, `(100,)`."""
        # At threshold 0 every pixel is positive, so true_positive[:, 0] is the size of the object.
        total = self.positive + self.true_positive[:, :1]
        return np.where(total == 0, 1.0, 2 * self.true_positive / np.maximum(total, 1)).mean(0)

    def best_threshold(self) -> float:
        """Return the threshold with the highest mean Dice coefficient; if there are several, the middle one."""
        dice = self.dice()[1:]
        best = np.flatnonzero(dice == dice.max()) + 1
        return float(self.thresholds[best[len(best) // 2]])
