"""The compiled operators as differentiable functions, and their fake kernels for torch.compile."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _extension
from .inputs import Batch, accumulation_dtype
from .reference import Counts

# Up to this size the forward pass writes the gradient too, which saves the backward pass a call.
# Beyond it, keeping a gradient until it is asked for would cost memory and save nothing.
GRADIENT_IN_FORWARD = 16_384


class Rule(NamedTuple):
    """How a sample becomes a row of eq. (3): the arguments that every operator ends with."""

    ignore_index: int | None
    heaviside: str
    parameter: float
    membership: str
    from_logits: bool


class LossRule(NamedTuple):
    """From counts to a loss: the further arguments of ``fractional_loss``."""

    metric: Tensor  # (10,)
    maximize: bool
    average: str
    zero_division: float
    bce_weight: float


def soft_counts(batch: Batch, rule: Rule, with_cross_entropy: bool) -> Counts:
    """Counts of a batch by the compiled kernels, differentiable in input and threshold."""
    return Counts(*_SoftCounts.apply(*batch[:5], rule, with_cross_entropy))


def fractional_loss(batch: Batch, rule: Rule, loss_rule: LossRule) -> Tensor:
    """Loss of a linear-fractional metric by the compiled kernels, differentiable in input."""
    return _FractionalLoss.apply(*batch[:5], rule, loss_rule)


class _SoftCounts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        threshold: Tensor,
        weight: Tensor | None,
        pos_weight: Tensor | None,
        rule: Rule,
        with_cross_entropy: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(input, target, threshold, weight, pos_weight)
        ctx.rule = rule
        counts, totals, cross_entropy = _call(
            torch.ops.softcm.soft_counts.default,
            *(input, target, threshold, weight, pos_weight),
            *rule,
            with_cross_entropy,
        )
        ctx.mark_non_differentiable(totals)
        return counts, totals, cross_entropy

    @staticmethod
    def backward(
        ctx: Any, grad_counts: Tensor, _: Tensor, grad_cross_entropy: Tensor
    ) -> tuple[Tensor | None, ...]:
        threshold = ctx.saved_tensors[2]
        grad_input, grad_threshold = torch.ops.softcm.soft_counts_backward.default(
            grad_counts,
            grad_cross_entropy,
            None,
            *ctx.saved_tensors,
            *ctx.rule,
            ctx.needs_input_grad[2],
        )
        of_threshold = grad_threshold.to(threshold.dtype) if ctx.needs_input_grad[2] else None
        return grad_input, None, of_threshold, None, None, None, None


class _FractionalLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        threshold: Tensor,
        weight: Tensor | None,
        pos_weight: Tensor | None,
        rule: Rule,
        loss_rule: LossRule,
    ) -> Tensor:
        loss, *partials = _call(
            torch.ops.softcm.fractional_loss.default,
            *(input, target, threshold, weight, pos_weight),
            *rule,
            *loss_rule,
            False,
        )
        ctx.save_for_backward(*partials[:2], input, target, threshold, weight, pos_weight)
        ctx.rule = rule
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grad_counts, grad_cross_entropy, *batch = ctx.saved_tensors
        grad_input, _ = torch.ops.softcm.soft_counts_backward.default(
            grad_counts, grad_cross_entropy, grad_loss, *batch, *ctx.rule, False
        )
        return grad_input, None, None, None, None, None, None


def _call(operator: Any, *args: Any) -> tuple[Tensor, ...]:
    """Call an operator; what it says of a bad value becomes a ValueError."""
    if torch.compiler.is_compiling():
        return operator(*args)  # type: ignore[no-any-return]
    try:
        return operator(*args)  # type: ignore[no-any-return]
    except RuntimeError as error:
        message = str(error)
        if "softcm: " not in message:
            raise
        text = message.split("softcm: ", 1)[1].splitlines()[0]
    raise ValueError(text)


if _extension.LOADED:

    @torch.library.register_fake("softcm::soft_counts")
    def _soft_counts_fake(
        input: Tensor, target: Tensor, threshold: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        classes = input.shape[1] if input.dim() > 1 else 1
        sizes = (classes, threshold.shape[0], 4), (classes, 2), (classes,)
        counts, totals, cross_entropy = (
            input.new_empty(size, dtype=torch.float64) for size in sizes
        )
        return counts, totals, cross_entropy

    @torch.library.register_fake("softcm::soft_counts_backward")
    def _soft_counts_backward_fake(
        grad_counts: Tensor,
        grad_cross_entropy: Tensor,
        grad_loss: Tensor | None,
        input: Tensor,
        target: Tensor,
        threshold: Tensor,
        *rest: Any,
    ) -> tuple[Tensor, Tensor]:
        threshold_grad = rest[-1]
        grad_input = torch.empty_like(input, memory_format=torch.contiguous_format)
        thresholds = threshold.shape[0] if threshold_grad else 0
        return grad_input, input.new_empty(thresholds, dtype=torch.float64)

    @torch.library.register_fake("softcm::fractional_loss")
    def _fractional_loss_fake(
        input: Tensor, target: Tensor, threshold: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        average, with_grad = rest[-4], rest[-1]
        classes = input.shape[1] if input.dim() > 1 else 1
        shape = (classes,) if average == "none" else ()
        loss = input.new_empty(shape, dtype=accumulation_dtype(input.dtype))
        grad_counts = input.new_empty((classes, threshold.shape[0], 4), dtype=torch.float64)
        grad_cross_entropy = input.new_empty(classes, dtype=torch.float64)
        grad_input = torch.empty_like(
            input if with_grad else input.new_empty(0), memory_format=torch.contiguous_format
        )
        return loss, grad_counts, grad_cross_entropy, grad_input
