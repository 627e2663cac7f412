"""Every loss: 1 - metric of the soft counts, or the metric itself where smaller is better."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import torch
from torch import Tensor

from . import autograd, distributed, inputs, metrics, reference
from .autograd import LossRule, Rule
from .confusion import ConfusionMatrix, check_membership, count, prepare
from .heaviside import DEFAULT, Heaviside, check_heaviside
from .inputs import Threshold
from .metrics import Costs, LinearFractional

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack

AVERAGES = ("macro", "micro", "weighted", "none")
# Of the ranking losses, which are areas over thresholds.
RANKING_THRESHOLDS = tuple(i / 10 for i in range(1, 10))

Metric = Callable[..., Tensor]
F = TypeVar("F", bound=Callable[..., Tensor])


class CommonOptions(TypedDict, total=False):
    """The keyword arguments that all losses share, and modules take too, but for ``threshold``."""

    heaviside: Heaviside
    membership: str
    pos_weight: float | Tensor | None
    ignore_index: int | None
    average: str
    zero_division: float
    bce_weight: float
    from_logits: bool
    backend: str
    process_group: "ProcessGroup | None"


class OtherOptions(CommonOptions, total=False):
    """Those of a loss but for ``threshold``."""

    weight: Tensor | None


class LossOptions(OtherOptions, total=False):
    """The keyword arguments that all losses share; :func:`f1_loss` says what they mean."""

    threshold: Threshold


def f1_loss(
    input: Tensor,
    target: Tensor,
    *,
    threshold: Threshold = 0.5,
    heaviside: Heaviside = DEFAULT,
    membership: str = "soft",
    weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
    ignore_index: int | None = None,
    average: str = "macro",
    zero_division: float = 0.0,
    bce_weight: float = 0.0,
    from_logits: bool = False,
    backend: str = "auto",
    process_group: "ProcessGroup | None" = None,
) -> Tensor:
    """1 - F1 of the soft counts: 1 - 2 TP / (2 TP + FN + FP), eq. (2) and (3).

    Args:
        input: probabilities in [0, 1], or logits with ``from_logits=True``; shape (N,), (N, 1),
            (N, C) or (N, C, *); float16, bfloat16, float32 or float64; any strides. NaN, also in a
            sample of weight 0, gives a NaN loss and NaN gradients of its class; infinite logits are
            fine, as far as a softmax of them exists.
        target: labels in [0, 1] in the shape of ``input`` (bool, integer or floating point; a label
            between 0 and 1 mixes the two rows of eq. 3), or integer class indices (N,) or (N, *)
            against C >= 2 classes, which are taken one against the rest. (N,) and (N, 1) are the
            same. With class indices, logits go through a softmax over C.
        threshold: a number, a sequence of numbers, or a tensor () or (T,), in (0, 1), on the scale
            of probabilities. Of several the mean loss is taken. A tensor that requires grad
            receives its gradient. From about 15 on, those of ``Linear`` cost nearly the same
            however many they are, but for the backward pass of ones that require grad.
        heaviside: :class:`softcm.Linear`, :class:`softcm.Sigmoid` or :class:`softcm.Table`.
        membership: "soft" is eq. (3); "gated" counts a sample only in the two counts of its label.
        weight: weight of each sample, >= 0, broadcastable to ``target``; a weight of a sample of
            (N, C) has shape (N, 1).
        pos_weight: weight >= 0 of the positives, a number or one for each class (C,).
        ignore_index: samples with this target count nowhere.
        average: over classes: "macro" (mean), "micro" (counts are summed first), "weighted" (by the
            weighted positives of each class) or "none" (one loss for each class).
        zero_division: what the metric is where its denominator is exactly 0.
        bce_weight: adds this multiple of the weighted mean binary cross-entropy of the counted
            samples; of probabilities with the bounds of
            :func:`torch.nn.functional.binary_cross_entropy`, of logits in the stable form.
        from_logits: take ``input`` as logits.
        backend: "auto", "native" (compiled kernels), "triton" or "reference" (plain PyTorch).
        process_group: a :class:`torch.distributed.ProcessGroup` such as
            ``torch.distributed.group.WORLD``: the loss is that of the batches of all its processes
            taken together, by one all_reduce of 4 C T + 3 C float64 numbers. Each of them has to
            make the call, with the same options; its own batch may be empty. Of the gradient each
            gets its own share times the number of processes, so that their mean, as
            DistributedDataParallel and FSDP take it, is the gradient of the loss; who adds up
            gradients has to divide by that number. No second derivatives. None, which also is
            what ``group.WORLD`` is before ``init_process_group``: the local batch alone.

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
    return _loss(
        metrics.F1,
        True,
        input,
        target,
        threshold=threshold,
        heaviside=heaviside,
        membership=membership,
        weight=weight,
        pos_weight=pos_weight,
        ignore_index=ignore_index,
        average=average,
        zero_division=zero_division,
        bce_weight=bce_weight,
        from_logits=from_logits,
        backend=backend,
        process_group=process_group,
    )


