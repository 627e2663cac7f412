"""The operators of the kernels as differentiable functions, and their fakes for torch.compile.

A ``namespace`` is one of the two in which the operators are registered: that of the compiled
extension, or that of the Triton kernels.
"""

import threading
from typing import Any

import torch
from torch import Tensor

from . import _extension, metrics, reference, triton_ops
from .inputs import (
    THRESHOLD_OF_LOGITS,
    Batch,
    accumulation_dtype,
    class_indices,
    constant,
    number_of_classes,
)
from .metrics import LinearFractional
from .reference import Counts, LossRule
from .values import target_hint

# Up to this size the forward pass writes the gradient too, which saves the backward pass a call.
# Beyond it, keeping a gradient until it is asked for would cost memory and save nothing.
GRADIENT_IN_FORWARD = 16_384
TENSORS = 6  # with which a Batch begins
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


def soft_counts(batch: Batch, with_cross_entropy: bool, namespace: str) -> Counts:
    """Counts of a batch by the kernels, differentiable in input and threshold."""
    return Counts(
        *_SoftCounts.apply(*batch[:TENSORS], batch[TENSORS:], with_cross_entropy, namespace)
    )


def is_fused(batch: Batch, rule: LossRule, served_by: str) -> bool:
    """Whether one operator goes from the batch to the loss."""
    if batch.threshold.requires_grad or batch.per_sample or rule.average == "multiclass":
        return False
    # There the cross-entropy is that of the samples, and each class's loss has all of it.
    if rule.average == "none" and rule.ce_weight > 0 and class_indices(batch.input, batch.target):
        return False
    if isinstance(rule.metric, LinearFractional):
        return served_by != "reference"
    return served_by == "native" and rule.metric in COMPOSITE


def fused_loss(batch: Batch, rule: LossRule, namespace: str) -> Tensor:
    """Loss of a metric that the kernels know, differentiable in input."""
    metric = rule.metric
    # Made here and not in the Function: torch.compile has to see its numbers outside of that.
    known = (
        constant(metric.coefficients, batch.input.device)
        if isinstance(metric, LinearFractional)
        else COMPOSITE[metric]
    )
    # Autograd looks at each argument: those without a gradient go as one.
    loss = _FusedLoss.apply(batch.input, batch[1:], known, rule, namespace)
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
        others: tuple[Any, ...],
        with_cross_entropy: bool,
        namespace: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch = Batch(input, target, threshold, weight, pos_weight, table, *others)
        _save(ctx, batch)
        ctx.with_cross_entropy, ctx.namespace = with_cross_entropy, namespace
        operator = getattr(torch.ops, namespace).soft_counts.default
        counts, totals, cross_entropy = _call(operator, batch, with_cross_entropy)
        ctx.mark_non_differentiable(totals)
        return counts, totals, cross_entropy

    @staticmethod
    def backward(
        ctx: Any, grad_counts: Tensor, _: Tensor, grad_cross_entropy: Tensor
    ) -> tuple[Tensor | None, ...]:
        batch, _rest = _saved(ctx)
        if _is_differentiated():
            counts = reference.soft_counts(batch, ctx.with_cross_entropy)
            outputs = (counts.counts, counts.cross_entropy)
            return _gradients(ctx, outputs, batch, (grad_counts, grad_cross_entropy))
        grad_input, grad_threshold = _call(
            getattr(torch.ops, ctx.namespace).soft_counts_backward.default,
            batch,
            *(grad_counts, grad_cross_entropy, None),
            ctx.needs_input_grad[2],
        )
        of_threshold = None
        if ctx.needs_input_grad[2]:
            of_threshold = grad_threshold.to(batch.threshold.dtype)
        return grad_input, None, of_threshold, *(None,) * 6


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        others: tuple[Any, ...],
        known: Tensor | str,
        rule: LossRule,
        namespace: str,
    ) -> Tensor:
        batch = Batch(input, *others)
        # Not in half precision: there the gradient may be too small to be kept before a gradient
        # scaler's factor, part of grad_loss, has been applied. Nor in a graph, which is to serve
        # every size. Nor by Triton: the later multiplication costs as much as the launch it saves.
        ctx.with_grad = (
            namespace == NAMESPACES["native"]
            and not torch.compiler.is_compiling()
            and ctx.needs_input_grad[0]
            and input.numel() <= GRADIENT_IN_FORWARD
            and input.dtype == accumulation_dtype(input.dtype)
            and rule.average != "none"
        )
        name = "composite_loss" if isinstance(known, str) else "fractional_loss"
        loss, *partials, grad_input = _call(
            getattr(getattr(torch.ops, namespace), name).default,
            batch,
            *rule[1:],
            known,
            ctx.with_grad or together.asked,
        )
        if together.asked:
            together.grad = grad_input
        rest = (grad_input,) if ctx.with_grad else partials
        _save(ctx, batch, rule.class_weight, *rest)
        if rule.class_weight is not None:  # it has been saved
            rule = rule._replace(class_weight=None)
        ctx.rule, ctx.namespace = rule, namespace
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        batch, (class_weight, *partials) = _saved(ctx)
        if _is_differentiated():
            rule = ctx.rule._replace(class_weight=class_weight)
            counts = reference.soft_counts(batch, rule.ce_weight > 0)
            softmax = class_indices(batch.input, batch.target)
            classes = number_of_classes(batch.input)
            loss = reference.loss(counts, rule, classes, softmax, batch.per_sample)
            (grad_input,) = torch.autograd.grad(
                loss.to(grad_loss.dtype), batch.input, grad_loss, create_graph=True
            )
            return grad_input, None, None, None, None
        if ctx.with_grad:
            grad_input = partials[0] * grad_loss
        else:
            operator = getattr(torch.ops, ctx.namespace).soft_counts_backward.default
            grad_input, _ = _call(operator, batch, *partials, grad_loss, False)
        return grad_input, None, None, None, None


