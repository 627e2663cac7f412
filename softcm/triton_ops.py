"""The operators of the Triton backend: those of csrc/ops.cpp, in a namespace of their own.

They are opaque to torch.compile, which traces through their fake kernels (softcm/autograd.py): the
launches need compiler options that torch's wrapper for Triton kernels does not pass on. Triton
itself is imported by the first call.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import reference
from .inputs import Batch, accumulation_dtype, class_indices, constant
from .triton_plan import Plan, Tuning, make_plan, three_strides

NAMESPACE = "softcm_triton"
BATCH = (
    "Tensor input, Tensor target, Tensor threshold, Tensor? weight, Tensor? pos_weight, "
    "Tensor? table, int? ignore_index, bool ignore_nan, str heaviside, float parameter, "
    "str membership, bool per_sample, bool from_logits"
)
LOSS = (
    "Tensor? class_weight, bool maximize, str average, float zero_division, float ce_weight, "
    "Tensor metric, bool with_grad"
)
# Without fusion, lanes that hold copies of one value compute the same bits. Asserts on values are
# part of the code with debug=True only, which is not meant to check integers for overflow as well.
COMPILER_OPTIONS = {"enable_fp_fusion": False, "debug": True, "sanitize_overflow": False}

# 128 threads in either case, for loads of 128 bits.
tuning = Tuning(warps=2 if torch.version.hip else 4)
_tickets: dict[tuple[torch.device, int], Tensor] = {}


class Call(NamedTuple):
    """What every kernel takes of a batch."""

    given: Batch
    arguments: tuple[Any, ...]  # batch and steps
    constants: dict[str, Any]
    plan: Plan
    classes: int
    groups: int
    thresholds: int
    by_class: bool  # whether each class has thresholds of its own


def prepare(given: Batch) -> Call:
    from .triton_kernels import ARITHMETIC

    input, target, threshold, weight, pos_weight, table = given[:6]
    indices = class_indices(input, target)
    target_has_classes = target.dim() > 1 and not indices
    operands = [three_strides(input, input.dim() > 1), three_strides(target, target_has_classes)]
    if weight is not None:
        operands.append(three_strides(weight, target_has_classes))
    classes, inner = operands[0][0].shape[1:]
    groups = input.shape[0] * classes if given.per_sample else classes
    thresholds, by_class = threshold.shape[-1], threshold.dim() == 2 and classes > 1
    strides = tuple(of_operand for _, of_operand in operands)
    plan = make_plan(input.shape[0], classes, inner, thresholds, strides, given.per_sample, tuning)
    placed: list[Any] = [(x, *s) for (x, _), s in zip(operands, plan.strides, strict=False)]
    placed += [None] if weight is None else []
    of_class = None if pos_weight is None else (pos_weight, pos_weight.stride(0))
    ignored = (given.ignore_index, given.ignore_nan or None)
    batch = (*placed, of_class, *ignored, inner, classes, groups)
    levels = None if table is None else (table.contiguous(), table.shape[2])
    parameter = constant((given.parameter,), input.device)
    entries = (threshold.contiguous(), parameter, levels, threshold.numel())
    steps = (*entries, thresholds, by_class or None)
    constants = {
        "KIND": given.heaviside,
        "GATED": given.membership == "gated",
        "CLASS_INDICES": indices,
        "FROM_LOGITS": given.from_logits,
        "PER_SAMPLE": given.per_sample,
        "DIVIDE": plan.divide,
        "T": ARITHMETIC[accumulation_dtype(input.dtype)],
        "C": plan.groups,
        "num_warps": tuning.warps,
        **COMPILER_OPTIONS,
    }
    return Call(given, (batch, steps), constants, plan, classes, groups, thresholds, by_class)


def soft_counts(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *batch, with_cross_entropy = args
    call = prepare(Batch(*batch))
    sums = _empty_sums(call)
    _launch_soft_counts(call, sums, with_cross_entropy, None, None, None)
    return sums


def fractional_loss(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *batch, class_weight, maximize, average, zero_division, ce_weight, metric, with_grad = args
    call = prepare(Batch(*batch))
    input = call.given.input
    if call.given.per_sample:
        raise RuntimeError("softcm: the losses in one operator are not per sample")
    if average == "none" and ce_weight != 0 and class_indices(input, call.given.target):
        raise RuntimeError("softcm: average 'none' has no softmax cross-entropy of a class")
    sums = _empty_sums(call)
    shape = (call.classes,) if average == "none" else ()
    loss = input.new_empty(shape, dtype=accumulation_dtype(input.dtype))
    grad_counts, grad_cross_entropy = torch.empty_like(sums[0]), torch.empty_like(sums[2])
    numbers = constant((zero_division, ce_weight), input.device)
    outputs = (metric, numbers, class_weight, loss, grad_counts, grad_cross_entropy)
    _launch_soft_counts(call, sums, ce_weight != 0, average, maximize, outputs)
    grad_input = input.new_empty(0)
    if with_grad:
        grad_input, _ = soft_counts_backward(*batch, grad_counts, grad_cross_entropy, None, False)
    return loss, grad_counts, grad_cross_entropy, grad_input


def soft_counts_backward(*args: Any) -> tuple[Tensor, Tensor]:
    from .triton_kernels import soft_counts_backward_kernel

    *batch, grad_counts, grad_cross_entropy, grad_loss, threshold_grad = args
    call = prepare(Batch(*batch))
    plan, input, threshold = call.plan, call.given.input, call.given.threshold
    samples = tuning.backward_tiles * plan.samples
    parts_of_row = -(-plan.length // samples)
    parts = plan.rows * parts_of_row
    grad_input = torch.empty_like(input, memory_format=torch.contiguous_format)
    grad_threshold = None
    if threshold_grad:
        terms = parts * (call.groups // call.classes if call.by_class else plan.tiles)
        grad_threshold = input.new_empty((terms, *threshold.shape), dtype=torch.float64)
    scale = None
    if grad_loss is not None:
        scale = (grad_loss, grad_loss.stride(0) if grad_loss.numel() > 1 else 0)
    _launch(
        call,
        soft_counts_backward_kernel,
        parts * plan.tiles,
        (grad_counts.contiguous(), grad_cross_entropy.contiguous(), scale),
        (grad_input, *plan.strides[-1]),
        grad_threshold,
        (plan.length, parts_of_row),
        (parts, plan.tiles),
        S=samples,
    )
    if grad_threshold is None:
        return grad_input, input.new_empty(0, dtype=torch.float64)
    return grad_input, grad_threshold.sum(0)


def _empty_sums(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Counts (G, T, 4), totals (G, 3) and cross-entropies (G,)."""
    input, groups = call.given.input, call.groups
    sizes = (groups, call.thresholds, 4), (groups, 3), (groups,)
    counts, totals, cross_entropy = (input.new_empty(s, dtype=torch.float64) for s in sizes)
    return counts, totals, cross_entropy


