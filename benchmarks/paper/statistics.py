"""Means over seeds, and differences between losses on the same seeds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from softcm.demo import mean_of_seeds


class Difference(NamedTuple):
    mean: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        return self.low > 0 or self.high < 0


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The deviation of one value is NaN."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), deviation


def paired(
    values: Sequence[float], baseline: Sequence[float], test_to_training: float
) -> Difference:
    """The mean difference and its 95 % interval, by Student's t with an enlarged error."""
    mean, _, half = mean_of_seeds(np.subtract(values, baseline), test_to_training)
    return Difference(mean, mean - half, mean + half)