def _with_loss_options(loss: F) -> F:
    """Show the shared options, which ``loss`` takes as ``**options``, in its signature and help."""
    own = inspect.signature(loss)
    shared = inspect.signature(f1_loss).parameters.values()
    options = [p for p in shared if p.kind is p.KEYWORD_ONLY]
    parameters = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    taken = {p.name for p in parameters}
    parameters += [p for p in options if p.name not in taken]
    loss.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    loss.__doc__ = f"{loss.__doc__}\n\n    The other arguments and errors: :func:`softcm.f1_loss`."
    return loss


@_with_loss_options
def fbeta_loss(
    input: Tensor, target: Tensor, *, beta: float = 2.0, **options: "Unpack[LossOptions]"
) -> Tensor:
    """1 - F-beta: 1 - (1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP), with ``beta`` >= 0."""
    return _loss(metrics.fbeta_metric(beta), True, input, target, **options)


@_with_loss_options
def accuracy_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - accuracy: 1 - (TP + TN) / (TP + FN + FP + TN), eq. (2)."""
    return _loss(metrics.ACCURACY, True, input, target, **options)


@_with_loss_options
def precision_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - precision: 1 - TP / (TP + FP)."""
    return _loss(metrics.PRECISION, True, input, target, **options)


@_with_loss_options
def recall_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - recall: 1 - TP / (TP + FN)."""
    return _loss(metrics.RECALL, True, input, target, **options)


@_with_loss_options
def specificity_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - specificity: 1 - TN / (TN + FP)."""
    return _loss(metrics.SPECIFICITY, True, input, target, **options)


@_with_loss_options
def jaccard_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - Jaccard index: 1 - TP / (TP + FN + FP)."""
    return _loss(metrics.JACCARD, True, input, target, **options)


@_with_loss_options
def tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    **options: "Unpack[LossOptions]",
) -> Tensor:
    """1 - Tversky index: 1 - TP / (TP + alpha FP + beta FN), with ``alpha``, ``beta`` >= 0."""
    return _loss(metrics.tversky_metric(alpha, beta), True, input, target, **options)


@_with_loss_options
def cost_loss(
    input: Tensor, target: Tensor, costs: Costs, **options: "Unpack[LossOptions]"
) -> Tensor:
    """The mean cost of a sample: sum of cost x count / (TP + FN + FP + TN).

    ``costs`` is a mapping with the keys "tp", "fn", "fp", "tn" (0 where left out) or a sequence in
    that order. Smaller is better: the loss is the cost itself. So the entry of a class without a
    counted sample is ``zero_division``.

    Pass ``membership="gated"``. In eq. (3) each sample is in all four counts, those with another
    label's costs too: where positives are few, a negative below the threshold is drawn down about
    as much as a positive is drawn up, whatever they cost, and above it a negative is drawn up.
    """
    return _loss(metrics.cost_metric(costs), False, input, target, **options)


@_with_loss_options
def balanced_accuracy_loss(
    input: Tensor, target: Tensor, **options: "Unpack[LossOptions]"
) -> Tensor:
    """1 - balanced accuracy: 1 - (recall + specificity) / 2."""
    return _loss(metrics.balanced_accuracy, True, input, target, **options)


@_with_loss_options
def gmean_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - G-mean: 1 - sqrt(recall * specificity); gradient 0 where the G-mean is 0."""
    return _loss(metrics.gmean, True, input, target, **options)


