"""The reference backend: eq. (1), (3), (4) and (5) in plain PyTorch, written for reading.

It is the fallback where no kernel serves, and in float64 the oracle of the tests. Its gradients
are autograd's own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .inputs import accumulation_dtype, by_class, class_indices
from .values import (
    check_labels,
    check_probabilities,
    check_threshold,
    check_weight,
    class_index_message,
    plain,
    raise_unless,
    target_hint,
)


class Counts(NamedTuple):
    """What every backend returns for a batch."""

    counts: Tensor  # (C, T, 4) float64: TP, FN, FP, TN
    totals: Tensor  # (C, 2) float64: weight of the counted samples, weight of the positives
    cross_entropy: Tensor  # (C,) float64: weighted sum of binary cross-entropies


def inside(threshold: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """The thresholds that eq. (5) takes: so far from 0 and 1 that ``dtype`` has room for the
    breakpoints on either side, and numbers for the slopes. Gradients are those at that place."""
    if kind != "linear":
        return threshold
    exact = threshold.double()
    taken = exact.clamp(2.0**-60, 1 - torch.finfo(dtype).eps)
    return exact + (taken - exact).detach()


def heaviside(p: Tensor, threshold: Tensor, kind: str, parameter: float) -> Tensor:
    """h(p, tau), eq. (1) for "step", eq. (5) for "linear", Section 4 for "sigmoid"."""
    tau = threshold.to(p.dtype)
    if kind == "step":
        return torch.where(p < tau, 0.0, 1.0).to(p.dtype) + 0 * p  # NaN stays NaN
    if kind == "sigmoid":
        return torch.sigmoid(parameter * (p - tau))
    # The breakpoints are found in float64 and then rounded, as in the kernels, so that an element
    # exactly on one is on the same segment everywhere.
    exact, delta = threshold.double(), parameter
    tau_m = torch.minimum(exact, 1 - exact)
    low, high = exact - tau_m / 2, exact + tau_m / 2
    m1, m2, m3 = delta / low, (1 - 2 * delta) / tau_m, delta / (1 - high)
    low, high, m1, m2, m3 = (x.to(p.dtype) for x in (low, high, m1, m2, m3))
    middle = 0.5 + m2 * (p - tau)
    return torch.where(p < low, m1 * p, torch.where(p > high, 1 - m3 * (1 - p), middle))


def memberships(p: Tensor, threshold: Tensor, h: Tensor, membership: str) -> tuple[Tensor, Tensor]:
    """The rows (tp, fn, fp, tn) of a positive and of a negative sample, eq. (3)."""
    other = torch.where(p < threshold.to(p.dtype), h, 1 - h)
    if membership == "gated":
        other = 0 * h  # not zeros_like: NaN has to reach all four counts
    positive = torch.stack((h, 1 - h, other, other), dim=-1)
    negative = torch.stack((other, other, h, 1 - h), dim=-1)
    return positive, negative


def truncate(p: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """p cut off to a multiple of 1 / levels below 1, and which one it is; for a table.

    The value is float64, in which it is on the right side of every threshold; its gradient is that
    of p. The factor exceeds levels by so little that a p which is a multiple up to its own rounding
    stays that multiple: float32(0.29) * 100 is less than 29.
    """
    factor = levels * (1 + 2 * torch.finfo(p.dtype).eps)
    level = (p.detach() * factor).nan_to_num(0.0).clamp(0, levels - 1).long()
    return level.double() / levels + (p - p.detach()), level


def look_up(p: Tensor, level: Tensor, table: Tensor, threshold: int | Tensor) -> Tensor:
    """h at the level of p and a threshold's index, with the gradient that the table has there."""
    return table[0, threshold, level] + table[1, threshold, level] * (p - p.detach())


