"""Means over seeds, differences that are paired by seed, and trainings that went wrong."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST_SEEDS = 3
"""Seeds that it takes to call one of them collapsed: the median of two is their mean."""


@dataclass(frozen=True)
class Difference:
    """Mean paired difference with its 95 % t-interval; fewer than two pairs have no interval."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float], reference: Sequence[float]) -> "Difference":
        """`values - reference`, pair by pair."""
        gain = np.subtract(values, reference)
        half = half_interval(gain.tolist())
        mean = float(gain.mean())
        return cls(mean, None, None) if half is None else cls(mean, mean - half, mean + half)

    def text(self, digits: int = 1) -> str:
        """`+1.3 [-0.4, +2.9]`."""
        if self.low is None or self.high is None:
            return f"{self.mean:+.{digits}f}"
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def half_interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % t-interval of the mean; None for a single value."""
    if len(values) < 2:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation over the seeds; None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def collapsed(averages: Sequence[float], seeds: Sequence[int]) -> tuple[int, ...]:
    """Seeds with less than half of the median of all seeds; none of fewer than three, whose median says nothing."""
    if len(averages) < LEAST_SEEDS:
        return ()
    least = np.median(averages) / 2
    return tuple(seed for seed, value in zip(seeds, averages, strict=True) if value < least)
