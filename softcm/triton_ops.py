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
from .inputs import accumulation_dtype, class_indices, constant
from .triton_plan import Plan, Tuning, make_plan, three_strides

NAMESPACE = "softcm_triton"
BATCH = (
    "Tensor input, Tensor target, Tensor threshold, Tensor? weight, Tensor? pos_weight, "
    "Tensor? table, int? ignore_index, str heaviside, float parameter, str membership, "
    "bool from_logits"
)
# Without fusion, lanes that hold copies of one value compute the same bits. Asserts on values are
# part of the code with debug=True only, which is not meant to check integers for overflow as well.
COMPILER_OPTIONS = {"enable_fp_fusion": False, "debug": True, "sanitize_overflow": False}

# 128 threads in either case, for loads of 128 bits.
tuning = Tuning(warps=2 if torch.version.hip else 4)
_tickets: dict[tuple[torch.device, int], Tensor] = {}


class Call(NamedTuple):
    """What every kernel takes of a batch and a rule."""

    given: tuple[Any, ...]  # what every operator takes
    arguments: tuple[Any, ...]  # batch and steps
    constants: dict[str, Any]
    plan: Plan
    classes: int
    thresholds: int


def prepare(given: tuple[Any, ...]) -> Call:
    from .triton_kernels import ARITHMETIC

    input, target, threshold, weight, pos_weight, table = given[:6]
    ignore_index, heaviside, parameter, membership, from_logits = given[6:]
    indices = class_indices(input, target)
    target_has_classes = target.dim() > 1 and not indices
    operands = [three_strides(input, input.dim() > 1), three_strides(target, target_has_classes)]
    if weight is not None:
        operands.append(three_strides(weight, target_has_classes))
    classes, inner = operands[0][0].shape[1:]
    thresholds = threshold.shape[0]
    strides = tuple(of_operand for _, of_operand in operands)
    plan = make_plan(input.shape[0], classes, inner, thresholds, strides, tuning)
    placed: list[Any] = [(x, *s) for (x, _), s in zip(operands, plan.strides, strict=False)]
    placed += [None] if weight is None else []
    of_class = None if pos_weight is None else (pos_weight, pos_weight.stride(0))
    batch = (*placed, of_class, ignore_index, inner, classes)
    levels = None if table is None else (table.contiguous(), table.shape[2])
    steps = (threshold.contiguous(), constant((parameter,), input.device), levels, thresholds)
    constants = {
        "KIND": heaviside,
        "GATED": membership == "gated",
        "CLASS_INDICES": indices,
        "FROM_LOGITS": from_logits,
        "DIVIDE": plan.divide,
        "T": ARITHMETIC[accumulation_dtype(input.dtype)],
        "C": plan.classes,
        "num_warps": tuning.warps,
        **COMPILER_OPTIONS,
    }
    return Call(given, (batch, steps), constants, plan, classes, thresholds)


