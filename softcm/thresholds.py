"""The plug-in method: the decision threshold that is best on validation data (Supplement 5.2)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import autograd, backends, inputs, metrics, reference
from .confusion import ConfusionMatrix, as_compared, count, prepare
from .heaviside import Step
from .inputs import Batch
from .metrics import LinearFractional
from .options import Options, TensorOptions

Metric = str | LinearFractional | Callable[[ConfusionMatrix], Tensor]

# The metrics that need nothing but the counts.
NAMED: dict[str, Callable[..., Tensor]] = {
    metric.__name__: metric
    for metric in (
        *(metrics.f1, metrics.accuracy, metrics.balanced_accuracy, metrics.precision),
        *(metrics.recall, metrics.specificity, metrics.jaccard, metrics.mcc, metrics.gmean),
        *(metrics.informedness, metrics.kappa),
    )
}
MOST_DIGITS = 15  # decimal digits that float64 holds
# 0.3 and 0.7 are to be equally close to 0.5, which their nearest floats are not.
EQUALLY_CLOSE = 1e-6


class TunedThreshold(NamedTuple):
    """What :func:`tune_threshold` found: tensors of shape (), or (C,) for C > 1 classes."""

    threshold: Tensor  # float64, in (0, 1); (C, 1) for C > 1 classes, as every call takes it
    score: Tensor  # float64: the metric at that threshold
    maximizers: Tensor  # int64: how many candidates share the best value


@torch.no_grad()
def tune_threshold(
    input: Tensor,
    target: Tensor,
    metric: Metric = "f1",
    thresholds: Sequence[float] | Tensor | None = None,
    *,
    weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
    ignore_index: float | None = None,
    zero_division: float = 0.0,
    from_logits: bool = False,
    maximize: bool = True,
    digits: int | None = None,
) -> TunedThreshold:
    """The threshold at which a metric of the hard counts (eq. 1) is best: Supplement 5.2.

    Without ``thresholds`` the search is exact, in O(N log N). Its candidates are the distinct
    scores in (0, 1) of the counted samples (not ignored, weight > 0) and, for "nothing is
    positive", the next float above the largest. A score of 1 is represented by the largest float
    below 1. No candidate stands for a score of 0, which no threshold in (0, 1) makes positive.

    Scores are probabilities in the dtype of ``input``, those of logits in float32 (float64 for
    float64 input), to the last bit as :func:`softcm.confusion_matrix` has them with its default
    backend (another one may round a sigmoid otherwise). Given the same arguments and the threshold
    found, it gives the counts whose metric is exactly ``score`` (for C > 1, as far as its sums of
    the weights of one class and of several round alike).

    Args:
        input, target, weight, pos_weight, ignore_index, from_logits: as of :func:`softcm.f1_loss`.
        metric: "f1", "accuracy", "balanced_accuracy", "precision", "recall", "specificity",
            "jaccard", "mcc", "gmean", "informedness" or "kappa"; a
            :class:`softcm.LinearFractional`; or a callable that takes a
            :class:`softcm.ConfusionMatrix` of float64 tensors (1, T), one class at T candidates,
            and returns the metric in that shape. A candidate at which it is NaN is left out.
        thresholds: the candidates, a sequence of numbers or a tensor (T,) in (0, 1). However many
            they are, they are counted in one pass over the samples: of a large batch a thousand
            of them take a small part of the time of an exact search.
        zero_division: what a ratio is where its denominator is exactly 0; callables do not see it.
        maximize: False for a metric of which less is better, such as a cost.
        digits: compare values truncated to this number of decimals, 0 ... 15 (the paper: 2).

    Returns:
        A :class:`TunedThreshold` on the device of ``input``, one entry for each class, against the
        rest, if there are C > 1; ``threshold`` then has shape (C, 1), which every call takes as
        thresholds of the classes. Of equally good candidates ``threshold`` is the one closest to
        0.5, and of two equally close ones (to 1e-6) the smaller; ``maximizers`` is their number.
        ``score`` is not truncated. A class without a counted sample, or without a candidate at
        which the metric is a number, has threshold 0.5, score ``zero_division``, maximizers 0. Of
        a class without positives that is a tie the highest candidate is taken, at which nothing is
        positive.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: as :func:`softcm.f1_loss`; NaN in ``input`` where it is not ignored; an unknown
            metric, or one that returns another shape; thresholds outside (0, 1); wrong digits.
    """
    options = Options(
        ignore_index=ignore_index, zero_division=zero_division, from_logits=from_logits
    )
    evaluate = evaluator(metric, options.zero_division)
    inputs.check_bool("maximize", maximize)
    _check_digits(digits)
    tensors = TensorOptions(weight=weight, pos_weight=pos_weight)
    batch, served_by = prepare(input, target, options, tensors, Step())
    grid = None if thresholds is None else checked_thresholds(thresholds, input)
    if grid is not None:
        batch = batch._replace(threshold=grid)
        batch = batch._replace(threshold=as_compared(batch))
    # Without a grid this call only checks the values of the batch, where the backends do it.
    counts = count(batch, served_by).counts

    found = []
    for c, of_class in enumerate(_one_against_rest(batch)):
        tied = counts.new_empty(0)
        if (of_class.weight > 0).any():
            cm = ConfusionMatrix(*counts[c : c + 1].unbind(-1))
            candidates = counts.new_empty(0)
            if grid is None:
                candidates, cm = _sweep(of_class, _dtype_of_scores(batch))
            else:
                candidates = grid
            value = evaluate(cm)[0]
            tied = candidates[best(value if maximize else -value, digits)]
        if tied.numel() == 0:
            found.append((0.5, options.zero_division, 0))
            continue
        has_positives = (of_class.weight * of_class.label > 0).any()
        threshold = closest_to_half(tied) if has_positives else tied.max()
        # Sums of float32 weights depend on their order, so the score is left to the hard twin.
        compared = as_compared(batch._replace(threshold=threshold.reshape(1)))
        score = evaluate(_hard_twin(of_class, compared))
        found.append((threshold.item(), score.item(), tied.numel()))
    return _result(found, input.device)


def _result(found: list[tuple[float, float, int]], device: torch.device) -> TunedThreshold:
    wide = inputs.sum_dtype(device)
    threshold, score, maximizers = (
        torch.tensor(column, dtype=dtype, device=device)
        for column, dtype in zip(zip(*found, strict=True), (wide, wide, torch.int64), strict=True)
    )
    if len(found) == 1:
        return TunedThreshold(threshold.squeeze(0), score.squeeze(0), maximizers.squeeze(0))
    return TunedThreshold(threshold.unsqueeze(1), score, maximizers)


def evaluator(metric: Metric, zero_division: float) -> Callable[[ConfusionMatrix], Tensor]:
    if isinstance(metric, str):
        inputs.check_choice("metric", metric, tuple(NAMED))
        metric = NAMED[metric]
    elif not callable(metric):
        raise TypeError(
            f"metric must be one of {', '.join(map(repr, NAMED))}, a softcm.LinearFractional or a "
            f"callable on a ConfusionMatrix, got {inputs.describe(metric)}"
        )
    elif not isinstance(metric, LinearFractional):
        return lambda cm: _checked(metric(cm), cm)
    return lambda cm: metric(cm, zero_division)


def _checked(value: Any, cm: ConfusionMatrix) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != cm.tp.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else inputs.describe(value)
        raise ValueError(
            f"metric must return a tensor of the shape of the counts, {tuple(cm.tp.shape)}, "
            f"got {got}"
        )
    return value.to(inputs.sum_dtype(value.device))


def _check_digits(digits: int | None) -> None:
    if digits is None:
        return
    if not isinstance(digits, int) or isinstance(digits, bool):
        raise TypeError(f"digits must be an int or None, got {inputs.describe(digits)}")
    if not 0 <= digits <= MOST_DIGITS:
        raise ValueError(f"digits must lie in 0 ... {MOST_DIGITS}, got {digits}")


def checked_thresholds(thresholds: Sequence[float] | Tensor, input: Tensor) -> Tensor:
    """The distinct thresholds of the caller as a tensor (T,), float64 where the device has it."""
    wide = inputs.sum_dtype(input.device)
    if isinstance(thresholds, Tensor):
        inputs.check_float_tensor("thresholds", thresholds)
        inputs.check_same_device("thresholds", thresholds, input)
        grid = thresholds.to(wide)
    elif isinstance(thresholds, Sequence) and not isinstance(thresholds, str):
        values = [inputs.check_number("thresholds", value) for value in thresholds]
        grid = torch.tensor(values, dtype=wide, device=input.device)
    else:
        raise TypeError(
            "thresholds must be None, a sequence of numbers or a tensor (T,), "
            f"got {inputs.describe(thresholds)}"
        )
    if grid.dim() != 1 or grid.numel() == 0:
        raise ValueError(
            f"thresholds must have shape (T,) with T >= 1, got shape {tuple(grid.shape)}"
        )
    outside = grid[~((grid > 0) & (grid < 1))]
    if outside.numel() > 0:
        raise ValueError(f"thresholds must lie in (0, 1), got {outside[0].item()}")
    return grid.unique()


class _Class(NamedTuple):
    """One class against the rest, in the accumulation dtype; weight 0 where nothing is counted."""

    p: Tensor  # (S,)
    label: Tensor  # (S,)
    weight: Tensor  # (S,)
    pos_weight: Tensor | None  # (1,)


def _one_against_rest(batch: Batch) -> Iterator[_Class]:
    """The classes of a batch, whose values have been checked, and are now searched for NaN."""
    dtype = inputs.accumulation_dtype(batch.input.dtype)
    labels, counted = reference.labels(batch)  # (S, C)
    scores = _scores(batch, counted)  # (S, C)
    weights = reference.sample_weights(batch, counted)  # (S, C)
    for c in range(inputs.number_of_classes(batch.input)):
        kept = counted[:, c]
        p = torch.where(kept, scores[:, c], 0.5)
        nan = int(p.isnan().sum())
        if nan > 0:
            raise ValueError(
                "input must not hold NaN, which cannot be compared with a threshold, "
                f"got {nan} of {p.numel()} scores of class {c}"
            )
        label = torch.where(kept, labels[:, c].to(dtype), 0.0)
        weight = weights[:, c].contiguous()
        pos_weight = None if batch.pos_weight is None else batch.pos_weight[c : c + 1]
        yield _Class(p, label, weight, pos_weight)


def _scores(batch: Batch, counted: Tensor) -> Tensor:
    """Probabilities (S, C), those of logits to the last bit as the hard twin computes them."""
    x = batch.input.to(inputs.accumulation_dtype(batch.input.dtype))
    if not batch.from_logits:
        return inputs.by_class(x)
    served_by = backends.select_backend("auto", x.device.type)
    if served_by == "reference":
        # As in the reference: torch.sigmoid rounds an element by its place in memory.
        return torch.sigmoid(torch.where(counted, inputs.by_class(x), 0.5))
    # The kernels have a sigmoid of their own: it is the derivative of the cross-entropy of label 0.
    classes = inputs.number_of_classes(x)
    grad_counts = x.new_zeros((classes, 1, 4), dtype=torch.float64)
    grad_cross_entropy = x.new_ones(classes, dtype=torch.float64)
    negatives = batch._replace(
        input=x,
        target=torch.zeros_like(x),
        threshold=inputs.constant((0.5,), x.device),
        weight=None,
        pos_weight=None,
        ignore_index=None,
        ignore_nan=False,
    )
    operators = getattr(torch.ops, autograd.NAMESPACES[served_by])
    p, _ = operators.soft_counts_backward.default(
        *negatives, grad_counts, grad_cross_entropy, None, False
    )
    return inputs.by_class(p)


def _dtype_of_scores(batch: Batch) -> torch.dtype:
    """The dtype in which scores are compared with thresholds."""
    dtype = batch.input.dtype
    return inputs.accumulation_dtype(dtype) if batch.from_logits else dtype


def _hard_twin(of_class: _Class, threshold: Tensor) -> ConfusionMatrix:
    """The counts (1, 1) at one threshold (1,) as :func:`softcm.confusion_matrix` has them."""
    p, label, weight, pos_weight = of_class
    tensors = TensorOptions(threshold=threshold, weight=weight, pos_weight=pos_weight)
    batch, served_by = prepare(p, label, Options(), tensors, Step())
    return ConfusionMatrix(*count(batch, served_by).counts.unbind(-1))


def _sweep(of_class: _Class, dtype: torch.dtype) -> tuple[Tensor, ConfusionMatrix]:
    """Every candidate (T,), in descending order, and the hard counts (1, T) there."""
    counted = of_class.weight > 0
    p, label, weight = (x[counted] for x in of_class[:3])
    wide = inputs.sum_dtype(p.device)
    w1 = weight * label
    w0 = weight - w1
    if of_class.pos_weight is not None:
        w1 = w1 * of_class.pos_weight.to(w1.dtype)

    one = torch.ones_like(p[:1])
    p, order = p.clamp(max=_neighbour(one, dtype, -1)).sort(descending=True)
    # A threshold counts all samples of its score, so of equal scores the last has the sums.
    last = torch.cat((p[1:] != p[:-1], one.bool()))
    candidates = torch.cat((_neighbour(p[:1], dtype, 1), p[last])).to(wide)
    none = candidates.new_zeros(1)
    tp, fp = (torch.cat((none, w[order].to(wide).cumsum(0)[last])) for w in (w1, w0))
    # Not the last entry: by rounding, a parallel cumulative sum may fall, but no count is negative.
    fn, tn = (x.max() - x for x in (tp, fp))
    reachable = (candidates > 0) & (candidates < 1)
    cm = ConfusionMatrix(*(x[reachable].unsqueeze(0) for x in (tp, fn, fp, tn)))
    return candidates[reachable], cm


def _neighbour(x: Tensor, dtype: torch.dtype, step: int) -> Tensor:
    """The next number of a dtype above (step 1) or below (-1), of numbers >= 0 that it holds."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    return (x.to(dtype).view(integer) + step).view(dtype).to(x.dtype)


def best(value: Tensor, digits: int | None) -> Tensor:
    """Which of the values (T,) reach the maximum of those that are numbers."""
    if digits is not None:
        value = _truncate(value, digits)
    number = ~value.isnan()
    return number & (value == torch.where(number, value, -torch.inf).max())


def _truncate(x: Tensor, digits: int) -> Tensor:
    """x cut off after some decimals. 0.29 stays 0.29, though 0.29 * 100 is less than 29."""
    size, scale = x.abs(), 10.0**digits
    steps = (size * scale).round()
    steps = torch.where(steps / scale > size, steps - 1, steps)
    return x.sign() * steps / scale


def closest_to_half(x: Tensor, allowed: Tensor | bool = True) -> Tensor:
    """Of numbers (T, ...) that are allowed the one closest to 1/2, over the first dimension."""
    low = torch.where((x <= 0.5) & allowed, x, -torch.inf).amax(0)
    high = torch.where((x > 0.5) & allowed, x, torch.inf).amin(0)
    return torch.where(0.5 - low <= high - 0.5 + EQUALLY_CLOSE, low, high)
