"""The operators of the kernels as differentiable functions, and their fakes for torch.compile.

A ``namespace`` is one of the two in which the operators are registered: that of the compiled
extension, or that of the Triton kernels.
"""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _extension, metrics, reference, triton_ops
from .inputs import Batch, accumulation_dtype, constant, number_of_classes
from .metrics import LinearFractional
from .reference import Counts
from .values import target_hint

# Up to this size the forward pass writes the gradient too, which saves the backward pass a call.
# Beyond it, keeping a gradient until it is asked for would cost memory and save nothing.
GRADIENT_IN_FORWARD = 16_384
NAMESPACES = {"native": "softcm", "triton": triton_ops.NAMESPACE}
# The metrics that the compiled ``composite_loss`` knows, by the names that it has for them.
COMPOSITE = {
    metric: metric.__name__
    for metric in (
        *(metrics.balanced_accuracy, metrics.gmean, metrics.informedness, metrics.mcc),
        *(metrics.kappa, metrics.auroc, metrics.auprc),
    )
}


class _Together(threading.local):
    """What :func:`softcm.value_and_grad` asks of the forward passes of its thread, and gets."""

    asked = False
    loss: Tensor | None = None  # the last one
    input: Tensor | None = None  # of which it is the loss
    grad: Tensor | None = None


together = _Together()


class Rule(NamedTuple):
    """How a sample becomes a row of eq. (3): the arguments that every operator ends with."""

    ignore_index: int | None
    heaviside: str
    parameter: float
    membership: str
    from_logits: bool


class LossRule(NamedTuple):
    """From counts to a loss: the further arguments of the fused losses and `reference.loss`."""

    metric: Callable[..., Tensor]
    maximize: bool
    average: str
    zero_division: float
    bce_weight: float


def soft_counts(batch: Batch, rule: Rule, with_cross_entropy: bool, namespace: str) -> Counts:
    """Counts of a batch by the kernels, differentiable in input and threshold."""
    return Counts(*_SoftCounts.apply(*batch.tensors, rule, with_cross_entropy, namespace))


def is_fused(metric: Callable[..., Tensor], served_by: str) -> bool:
    """Whether one operator goes from the batch to the loss of a metric."""
    if isinstance(metric, LinearFractional):
        return served_by != "reference"
    return served_by == "native" and metric in COMPOSITE


def fused_loss(batch: Batch, rule: Rule, loss_rule: LossRule, namespace: str) -> Tensor:
    """Loss of a metric that the kernels know, differentiable in input."""
    metric = loss_rule.metric
    # Made here and not in the Function: torch.compile has to see its numbers outside of that.
    known = (
        constant(metric.coefficients, batch.input.device)
        if isinstance(metric, LinearFractional)
        else COMPOSITE[metric]
    )
    # Autograd looks at each argument: those without a gradient go as one.
    loss = _FusedLoss.apply(batch.input, batch.tensors[1:], known, rule, loss_rule, namespace)
    if together.asked:
        together.loss, together.input = loss, batch.input
    return loss


def one_vs_rest_logits(logits: Tensor) -> Tensor:
    """Binary logits of each class against the rest by the compiled kernels, differentiable."""
    return _OneVsRestLogits.apply(logits)