def soft_counts(
    input: Tensor,
    target: Tensor,
    threshold: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    table: Tensor | None,
    ignore_index: int | None,
    heaviside_kind: str,
    parameter: float,
    membership: str,
    from_logits: bool,
    with_cross_entropy: bool,
) -> Counts:
    """Weighted sums of eq. (3) over the samples, for every class and threshold.

    Shapes, dtypes and devices have been checked by :mod:`softcm.inputs`; here only values are.
    Arithmetic is in the accumulation dtype of ``input``, sums in float64.
    """
    check_threshold(threshold)
    dtype = accumulation_dtype(input.dtype)
    x = by_class(input.to(dtype))  # (S, C)
    y, counted = labels(input, target, ignore_index)  # (S, C)
    if not from_logits:
        check_probabilities(torch.where(counted, x, 0.5))
    check_labels(torch.where(counted, y, 0.0), lambda: target_hint(input, target, ignore_index))

    # Where a sample is not counted its values must not reach the sums, not even as 0 * NaN.
    x = torch.where(counted, x, 0.5)
    w = counted.to(dtype)
    if weight is not None:
        given = weight.reshape(-1, 1) if class_indices(input, target) else by_class(weight)
        w = torch.where(counted, given.to(dtype), 0.0)
        check_weight("weight", w)
    y = torch.where(counted, y, 0.0).to(dtype)
    w1, w0 = w * y, w * (1 - y)  # weights of the rows of a positive and of a negative
    if pos_weight is not None:
        check_weight("pos_weight", pos_weight)
        w1 = w1 * pos_weight.to(dtype)

    p = torch.sigmoid(x) if from_logits else x
    if table is not None:
        p, level = truncate(p, table.shape[-1])
    counts = []
    for i, tau in enumerate(inside(threshold, heaviside_kind, dtype).unbind()):
        if table is None:
            h = heaviside(p, tau, heaviside_kind, parameter)
        else:
            h = look_up(p, level, table, i)
        positive, negative = memberships(p, tau, h, membership)
        row = w1.unsqueeze(-1) * positive + w0.unsqueeze(-1) * negative  # (S, C, 4)
        counts.append(row.double().sum(0))
    totals = torch.stack((w.double().sum(0), w1.double().sum(0)), dim=-1)
    entropy = totals.new_zeros(totals.shape[0])
    if with_cross_entropy:
        entropy = _cross_entropy(x, w1, w0, from_logits).double().sum(0)
    return Counts(torch.stack(counts, dim=1), totals, entropy)


def loss(
    counts: Counts,
    metric: Callable[..., Tensor],
    maximize: bool,
    average: str,
    zero_division: float,
    bce_weight: float,
) -> Tensor:
    """From counts to the loss, for any metric; the compiled ``fractional_loss`` does the same."""
    if average == "micro":
        counts = Counts(*(x.sum(0, keepdim=True) for x in counts))
    weights, positives = counts.totals.unbind(-1)
    counted = weights > 0
    # A class without counted samples gets counts at which no metric has a 0 / 0 to differentiate.
    ordinary = torch.where(counted.reshape(-1, 1, 1), counts.counts, 1.0)
    value = metric(ordinary.unbind(-1), zero_division)  # (C, T) or (C,)
    value = value.mean(-1) if value.dim() == 2 else value
    losses = 1 - value if maximize else value
    empty = 1 - zero_division if maximize else zero_division
    if average == "none":
        entropy = counts.cross_entropy / torch.where(counted, weights, 1.0)
        return torch.where(counted, losses, empty) + bce_weight * entropy
    losses = torch.where(counted, losses, 0.0)
    shares = positives if average == "weighted" else counted.to(losses.dtype)
    total = shares.sum()
    mean = (shares * losses).sum() / torch.where(total == 0, 1.0, total)
    # "weighted" without any positive is a ratio with denominator 0.
    mean = torch.where((total == 0) & counted.any(), empty + mean, mean)
    if bce_weight == 0:  # operations on scalars, which take most of a small step
        return mean
    weight = weights.sum()
    return mean + bce_weight * counts.cross_entropy.sum() / torch.where(weight == 0, 1.0, weight)