def _save(ctx: Any, batch: Batch, *rest: Tensor | None) -> None:
    ctx.save_for_backward(*batch[:TENSORS], *rest)
    ctx.others = batch[TENSORS:]


def _saved(ctx: Any) -> tuple[Batch, tuple[Any, ...]]:
    saved = ctx.saved_tensors  # once: a checkpoint hands out each tensor a single time
    return Batch(*saved[:TENSORS], *ctx.others), saved[TENSORS:]


def _is_differentiated() -> bool:
    """Whether the backward pass itself is recorded (create_graph=True)."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _gradients(
    ctx: Any, outputs: tuple[Tensor, ...], batch: Batch, grads: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients in input and threshold that can be differentiated again, for every argument."""
    wanted = [x for x in (batch.input, batch.threshold) if x.requires_grad]
    recorded = [(y, g) for y, g in zip(outputs, grads, strict=True) if y.requires_grad]
    ends, their_grads = zip(*recorded, strict=True)
    found = iter(torch.autograd.grad(ends, wanted, their_grads, create_graph=True))
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)


def _call(operator: Any, batch: Batch, *args: Any) -> tuple[Tensor, ...]:
    """Call an operator; what it says of a bad value becomes a ValueError."""
    if torch.compiler.is_compiling():
        return _call_in_graph(operator, *batch, *args)
    try:
        return operator(*batch, *args)
    except RuntimeError as error:
        message = str(error)
        if "softcm: " not in message:
            raise
        text = message.split("softcm: ", 1)[1].splitlines()[0]
    if text.startswith("target must"):
        text += target_hint(batch)
    if text.startswith("threshold must") and batch.from_logits:
        text += THRESHOLD_OF_LOGITS
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


def _groups(batch: Batch) -> int:
    """The number of groups that have counts of their own."""
    classes = number_of_classes(batch.input)
    return batch.input.shape[0] * classes if batch.per_sample else classes


LIBRARIES = []  # which end with their objects
for _namespace in NAMESPACES.values():
    if _namespace == NAMESPACES["native"] and not _extension.LOADED:
        continue
    LIBRARIES.append(torch.library.Library(_namespace, "FRAGMENT"))

    @torch.library.register_fake(f"{_namespace}::soft_counts")
    def _soft_counts_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        batch = Batch(*args[: len(Batch._fields)])
        groups, thresholds = _groups(batch), batch.threshold.shape[-1]
        sizes = (groups, thresholds, 4), (groups, 3), (groups,)
        counts, totals, cross_entropy = (
            batch.input.new_empty(size, dtype=torch.float64) for size in sizes
        )
        return counts, totals, cross_entropy

    @torch.library.register_fake(f"{_namespace}::soft_counts_backward")
    def _soft_counts_backward_fake(*args: Any) -> tuple[Tensor, Tensor]:
        batch, threshold_grad = Batch(*args[: len(Batch._fields)]), args[-1]
        grad_input = torch.empty_like(batch.input, memory_format=torch.contiguous_format)
        size = batch.threshold.shape if threshold_grad else (0,)
        return grad_input, batch.input.new_empty(size, dtype=torch.float64)

    @torch.library.register_fake(f"{_namespace}::fractional_loss")
    def _fused_loss_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, own = Batch(*args[: len(Batch._fields)]), args[len(Batch._fields) :]
        rule, with_grad = LossRule(None, *own[:-2]), own[-1]  # type: ignore[arg-type]
        input, classes = batch.input, number_of_classes(batch.input)
        shape = (classes,) if rule.average == "none" else ()
        loss = input.new_empty(shape, dtype=accumulation_dtype(input.dtype))
        size = (classes, batch.threshold.shape[-1], 4)
        grad_counts = input.new_empty(size, dtype=torch.float64)
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