class _OneVsRestLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        output = torch.ops.softcm.one_vs_rest_logits.default(logits)
        ctx.save_for_backward(logits, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        logits, output = ctx.saved_tensors
        if _is_differentiated():
            again = reference.one_vs_rest_logits(logits)
            return torch.autograd.grad(again, logits, grad, create_graph=True)[0]
        return torch.ops.softcm.one_vs_rest_logits_backward.default(grad, logits, output)


class _SoftCounts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        threshold: Tensor,
        weight: Tensor | None,
        pos_weight: Tensor | None,
        table: Tensor | None,
        rule: Rule,
        with_cross_entropy: bool,
        namespace: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch = (input, target, threshold, weight, pos_weight, table)
        ctx.save_for_backward(*batch)
        ctx.rule, ctx.with_cross_entropy, ctx.namespace = rule, with_cross_entropy, namespace
        operator = getattr(torch.ops, namespace).soft_counts.default
        counts, totals, cross_entropy = _call(operator, *batch, *rule, with_cross_entropy)
        ctx.mark_non_differentiable(totals)
        return counts, totals, cross_entropy

    @staticmethod
    def backward(
        ctx: Any, grad_counts: Tensor, _: Tensor, grad_cross_entropy: Tensor
    ) -> tuple[Tensor | None, ...]:
        batch = ctx.saved_tensors
        if _is_differentiated():
            counts = _reference_counts(batch, ctx.rule, ctx.with_cross_entropy)
            outputs = (counts.counts, counts.cross_entropy)
            grads = _gradients(ctx, outputs, batch, (grad_counts, grad_cross_entropy))
            return *grads, None, None, None
        grad_input, grad_threshold = _call(
            getattr(torch.ops, ctx.namespace).soft_counts_backward.default,
            grad_counts,
            grad_cross_entropy,
            None,
            *batch,
            *ctx.rule,
            ctx.needs_input_grad[2],
        )
        of_threshold = grad_threshold.to(batch[2].dtype) if ctx.needs_input_grad[2] else None
        return grad_input, None, of_threshold, None, None, None, None, None, None


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        others: tuple[Tensor | None, ...],
        known: Tensor | str,
        rule: Rule,
        loss_rule: LossRule,
        namespace: str,
    ) -> Tensor:
        batch = (input, *others)
        # Not in half precision: there the gradient may be too small to be kept before a gradient
        # scaler's factor, part of grad_loss, has been applied. Nor in a graph, which is to serve
        # every size. Nor by Triton: the later multiplication costs as much as the launch it saves.
        ctx.with_grad = (
            namespace == NAMESPACES["native"]
            and not torch.compiler.is_compiling()
            and ctx.needs_input_grad[0]
            and input.numel() <= GRADIENT_IN_FORWARD
            and input.dtype == accumulation_dtype(input.dtype)
            and loss_rule.average != "none"
        )
        name = "composite_loss" if isinstance(known, str) else "fractional_loss"
        loss, *partials, grad_input = _call(
            getattr(getattr(torch.ops, namespace), name).default,
            *batch,
            *rule,
            known,
            *loss_rule[1:],
            ctx.with_grad or together.asked,
        )
        if together.asked:
            together.grad = grad_input
        ctx.save_for_backward(*batch, *((grad_input,) if ctx.with_grad else partials))
        ctx.rule, ctx.loss_rule, ctx.namespace = rule, loss_rule, namespace
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: a checkpoint hands out each tensor a single time
        batch, partials = saved[:6], saved[6:]
        if _is_differentiated():
            counts = _reference_counts(batch, ctx.rule, ctx.loss_rule.bce_weight > 0)
            loss = reference.loss(counts, *ctx.loss_rule).to(grad_loss.dtype)
            (grad_input,) = torch.autograd.grad(loss, batch[:1], grad_loss, create_graph=True)
            return grad_input, None, None, None, None, None
        if ctx.with_grad:
            grad_input = partials[0] * grad_loss
        else:
            grad_input, _ = _call(
                getattr(torch.ops, ctx.namespace).soft_counts_backward.default,
                *partials,
                grad_loss,
                *batch,
                *ctx.rule,
                False,
            )
        return grad_input, None, None, None, None, None


def _is_differentiated() -> bool:
    """Whether the backward pass itself is recorded (create_graph=True)."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _reference_counts(
    batch: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None],
    rule: Rule,
    with_cross_entropy: bool,
) -> Counts:
    return reference.soft_counts(*batch, *rule, with_cross_entropy)


def _gradients(
    ctx: Any,
    outputs: tuple[Tensor, ...],
    batch: tuple[Tensor | None, ...],
    grads: tuple[Tensor, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients in the six tensors of a batch that can be differentiated again."""
    wanted = [x for x in batch if x is not None and x.requires_grad]
    recorded = [(y, g) for y, g in zip(outputs, grads, strict=True) if y.requires_grad]
    ends, their_grads = zip(*recorded, strict=True)
    found = iter(torch.autograd.grad(ends, wanted, their_grads, create_graph=True))
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad[:6])


def _call(operator: Any, *args: Any) -> tuple[Tensor, ...]:
    """Call an operator; what it says of a bad value becomes a ValueError."""
    if torch.compiler.is_compiling():
        return _call_in_graph(operator, *args)
    try:
        return operator(*args)
    except RuntimeError as error:
        message = str(error)
        if "softcm: " not in message:
            raise
        text = message.split("softcm: ", 1)[1].splitlines()[0]
    if text.startswith("target must"):  # which a forward pass says, of its first two arguments
        text += target_hint(args[0], args[1], args[6])
    raise ValueError(text)


