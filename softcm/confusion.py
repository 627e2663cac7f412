"""Confusion matrices of a batch, soft and hard."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from . import autograd, backends, distributed, inputs, reference
from .autograd import Rule
from .distributed import Parts
from .heaviside import DEFAULT, Heaviside, Step, Table, check_heaviside
from .inputs import Batch, Threshold

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MEMBERSHIPS = ("soft", "gated")


class ConfusionMatrix(NamedTuple):
    """The four counts, each a tensor of one shape.

    That shape is ``()``; ``(T,)`` if threshold is a sequence or a tensor (T,); ``(C,)`` or
    ``(C, T)`` if the input has C > 1 classes.
    """

    tp: Tensor
    fn: Tensor
    fp: Tensor
    tn: Tensor


def soft_confusion_matrix(
    input: Tensor,
    target: Tensor,
    *,
    threshold: Threshold = 0.5,
    heaviside: Heaviside = DEFAULT,
    membership: str = "soft",
    weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
    ignore_index: int | None = None,
    from_logits: bool = False,
    backend: str = "auto",
    process_group: "ProcessGroup | None" = None,
) -> ConfusionMatrix:
    """Differentiable counts: the sums of the soft memberships of eq. (3) over the batch.

    Args: as of :func:`softcm.f1_loss`.

    Returns:
        A :class:`ConfusionMatrix` in float32 (float64 for float64 input), differentiable in
        ``input`` and ``threshold``. Classes without a counted sample have four zeros.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`softcm.f1_loss`.
    """
    check_heaviside(heaviside)
    check_membership(membership)
    inputs.check_bool("from_logits", from_logits)
    distributed.check_process_group(process_group)
    rule = Rule(ignore_index, heaviside.kind, heaviside.parameter, membership, from_logits)
    batch, served_by = prepare(
        input, target, threshold, heaviside, weight, pos_weight, rule, backend, process_group
    )
    counts = count(batch, rule, served_by, parts=process_group).counts
    counts = counts.to(inputs.accumulation_dtype(input.dtype))
    return _confusion_matrix(counts, batch, threshold)


def confusion_matrix(
    input: Tensor,
    target: Tensor,
    *,
    threshold: Threshold = 0.5,
    heaviside: Heaviside = DEFAULT,
    membership: str = "soft",
    weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
    ignore_index: int | None = None,
    from_logits: bool = False,
    backend: str = "auto",
    process_group: "ProcessGroup | None" = None,
) -> ConfusionMatrix:
    """Hard counts: the step itself (eq. 1, ``input >= threshold`` is positive) for the soft one.

    Args: those of :func:`soft_confusion_matrix`, so that one call serves both. The step replaces
        ``heaviside``, and with it both memberships are the same.

    Returns:
        A :class:`ConfusionMatrix` in float64, in which counts are exact up to 2^53, without
        gradients. Classes without a counted sample have four zeros.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`softcm.f1_loss`.
    """
    check_heaviside(heaviside)
    check_membership(membership)
    inputs.check_bool("from_logits", from_logits)
    distributed.check_process_group(process_group)
    rule = Rule(ignore_index, Step.kind, Step.parameter, membership, from_logits)
    with torch.no_grad():
        batch, served_by = prepare(
            input, target, threshold, Step(), weight, pos_weight, rule, backend, process_group
        )
        counts = count(batch, rule, served_by, parts=process_group).counts
    return _confusion_matrix(counts, batch, threshold)


def prepare(
    input: Tensor,
    target: Tensor,
    threshold: Threshold,
    heaviside: Heaviside | Step,
    weight: Tensor | None,
    pos_weight: float | Tensor | None,
    rule: Rule,
    backend: str,
    parts: Parts = None,
) -> tuple[Batch, str]:
    """A checked batch, and the backend that serves it.

    A part of a batch may be empty: an error in one process would leave the others waiting.

    The logits of a softmax become binary logits, one class against the rest: from there on, class
    indices are labels like others.
    """
    batch = inputs.canonical(
        input, target, threshold, weight, pos_weight, rule.ignore_index, parts is not None
    )
    served_by = backends.select_backend(
        backend, input.device.type, backends.NATIVE_DEVICES, inputs.is_transformed()
    )
    if parts is not None and input.numel() == 0:  # of which the kernels know nothing
        served_by = "reference"
    if isinstance(heaviside, Table):
        own_threshold, table = heaviside.look_up(batch.threshold)
        batch = batch._replace(threshold=own_threshold, table=table)
    if rule.from_logits and inputs.class_indices(batch.input, batch.target):
        logits = batch.input.to(inputs.accumulation_dtype(input.dtype))
        if rule.ignore_index is not None:  # a NaN there would reach the gradient
            ignored = batch.target.long() == rule.ignore_index
            logits = logits.masked_fill(ignored.unsqueeze(1), 0.0)
        one_vs_rest = autograd if served_by == "native" else reference
        batch = batch._replace(input=one_vs_rest.one_vs_rest_logits(logits))
    return batch, served_by


def count(
    batch: Batch,
    rule: Rule,
    served_by: str,
    with_cross_entropy: bool = False,
    parts: Parts = None,
) -> reference.Counts:
    """The counts of a prepared batch, or of the whole one of which it is a part."""
    if served_by == "native":
        counts = autograd.soft_counts(batch, rule, with_cross_entropy)
    else:
        counts = reference.soft_counts(*batch.tensors, *rule, with_cross_entropy)
    return distributed.whole_batch(counts, parts)


def check_membership(membership: str) -> None:
    inputs.check_choice("membership", membership, MEMBERSHIPS)


def _confusion_matrix(counts: Tensor, batch: Batch, threshold: Threshold) -> ConfusionMatrix:
    """Counts (C, T, 4) in the shape that the caller's arguments ask for."""
    if not inputs.has_threshold_dimension(threshold):
        counts = counts.squeeze(1)
    if batch.classes == 1:
        counts = counts.squeeze(0)
    return ConfusionMatrix(*counts.unbind(-1))
