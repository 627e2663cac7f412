"""Losses at a fixed operating point: one metric at a threshold at which another is large enough."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import autograd, distributed, inputs, metrics, reference
from .confusion import count, prepare
from .heaviside import Heaviside, Sigmoid, Table
from .inputs import Batch
from .losses import loss_of_counts, rule_of
from .metrics import LinearFractional
from .options import ALL, split, with_options
from .reference import Counts
from .thresholds import closest_to_half

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import LossOptions

# The loss chooses its thresholds, and the counts are gated.
NAMES = tuple(name for name in ALL if name not in ("threshold", "membership"))
# In Linear the tails of many negatives make the soft precision fall where the threshold rises.
DEFAULTS: Any = {"heaviside": Sigmoid()}
LEVELS = 4096  # of the scores that several processes have together
# A slope of the constraint that is smaller than this share of the objective's is none: the quotient
# has to stay in the range of float32.
SMALLEST_SLOPE = 1e-30


@with_options(NAMES, **DEFAULTS)
def recall_at_fixed_precision_loss(
    input: Tensor, target: Tensor, min_precision: float, **options: "Unpack[LossOptions]"
) -> Tensor:
    """1 - recall at a precision of at least ``min_precision``, in [0, 1]; above 1 out of reach.

    As the three losses beside it, it chooses a threshold for each class from the batch itself (with
    ``average="micro"`` one for all, with ``per_sample`` one for each sample), and takes the soft
    gated counts there:

    1. *Threshold.* Of the distinct scores in (0, 1) of the counted samples it is the one at which
       the constraint, precision >= ``min_precision``, holds on the hard counts (eq. 1) and the
       objective, recall, is best on them; of equally good ones the one closest to 0.5, as
       :func:`softcm.tune_threshold` takes it. A score of 1 is represented by the largest float
       below 1. That nothing is positive, by the float above the largest score, is a candidate only
       if its objective is above 0: at recall 0 it satisfies a precision (of ``zero_division``) or
       specificity in vain, and there would be nothing to learn from it.
    2. *Loss.* 1 - objective of the soft counts at that threshold.
    3. *Gradient.* The choice has none, but the threshold moves with the scores so that the
       constraint's soft metric stays what it is: with the objective f and the constraint g, it is
       that of 1 - f, with df/dp + df/dtau dtau/dp for the derivative of f and
       dtau/dp = -(dg/dp) / (dg/dtau), or 0 where dg/dtau is 0. (Where the soft precision hardly
       depends on the threshold that is a large gradient: clip gradients.) Second derivatives take
       (df/dtau) / (dg/dtau) for a constant.
    4. *Out of reach.* Where no such threshold satisfies the constraint, it is the one at which the
       constraint's hard metric is largest (again the closest to 0.5), and the loss is
       1 + (minimum - g) with the soft g, or 1 where that exceeds the minimum: never below the loss
       of a batch in which the constraint can be satisfied. The gradient, at that threshold held
       fixed, is -dg/dp in either case: it raises g.

    A class without positives or without negatives is left out of the means; with "none" its entry
    is ``1 - zero_division``. Hard metrics: :func:`softcm.metrics.recall_at_fixed_precision`.

    ``heaviside`` is a :class:`softcm.Sigmoid`, by default, or a :class:`softcm.Linear`. The tails
    of the latter count every negative a little: where positives are few, the soft precision then
    falls where the threshold rises, and training at a fixed precision goes astray.

    With a ``process_group`` the scores of all processes choose the threshold. Not they, but their
    weighted histogram of 4,096 levels for each class and label is summed, by a second all_reduce
    (8,192 C float64 numbers; 8,192 for "micro"): the candidates are the lower edges k / 4096 of
    levels with a sample, 0 aside, and the edge above them for "nothing is positive". With
    ``per_sample`` nothing of that is needed. :class:`softcm.GradientAccumulation` serves with
    ``per_sample`` alone.
    """
    name = "recall_at_fixed_precision"
    return _loss(name, "min_precision", min_precision, input, target, options)


@with_options(NAMES, **DEFAULTS)
def precision_at_fixed_recall_loss(
    input: Tensor, target: Tensor, min_recall: float, **options: "Unpack[LossOptions]"
) -> Tensor:
    """1 - precision at a recall of at least ``min_recall``, in [0, 1]; above 1 out of reach.

    All about it: :func:`softcm.recall_at_fixed_precision_loss`, with precision for the objective
    and recall for the constraint. That is out of reach only where positives have a score of 0.
    """
    name = "precision_at_fixed_recall"
    return _loss(name, "min_recall", min_recall, input, target, options)


@with_options(NAMES, **DEFAULTS)
def sensitivity_at_specificity_loss(
    input: Tensor, target: Tensor, min_specificity: float, **options: "Unpack[LossOptions]"
) -> Tensor:
    """1 - sensitivity at a specificity of at least ``min_specificity``; above 1 out of reach.

    All about it: :func:`softcm.recall_at_fixed_precision_loss`, with sensitivity, which is recall,
    for the objective and specificity for the constraint. That is out of reach where too many
    negatives share the largest score.
    """
    name = "sensitivity_at_specificity"
    return _loss(name, "min_specificity", min_specificity, input, target, options)


@with_options(NAMES, **DEFAULTS)
def specificity_at_sensitivity_loss(
    input: Tensor, target: Tensor, min_sensitivity: float, **options: "Unpack[LossOptions]"
) -> Tensor:
    """1 - specificity at a sensitivity of at least ``min_sensitivity``; above 1 out of reach.

    All about it: :func:`softcm.recall_at_fixed_precision_loss`, with specificity for the objective
    and sensitivity, which is recall, for the constraint. That is out of reach only where positives
    have a score of 0.
    """
    name = "specificity_at_sensitivity"
    return _loss(name, "min_sensitivity", min_sensitivity, input, target, options)


def check_options(name: str, minimum: float, heaviside: Heaviside) -> float:
    """The minimum, checked, and whether the heaviside has a gradient in thresholds."""
    if isinstance(heaviside, Table):
        raise ValueError(
            "heaviside must be softcm.Linear(...) or softcm.Sigmoid(...) for a loss at an "
            "operating point, whose threshold is a score of the batch and has a gradient: a Table "
            f"has neither, got {inputs.describe(heaviside)}"
        )
    return metrics.check_minimum(name, minimum)


def _loss(
    name: str,
    minimum_name: str,
    minimum: float,
    input: Tensor,
    target: Tensor,
    given: "LossOptions",
) -> Tensor:
    options, tensors = split({**DEFAULTS, **given}, NAMES)
    minimum = check_options(minimum_name, minimum, options.heaviside)
    group = None if options.per_sample else options.process_group
    if isinstance(group, distributed.Collector):
        raise RuntimeError(
            f"softcm.{name}_loss cannot be accumulated over micro-batches, which would have to "
            "choose one threshold together before they are counted; take larger batches or a "
            "process_group, or per_sample=True, where each sample has its own"
        )
    batch, served_by = prepare(input, target, options, tensors)
    batch = batch._replace(membership="gated")
    objective, constraint = metrics.OPERATING_POINTS[name]
    point = OperatingPoint(objective, constraint, minimum, options.zero_division)
    rule = rule_of(point, True, batch, options, tensors)

    samples = _samples(batch)
    classes = inputs.number_of_classes(batch.input)
    pooled = _of_all_classes(samples, classes) if options.average == "micro" else samples
    candidates = _sweep(pooled) if group is None else _sweep_of_levels(pooled, group)
    threshold, point.feasible = _choose(candidates, point)
    if options.average == "micro":
        threshold = threshold.unsqueeze(1).expand(-1, classes).reshape(-1)
    threshold = threshold.unsqueeze(1)  # (G, 1)

    with_cross_entropy = options.ce_weight > 0
    at_point = _with_groups_as_classes(batch, samples) if options.per_sample else batch
    if threshold.numel() > 0:  # a process may have no sample
        at_point = at_point._replace(threshold=threshold)
    counts = count(at_point, served_by, with_cross_entropy)
    if options.per_sample and with_cross_entropy:  # of a softmax, which class indices alone tell
        counts = counts._replace(cross_entropy=count(batch, served_by, True).cross_entropy)
    slopes = _slopes(at_point, samples, threshold, served_by)
    # As those of a second threshold they are summed over classes and processes with the counts.
    both = torch.cat((counts.counts, slopes.to(counts.counts.dtype)), dim=1)
    return loss_of_counts(Counts(both, *counts[1:]), rule, batch, options)


class OperatingPoint:
    """1 - the loss, from counts (G, 2): those at the threshold, and their slopes in it."""

    needs_both_labels = True
    feasible: Tensor  # (G,): whether the constraint is satisfied at the threshold

    def __init__(
        self,
        objective: LinearFractional,
        constraint: LinearFractional,
        minimum: float,
        zero_division: float,
    ) -> None:
        self.objective, self.constraint = objective, constraint
        self.minimum, self.zero_division = minimum, zero_division

    def __call__(self, cm: tuple[Tensor, ...], zero_division: float) -> Tensor:
        counts = tuple(x[:, 0] for x in cm)
        slopes = tuple(x[:, 1].detach() for x in cm)
        f, g = self.objective(counts, zero_division), self.constraint(counts, zero_division)
        f_slope, g_slope = (
            _along(metric, counts, slopes) for metric in (self.objective, self.constraint)
        )
        flat = g_slope.abs() <= SMALLEST_SLOPE * f_slope.abs()
        exchange = torch.where(flat, 0.0, f_slope / torch.where(flat, 1.0, g_slope))
        # The last term is 0 and has the gradient that the threshold's motion adds.
        moved = f - exchange * (g - g.detach())
        short = g - self.minimum
        above = short.detach().clamp(min=0)  # soft counts may satisfy what hard ones do not
        return torch.where(self.feasible, moved, short - above)


def _along(
    metric: LinearFractional, counts: tuple[Tensor, ...], slopes: tuple[Tensor, ...]
) -> Tensor:
    """The derivative of a metric whose counts change by ``slopes``, without a gradient itself."""
    counts = tuple(x.detach() for x in counts)

    def sums(c: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        top, bottom = (
            sum((k * x for k, x in zip(factors, c, strict=True)), torch.zeros_like(c[0]))
            for factors in (metric.numerator, metric.denominator)
        )
        return top, bottom

    (top, bottom), (top_slope, bottom_slope) = sums(counts), sums(slopes)
    zero = bottom == 0
    bottom = torch.where(zero, 1.0, bottom)
    return torch.where(zero, 0.0, (top_slope - top / bottom * bottom_slope) / bottom)


class _Samples(NamedTuple):
    """The samples of each group, (S, G); weight 0 and a harmless input where one does not count."""

    input: Tensor  # in the dtype of the batch; with its gradient, if per_sample
    label: Tensor
    weight: Tensor  # accumulation dtype
    score: Tensor  # accumulation dtype, without a gradient
    w1: Tensor  # weights of the rows of a positive and of a negative
    w0: Tensor


def _samples(batch: Batch) -> _Samples:
    dtype = inputs.accumulation_dtype(batch.input.dtype)
    classes = inputs.number_of_classes(batch.input)
    label, counted = reference.labels(batch)
    x = batch.input if batch.per_sample else batch.input.detach()
    x = torch.where(counted, inputs.by_group(x, classes, batch.per_sample), 0.5)
    weight = reference.sample_weights(batch, counted)
    label = label.masked_fill(~counted, 0)
    score = x.detach().to(dtype)
    score = torch.sigmoid(score) if batch.from_logits else score
    w1 = weight * label.to(dtype)
    w0 = weight - w1
    if batch.pos_weight is not None:
        w1 = w1 * reference.of_groups(batch.pos_weight.to(dtype), x)
    return _Samples(x, label, weight, score, w1, w0)


def _of_all_classes(samples: _Samples, classes: int) -> _Samples:
    """Those of all classes as those of one: (S C, 1), or with ``per_sample`` (S C, N)."""

    def pool(x: Tensor) -> Tensor:
        length, groups = x.shape
        n = groups // classes
        return x.reshape(length, n, classes).transpose(1, 2).reshape(length * classes, n)

    return _Samples(*map(pool, samples))


def _with_groups_as_classes(batch: Batch, samples: _Samples) -> Batch:
    """The batch with a class, which has a threshold of its own, in the place of each group."""
    if samples.input.shape[1] == 0:
        return batch
    pos_weight = batch.pos_weight
    return batch._replace(
        input=samples.input,
        target=samples.label,
        weight=samples.weight,
        pos_weight=(
            None
            if pos_weight is None
            else reference.of_groups(pos_weight, samples.input).expand(samples.input.shape[1])
        ),
        ignore_index=None,
        ignore_nan=False,
        per_sample=False,
    )


class _Candidates(NamedTuple):
    """Thresholds (T, G) of which the first stands for "nothing is positive", and hard counts."""

    threshold: Tensor
    valid: Tensor  # whether it is a candidate
    tp: Tensor
    fp: Tensor
    positives: Tensor  # (G,)
    negatives: Tensor  # (G,)


def _sweep(samples: _Samples) -> _Candidates:
    """Every score of the counted samples, in descending order."""
    dtype, wide = samples.score.dtype, inputs.sum_dtype(samples.score.device)
    one = 1 - torch.finfo(dtype).eps / 2  # the largest number below 1
    score = samples.score.nan_to_num(0.5).clamp(max=one)
    counted = samples.w1 + samples.w0 > 0
    score, order = torch.where(counted, score, -1.0).sort(dim=0, descending=True)
    # None in an empty part of a batch.
    top = score[:1] if score.shape[0] > 0 else score.new_full((1, score.shape[1]), -1.0)
    above = torch.nextafter(top, torch.ones_like(top))
    threshold = torch.cat((above, score)).to(wide)
    # A threshold counts all samples of its score, so of equal scores the last has the sums.
    last = torch.cat((threshold[:-1] != threshold[1:], torch.ones_like(top, dtype=torch.bool)))
    tp, fp = (
        torch.cat((torch.zeros_like(top, dtype=wide), w.gather(0, order).to(wide).cumsum(0)))
        for w in (samples.w1, samples.w0)
    )
    # Not the last entries: by rounding a parallel sum may fall, but no count is negative.
    return _Candidates(threshold, last, tp, fp, tp.amax(0), fp.amax(0))


def _sweep_of_levels(samples: _Samples, group: distributed.Group) -> _Candidates:
    """The lower edges, in descending order, of the levels in which any process has a sample."""
    score, wide = samples.score, inputs.sum_dtype(samples.score.device)
    level = (score.nan_to_num(0.5) * LEVELS).clamp(0, LEVELS - 1).long()
    none = torch.zeros((LEVELS, score.shape[1]), dtype=wide, device=score.device)
    sums = torch.stack([none.scatter_add(0, level, w.to(wide)) for w in (samples.w1, samples.w0)])
    w1, w0 = distributed.all_sums(sums, group).flip(1)
    has_samples = w1 + w0 > 0
    edge = torch.arange(LEVELS - 1, -1, -1, device=score.device).to(wide).unsqueeze(1) / LEVELS
    above = torch.where(has_samples, edge + 1 / LEVELS, -1.0).amax(0, keepdim=True)
    above = above.clamp(max=1 - torch.finfo(score.dtype).eps / 2)
    threshold = torch.cat((above, edge.expand_as(w1)))
    valid = torch.cat((torch.ones_like(above, dtype=torch.bool), has_samples))
    tp, fp = (torch.cat((torch.zeros_like(above), w.cumsum(0))) for w in (w1, w0))
    return _Candidates(threshold, valid, tp, fp, tp.amax(0), fp.amax(0))


def _choose(candidates: _Candidates, point: OperatingPoint) -> tuple[Tensor, Tensor]:
    """The threshold of each group (G,), and whether the constraint is satisfied there (G,)."""
    threshold, valid, tp, fp, positives, negatives = candidates
    counts = (tp, positives - tp, fp, negatives - fp)
    objective, constraint = (
        metric(counts, point.zero_division) for metric in (point.objective, point.constraint)
    )
    valid = valid & (threshold > 0) & (threshold < 1)
    something = torch.arange(valid.shape[0], device=valid.device).unsqueeze(1) > 0
    reached = valid & (constraint >= point.minimum) & (something | (objective > 0))
    feasible = reached.any(0)
    # Without a score in (0, 1), "nothing is positive" is all there is.
    some = valid & something
    allowed = torch.where(feasible, reached, torch.where(some.any(0), some, valid))
    value = torch.where(allowed, torch.where(feasible, objective, constraint), -torch.inf)
    tied = allowed & (value == value.amax(0))
    # None in a group without a counted sample.
    return torch.where(tied.any(0), closest_to_half(threshold, tied), 0.5), feasible


def _slopes(batch: Batch, samples: _Samples, threshold: Tensor, served_by: str) -> Tensor:
    """What the threshold of each group (G, 1) does to its gated counts: (G, 1, 4)."""
    if served_by == "reference":
        of_h = slope_in_threshold(
            samples.score, threshold.squeeze(1), batch.heaviside, batch.parameter
        )
        wide = inputs.sum_dtype(of_h.device)
        tp, fp = ((w * of_h).to(wide).sum(0) for w in (samples.w1, samples.w0))
    else:
        # The same threshold twice: a gradient of TP at the one, of FP at the other.
        threshold = threshold.expand(-1, 2)
        units = inputs.constant((1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0), threshold.device)
        groups = threshold.shape[0]
        _, slopes = autograd._call(
            getattr(torch.ops, autograd.NAMESPACES[served_by]).soft_counts_backward.default,
            batch._replace(input=batch.input.detach(), threshold=threshold.contiguous()),
            units.reshape(1, 2, 4).expand(groups, 2, 4).contiguous(),
            units.new_zeros(groups),
            None,
            True,
        )
        tp, fp = slopes.unbind(1)
    return torch.stack((tp, -tp, fp, -fp), dim=-1).unsqueeze(1)


def slope_in_threshold(p: Tensor, threshold: Tensor, kind: str, parameter: float) -> Tensor:
    """dh/dtau of :func:`softcm.reference.heaviside`, elementwise: what autograd finds there."""
    exact = reference.inside(threshold, kind, p.dtype)
    tau = exact.to(p.dtype)
    if kind == "sigmoid":
        h = torch.sigmoid(parameter * (p - tau))
        return -parameter * h * (1 - h)
    # The slopes m1, m2, m3 of the three segments and the breakpoints depend on tau.
    delta, tau_m = parameter, torch.minimum(exact, 1 - exact)
    tau_m_slope = torch.sign(0.5 - exact)
    low, high = exact - tau_m / 2, exact + tau_m / 2
    m1_slope = -delta * (1 - tau_m_slope / 2) / low**2
    m2 = (1 - 2 * delta) / tau_m
    m2_slope = -m2 / tau_m * tau_m_slope
    m3_slope = delta * (1 + tau_m_slope / 2) / (1 - high) ** 2
    low, high, m1_slope, m2, m2_slope, m3_slope = (
        x.to(p.dtype) for x in (low, high, m1_slope, m2, m2_slope, m3_slope)
    )
    middle = m2_slope * (p - tau) - m2
    return torch.where(p < low, m1_slope * p, torch.where(p > high, m3_slope * (p - 1), middle))
