"""The reference backend: eq. (1), (3), (4) and (5) in plain PyTorch, written for reading.

It is the fallback where no kernel serves, and in float64 the oracle of the tests. Its gradients
are autograd's own. On a device without float64 it sums in float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .inputs import (
    THRESHOLD_OF_LOGITS,
    Batch,
    accumulation_dtype,
    by_group,
    class_indices,
    number_of_classes,
    sum_dtype,
)
from .metrics import needs_both_labels
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
    """What every backend returns for a batch: float64 where the device has it.

    G is the number of groups that have counts of their own: C classes, or with ``per_sample`` the
    N * C classes of all samples.
    """

    counts: Tensor  # (G, T, 4): TP, FN, FP, TN
    totals: Tensor  # (G, 3): weight of the counted samples, of the positives, of the negatives
    cross_entropy: Tensor  # (G,): weighted sum


class LossRule(NamedTuple):
    """From counts to a loss; all but the metric are arguments of the operators, in this order."""

    metric: Callable[..., Tensor]
    class_weight: Tensor | None  # (C,)
    maximize: bool
    average: str
    zero_division: float
    ce_weight: float

    def is_defined(self, totals: Tensor) -> Tensor:
        """Which classes have the metric, from totals (..., 3)."""
        weight, positives, negatives = totals.unbind(-1)
        if not needs_both_labels(self.metric):
            return weight > 0
        return (weight > 0) & (positives > 0) & (negatives > 0)

    @property
    def empty(self) -> float:
        """The loss where there is nothing to take the metric of."""
        return 1 - self.zero_division if self.maximize else self.zero_division


def inside(threshold: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """The thresholds that eq. (5) takes: so far from 0 and 1 that ``dtype`` has room for the
    breakpoints on either side, and numbers for the slopes. Gradients are those at that place."""
    if kind != "linear":
        return threshold
    exact = threshold.to(sum_dtype(threshold.device))
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
    exact, delta = threshold.to(sum_dtype(p.device)), parameter
    tau_m = torch.minimum(exact, 1 - exact)
    low, high = exact - tau_m / 2, exact + tau_m / 2
    m1, m2, m3 = delta / low, (1 - 2 * delta) / tau_m, delta / (1 - high)
    low, high, m1, m2, m3 = (x.to(p.dtype) for x in (low, high, m1, m2, m3))
    middle = 0.5 + m2 * (p - tau)
    return torch.where(p < low, m1 * p, torch.where(p > high, 1 - m3 * (1 - p), middle))


def sum_memberships(
    p: Tensor, threshold: Tensor, h: Tensor, w1: Tensor, w0: Tensor, membership: str
) -> Tensor:
    """Sums (G, 4) of the rows tp, fn, fp, tn of eq. (3), of samples (S, G).

    w1, w0: weights of the rows of a positive and of a negative. NaN reaches all four sums.
    """
    tp, fn, fp, tn = w1 * h, w1 * (1 - h), w0 * h, w0 * (1 - h)
    if membership == "soft":
        other = torch.where(p < threshold.to(p.dtype), h, 1 - h)
        of_positives, of_negatives = w1 * other, w0 * other
        tp, fn = tp + of_negatives, fn + of_negatives
        fp, tn = fp + of_positives, tn + of_positives
    return torch.stack([_sum(x) for x in (tp, fn, fp, tn)], dim=-1)


def _sum(x: Tensor) -> Tensor:
    """The sum over the samples, in the widest dtype that the device has."""
    return x.to(sum_dtype(x.device)).sum(0)


def truncate(p: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """p cut off to a multiple of 1 / levels below 1, and which one it is; for a table.

    The value is float64 where the device has it, in which it is on the right side of every
    threshold; its gradient is that of p. The factor exceeds levels by so little that a p which is a
    multiple up to its own rounding stays that multiple: float32(0.29) * 100 is less than 29.
    """
    factor = levels * (1 + 2 * torch.finfo(p.dtype).eps)
    level = (p.detach() * factor).nan_to_num(0.0).clamp(0, levels - 1).long()
    return level.to(sum_dtype(p.device)) / levels + (p - p.detach()), level


def look_up(p: Tensor, level: Tensor, table: Tensor, entry: Tensor) -> Tensor:
    """h at the level of p and an entry of the table, with the gradient that the table has there."""
    return table[0, entry, level] + table[1, entry, level] * (p - p.detach())


def soft_counts(batch: Batch, with_cross_entropy: bool) -> Counts:
    """Weighted sums of eq. (3) over the samples, for every group and threshold.

    Shapes, dtypes and devices have been checked by :mod:`softcm.inputs`; here only values are.
    Arithmetic is in the accumulation dtype of the input.
    """
    check_threshold(batch.threshold, THRESHOLD_OF_LOGITS if batch.from_logits else "")
    dtype = accumulation_dtype(batch.input.dtype)
    indices = class_indices(batch.input, batch.target)
    x = _by_group(batch.input.to(dtype), batch)  # (S, G)
    y, counted = labels(batch)  # (S, G)
    # Where a sample is not counted its values must not reach the sums, not even as 0 * NaN.
    if _ignores(batch):
        x, y = torch.where(counted, x, 0.5), torch.where(counted, y, 0.0)
    if not batch.from_logits:
        check_probabilities(x)
    check_labels(y, lambda: target_hint(batch))
    y, w = y.to(dtype), sample_weights(batch, counted)
    if batch.weight is not None:
        check_weight("weight", w)
    w1, w0 = w * y, w * (1 - y)  # weights of the rows of a positive and of a negative
    if batch.pos_weight is not None:
        check_weight("pos_weight", batch.pos_weight)
        w1 = w1 * of_groups(batch.pos_weight.to(dtype), x)

    p = torch.sigmoid(x) if batch.from_logits else x
    level = None
    if batch.table is not None:
        p, level = truncate(p, batch.table.shape[-1])
    thresholds = inside(batch.threshold, batch.heaviside, dtype)
    counts = []
    for t in range(thresholds.shape[-1]):
        tau = of_groups(thresholds[..., t], x)
        if batch.table is None or level is None:
            h = heaviside(p, tau, batch.heaviside, batch.parameter)
        else:
            entry = _entries(batch.threshold)[..., t].reshape(-1)
            h = look_up(p, level, batch.table, of_groups(entry, x))
        counts.append(sum_memberships(p, tau, h, w1, w0, batch.membership))
    totals = torch.stack([_sum(weight) for weight in (w, w1, w0)], dim=-1)
    entropy = totals.new_zeros(totals.shape[0])
    if with_cross_entropy:
        # That of a softmax is -log p of each sample's own class.
        w0 = torch.zeros_like(w0) if indices else w0
        entropy = _sum(_cross_entropy(x, w1, w0, batch.from_logits))
    return Counts(torch.stack(counts, dim=1), totals, entropy)


def _ignores(batch: Batch) -> bool:
    return batch.ignore_index is not None or batch.ignore_nan


def sample_weights(batch: Batch, counted: Tensor) -> Tensor:
    """Weights (S, G) of the samples in the accumulation dtype; 0 where one is not counted."""
    dtype = accumulation_dtype(batch.input.dtype)
    if batch.weight is None:
        return counted.to(dtype)
    has_classes = not class_indices(batch.input, batch.target)
    return torch.where(counted, _by_group(batch.weight, batch, has_classes).to(dtype), 0.0)


def _by_group(x: Tensor, batch: Batch, has_classes: bool = True) -> Tensor:
    return by_group(x, number_of_classes(batch.input), batch.per_sample, has_classes)


def of_groups(of_classes: Tensor, x: Tensor) -> Tensor:
    """Numbers of the classes (C,), repeated for the groups of x (S, G); one of all stays itself."""
    groups, classes = x.shape[1], of_classes.numel()
    return of_classes if classes in (1, groups) else of_classes.repeat(groups // classes)


def _entries(threshold: Tensor) -> Tensor:
    """The numbers of a table's entries for thresholds (T,) or (C, T)."""
    return torch.arange(threshold.numel(), device=threshold.device).reshape(threshold.shape)


