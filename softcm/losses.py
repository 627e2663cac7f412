"""Every loss: 1 - metric of the soft counts, or the metric itself where smaller is better."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import autograd, distributed, inputs, metrics, reference
from .confusion import ConfusionMatrix, count, prepare
from .heaviside import Linear
from .inputs import Batch
from .metrics import Costs, LinearFractional
from .options import AVERAGES, Options, TensorOptions, split, with_options
from .reference import LossRule
from .values import check_weight

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import LossOptions

# Of the ranking losses, which are areas over thresholds.
RANKING_THRESHOLDS = tuple(i / 10 for i in range(1, 10))
# Defaults of losses to which those of the paper do not fit. At threshold 0.5, Linear(delta=0.25) is
# p itself.
RANKING: Any = {"threshold": RANKING_THRESHOLDS}
GATED: Any = {"membership": "gated"}
DICE: Any = {"membership": "gated", "heaviside": Linear(delta=0.25)}
MULTICLASS = {
    metrics.ACCURACY: partial(metrics.accuracy, average="multiclass"),
    metrics.mcc: partial(metrics.mcc, average="multiclass"),
    metrics.kappa: partial(metrics.kappa, average="multiclass"),
}

Metric = Callable[..., Tensor]


@with_options()
def f1_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - F1 of the soft counts: 1 - 2 TP / (2 TP + FN + FP), eq. (2) and (3).

    Args:
        input: probabilities in [0, 1], or logits with ``from_logits=True``; shape (N,), (N, 1),
            (N, C) or (N, C, *); float16, bfloat16, float32 or float64; any strides. NaN, also in a
            sample of weight 0, gives a NaN loss and NaN gradients of its class; infinite logits are
            fine, as far as a softmax of them exists.
        target: labels in [0, 1] in the shape of ``input`` (bool, integer or floating point; a label
            between 0 and 1 mixes the two rows of eq. 3), or integer class indices (N,) or (N, *)
            against C >= 2 classes, which are taken one against the rest. (N,) and (N, 1) are the
            same; masks (N, H, W) of one class belong into (N, 1, H, W), as dimension 1 holds the
            classes. With class indices, logits go through a softmax over C.
        OPTIONS
    Returns:
        The loss in [0, 1], a scalar, or (C,) for ``average="none"``; float32, or float64 for
        float64 input. A ratio with denominator 0 is ``zero_division``, without a gradient. A class
        without a counted sample is left out of the means; if all are, the loss is 0 with zero
        gradient; with "none" its entry is ``1 - zero_division``.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: wrong shapes or devices, an empty batch, a probability or label outside [0, 1]
            (on other devices than the CPU an assert on the device; in compiled code a
            RuntimeError), a threshold outside (0, 1), a negative weight, an unknown option, a
            target or weight that requires grad, a process group without this process.
        RuntimeError: the backend asked for cannot serve; torch.distributed is not initialized.
    """
    return _loss(metrics.F1, True, input, target, options)


@with_options()
def fbeta_loss(
    input: Tensor, target: Tensor, *, beta: float = 2.0, **options: "Unpack[LossOptions]"
) -> Tensor:
    """1 - F-beta: 1 - (1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP), with ``beta`` >= 0."""
    return _loss(metrics.fbeta_metric(beta), True, input, target, options)


@with_options()
def accuracy_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - accuracy: 1 - (TP + TN) / (TP + FN + FP + TN), eq. (2)."""
    return _loss(metrics.ACCURACY, True, input, target, options)


@with_options()
def precision_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - precision: 1 - TP / (TP + FP)."""
    return _loss(metrics.PRECISION, True, input, target, options)


@with_options()
def recall_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - recall: 1 - TP / (TP + FN)."""
    return _loss(metrics.RECALL, True, input, target, options)


@with_options()
def specificity_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - specificity: 1 - TN / (TN + FP)."""
    return _loss(metrics.SPECIFICITY, True, input, target, options)


@with_options()
def jaccard_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - Jaccard index: 1 - TP / (TP + FN + FP)."""
    return _loss(metrics.JACCARD, True, input, target, options)


@with_options()
def tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    **options: "Unpack[LossOptions]",
) -> Tensor:
    """1 - Tversky index: 1 - TP / (TP + alpha FP + beta FN), with ``alpha``, ``beta`` >= 0."""
    return _loss(metrics.tversky_metric(alpha, beta), True, input, target, options)


@with_options(**GATED)
def cost_loss(
    input: Tensor, target: Tensor, costs: Costs, **options: "Unpack[LossOptions]"
) -> Tensor:
    """The mean cost of a sample: sum of cost x count / (TP + FN + FP + TN).

    ``costs`` is a mapping with the keys "tp", "fn", "fp", "tn" (0 where left out) or a sequence in
    that order. Smaller is better: the loss is the cost itself. So the entry of a class without a
    counted sample is ``zero_division``.

    ``membership`` is "gated" by default: in eq. (3) a cost does not train. There each sample is in
    all four counts, those with another label's costs too: where positives are few, a negative below
    the threshold is drawn down about as much as a positive is drawn up, whatever they cost, and
    above it a negative is drawn up.
    """
    return _loss(metrics.cost_metric(costs), False, input, target, GATED | options)


@with_options()
def balanced_accuracy_loss(
    input: Tensor, target: Tensor, **options: "Unpack[LossOptions]"
) -> Tensor:
    """1 - balanced accuracy: 1 - (recall + specificity) / 2."""
    return _loss(metrics.balanced_accuracy, True, input, target, options)


@with_options()
def gmean_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - G-mean: 1 - sqrt(recall * specificity); gradient 0 where the G-mean is 0."""
    return _loss(metrics.gmean, True, input, target, options)


