"""Metrics of a confusion matrix, hard or soft.

Each takes a :class:`softcm.ConfusionMatrix` of tensors of any one shape and returns the metric in
that shape, differentiable in the four counts. A ratio whose denominator is exactly 0 takes the
value ``zero_division`` and has no gradient; a composite metric applies that to each of its ratios.
Where a formula has an infinite slope at a finite value the gradient is 0. NaN stays NaN. Nothing is
added to a denominator. Counts of an integer dtype, or bool, are taken in float64.

The areas and the operating points go over thresholds: they take the last dimension of the counts.
With ``average="multiclass"`` accuracy, mcc and kappa take the first, which holds the classes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
        counts = _floating(cm, zero_division)
        top: Any = sum(a * count for a, count in zip(self.numerator, counts, strict=True))
        bottom: Any = sum(b * count for b, count in zip(self.denominator, counts, strict=True))
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


def accuracy(cm: Any, zero_division: float = 0.0, *, average: str | None = None) -> Tensor:
    """(TP + TN) / (TP + FN + FP + TN), eq. (2).

    ``average="multiclass"``: the counts (C,) or (C, T) with C >= 2 are those of each class against
    the rest. The result, of shape () or (T,), is the share of samples whose class was found,
    sum of TP / sum of (TP + FN). For hard counts each sample is to have one predicted class:
    ``softcm.confusion_matrix(one_hot(p.argmax(1), C).double(), y)``.
    """
    if average is None:
        return ACCURACY(cm, zero_division)
    classes = _of_classes(cm, zero_division, average)
    return _ratio(classes.correct, classes.size, zero_division)


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


def mcc(cm: Any, zero_division: float = 0.0, *, average: str | None = None) -> Tensor:
    """Matthews correlation coefficient, in [-1, 1]:

    (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)).

    ``average="multiclass"``: counts and result have the shapes said at :func:`accuracy`. With c
    samples of s found, and of class k t_k = TP + FN samples and p_k = TP + FP predictions, it is
    R_K = (c s - sum p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)), of which the above is the
    case C = 2. A factor that is not above 0, as that of soft counts may be, gives
    ``zero_division`` without a gradient.
    """
    if average is not None:
        return _multiclass_mcc(_of_classes(cm, zero_division, average), zero_division)
    tp, fn, fp, tn = _floating(cm, zero_division)
    # Roots first: the product of four counts of 1e10 would overflow float32.
    bottom = _sqrt(tp + fp) * _sqrt(tp + fn) * _sqrt(tn + fp) * _sqrt(tn + fn)
    return _ratio(tp * tn - fp * fn, bottom, zero_division)


def kappa(cm: Any, zero_division: float = 0.0, *, average: str | None = None) -> Tensor:
    """Cohen's kappa, in [-1, 1]:

    2 (TP TN - FN FP) / ((TP + FP) (FP + TN) + (TP + FN) (FN + TN)).

    ``average="multiclass"``: (c s - sum p_k t_k) / (s^2 - sum p_k t_k) in the letters of
    :func:`mcc`, of which the above is the case C = 2.
    """
    if average is not None:
        classes = _of_classes(cm, zero_division, average)
        size, by_chance = classes.size, classes.by_chance
        top, bottom = classes.correct * size - by_chance, size * size - by_chance
        return _ratio(top, bottom, zero_division)
    tp, fn, fp, tn = _floating(cm, zero_division)
    bottom = (tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)
    return _ratio(2 * (tp * tn - fn * fp), bottom, zero_division)


def auroc(cm: Any, zero_division: float = 0.0, max_fpr: float | None = None) -> Tensor:
    """Area under the receiver operating characteristic over the thresholds of ``cm``.

    The last dimension of the counts (..., T) holds the thresholds in ascending order; it is summed
    over by the trapezoidal rule from (0, 0) to (1, 1) in the plane of false and true positive rate
    (Section 2). Returns shape (...).

    ``max_fpr``, in (0, 1], takes the area up to this false positive rate only, interpolated there,
    and standardised as in scikit-learn (McClish): (1 + (area - low) / (high - low)) / 2 with
    low = max_fpr^2 / 2 and high = max_fpr, which is 1/2 for a ranking by chance and 1 for a perfect
    one. 1 and None are the whole area. Soft rates may fall from one threshold to the next: of each
    straight piece of the path the part with 0 <= false positive rate <= max_fpr counts, and it
    counts negative where that rate falls.
    """
    limit = check_max_fpr(max_fpr)
    true_rate = _descending(recall(cm, zero_division), 0.0, 1.0)
    false_rate = _descending(FALSE_POSITIVE_RATE(cm, zero_division), 0.0, 1.0)
    if limit == 1.0:
        return torch.trapezoid(true_rate, false_rate)
    low, high = limit * limit / 2, limit
    return (1 + (_area_within(false_rate, true_rate, limit) - low) / (high - low)) / 2


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


CountMetric = Callable[[Any, float], Tensor]
# The metric that is to be best, and the one that has to reach a minimum.
OPERATING_POINTS: dict[str, tuple[LinearFractional, LinearFractional]] = {
    "recall_at_fixed_precision": (RECALL, PRECISION),
    "precision_at_fixed_recall": (PRECISION, RECALL),
    "sensitivity_at_specificity": (RECALL, SPECIFICITY),
    "specificity_at_sensitivity": (SPECIFICITY, RECALL),
}


def recall_at_fixed_precision(cm: Any, min_precision: float, zero_division: float = 0.0) -> Tensor:
    """The best recall at a precision of at least ``min_precision``; see :func:`operating_point`."""
    minimum = check_minimum("min_precision", min_precision)
    return operating_point(cm, "recall_at_fixed_precision", minimum, zero_division)


def precision_at_fixed_recall(cm: Any, min_recall: float, zero_division: float = 0.0) -> Tensor:
    """The best precision at a recall of at least ``min_recall``; see :func:`operating_point`."""
    minimum = check_minimum("min_recall", min_recall)
    return operating_point(cm, "precision_at_fixed_recall", minimum, zero_division)


def sensitivity_at_specificity(
    cm: Any, min_specificity: float, zero_division: float = 0.0
) -> Tensor:
    """The best sensitivity (recall) at a specificity of at least ``min_specificity``.

    See :func:`operating_point`.
    """
    minimum = check_minimum("min_specificity", min_specificity)
    return operating_point(cm, "sensitivity_at_specificity", minimum, zero_division)


def specificity_at_sensitivity(
    cm: Any, min_sensitivity: float, zero_division: float = 0.0
) -> Tensor:
    """The best specificity at a sensitivity (recall) of at least ``min_sensitivity``.

    See :func:`operating_point`.
    """
    minimum = check_minimum("min_sensitivity", min_sensitivity)
    return operating_point(cm, "specificity_at_sensitivity", minimum, zero_division)


def operating_point(
    cm: Any,
    metrics: str | tuple[CountMetric, CountMetric],
    minimum: float,
    zero_division: float = 0.0,
) -> Tensor:
    """The best value of one metric among the thresholds at which another one is large enough.

    max over t of f(t) where g(t) >= minimum, with the metrics f and g of the counts at threshold t.

    Args:
        cm: counts (..., T), whose last dimension holds T >= 1 thresholds in any order. Those at all
            distinct scores give what torchmetrics does with ``thresholds=None``.
        metrics: a name in ``OPERATING_POINTS``, or a pair (f, g) of callables on a
            :class:`softcm.ConfusionMatrix` and ``zero_division``, which return the shape of counts.
        minimum: in [0, 1].
        zero_division: the value of a ratio whose denominator is 0.

    Returns:
        A tensor (...). Besides the thresholds it considers the decision that nothing is positive,
        counts (0, TP + FN, 0, FP + TN). It is 0 where no decision reaches the minimum, and NaN
        where a metric is NaN at some threshold. The gradient is that of f at the best threshold,
        in equal shares at several: none flows through the choice.

    Raises:
        TypeError, ValueError: wrong counts, an unknown name, or a minimum outside [0, 1].
    """
    objective, constraint = _pair(metrics)
    minimum = check_minimum("minimum", minimum)
    decisions = _with_nothing_positive(_floating(cm, zero_division))
    value, reached = objective(decisions, zero_division), constraint(decisions, zero_division)
    allowed = torch.where(reached >= minimum, value, -math.inf)
    best = torch.where((value + reached).isnan(), math.nan, allowed).amax(-1)
    return torch.where(best == -math.inf, 0.0, best)


def check_minimum(name: str, value: Any) -> float:
    """A value that a metric in [0, 1] has to reach, as a float."""
    number = inputs.check_number(name, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
    return number


def check_max_fpr(value: Any) -> float:
    """The largest false positive rate of an area; None is 1, the whole one."""
    number = 1.0 if value is None else inputs.check_number("max_fpr", value)
    if not 0.0 < number <= 1.0:
        raise ValueError(f"max_fpr must lie in (0, 1], got {value}")
    return number


def _pair(metrics: Any) -> tuple[CountMetric, CountMetric]:
    if isinstance(metrics, str):
        inputs.check_choice("metrics", metrics, tuple(OPERATING_POINTS))
        return OPERATING_POINTS[metrics]
    pair = tuple(metrics) if isinstance(metrics, (tuple, list)) else ()
    if len(pair) != 2 or not all(map(callable, pair)):
        raise TypeError(
            "metrics must be a name or a pair of callables, the metric that is to be best and the "
            f"one that has to reach the minimum, got {inputs.describe(metrics)}"
        )
    return pair


def _with_nothing_positive(counts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Counts (..., T) and, in entry T, those of the decision that nothing is positive."""
    # Not above: that module imports this one.
    from .confusion import ConfusionMatrix

    counts = tuple(map(torch.atleast_1d, counts))
    if counts[0].shape[-1] == 0:
        raise ValueError(f"cm must have at least one threshold, got shape {tuple(counts[0].shape)}")
    tp, fn, fp, tn = (count[..., :1] for count in counts)
    nothing = (torch.zeros_like(tp), tp + fn, torch.zeros_like(fp), fp + tn)
    return ConfusionMatrix(*(torch.cat(pair, dim=-1) for pair in zip(counts, nothing, strict=True)))


