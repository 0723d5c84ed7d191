"""Tables of scores: by view, by car, and by probability."""

import numpy as np
import pandas as pd

from carvana_kedro.errors import UserError


def by_view(scores: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of each view, in the order of the views.

    Args:
        scores: One row per image: image, dice, boundary_error.
        index: The images with their views: image, view (0: unknown).

    Returns:
        One row per known view: view, images, lowest, mean, highest (Dice coefficient), boundary_error (mean, pixels).
    """
    known = scores.merge(index.loc[index["view"] > 0, ["image", "view"]], on="image")
    return _summarized(known, "view")


def by_car(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of each car, lowest mean first: car, and the other columns of `by_view`."""
    return _summarized(scores, "car").sort_values("mean", kind="stable", ignore_index=True)


def _summarized(scores: pd.DataFrame, key: str) -> pd.DataFrame:
    dice, error = ("dice", "min"), ("boundary_error", "mean")
    return (
        scores.groupby(key)
        .agg(
            images=("dice", "size"),
            lowest=dice,
            mean=("dice", "mean"),
            highest=("dice", "max"),
            boundary_error=error,
        )
        .reset_index()
    )


def reliability(curve: pd.DataFrame) -> pd.DataFrame | None:
    """Return how often the pixels of a probability belong to the car (reliability diagram, Guo et al. 2017).

    Args:
        curve: One row per threshold 0.00, 0.01, ..., 0.99: positive (number of pixels whose probability reaches it) and
            true_positive (how many of them belong to the car).

    Returns:
        One row per tenth of the probabilities that has pixels: low and high (its ends), pixels (share of all),
        probability (mean; to 0.005, because only hundredths were counted), and share (of its pixels, those of the
        car). None if the curve has no such numbers, as those of earlier versions.

    Raises:
        UserError: Rows are missing.
    """
    if "positive" not in curve:
        return None
    if len(curve) != 100:
        raise UserError(
            f"validation_threshold_curve.csv is damaged: it has {len(curve)} rows instead of 100. Score the model "
            "again, with the same options: kedro run --nodes model_training.evaluate_model"
        )
    counts = -np.diff(curve[["positive", "true_positive"]].to_numpy(float), axis=0, append=0)
    middles = curve["threshold"].to_numpy() + 0.005
    sums = np.column_stack([counts, counts[:, 0] * middles]).reshape(10, 10, 3).sum(1)
    pixels, cars, weighted = sums[sums[:, 0] > 0].T
    low = np.arange(10)[sums[:, 0] > 0] / 10
    return pd.DataFrame(
        {
            "low": low,
            "high": low + 0.1,
            "pixels": pixels / pixels.sum(),
            "probability": weighted / pixels,
            "share": cars / pixels,
        }
    )


def calibration_error(bins: pd.DataFrame) -> float:
    """Return the expected calibration error: the mean of |share - probability| over the pixels."""
    return float((bins["pixels"] * (bins["share"] - bins["probability"]).abs()).sum())