@with_options()
def informedness_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - informedness (Youden's J): 2 - recall - specificity, in [0, 2]."""
    return _loss(metrics.informedness, True, input, target, options)


@with_options()
def mcc_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - Matthews correlation coefficient, in [0, 2]; see :func:`softcm.metrics.mcc`."""
    return _loss(metrics.mcc, True, input, target, options)


@with_options()
def kappa_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - Cohen's kappa, in [0, 2]; see :func:`softcm.metrics.kappa`."""
    return _loss(metrics.kappa, True, input, target, options)


@with_options(**DICE)
def dice_loss(
    input: Tensor, target: Tensor, *, smooth: float = 0.0, **options: "Unpack[LossOptions]"
) -> Tensor:
    """1 - (2 TP + smooth) / (2 TP + FN + FP + smooth), the soft Dice loss of segmentation.

    By default the counts are sums of probabilities and labels themselves: ``membership="gated"``
    and ``Linear(delta=0.25)``, which at threshold 0.5 is p itself. For pictures (N, C, *) one by
    one pass ``per_sample=True``. ``smooth`` >= 0 makes a class that is neither in the labels nor in
    the predictions perfect.
    """
    smooth = inputs.check_finite("smooth", smooth, lowest=0.0)
    metric = LinearFractional((2, 0, 0, 0), (2, 1, 1, 0), smooth, smooth)
    return _loss(metric, True, input, target, DICE | options)


@with_options(**DICE)
def focal_tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.7,
    beta: float = 0.3,
    gamma: float = 0.75,
    **options: "Unpack[LossOptions]",
) -> Tensor:
    """(1 - Tversky index)^gamma of each class and threshold; gradient 0 where the base is 0.

    Tversky = TP / (TP + alpha FP + beta FN) as in :func:`softcm.tversky_loss`: ``alpha`` weighs
    false positives, as in MONAI and segmentation-models-pytorch, while in the loss's own paper
    (Abraham & Khan, 2019) it weighs false negatives. ``gamma`` > 0 (their 3/4 is 1/gamma = 4/3).
    The same defaults as :func:`softcm.dice_loss`: probabilities and labels themselves.
    """
    metric = focal_tversky_metric(alpha, beta, gamma)
    return _loss(metric, True, input, target, DICE | options)


def focal_tversky_metric(alpha: float, beta: float, gamma: float) -> Metric:
    """1 - (1 - Tversky index)^gamma."""
    tversky = metrics.tversky_metric(alpha, beta)
    gamma = inputs.check_finite("gamma", gamma, lowest=0.0)
    if gamma == 0:
        raise ValueError("gamma must be > 0, got 0")

    def focal_tversky(cm: tuple[Tensor, ...], zero_division: float) -> Tensor:
        base = 1 - tversky(cm, zero_division)
        zero = base <= 0
        return 1 - torch.where(zero, 0.0, torch.where(zero, 1.0, base) ** gamma)

    return focal_tversky


@with_options(**RANKING)
def auroc_loss(
    input: Tensor,
    target: Tensor,
    *,
    max_fpr: float | None = None,
    **options: "Unpack[LossOptions]",
) -> Tensor:
    """1 - area under the ROC curve over the thresholds, in any order (Section 2).

    By the trapezoidal rule from (0, 0) to (1, 1): near 0 for a perfect ranking with scores close to
    0 and 1, near 1 for the reversed one. Memberships of eq. (3) blur scores in between; with
    ``membership="gated"`` the loss is closer to 1 - AUROC. See :func:`softcm.metrics.auroc`.

    ``max_fpr`` in (0, 1]: the area for false positive rates up to there, standardised as in
    :func:`sklearn.metrics.roc_auc_score`. A class without positives or without negatives is left
    out of the means; with "none" its entry is ``1 - zero_division``.
    """
    options = _ascending(RANKING | options, input)
    return _loss(auroc_metric(max_fpr), True, input, target, options)


def auroc_metric(max_fpr: float | None) -> Metric:
    return metrics.auroc if max_fpr is None else partial(metrics.auroc, max_fpr=max_fpr)