def _call_in_graph(operator: Any, *args: Any) -> tuple[Tensor, ...]:
    """Call an operator, or its overload for numbers in tensors.

    Numbers that change between calls are symbols in the graph. ``operator`` would fix them: there
    would be a graph for each of their values.
    """
    # Not above: it takes long to import, and when this is traced it has been.
    from torch.fx.experimental.symbolic_shapes import has_static_value

    if all(has_static_value(x) for x in args if isinstance(x, float)):
        return operator(*args)
    one = torch.ones((), dtype=torch.float64)
    return operator.overloadpacket.of_tensors(
        *(one * x if isinstance(x, float) else x for x in args)
    )


def _define_overload_of_tensors(library: torch.library.Library, operator: Any, fake: Any) -> None:
    """``operator.of_tensors``, whose numbers are tensors () on the CPU."""
    signature = str(operator._schema).replace("float ", "Tensor ")
    name = operator.name().split("::")[1]
    numbers = [str(argument.type) == "float" for argument in operator._schema.arguments]

    def call(*args: Any) -> tuple[Tensor, ...]:
        return operator(*(x.item() if n else x for x, n in zip(args, numbers, strict=True)))

    overload = f"{name}.of_tensors"
    library.define(signature.split("::")[1].replace(f"{name}(", f"{overload}(", 1))
    library.impl(overload, call, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{library.ns}::{overload}", fake, lib=library)


LIBRARIES = []  # which end with their objects
for _namespace in NAMESPACES.values():
    if _namespace == NAMESPACES["native"] and not _extension.LOADED:
        continue
    LIBRARIES.append(torch.library.Library(_namespace, "FRAGMENT"))

    @torch.library.register_fake(f"{_namespace}::soft_counts")
    def _soft_counts_fake(
        input: Tensor, target: Tensor, threshold: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        classes = number_of_classes(input)
        sizes = (classes, threshold.numel(), 4), (classes, 2), (classes,)
        counts, totals, cross_entropy = (
            input.new_empty(size, dtype=torch.float64) for size in sizes
        )
        return counts, totals, cross_entropy

    @torch.library.register_fake(f"{_namespace}::soft_counts_backward")
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
        thresholds = threshold.numel() if threshold_grad else 0
        return grad_input, input.new_empty(thresholds, dtype=torch.float64)

    @torch.library.register_fake(f"{_namespace}::fractional_loss")
    def _fused_loss_fake(
        input: Tensor, target: Tensor, threshold: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        average, with_grad = rest[-4], rest[-1]
        classes = number_of_classes(input)
        shape = (classes,) if average == "none" else ()
        loss = input.new_empty(shape, dtype=accumulation_dtype(input.dtype))
        grad_counts = input.new_empty((classes, threshold.numel(), 4), dtype=torch.float64)
        grad_cross_entropy = input.new_empty(classes, dtype=torch.float64)
        grad_input = torch.empty_like(
            input if with_grad else input.new_empty(0), memory_format=torch.contiguous_format
        )
        return loss, grad_counts, grad_cross_entropy, grad_input

    _fakes = {
        "soft_counts": _soft_counts_fake,
        "soft_counts_backward": _soft_counts_backward_fake,
        "fractional_loss": _fused_loss_fake,
    }
    if _namespace == NAMESPACES["native"]:
        torch.library.register_fake(f"{_namespace}::composite_loss", _fused_loss_fake)
        _fakes["composite_loss"] = _fused_loss_fake
    for _name, _fake in _fakes.items():
        _operator = getattr(getattr(torch.ops, _namespace), _name).default
        _define_overload_of_tensors(LIBRARIES[-1], _operator, _fake)


if _extension.LOADED:

    @torch.library.register_fake("softcm::one_vs_rest_logits")
    def _one_vs_rest_logits_fake(input: Tensor) -> Tensor:
        return torch.empty_like(input, memory_format=torch.contiguous_format)

    @torch.library.register_fake("softcm::one_vs_rest_logits_backward")
    def _one_vs_rest_logits_backward_fake(
        grad_output: Tensor, input: Tensor, output: Tensor
    ) -> Tensor:
        return torch.empty_like(input, memory_format=torch.contiguous_format)