@_with_loss_options
def informedness_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - informedness (Youden's J): 2 - recall - specificity, in [0, 2]."""
    return _loss(metrics.informedness, True, input, target, **options)


@_with_loss_options
def mcc_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - Matthews correlation coefficient, in [0, 2]; see :func:`softcm.metrics.mcc`."""
    return _loss(metrics.mcc, True, input, target, **options)


@_with_loss_options
def kappa_loss(input: Tensor, target: Tensor, **options: "Unpack[LossOptions]") -> Tensor:
    """1 - Cohen's kappa, in [0, 2]; see :func:`softcm.metrics.kappa`."""
    return _loss(metrics.kappa, True, input, target, **options)


@_with_loss_options
def auroc_loss(
    input: Tensor,
    target: Tensor,
    *,
    threshold: Threshold = RANKING_THRESHOLDS,
    **options: "Unpack[OtherOptions]",
) -> Tensor:
    """1 - area under the ROC curve over the thresholds, in any order (Section 2).

    By the trapezoidal rule from (0, 0) to (1, 1): near 0 for a perfect ranking with scores close to
    0 and 1, near 1 for the reversed one. Memberships of eq. (3) blur scores in between; with
    ``membership="gated"`` the loss is closer to 1 - AUROC. See :func:`softcm.metrics.auroc`.
    """
    ascending = _ascending(threshold, input)
    return _loss(metrics.auroc, True, input, target, threshold=ascending, **options)


@_with_loss_options
def auprc_loss(
    input: Tensor,
    target: Tensor,
    *,
    threshold: Threshold = RANKING_THRESHOLDS,
    **options: "Unpack[OtherOptions]",
) -> Tensor:
    """1 - average precision over the thresholds, in any order; see :func:`softcm.metrics.auprc`."""
    ascending = _ascending(threshold, input)
    return _loss(metrics.auprc, True, input, target, threshold=ascending, **options)


@_with_loss_options
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
    (C = 1 for "micro") and returns the metric (C, T), or (C,) if it has dealt with the thresholds
    itself; ``zero_division`` within it is its own affair. The loss is ``1 - metric``, or with
    ``maximize=False`` the metric itself.
    """
    check_metric(metric, maximize)
    if isinstance(metric, LinearFractional):
        return _loss(metric, maximize, input, target, **options)

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

    return _loss(without_zero_division, maximize, input, target, **options)


def check_metric(metric: Any, maximize: Any) -> None:
    """The arguments of :func:`confusion_loss` alone."""
    if not callable(metric):
        raise TypeError(
            "metric must be a softcm.LinearFractional or a callable on a ConfusionMatrix such as "
            f"softcm.metrics.f1, got {inputs.describe(metric)}"
        )
    inputs.check_bool("maximize", maximize)


def check_options(
    heaviside: Heaviside,
    membership: str,
    average: str,
    zero_division: float,
    bce_weight: float,
    from_logits: bool,
    process_group: "ProcessGroup | None",
) -> tuple[float, float]:
    """Check the options that are no tensors; ``zero_division`` and ``bce_weight`` as floats."""
    check_heaviside(heaviside)
    check_membership(membership)
    inputs.check_choice("average", average, AVERAGES)
    zero_division = inputs.check_number("zero_division", zero_division)
    bce_weight = inputs.check_finite("bce_weight", bce_weight, lowest=0.0)
    inputs.check_bool("from_logits", from_logits)
    distributed.check_process_group(process_group)
    return zero_division, bce_weight


def _loss(
    metric: Metric,
    maximize: bool,
    input: Tensor,
    target: Tensor,
    *,
    threshold: Threshold = 0.5,
    heaviside: Heaviside = DEFAULT,
    membership: str = "soft",
    weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
    ignore_index: int | None = None,
    average: str = "macro",
    zero_division: float = 0.0,
    bce_weight: float = 0.0,
    from_logits: bool = False,
    backend: str = "auto",
    process_group: "ProcessGroup | None" = None,
) -> Tensor:
    zero_division, bce_weight = check_options(
        heaviside, membership, average, zero_division, bce_weight, from_logits, process_group
    )
    rule = Rule(ignore_index, heaviside.kind, heaviside.parameter, membership, from_logits)
    batch, served_by = prepare(
        input, target, threshold, heaviside, weight, pos_weight, rule, backend, process_group
    )
    if (
        autograd.is_fused(metric, served_by)
        and not batch.threshold.requires_grad
        and process_group is None
    ):
        loss_rule = LossRule(metric, maximize, average, zero_division, bce_weight)
        return autograd.fused_loss(batch, rule, loss_rule, autograd.NAMESPACES[served_by])
    counts = count(batch, rule, served_by, bce_weight > 0, process_group)
    loss = reference.loss(counts, metric, maximize, average, zero_division, bce_weight)
    return loss.to(inputs.accumulation_dtype(input.dtype))


def _ascending(threshold: Threshold, input: Tensor) -> Threshold:
    # They are in order; sorting them would take a seventh of a small step.
    if not torch.compiler.is_compiling() and threshold is RANKING_THRESHOLDS:
        return threshold
    inputs.check_tensor("input", input)
    return inputs.threshold_tensor(threshold, input.device).sort().values
