"""What a validation would have given at other thresholds."""

import numpy as np
import torch
from torch import Tensor


class ThresholdCurve:
    """Counts, for every hundredth of the probability, what lies above it.

    >>> curve = ThresholdCurve()
    >>> curve.add(torch.tensor([[[4.0, 0.5, -4.0]]]), torch.tensor([[[1.0, 0.0, 0.0]]]))
    >>> curve.dice()[[30, 80]].tolist(), curve.best_threshold()
    ([0.6666666666666666, 1.0], 0.81)
    """

    thresholds = np.arange(100) / 100
    """What a probability has to reach."""

    def __init__(self) -> None:
        self._positive: list[np.ndarray] = []
        self._true_positive: list[np.ndarray] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch, on its device.

        Args:
            logits: (N, h, w) floats.
            targets: (N, h, w) in [0, 1]; above one half is the object.
        """
        images = len(logits)
        bins = (logits.sigmoid() * 100).long().clamp_(0, 99)  # (N, h, w)
        cell = bins + 100 * (targets > 0.5) + 200 * torch.arange(images, device=bins.device)[:, None, None]
        counts = torch.bincount(cell.flatten(), minlength=200 * images).reshape(images, 2, 100)
        reaching = counts.flip(2).cumsum(2).flip(2).cpu().numpy()  # (N, 2, 100)
        self._positive.append(reaching.sum(1))
        self._true_positive.append(reaching[:, 1])

    @property
    def positive(self) -> np.ndarray:
        """Pixels that reach each threshold, (images, 100)."""
        return np.concatenate(self._positive)

    @property
    def true_positive(self) -> np.ndarray:
        """Those of them that belong to the object, (images, 100)."""
        return np.concatenate(self._true_positive)

    def dice(self) -> np.ndarray:
        """Return the mean Dice coefficient over the images at each threshold, (100,)."""
        size = self.positive + self.true_positive[:, :1]  # every probability reaches 0
        return np.where(size == 0, 1.0, 2 * self.true_positive / np.maximum(size, 1)).mean(0)

    def best_threshold(self) -> float:
        """Return the threshold of the highest mean Dice coefficient: the middle of those that are equally good."""
        dice = self.dice()[1:]
        best = np.flatnonzero(dice == dice.max()) + 1
        return float(self.thresholds[best[len(best) // 2]])
