"""Charts as numbers: scales, and what to draw where. The template `charts.html.j2` draws them as SVG."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple, Self

import numpy as np
import pandas as pd

from carvana_kedro.results.summary import RunSummary

WIDTH, HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 340, 12, 192
_MOST_DOTS = 40  # of a line; a longer line has none

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to positions in a chart.

    Attributes:
        low: Value at the start.
        high: Value at the end.
        step: Distance between two ticks, in values.
        start: Position of `low`.
        end: Position of `high`.
    """

    low: float
    high: float
    step: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, least_step: float = 0.0) -> Self:
        """Return an axis that holds all finite values and begins and ends with a tick.

        >>> Axis.over([0.871, 0.993], 0, 100).ticks
        [(0.0, '0.85'), (33.3, '0.90'), (66.7, '0.95'), (100.0, '1.00')]
        """
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        step = _round_step(max(high - low, 1e-4 * max(1, abs(low), abs(high))), least_step)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(first * step, max(last, first + 1) * step, step, start, end)

    @classmethod
    def of_numbers(cls, numbers: Iterable[int], start: float, end: float) -> Self:
        """Return an axis of whole numbers with a margin on both sides.

        >>> Axis.of_numbers([1, 2, 3], 0, 100).ticks
        [(16.7, '1'), (50.0, '2'), (83.3, '3')]
        """
        low, high = min(numbers) - 0.5, max(numbers) + 0.5
        return cls(low, high, _round_step(high - low, 1), start, end)

    def at(self, value: float) -> float:
        """Return the position of a value, to a tenth of a pixel."""
        share = (value - self.low) / (self.high - self.low)
        return round(float(self.start + share * (self.end - self.start)), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Position and label of each multiple of the step."""
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        values = [number * self.step for number in range(first, last + 1)]
        return [(self.at(value), f"{value:.{digits}f}") for value in values]


def _round_step(span: float, least: float) -> float:
    """Return 1, 2 or 5 times a power of ten, or `least`, so that the span has at most five steps."""
    power = 10.0 ** math.floor(math.log10(span))
    return max(least, next(step for step in (0.2 * power, 0.5 * power, power, 2 * power) if span / step <= 5))


class Line(NamedTuple):
    """A line, in pieces: where a value is missing, it has a gap."""

    kind: str
    pieces: list[list[Point]]
    dotted: bool = False


class Bar(NamedTuple):
    """A bar that stands on the lower edge of the chart."""

    left: float
    top: float
    width: float
    height: float


class Range(NamedTuple):
    """A vertical line from the lowest to the highest value, with a dot at the mean."""

    x: float
    lowest: float
    highest: float
    mean: float


class Mark(NamedTuple):
    """A vertical line through the whole chart."""

    kind: str
    x: float


@dataclass(frozen=True)
class Chart:
    """What to draw, in pixels of a chart of WIDTH x HEIGHT, and what it shows in words."""

    description: str
    x_title: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    ranges: Sequence[Range] = ()
    marks: Sequence[Mark] = ()
    size: tuple[int, int] = (WIDTH, HEIGHT)
    frame: tuple[int, int, int, int] = (_LEFT, _TOP, _RIGHT, _BOTTOM)


def learning_curve(history: pd.DataFrame, quantity: str, name: str) -> Chart:
    """Draw a quantity over the epochs: one line per fold and side of the split.

    Args:
        history: One row per epoch, and per fold if there are folds.
        quantity: `loss` or `dice_coeff`; the columns are `train_` and `val_` with this name.
        name: What the description calls the quantity.
    """
    sides = {"train": f"train_{quantity}", "validation": f"val_{quantity}"}
    x = Axis.of_numbers(history["epoch"], _LEFT, _RIGHT)
    y = Axis.over(history[list(sides.values())].to_numpy(float).ravel(), _BOTTOM, _TOP)
    runs = [run for _, run in history.groupby("fold")] if "fold" in history else [history]
    lines = [_line(side, x, y, run["epoch"], run[column]) for side, column in sides.items() for run in runs]
    last = history.groupby("epoch")[list(sides.values())].mean().iloc[-1]
    description = (
        f"{name} over {history['epoch'].max()} epochs; at the end {last.iloc[0]:.4f} in training and {last.iloc[1]:.4f}"
        " in validation."
    )
    return Chart(description, "epoch", x.ticks, y.ticks, lines)


def distribution(dice: "pd.Series[float]") -> Chart:
    """Draw how many images have which Dice coefficient."""
    x = Axis.over(dice, _LEFT, _RIGHT)
    edges = np.linspace(x.low, x.high, 1 + 4 * round((x.high - x.low) / x.step))
    counts, _ = np.histogram(dice.clip(x.low, x.high), edges)
    y = Axis.over([0, counts.max()], _BOTTOM, _TOP, least_step=1)
    bars = [
        Bar(x.at(left), y.at(count), x.at(right) - x.at(left), _BOTTOM - y.at(count))
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    ]
    description = (
        f"Histogram of the Dice coefficients of {len(dice)} images: lowest {dice.min():.4f}, median "
        f"{dice.median():.4f}, highest {dice.max():.4f}."
    )
    return Chart(description, "Dice coefficient", x.ticks, y.ticks, bars=bars)


def views(table: pd.DataFrame) -> Chart:
    """Draw the range and the mean of the Dice coefficient of each view.

    Args:
        table: One row per view: view, lowest, mean, highest.
    """
    numbers = table["view"].tolist()
    x = Axis.of_numbers(numbers, _LEFT, _RIGHT)
    y = Axis.over(table[["lowest", "highest"]].to_numpy(float).ravel(), _BOTTOM, _TOP)
    every = -(-len(table) // 16)
    ticks = [(x.at(number), str(number)) for number in numbers[::every]]
    rows = table[["view", "lowest", "highest", "mean"]].to_numpy(float).tolist()
    ranges = [Range(x.at(view), *map(y.at, scores)) for view, *scores in rows]
    worst, lowest = min(zip(numbers, table["mean"], strict=True), key=itemgetter(1))
    description = f"Dice coefficient of {len(table)} views. View {worst} has the lowest mean, {lowest:.4f}."
    return Chart(description, "view", ticks, y.ticks, ranges=ranges)


def threshold_curve(summary: RunSummary) -> Chart:
    """Draw the mean Dice coefficient over the threshold, and mark the best and the used threshold.

    The vertical axis holds the values of the thresholds from 0.1 to 0.9 and the highest; lower values are left out.
    """
    curve = summary.curve
    used, (best, best_dice) = summary.run["validation"]["threshold"], summary.best_threshold
    x = Axis(0, 1, 0.2, _LEFT, _RIGHT)
    y = Axis.over([*curve.loc[curve["threshold"].between(0.1, 0.9), "dice"], best_dice], _BOTTOM, _TOP)
    shown = curve["dice"].where(curve["dice"] >= y.low)
    description = (
        f"Mean Dice coefficient over the threshold: the highest value is {best_dice:.4f}, at {best:.2f}; "
        f"the threshold of the run is {used:.2f}."
    )
    return Chart(
        description,
        "threshold on the probability",
        x.ticks,
        y.ticks,
        [_line("validation", x, y, curve["threshold"], shown)],
        marks=[Mark("used", x.at(used)), Mark("best", x.at(best))],
    )


def reliability(bins: pd.DataFrame) -> Chart:
    """Draw how often the pixels of a probability belong to the car.

    Args:
        bins: What `scores.reliability` returns.
    """
    x, y = Axis(0, 1, 0.2, _LEFT, _RIGHT), Axis(0, 1, 0.2, _BOTTOM, _TOP)
    description = "Share of pixels of the car over the predicted probability: " + ", ".join(
        f"{row.share:.2f} at {row.probability:.2f}" for row in bins.itertuples()
    )
    ideal = Line("ideal", [[(x.at(0), y.at(0)), (x.at(1), y.at(1))]])
    found = _line("validation", x, y, bins["probability"], bins["share"])
    return Chart(f"{description}.", "predicted probability", x.ticks, y.ticks, [ideal, found])


def _line(kind: str, x: Axis, y: Axis, xs: Iterable[float], ys: Iterable[float]) -> Line:
    """Return a line that has gaps where a value is not finite."""
    pieces: list[list[Point]] = [[]]
    for horizontal, vertical in zip(xs, ys, strict=True):
        if math.isfinite(vertical):
            pieces[-1].append((x.at(horizontal), y.at(vertical)))
        elif pieces[-1]:
            pieces.append([])
    return Line(kind, pieces, dotted=sum(map(len, pieces)) <= _MOST_DOTS)
