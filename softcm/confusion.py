"""Confusion matrices of a batch, soft and hard."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from . import autograd, backends, distributed, inputs, reference
from .heaviside import Step, Table
from .inputs import Batch, Threshold
from .options import OF_COUNTS, Options, TensorOptions, split, with_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import LossOptions


class ConfusionMatrix(NamedTuple):
    """The four counts, each a tensor of one shape.

    That shape is ``()``; ``(T,)`` if threshold is a sequence or a tensor (T,); ``(C,)`` or
    ``(C, T)`` if the input has C > 1 classes; and with ``per_sample`` an N before these.
    """

    tp: Tensor
    fn: Tensor
    fp: Tensor
    tn: Tensor


@with_options(OF_COUNTS)
def soft_confusion_matrix(
    input: Tensor, target: Tensor, **options: "Unpack[LossOptions]"
) -> ConfusionMatrix:
    """Differentiable counts: the sums of the soft memberships of eq. (3) over the batch.

    Args: as of :func:`softcm.f1_loss`.

    Returns:
        A :class:`ConfusionMatrix` in float32 (float64 for float64 input), differentiable in
        ``input`` and ``threshold``. Classes without a counted sample have four zeros.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`softcm.f1_loss`.
    """
    others, tensors = split(options, OF_COUNTS)
    batch, served_by = prepare(input, target, others, tensors)
    counts = distributed_counts(batch, served_by, others)
    counts = counts.to(inputs.accumulation_dtype(input.dtype))
    return _confusion_matrix(counts, batch, tensors.threshold)


@with_options(OF_COUNTS)
def confusion_matrix(
    input: Tensor, target: Tensor, **options: "Unpack[LossOptions]"
) -> ConfusionMatrix:
    """Hard counts: the step itself (eq. 1, ``input >= threshold`` is positive) for the soft one.

    Args: those of :func:`soft_confusion_matrix`, so that one call serves both. The step replaces
        ``heaviside``, and with it both memberships are the same.

    Returns:
        A :class:`ConfusionMatrix` in float64 (float32 on a device without it), in which counts are
        exact up to 2^53, without gradients. Classes without a counted sample have four zeros.
        Probabilities are compared as torch does, in their own dtype: bfloat16(0.9) reaches a
        threshold of 0.9.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`softcm.f1_loss`.
    """
    others, tensors = split(options, OF_COUNTS)
    with torch.no_grad():
        batch, served_by = prepare(input, target, others, tensors, Step())
        counts = distributed_counts(batch, served_by, others)
    return _confusion_matrix(counts, batch, tensors.threshold)


def prepare(
    input: Tensor,
    target: Tensor,
    options: Options,
    tensors: TensorOptions,
    step: Step | None = None,
) -> tuple[Batch, str]:
    """A checked batch, and the backend that serves it; ``step`` replaces the approximation.

    A part of a batch may be empty: an error in one process would leave the others waiting.

    The logits of a softmax become binary logits, one class against the rest: from there on, class
    indices are labels like others.
    """
    _check_not_traced()
    batch = inputs.canonical(input, target, options, tensors, step)
    served_by = backends.select_backend(
        options.backend, input.device.type, transformed=inputs.is_transformed()
    )
    if options.process_group is not None and input.numel() == 0:  # unknown to the kernels
        served_by = "reference"
    if step is not None:
        batch = batch._replace(threshold=as_compared(batch))
    elif isinstance(options.heaviside, Table):
        shape = batch.threshold.shape
        own_threshold, table = options.heaviside.look_up(batch.threshold.reshape(-1))
        batch = batch._replace(threshold=own_threshold.reshape(shape), table=table)
    if batch.from_logits and inputs.class_indices(batch.input, batch.target):
        logits = batch.input.to(inputs.accumulation_dtype(input.dtype))
        if batch.ignore_index is not None:  # a NaN there would reach the gradient
            ignored = batch.target.long() == batch.ignore_index
            logits = logits.masked_fill(ignored.unsqueeze(1), 0.0)
        one_vs_rest = autograd if served_by == "native" else reference
        batch = batch._replace(input=one_vs_rest.one_vs_rest_logits(logits))
    return batch, served_by


def _check_not_traced() -> None:
    if torch._C._get_tracing_state() is not None:
        raise RuntimeError(
            "softcm cannot be recorded by torch.jit.trace; torch.compile and torch.export record "
            "it, and a model can be traced without its loss"
        )


def as_compared(batch: Batch) -> Tensor:
    """The thresholds as torch compares them with probabilities of a half type: rounded to it.

    Unless rounding leaves (0, 1).
    """
    threshold, dtype = batch.threshold, batch.input.dtype
    if batch.from_logits or dtype == inputs.accumulation_dtype(dtype):
        return threshold
    rounded = threshold.to(dtype).to(threshold.dtype)
    return torch.where((rounded > 0) & (rounded < 1), rounded, threshold)


def count(batch: Batch, served_by: str, with_cross_entropy: bool = False) -> reference.Counts:
    """The counts of a prepared batch."""
    if served_by == "reference":
        return reference.soft_counts(batch, with_cross_entropy)
    return autograd.soft_counts(batch, with_cross_entropy, autograd.NAMESPACES[served_by])


def distributed_counts(batch: Batch, served_by: str, options: Options) -> Tensor:
    """Counts (G, T, 4), of the whole batch if a process holds a part of it.

    With ``per_sample`` they are those of single samples, which no other process has a part in.
    """
    counts = count(batch, served_by)
    if options.per_sample:
        return counts.counts
    return distributed.whole_batch(counts, options.process_group).counts


def _confusion_matrix(counts: Tensor, batch: Batch, threshold: Threshold) -> ConfusionMatrix:
    """Counts (G, T, 4) in the shape that the caller's arguments ask for."""
    classes = inputs.number_of_classes(batch.input)
    n = batch.input.shape[0] if batch.per_sample else 1
    counts = counts.reshape(n, classes, *counts.shape[1:])
    if not inputs.has_threshold_dimension(threshold):
        counts = counts.squeeze(2)
    if classes == 1:
        counts = counts.squeeze(1)
    if not batch.per_sample:
        counts = counts.squeeze(0)
    return ConfusionMatrix(*counts.unbind(-1))