def loss(
    counts: Counts,
    rule: LossRule,
    classes: int,
    softmax: bool,
    per_sample: bool,
    whole: Callable[[Tensor], Tensor] = lambda part: part,
) -> Tensor:
    """From counts to the loss, for any metric; the compiled losses do the same.

    softmax: the cross-entropy is that of a softmax, the mean of which is taken over the positives.
    whole: from the sums over the samples of a part of the batch to those of the whole batch; of use
        with ``per_sample``, where counts are those of single samples.
    """
    n = counts.totals.shape[0] // classes
    # (N, C, ...), with N = 1 where the counts are those of all samples.
    counts = Counts(*(x.reshape(n, classes, *x.shape[1:]) for x in counts))
    losses, defined = _losses_of_classes(counts, rule)
    weight = counts.totals.select(-1, 1 if softmax else 0)
    if not per_sample:
        return _mean_over_classes(losses, defined, counts.totals, rule)[0].squeeze(0) + (
            _mean_entropy(counts.cross_entropy, weight, rule, softmax)
        )
    mean, has_mean = _mean_over_classes(losses, defined, counts.totals, rule)
    sums = (
        torch.where(has_mean, mean, 0.0).sum(0),
        has_mean.to(mean.dtype).sum(0),
        counts.cross_entropy.sum(0),
        weight.sum(0),
    )
    mean_sum, number, entropy, weight = whole(torch.cat([x.reshape(-1) for x in sums])).split(
        [x.numel() for x in sums]
    )
    value = torch.where(number > 0, mean_sum / number.clamp(min=1), rule.empty)
    if rule.average != "none":
        value = torch.where(number > 0, value, 0.0).squeeze(0)
    return value + _mean_entropy(entropy.unsqueeze(0), weight.unsqueeze(0), rule, softmax)


