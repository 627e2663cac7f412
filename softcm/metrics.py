"""Metrics of a confusion matrix, hard or soft.

Each takes a :class:`softcm.ConfusionMatrix` of tensors of any one shape and returns the metric in
that shape, differentiable in the four counts. A ratio whose denominator is exactly 0 takes the
value ``zero_division`` and has no gradient; a composite metric applies that to each of its ratios.
Where a formula has an infinite slope at a finite value the gradient is 0. NaN stays NaN. Nothing is
added to a denominator.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import inputs

Costs = Mapping[str, float] | Sequence[float]
COUNTS = ("tp", "fn", "fp", "tn")


def _four(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(
            f"{name} must be a sequence of four numbers in the order {COUNTS}, "
            f"got {inputs.describe(values)}"
        )
    if len(values) != 4:
        raise ValueError(f"{name} must hold four numbers in the order {COUNTS}, got {len(values)}")
    return tuple(inputs.check_finite(f"{name}[{i}]", value) for i, value in enumerate(values))


@dataclass(frozen=True)
class LinearFractional:
    """The metric ``(a . c + a0) / (b . c + b0)`` of the counts c = (TP, FN, FP, TN).

    These metrics (Koyejo et al. 2014) have a fused kernel: sums, metric and gradient without
    leaving native code.

    Args:
        numerator: the four coefficients a, in the order TP, FN, FP, TN.
        denominator: the four coefficients b.
        numerator_constant: a0.
        denominator_constant: b0.

    Raises:
        TypeError: a coefficient is not a number.
        ValueError: not four coefficients, or one that is not finite.
    """

    numerator: Sequence[float]
    denominator: Sequence[float]
    numerator_constant: float = 0.0
    denominator_constant: float = 0.0

    def __post_init__(self) -> None:
        for name in ("numerator", "denominator"):
            object.__setattr__(self, name, _four(name, getattr(self, name)))
        for name in ("numerator_constant", "denominator_constant"):
            object.__setattr__(self, name, inputs.check_finite(name, getattr(self, name)))

    def __call__(self, cm: Any, zero_division: float = 0.0) -> Tensor:
        """The metric of a confusion matrix; ``zero_division`` where the denominator is 0."""
        _check(cm, zero_division)
        top = sum(a * count for a, count in zip(self.numerator, cm, strict=True))
        bottom = sum(b * count for b, count in zip(self.denominator, cm, strict=True))
        return _ratio(
            top + self.numerator_constant, bottom + self.denominator_constant, zero_division
        )

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The ten numbers (a, a0, b, b0) in the order that the kernels read."""
        return (
            *self.numerator,
            self.numerator_constant,
            *self.denominator,
            self.denominator_constant,
        )


ACCURACY = LinearFractional((1, 0, 0, 1), (1, 1, 1, 1))
PRECISION = LinearFractional((1, 0, 0, 0), (1, 0, 1, 0))
RECALL = LinearFractional((1, 0, 0, 0), (1, 1, 0, 0))
SPECIFICITY = LinearFractional((0, 0, 0, 1), (0, 0, 1, 1))
FALSE_POSITIVE_RATE = LinearFractional((0, 0, 1, 0), (0, 0, 1, 1))
PREVALENCE = LinearFractional((1, 1, 0, 0), (1, 1, 1, 1))
JACCARD = LinearFractional((1, 0, 0, 0), (1, 1, 1, 0))


def fbeta_metric(beta: float) -> LinearFractional:
    """F-beta = (1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP)."""
    beta = inputs.check_finite("beta", beta, lowest=0.0)
    square = beta * beta
    if square == math.inf:
        raise ValueError(f"beta must have a finite square, got {beta}")
    return LinearFractional((1 + square, 0, 0, 0), (1 + square, square, 1, 0))


F1 = fbeta_metric(1.0)


def tversky_metric(alpha: float, beta: float) -> LinearFractional:
    """Tversky = TP / (TP + alpha FP + beta FN)."""
    alpha = inputs.check_finite("alpha", alpha, lowest=0.0)
    beta = inputs.check_finite("beta", beta, lowest=0.0)
    return LinearFractional((1, 0, 0, 0), (1, beta, alpha, 0))


def cost_metric(costs: Costs) -> LinearFractional:
    """Cost = sum of cost x count / sum of the four counts; smaller is better."""
    if isinstance(costs, Mapping):
        unknown = sorted(set(costs) - set(COUNTS), key=str)
        if unknown:
            raise ValueError(f"costs may have the keys {COUNTS}, got also {unknown}")
        for name, value in costs.items():
            inputs.check_finite(f"costs[{name!r}]", value)
        costs = [costs.get(name, 0.0) for name in COUNTS]
    return LinearFractional(_four("costs", costs), (1, 1, 1, 1))


def accuracy(cm: Any, zero_division: float = 0.0) -> Tensor:
    """(TP + TN) / (TP + FN + FP + TN), eq. (2)."""
    return ACCURACY(cm, zero_division)


def precision(cm: Any, zero_division: float = 0.0) -> Tensor:
    """TP / (TP + FP)."""
    return PRECISION(cm, zero_division)


def recall(cm: Any, zero_division: float = 0.0) -> Tensor:
    """TP / (TP + FN), also called sensitivity and true positive rate."""
    return RECALL(cm, zero_division)


def specificity(cm: Any, zero_division: float = 0.0) -> Tensor:
    """TN / (TN + FP), the true negative rate."""
    return SPECIFICITY(cm, zero_division)