def labels(input: Tensor, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Labels (S, C) and which of them count; class indices become one class against the rest."""
    indices = class_indices(input, target)
    # int64, as the narrower types wrap the numbers that they are compared with.
    y = target.reshape(-1, 1).long() if indices else by_class(target)
    counted = torch.ones_like(y, dtype=torch.bool)
    if ignore_index is not None:
        counted = (y if y.is_floating_point() else y.long()) != ignore_index
    if not indices:
        return y, counted
    classes = input.shape[1]
    known = ~counted | ((y >= 0) & (y < classes))
    raise_unless(
        known,
        lambda: (
            class_index_message(plain(y)[~plain(known)][0].item(), classes)
            + target_hint(input, target, ignore_index)
        ),
    )
    one_hot = y == torch.arange(classes, device=y.device)
    return one_hot, counted.expand_as(one_hot)


def _cross_entropy(x: Tensor, w1: Tensor, w0: Tensor, from_logits: bool) -> Tensor:
    """-w1 log p - w0 log(1 - p), elementwise."""
    if not from_logits:
        return _ProbabilityCrossEntropy.apply(x, w1, w0)
    # A row without weight adds nothing, even where its logarithm is infinite.
    positive = torch.where(w1 == 0, 0.0, w1 * softplus(-x, threshold=50))
    negative = torch.where(w0 == 0, 0.0, w0 * softplus(x, threshold=50))
    return positive + negative


def one_vs_rest_logits(input: Tensor) -> Tensor:
    """Binary logits z' with sigmoid(z') = softmax(input) over dimension 1, in every class.

    z'_c = z_c - log(sum over the other classes of exp(z)). Neither this nor its gradient loses
    digits where a probability is close to 0 or 1. A row that a softmax makes NaN (of two logits
    +inf, or of -inf alone) is NaN here too.
    """
    return _OneVsRestLogits.apply(input)


class _OneVsRestLogits(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        top, _, rest_of_top = _split_top(z)
        # Of a class other than the top one the probability is at most 1/2: log(1 - p) is harmless.
        total = z.logsumexp(dim=1, keepdim=True)
        rest = total + torch.log1p(-torch.exp(z - total))
        return z - rest.scatter(1, top, rest_of_top)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # dz'_c/dz_c = 1 and dz'_c/dz_j = -p_j / (1 - p_c); for the top c, where 1 - p_c may vanish,
        # that quotient is the softmax over the other classes.
        z, output = ctx.saved_tensors
        top, others, rest_of_top = _split_top(z)
        p = torch.sigmoid(output)
        among_others = torch.exp(others - rest_of_top.clamp(min=torch.finfo(z.dtype).min))
        scaled = grad.scatter(1, top, 0.0) / (1 - p.scatter(1, top, 0.0))
        from_others = p * (scaled.sum(dim=1, keepdim=True) - scaled)
        return grad - from_others - among_others * grad.gather(1, top)


def _split_top(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The index of the largest logit, the logits without it, and their log-sum-exp."""
    top = z.argmax(dim=1, keepdim=True)
    others = z.scatter(1, top, -torch.inf)
    return top, others, others.logsumexp(dim=1, keepdim=True)


class _ProbabilityCrossEntropy(torch.autograd.Function):
    """Cross-entropy with the bounds of torch.nn.functional.binary_cross_entropy.

    Its logarithms are at least -100 and the denominator of its gradient at least 1e-12; clamping
    alone would leave the gradient at p = 0 and p = 1 undefined.
    """

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def forward(p: Tensor, w1: Tensor, w0: Tensor) -> Tensor:
        return -(w1 * p.log().clamp(min=-100) + w0 * torch.log1p(-p).clamp(min=-100))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        p, w1, w0 = ctx.saved_tensors
        return grad * (w0 * p - w1 * (1 - p)) / (p * (1 - p)).clamp(min=1e-12), None, None