def _launch_soft_counts(
    call: Call,
    sums: tuple[Tensor, Tensor, Tensor],
    with_cross_entropy: bool,
    average: str | None,
    maximize: bool | None,
    outputs: tuple[Tensor | None, ...] | None,
) -> None:
    from .triton_kernels import soft_counts_kernel

    plan, device = call.plan, sums[0].device
    if device.type == "cpu":
        # The interpreter leaves out what a GPU would assert; the reference looks at the values.
        reference.soft_counts(call.given, False)
    parts = plan.rows * plan.parts
    of_parts = sums[0].new_empty(parts * call.groups * (4 * call.thresholds + 4))
    _launch(
        call,
        soft_counts_kernel,
        parts * plan.tiles * plan.ranges,
        *(of_parts, _ticket(device), sums, outputs),
        (plan.length, plan.parts, plan.part),
        (parts, plan.tiles),
        WITH_CROSS_ENTROPY=with_cross_entropy,
        AVERAGE=average,
        MAXIMIZE=maximize,
        S=plan.samples,
        THRESHOLDS=plan.thresholds,
        TERMS=tuning.terms,
        ROWS=tuning.sums // plan.columns,
        COLUMNS=plan.columns,
    )


def _ticket(device: torch.device) -> Tensor:
    """The counter of a stream's finished programs, which each launch leaves at 0."""
    stream = 0
    if device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():  # a graph sets its own to 0
            return torch.zeros(1, dtype=torch.int32, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
    if (device, stream) not in _tickets:
        _tickets[device, stream] = torch.zeros(1, dtype=torch.int32, device=device)
    return _tickets[device, stream]


def _launch(call: Call, kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
    device = call.given.input.device
    launch = partial(kernel[(programs,)], *call.arguments, *args, **constants, **call.constants)
    if device.type != "cpu":
        with torch.cuda.device(device):
            launch()
        return
    with np.errstate(all="ignore"):
        launch()


LIBRARY = torch.library.Library(NAMESPACE, "DEF")
LIBRARY.define(f"soft_counts({BATCH}, bool with_cross_entropy) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(
    f"soft_counts_backward({BATCH}, Tensor grad_counts, Tensor grad_cross_entropy, "
    "Tensor? grad_loss, bool threshold_grad) -> (Tensor, Tensor)"
)
LIBRARY.define(f"fractional_loss({BATCH}, {LOSS}) -> (Tensor, Tensor, Tensor, Tensor)")
for _operator in (soft_counts, soft_counts_backward, fractional_loss):
    for _key in ("CPU", "CUDA"):  # CPU: for the interpreter
        LIBRARY.impl(_operator.__name__, _operator, _key)
