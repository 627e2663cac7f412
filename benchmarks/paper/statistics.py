"""Means over seeds, and differences between losses on the same seeds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


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
    """The mean difference and its 95 % interval, by Student's t with an enlarged error.

    The splits of the seeds share rows, so that the error of a mean of independent values would be
    too small for new data: Nadeau and Bengio (2003) enlarge it by the ratio of the test part's size
    to that of the training part.
    """
    from scipy.stats import t

    differences = np.subtract(values, baseline)
    mean, deviation = mean_and_deviation(differences)
    error = deviation * math.sqrt(1 / len(differences) + test_to_training)
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)) * error
    return Difference(mean, mean - half, mean + half)