@with_options(**RANKING)
def auprc_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - average precision over the thresholds, in any order; see :func:`softcm.metrics.auprc`.

    A class without positives or without negatives is left out of the means; with "none" its entry
    is ``1 - zero_division``.
    """
    return _loss(metrics.auprc, True, input, target, _ascending(RANKING | options, input))


@with_options()
def confusion_loss(
    input: Tensor,
    target: Tensor,
    metric: LinearFractional | Callable[[ConfusionMatrix], Tensor],
    *,
    maximize: bool = True,
    **options: "Unpack[LossOptions]",
) -> Tensor:
    """The loss of any metric of the four counts.

    ``metric`` is a :class:`softcm.LinearFractional`, which runs in one fused pass, or a
    differentiable callable. That takes a :class:`softcm.ConfusionMatrix` of float64 tensors (C, T)
    and returns the metric (C, T), or (C,) if it has dealt with the thresholds itself;
    ``zero_division`` within it is its own affair. For "micro" C is 1. With ``per_sample`` the first
    dimension is N * C, sample after sample: a metric across classes splits it by
    ``x.unflatten(0, (-1, C))``. The loss is ``1 - metric``, or with ``maximize=False`` the metric
    itself.
    """
    check_metric(metric, maximize)
    if isinstance(metric, LinearFractional):
        return _loss(metric, maximize, input, target, options)

    def without_zero_division(counts: tuple[Tensor, ...], _: float) -> Tensor:
        cm = ConfusionMatrix(*counts)
        value = metric(cm)
        allowed = (cm.tp.shape, cm.tp.shape[:1])
        if not isinstance(value, Tensor) or value.shape not in allowed:
            got = tuple(value.shape) if isinstance(value, Tensor) else inputs.describe(value)
            raise ValueError(
                f"metric must return a tensor of shape {tuple(allowed[0])} or {tuple(allowed[1])}, "
                f"got {got}"
            )
        return value

    return _loss(without_zero_division, maximize, input, target, options)


def check_metric(metric: Any, maximize: Any) -> None:
    """The arguments of :func:`confusion_loss` alone."""
    if not callable(metric):
        raise TypeError(
            "metric must be a softcm.LinearFractional or a callable on a ConfusionMatrix such as "
            f"softcm.metrics.f1, got {inputs.describe(metric)}"
        )
    inputs.check_bool("maximize", maximize)


def _loss(
    metric: Metric, maximize: bool, input: Tensor, target: Tensor, given: "LossOptions"
) -> Tensor:
    options, tensors = split(given)
    batch, served_by = prepare(input, target, options, tensors)
    rule = rule_of(metric, maximize, batch, options, tensors)
    if options.process_group is None and autograd.is_fused(batch, rule, served_by):
        return autograd.fused_loss(batch, rule, autograd.NAMESPACES[served_by])
    counts = count(batch, served_by, options.ce_weight > 0)
    return loss_of_counts(counts, rule, batch, options)


def rule_of(
    metric: Metric, maximize: bool, batch: Batch, options: Options, tensors: TensorOptions
) -> LossRule:
    """How counts become a loss, checked against the batch."""
    if options.average == "multiclass":
        metric = _multiclass(metric, batch)
    class_weight = tensors.class_weight
    if class_weight is not None:
        class_weight = inputs.class_weight_tensor(class_weight, options.average, batch.input)
        check_weight("class_weight", class_weight)
    return LossRule(
        metric,
        class_weight,
        maximize,
        options.average,
        options.zero_division,
        options.ce_weight,
    )


def _multiclass(metric: Metric, batch: Batch) -> Metric:
    if metric not in MULTICLASS:
        raise ValueError(
            f"average must be one of {', '.join(map(repr, AVERAGES))} for this metric, got "
            "'multiclass', which mcc, kappa and accuracy have"
        )
    if not inputs.class_indices(batch.input, batch.target):
        raise ValueError(
            "average='multiclass' needs a target of class indices, got labels of shape "
            f"{tuple(batch.target.shape)}; pass target.argmax(1) if they are one-hot"
        )
    return MULTICLASS[metric]


def loss_of_counts(
    counts: reference.Counts, rule: LossRule, batch: Batch, options: Options
) -> Tensor:
    """The loss of the batch, of which the counts may be those of a process's part."""
    group = options.process_group
    if not options.per_sample:
        counts = distributed.whole_batch(counts, group)
    loss = reference.loss(
        counts,
        rule,
        inputs.number_of_classes(batch.input),
        inputs.class_indices(batch.input, batch.target),
        options.per_sample,
        lambda part: distributed.whole(part, group),
    )
    return loss.to(inputs.accumulation_dtype(batch.input.dtype))


def _ascending(options: "LossOptions", input: Tensor) -> "LossOptions":
    threshold = options["threshold"]
    # They are in order; sorting them would take a seventh of a small step.
    if not torch.compiler.is_compiling() and threshold is RANKING_THRESHOLDS:
        return options
    inputs.check_tensor("input", input)
    from_logits = options.get("from_logits") is True
    ascending = inputs.threshold_tensor(threshold, input, from_logits).sort(dim=-1).values
    return {**options, "threshold": ascending}