class _Classes(NamedTuple):
    """The sums over classes of a problem in which each sample has one of C classes."""

    size: Tensor  # (...): s, all samples
    correct: Tensor  # (...): c, those whose class was found
    actual: Tensor  # (C, ...): t, the samples of a class
    predicted: Tensor  # (C, ...): p, the predictions of a class

    @property
    def by_chance(self) -> Tensor:
        return (self.predicted * self.actual).sum(0)


def _of_classes(cm: Any, zero_division: float, average: Any) -> _Classes:
    if not isinstance(average, str) or average != "multiclass":
        raise ValueError(f"average must be None or 'multiclass', got {inputs.describe(average)}")
    tp, fn, fp, _ = _floating(cm, zero_division)
    if tp.dim() == 0 or tp.shape[0] < 2:
        raise ValueError(
            "average='multiclass' needs counts with a class dimension, (C,) or (C, T) with C >= 2, "
            f"got shape {tuple(tp.shape)}"
        )
    actual = tp + fn
    return _Classes(actual.sum(0), tp.sum(0), actual, tp + fp)


def _multiclass_mcc(classes: _Classes, zero_division: float) -> Tensor:
    square = classes.size * classes.size
    # Below 0 by rounding, or by soft counts, in which a sample may predict several classes.
    predicted, actual = (
        _sqrt((square - (x * x).sum(0)).clamp(min=0.0)) for x in (classes.predicted, classes.actual)
    )
    return _ratio(
        classes.correct * classes.size - classes.by_chance, predicted * actual, zero_division
    )