def fbeta(cm: Any, beta: float = 2.0, zero_division: float = 0.0) -> Tensor:
    """(1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP): recall weighs beta times as much."""
    return fbeta_metric(beta)(cm, zero_division)


def f1(cm: Any, zero_division: float = 0.0) -> Tensor:
    """2 TP / (2 TP + FN + FP), eq. (2)."""
    return F1(cm, zero_division)


def jaccard(cm: Any, zero_division: float = 0.0) -> Tensor:
    """TP / (TP + FN + FP), also called intersection over union."""
    return JACCARD(cm, zero_division)


def tversky(cm: Any, alpha: float = 0.5, beta: float = 0.5, zero_division: float = 0.0) -> Tensor:
    """TP / (TP + alpha FP + beta FN); alpha = beta = 0.5 is F1, alpha = beta = 1 is Jaccard."""
    return tversky_metric(alpha, beta)(cm, zero_division)


def cost(cm: Any, costs: Costs, zero_division: float = 0.0) -> Tensor:
    """Mean cost of a sample, from a cost for each TP, FN, FP and TN; smaller is better."""
    return cost_metric(costs)(cm, zero_division)


def balanced_accuracy(cm: Any, zero_division: float = 0.0) -> Tensor:
    """(recall + specificity) / 2."""
    return (recall(cm, zero_division) + specificity(cm, zero_division)) / 2


def informedness(cm: Any, zero_division: float = 0.0) -> Tensor:
    """Youden's J: recall + specificity - 1, in [-1, 1]."""
    return recall(cm, zero_division) + specificity(cm, zero_division) - 1


def gmean(cm: Any, zero_division: float = 0.0) -> Tensor:
    """sqrt(recall * specificity)."""
    return _sqrt(recall(cm, zero_division) * specificity(cm, zero_division))


def mcc(cm: Any, zero_division: float = 0.0) -> Tensor:
    """Matthews correlation coefficient, in [-1, 1]:

    (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)).
    """
    _check(cm, zero_division)
    tp, fn, fp, tn = cm
    # Roots first: the product of four counts of 1e10 would overflow float32.
    bottom = _sqrt(tp + fp) * _sqrt(tp + fn) * _sqrt(tn + fp) * _sqrt(tn + fn)
    return _ratio(tp * tn - fp * fn, bottom, zero_division)


def kappa(cm: Any, zero_division: float = 0.0) -> Tensor:
    """Cohen's kappa, in [-1, 1]:

    2 (TP TN - FN FP) / ((TP + FP) (FP + TN) + (TP + FN) (FN + TN)).
    """
    _check(cm, zero_division)
    tp, fn, fp, tn = cm
    bottom = (tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)
    return _ratio(2 * (tp * tn - fn * fp), bottom, zero_division)


def auroc(cm: Any, zero_division: float = 0.0) -> Tensor:
    """Area under the receiver operating characteristic over the thresholds of ``cm``.

    The last dimension of the counts (..., T) holds the thresholds in ascending order; it is summed
    over by the trapezoidal rule from (0, 0) to (1, 1) in the plane of false and true positive rate
    (Section 2). Returns shape (...).
    """
    true_rate, false_rate = recall(cm, zero_division), FALSE_POSITIVE_RATE(cm, zero_division)
    return torch.trapezoid(_descending(true_rate, 0.0, 1.0), _descending(false_rate, 0.0, 1.0))


def auprc(cm: Any, zero_division: float = 0.0) -> Tensor:
    """Average precision over the thresholds of ``cm``, by the step rule of scikit-learn.

    sum over t of (R_t - R_(t-1)) P_t from the highest threshold to the lowest, and from there to
    recall 1 at the precision of the all-positive decision, which is the share of positives. The
    last dimension of the counts (..., T) holds the thresholds in ascending order. Returns shape
    (...).
    """
    precisions = torch.atleast_1d(precision(cm, zero_division)).flip(-1)
    share = torch.atleast_1d(PREVALENCE(cm, zero_division))[..., :1]
    steps = torch.diff(_descending(recall(cm, zero_division), 0.0, 1.0), dim=-1)
    return (steps * torch.cat((precisions, share), dim=-1)).sum(-1)


def _descending(rate: Tensor, first: float, last: float) -> Tensor:
    """A rate at descending thresholds, with its value above the highest and below the lowest."""
    rate = torch.atleast_1d(rate)
    ends = rate.new_full((*rate.shape[:-1], 1), first), rate.new_full((*rate.shape[:-1], 1), last)
    return torch.cat((ends[0], rate.flip(-1), ends[1]), dim=-1)


def _check(cm: Any, zero_division: Any) -> None:
    counts = cm if isinstance(cm, (tuple, list)) else ()
    if len(counts) != 4 or not all(isinstance(count, Tensor) for count in counts):
        raise TypeError(
            "cm must be a softcm.ConfusionMatrix or four tensors TP, FN, FP, TN, got "
            f"{inputs.describe(cm)}; softcm.confusion_matrix(input, target) makes one"
        )
    if not all(count.shape == counts[0].shape for count in counts):
        shapes = ", ".join(str(tuple(count.shape)) for count in counts)
        raise ValueError(f"cm must hold four tensors of one shape, got shapes {shapes}")
    inputs.check_number("zero_division", zero_division)


def _ratio(top: Tensor, bottom: Tensor, zero_division: float) -> Tensor:
    zero = bottom == 0
    return torch.where(zero, zero_division, top / torch.where(zero, 1.0, bottom))


def _sqrt(x: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0."""
    zero = x == 0
    return torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, x)))