def _losses_of_classes(counts: Counts, rule: LossRule) -> tuple[Tensor, Tensor]:
    """The loss of each class of each sample, and which of them have one; both (N, C), or (N, 1)."""
    if rule.average == "micro":
        counts = Counts(*(x.sum(1, keepdim=True) for x in counts))
    n, classes, thresholds = counts.counts.shape[:3]
    defined = rule.is_defined(counts.totals)
    # A class without a metric gets counts at which no metric has a 0 / 0 to differentiate.
    ordinary = torch.where(_to_counts(defined), counts.counts, 1.0)
    if rule.average == "multiclass":
        defined = defined.any(1, keepdim=True)
        # No table has a sample of a class that is left out.
        counted = (counts.totals.select(-1, 0) > 0) | ~defined
        ordinary = torch.where(_to_counts(counted), ordinary, 0.0)
        ordinary, classes = ordinary.transpose(0, 1), 1  # (C, N, T, 4)
    else:
        ordinary = ordinary.reshape(n * classes, thresholds, 4)
    value = rule.metric(ordinary.unbind(-1), rule.zero_division)
    value = value.mean(-1) if value.dim() == 2 else value
    value = value.reshape(n, classes)
    losses = 1 - value if rule.maximize else value
    return torch.where(defined, losses, rule.empty + _nan_of_undefined(counts, rule)), defined


def _to_counts(of_classes: Tensor) -> Tensor:
    """(N, C) as (N, C, 1, 1), to meet counts (N, C, T, 4)."""
    return of_classes.unsqueeze(-1).unsqueeze(-1)


def _nan_of_undefined(counts: Counts, rule: LossRule) -> Tensor | float:
    """0, but NaN where a class has samples, NaN among them, and no metric: NaN always shows."""
    if not needs_both_labels(rule.metric):
        return 0.0  # such a class has no sample
    counted = counts.totals.select(-1, 0) > 0
    sums = torch.where(_to_counts(counted), counts.counts, 0.0).sum((-1, -2))
    return 0 * sums.detach() * sums


def _mean_over_classes(
    losses: Tensor, defined: Tensor, totals: Tensor, rule: LossRule
) -> tuple[Tensor, Tensor]:
    """Of each sample: the loss (N,), or (N, C) for "none", and whether there is one."""
    if rule.average == "none":
        return losses, defined
    shares = defined.to(losses.dtype)
    if rule.average in ("weighted", "present"):
        positives = totals.select(-1, 1)
        shares = shares * (positives if rule.average == "weighted" else positives > 0)
    if rule.class_weight is not None:
        shares = shares * rule.class_weight
    total = shares.sum(1)
    mean = (shares * losses).sum(1) / torch.where(total == 0, 1.0, total)
    has_mean = total > 0
    if rule.average == "weighted":
        # Without any positive it is a ratio with denominator 0.
        has_mean = defined.any(1)
        mean = torch.where((total == 0) & has_mean, rule.empty + mean, mean)
    return mean, has_mean


def _mean_entropy(
    cross_entropy: Tensor, weight: Tensor, rule: LossRule, softmax: bool
) -> Tensor | float:
    """What the cross-entropy adds, from sums (N, C): a number, or for "none" one for each class."""
    if rule.ce_weight == 0:  # operations on scalars, which take most of a small step
        return 0.0
    # The cross-entropy of a softmax is that of the sample, not of a class.
    if rule.average == "none" and not softmax:
        cross_entropy, weight = cross_entropy.sum(0), weight.sum(0)
    else:
        cross_entropy, weight = cross_entropy.sum(), weight.sum()
    return rule.ce_weight * cross_entropy / torch.where(weight == 0, 1.0, weight)


def labels(batch: Batch) -> tuple[Tensor, Tensor]:
    """Labels (S, G) and which of them count; class indices become one class against the rest."""
    indices = class_indices(batch.input, batch.target)
    y = _by_group(batch.target, batch, not indices)
    # int64, as the narrower types wrap the numbers that they are compared with.
    y = y if y.is_floating_point() else y.long()
    counted = torch.ones_like(y, dtype=torch.bool)
    if batch.ignore_index is not None:
        counted = y != batch.ignore_index
    if batch.ignore_nan:
        counted = counted & ~y.isnan()
    if not indices:
        return y, counted
    classes = batch.input.shape[1]
    known = ~counted | ((y >= 0) & (y < classes))
    raise_unless(
        known,
        lambda: (
            class_index_message(plain(y)[~plain(known)][0].item(), classes) + target_hint(batch)
        ),
    )
    of_class = torch.arange(classes, device=y.device)
    if batch.per_sample:
        of_class = of_class.repeat(batch.input.shape[0])
    one_hot = y == of_class
    counted = counted.expand_as(one_hot)
    if batch.ignore_index is not None:  # a class that is ignored has no sample that counts
        counted = counted & (of_class != batch.ignore_index)
    return one_hot, counted


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
