"""Do predictions agree with what came: correlation, and means of predictions against means of the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NUM_BINS = 5
"""Bins of a calibration, each with the same number of predictions as far as these differ."""


@dataclass(frozen=True)
class Calibration:
    """Predictions of one quantity against what came."""

    count: int
    predicted: float
    """Mean prediction."""
    true: float
    """Mean of what came."""
    spread: float
    """Standard deviation of what came."""
    error: float
    """Mean over predictions of the distance between the two means of their bin."""
    correlation: float
    """See ``correlation``."""
    bins: tuple[tuple[int, float, float], ...]
    """Predictions in ascending order: number of each bin, their mean, and the mean of what came."""


def calibrate(predicted: np.ndarray, true: np.ndarray) -> Calibration:
    """Compare predictions (S,) with what came (S,); S >= 1."""
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    number = np.searchsorted(edges, predicted, side="right")
    bins = tuple(
        (int(chosen.sum()), float(predicted[chosen].mean()), float(true[chosen].mean()))
        for chosen in (number == i for i in range(len(edges) + 1))
        if chosen.any()
    )
    return Calibration(
        count=len(true),
        predicted=float(predicted.mean()),
        true=float(true.mean()),
        spread=float(true.std()),
        error=sum(count * abs(guess - came) for count, guess, came in bins) / len(true),
        correlation=correlation(predicted, true),
        bins=bins,
    )


def correlation(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson's correlation: NaN where what came does not vary, 0 where only the predictions do not."""
    if len(true) < 2 or not true.std():
        return math.nan
    if predicted.std() < 1e-9 * max(1.0, abs(float(predicted.mean()))):
        return 0.0
    return float(np.corrcoef(predicted, true)[0, 1])