def _area_within(x: Tensor, y: Tensor, limit: float) -> Tensor:
    """The integral of y over x along the path of straight pieces (..., T), where 0 <= x <= limit.

    The end of a piece that lies outside moves along the piece to the border. Pieces that are
    vertical, or lie outside, have no width.
    """
    inside = x.clamp(0.0, limit)
    moved, run, rise = inside - x, x.diff(dim=-1), y.diff(dim=-1)
    # A share of the piece, and not its slope, which may be infinite where nothing moves.
    start = y[..., :-1] + rise * _ratio(moved[..., :-1], run, 0.0)
    end = y[..., 1:] + rise * _ratio(moved[..., 1:], run, 0.0)
    return (inside.diff(dim=-1) * (start + end)).sum(-1) / 2


def _descending(rate: Tensor, first: float, last: float) -> Tensor:
    """A rate at descending thresholds, with its value above the highest and below the lowest."""
    rate = torch.atleast_1d(rate)
    ends = rate.new_full((*rate.shape[:-1], 1), first), rate.new_full((*rate.shape[:-1], 1), last)
    return torch.cat((ends[0], rate.flip(-1), ends[1]), dim=-1)


def _floating(cm: Any, zero_division: Any) -> tuple[Tensor, ...]:
    """The four counts, checked: products of integers would leave their range without a word."""
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
    return tuple(count if count.is_floating_point() else count.double() for count in counts)


def _ratio(top: Tensor, bottom: Tensor, zero_division: float) -> Tensor:
    zero = bottom == 0
    return torch.where(zero, zero_division, top / torch.where(zero, 1.0, bottom))


def _sqrt(x: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0."""
    zero = x == 0
    return torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, x)))


# Without positives, or without negatives, there is no ranking.
RANKING = frozenset((auroc, auprc))


def needs_both_labels(metric: Any) -> bool:
    """Whether a metric, or a partial of it, is undefined for samples of a single label."""
    if getattr(metric, "needs_both_labels", False):  # one at an operating point
        return True
    return getattr(metric, "func", metric) in RANKING