def soft_counts(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *batch_and_rule, with_cross_entropy = args
    call = prepare(tuple(batch_and_rule))
    sums = _empty_sums(call, batch_and_rule[0])
    _launch_soft_counts(call, sums, with_cross_entropy, None, None, None)
    return sums


def fractional_loss(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *batch_and_rule, metric, maximize, average, zero_division, bce_weight, with_grad = args
    input = batch_and_rule[0]
    call = prepare(tuple(batch_and_rule))
    sums = _empty_sums(call, input)
    shape = (call.classes,) if average == "none" else ()
    loss = input.new_empty(shape, dtype=accumulation_dtype(input.dtype))
    grad_counts, grad_cross_entropy = torch.empty_like(sums[0]), torch.empty_like(sums[2])
    numbers = constant((zero_division, bce_weight), input.device)
    outputs = (metric, numbers, loss, grad_counts, grad_cross_entropy)
    _launch_soft_counts(call, sums, bce_weight != 0, average, maximize, outputs)
    grad_input = input.new_empty(0)
    if with_grad:
        grads = (grad_counts, grad_cross_entropy, None)
        grad_input, _ = soft_counts_backward(*grads, *batch_and_rule, False)
    return loss, grad_counts, grad_cross_entropy, grad_input


def soft_counts_backward(
    grad_counts: Tensor, grad_cross_entropy: Tensor, grad_loss: Tensor | None, *args: Any
) -> tuple[Tensor, Tensor]:
    from .triton_kernels import soft_counts_backward_kernel

    *batch_and_rule, threshold_grad = args
    input = batch_and_rule[0]
    call = prepare(tuple(batch_and_rule))
    plan = call.plan
    samples = tuning.backward_tiles * plan.samples
    parts = -(-plan.length // samples)
    grid = (plan.rows * parts, plan.tiles)
    grad_input = torch.empty_like(input, memory_format=torch.contiguous_format)
    size = (grid[0] * grid[1] if threshold_grad else 1, call.thresholds if threshold_grad else 0)
    grad_threshold = input.new_empty(size, dtype=torch.float64)
    scale = None
    if grad_loss is not None:
        scale = (grad_loss, grad_loss.stride(0) if grad_loss.numel() > 1 else 0)
    _launch(
        call,
        soft_counts_backward_kernel,
        grid,
        (grad_counts.contiguous(), grad_cross_entropy.contiguous(), scale),
        (grad_input, *plan.strides[-1]),
        grad_threshold if threshold_grad else None,
        (plan.length, parts),
        S=samples,
    )
    return grad_input, grad_threshold.sum(0)


def _empty_sums(call: Call, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Counts (C, T, 4), totals (C, 2) and cross-entropies (C,)."""
    sizes = (call.classes, call.thresholds, 4), (call.classes, 2), (call.classes,)
    counts, totals, cross_entropy = (input.new_empty(s, dtype=torch.float64) for s in sizes)
    return counts, totals, cross_entropy


def _launch_soft_counts(
    call: Call,
    sums: tuple[Tensor, Tensor, Tensor],
    with_cross_entropy: bool,
    average: str | None,
    maximize: bool | None,
    outputs: tuple[Tensor, ...] | None,
) -> None:
    from .triton_kernels import soft_counts_kernel

    plan, device = call.plan, sums[0].device
    if device.type == "cpu":
        # The interpreter leaves out what a GPU would assert; the reference looks at the values.
        values = (*call.given, False)
        reference.soft_counts(*values)
    grid = (plan.rows * plan.parts, plan.tiles, plan.groups)
    of_parts = sums[0].new_empty(grid[0] * call.classes * (4 * call.thresholds + 3))
    _launch(
        call,
        soft_counts_kernel,
        grid,
        *(of_parts, _ticket(device), sums, outputs),
        (plan.length, plan.parts, plan.part),
        WITH_CROSS_ENTROPY=with_cross_entropy,
        AVERAGE=average,
        MAXIMIZE=maximize,
        S=plan.samples,
        GROUP=plan.group,
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


def _launch(call: Call, kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    device = call.given[0].device
    launch = partial(kernel[grid], *call.arguments, *args, **constants, **call.constants)
    if device.type != "cpu":
        with torch.cuda.device(device):
            launch()
        return
    with np.errstate(all="ignore"):
        launch()


LIBRARY = torch.library.Library(NAMESPACE, "DEF")
LIBRARY.define(f"soft_counts({BATCH}, bool with_cross_entropy) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(
    "soft_counts_backward(Tensor grad_counts, Tensor grad_cross_entropy, Tensor? grad_loss, "
    f"{BATCH}, bool threshold_grad) -> (Tensor, Tensor)"
)
LIBRARY.define(
    f"fractional_loss({BATCH}, Tensor metric, bool maximize, str average, float zero_division, "
    "float bce_weight, bool with_grad) -> (Tensor, Tensor, Tensor, Tensor)"
)
for _operator in (soft_counts, soft_counts_backward, fractional_loss):
    for _key in ("CPU", "CUDA"):  # CPU: for the interpreter
        LIBRARY.impl(_operator.__name__, _operator, _key)
