"""Pictures of what softcm computes, by matplotlib (``pip install 'softcm[plot]'``).

Every function draws into ``ax``, or into a new figure where that is None, and returns the
:class:`matplotlib.axes.Axes`, so that a title, a label or another line is a call away. Importing
this module imports neither matplotlib nor scikit-learn. A function raises ImportError where what it
needs is missing, and TypeError for an ``ax`` that is no Axes.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import inputs, reference
from .confusion import ConfusionMatrix, confusion_matrix, soft_confusion_matrix
from .heaviside import DEFAULT, Heaviside, Linear, Sigmoid, Table
from .heaviside import heaviside as approximate
from .options import Options, TensorOptions
from .thresholds import Metric, checked_thresholds, evaluator, tune_threshold
from .values import check_probabilities

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

INSTALL = "pip install 'softcm[plot]'"
# Distinct to the colour-blind too (Okabe and Ito), and by their dashes in black and white.
STYLES = (
    *(("#555555", "--"), ("#0072B2", "-"), ("#D55E00", "-."), ("#009E73", ":")),
    *(("#CC79A7", "--"), ("#E69F00", "-"), ("#56B4E9", "-.")),
)
BOTH = (Linear(), Sigmoid())
GRID = tuple(i / 100 for i in range(1, 100))
LEGEND = {"framealpha": 0.8, "edgecolor": "none"}
STRATEGIES = ("uniform", "quantile")


def approximations(
    heaviside: Heaviside | Sequence[Heaviside] = BOTH,
    *,
    threshold: float | Sequence[float] = 0.5,
    ax: "Axes | None" = None,
) -> "Axes":
    """Approximations of the Heaviside step (Section 4) against p, beside the step of eq. (1).

    Args:
        heaviside: a :class:`softcm.Linear`, :class:`softcm.Sigmoid` or :class:`softcm.Table`, or
            several of them.
        threshold: a number in (0, 1), or several. There is a line for each approximation at each
            threshold, and a dotted one for the step at each threshold.
        ax: where to draw.

    Raises:
        TypeError, ValueError: as :func:`softcm.heaviside`.
    """
    return _approximations(heaviside, threshold, False, ax)


def derivatives(
    heaviside: Heaviside | Sequence[Heaviside] = BOTH,
    *,
    threshold: float | Sequence[float] = 0.5,
    ax: "Axes | None" = None,
) -> "Axes":
    """dh/dp of the approximations that :func:`approximations` draws, with the same arguments.

    It is what reaches a prediction of the loss's gradient: where it is near 0 nothing is learnt.
    """
    return _approximations(heaviside, threshold, True, ax)


def _approximations(heaviside: Any, threshold: Any, derivative: bool, ax: "Axes | None") -> "Axes":
    chosen = heaviside if isinstance(heaviside, (tuple, list)) else (heaviside,)
    several = isinstance(threshold, (tuple, list)) or getattr(threshold, "ndim", 0) > 0
    taus = threshold if several else (threshold,)
    for name, values in (("heaviside", chosen), ("threshold", taus)):
        if len(values) == 0:
            raise ValueError(f"{name} must hold at least one value, got {values!r}")
    lines = []
    for each, tau in product(chosen, taus):
        p = torch.linspace(0, 1, 2001, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            h = approximate(p, tau, each)
        y = torch.autograd.grad(h, p, torch.ones_like(h))[0] if derivative else h.detach()
        at = f"threshold {float(tau):g}"
        label = _name(each) if len(taus) == 1 else f"{_name(each)}, {at}"
        lines.append((p.detach(), y, label))
    ax = _axes(ax)
    for (p, y, label), (color, dashes) in zip(lines, _styles(len(lines)), strict=True):
        ax.plot(p.numpy(), y.numpy(), dashes, color=color, label=label)
    for i, tau in enumerate(() if derivative else taus):
        label = "_" if i else "step"  # once in the legend
        ax.plot((0, tau, tau, 1), (0, 0, 1, 1), ":", color="black", linewidth=1, label=label)
    ax.set(xlabel=f"p, {at}" if len(taus) == 1 else "p", xlim=(0, 1))
    ax.set_ylabel("dh/dp" if derivative else "h")
    return _finished(ax)


def _name(heaviside: Heaviside) -> str:
    if isinstance(heaviside, Table):
        return f"Table of {heaviside.approximation}"
    return str(heaviside)


def metric_by_threshold(
    input: Tensor,
    target: Tensor,
    *,
    metric: Metric = "f1",
    thresholds: Sequence[float] | Tensor = GRID,
    heaviside: Heaviside = DEFAULT,
    membership: str = "soft",
    weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
    ignore_index: float | None = None,
    zero_division: float = 0.0,
    from_logits: bool = False,
    maximize: bool = True,
    ax: "Axes | None" = None,
) -> "Axes":
    """A metric against the threshold, of the soft and of the hard counts, and its best point.

    That point is the one that :func:`softcm.tune_threshold` finds among all scores, and may lie
    between two of ``thresholds``. Far apart, the two lines tell that the approximation or the
    membership is too blunt for these scores.

    Args:
        input, target, heaviside, membership, weight, pos_weight, ignore_index, zero_division,
            from_logits: as of :func:`softcm.f1_loss`, with one class: (N,) or (N, 1).
        metric, maximize: as of :func:`softcm.tune_threshold`.
        thresholds: where the lines are computed; 0.01, 0.02, ..., 0.99. A
            :class:`softcm.Table` serves its own thresholds only.
        ax: where to draw.

    Returns:
        The Axes, with the lines "soft", "hard" and the tuned point, in this order.

    Raises:
        TypeError, ValueError: as :func:`softcm.tune_threshold`; more than one class.
    """
    _check_one_class(input)
    evaluate = evaluator(metric, inputs.check_number("zero_division", zero_division))
    grid = checked_thresholds(thresholds, input)
    options: dict[str, Any] = {
        "weight": weight,
        "pos_weight": pos_weight,
        "ignore_index": ignore_index,
        "from_logits": from_logits,
    }
    with torch.no_grad():
        best = tune_threshold(
            *(input, target, metric),
            zero_division=zero_division,
            maximize=maximize,
            **options,
        )
        options |= {"threshold": grid, "heaviside": heaviside, "membership": membership}
        # Of one class at T thresholds, as a metric is called by tune_threshold.
        soft, hard = (
            evaluate(
                ConfusionMatrix(
                    *(x.double().reshape(1, -1) for x in count(input, target, **options))
                )
            )[0]
            for count in (soft_confusion_matrix, confusion_matrix)
        )
    ax = metric_curves(grid, {"soft": soft, "hard": hard}, ax=ax)
    tau, score = best.threshold.item(), best.score.item()
    ax.plot([tau], [score], "o", color="#D55E00", label=f"tuned: {score:.3f} at {tau:.3f}")
    ax.set_ylabel(metric if isinstance(metric, str) else "metric")
    return _finished(ax)


def metric_curves(
    thresholds: Sequence[float] | Tensor,
    curves: "Mapping[str, Tensor | NDArray[np.float64]]",
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Lines against the threshold that have been computed before, such as those of several runs.

    Args:
        thresholds: T numbers.
        curves: by the name in the legend, values (T,), or (R, T) of R runs: then the line is their
            mean, and a band shows their standard deviation on both sides, cut off at 1.
        ax: where to draw.

    Raises:
        TypeError: curves is no mapping.
        ValueError: values of another shape.
    """
    if not isinstance(curves, Mapping):
        raise TypeError(
            f"curves must map a name to its values at the thresholds, got {inputs.describe(curves)}"
        )
    x = _numbers(thresholds)
    lines = {name: np.atleast_2d(_numbers(values)) for name, values in curves.items()}
    for name, values in lines.items():
        if values.ndim != 2 or values.shape[1:] != x.shape or len(values) == 0:
            raise ValueError(
                f"curves[{name!r}] must have shape (T,) or (R, T) at T = {x.size} thresholds, "
                f"got shape {_numbers(curves[name]).shape}"
            )
    ax = _axes(ax)
    for (name, values), (color, dashes) in zip(lines.items(), _styles(len(lines)), strict=True):
        mean = values.mean(axis=0)
        ax.plot(x, mean, dashes, color=color, linewidth=2, label=name)
        if len(values) > 1:
            spread = values.std(axis=0, ddof=1)
            low, high = mean - spread, np.minimum(mean + spread, 1)
            ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    ax.set(xlabel="threshold", xlim=(0, 1))
    return _finished(ax)


def confusion_matrices(
    input: Tensor,
    target: Tensor,
    *,
    threshold: float | Tensor = 0.5,
    heaviside: Heaviside = DEFAULT,
    membership: str = "soft",
    weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
    ignore_index: float | None = None,
    from_logits: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """The soft confusion matrix of eq. (3) beside the hard one of eq. (1).

    Rows are labels, columns decisions, each with two cells, soft and hard. A cell shows its count;
    its colour is the count's share of the weight of the row's label. By eq. (3) a sample adds to
    all four soft counts, so that a row of soft cells may hold more than its label weighs; with
    ``membership="gated"`` it holds just that.

    Args:
        input, target, threshold, heaviside, membership, weight, pos_weight, ignore_index,
            from_logits: as of :func:`softcm.f1_loss`, with one class, (N,) or (N, 1), and one
            threshold.
        ax: where to draw.

    Returns:
        The Axes, with an image (2, 4) of the shares and a text for each cell.

    Raises:
        TypeError, ValueError: as :func:`softcm.f1_loss`; more than one class or threshold.
    """
    _check_one_class(input)
    if inputs.has_threshold_dimension(threshold):
        raise ValueError(f"threshold must be a single number, got {inputs.describe(threshold)}")
    options: dict[str, Any] = {
        "threshold": threshold,
        "heaviside": heaviside,
        "membership": membership,
        "weight": weight,
        "pos_weight": pos_weight,
        "ignore_index": ignore_index,
        "from_logits": from_logits,
    }
    with torch.no_grad():
        soft = soft_confusion_matrix(input, target, **options)
        hard = confusion_matrix(input, target, **options)
    counts = np.array(
        [[s.item(), h.item()] for s, h in zip(soft, hard, strict=True)]  # TP, FN, FP, TN
    )
    counts = counts[[3, 2, 1, 0]].reshape(2, 4)
    of_label = counts[:, 1::2].sum(axis=1, keepdims=True)
    shares = counts / np.where(of_label == 0, 1, of_label)
    ax = _axes(ax)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    names = (("TN", "FP"), ("FN", "TP"))
    for (row, column), count in np.ndenumerate(counts):
        kind = "hard" if column % 2 else "soft"
        color = "white" if shares[row, column] > 0.6 else "black"
        text = f"{names[row][column // 2]}, {kind}\n{count:.5g}"
        ax.text(column, row, text, ha="center", va="center", color=color)
    ax.axvline(1.5, color="black", linewidth=1)
    ax.axhline(0.5, color="black", linewidth=1)
    ax.set_xticks((0.5, 2.5), ("negative", "positive"))
    ax.set_yticks((0, 1), ("0", "1"))
    ax.set(xlabel=f"decision at threshold {float(threshold):g}", ylabel="label")
    return ax


def reliability_diagram(
    input: Tensor,
    target: Tensor,
    *,
    bins: int = 10,
    strategy: str = "uniform",
    ignore_index: float | None = None,
    from_logits: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """The share of positives against the predicted probability, by bins of the predictions.

    A calibrated classifier lies on the diagonal. Bars, on the axis to the right, count the samples
    of each bin. :func:`sklearn.calibration.calibration_curve` computes the points, and knows no
    weights.

    Args:
        input, target, ignore_index, from_logits: as of :func:`softcm.f1_loss`, with one class, (N,)
            or (N, 1), and labels 0 and 1.
        bins: their number, >= 1; empty ones have no point.
        strategy: "uniform" for bins of one width, "quantile" for bins of as many samples each,
            which tells more where most predictions are close to 0.
        ax: where to draw.

    Returns:
        The Axes, with the lines "perfect" and "classifier". The bars are in its twin.

    Raises:
        TypeError, ValueError: as :func:`softcm.f1_loss`; more than one class, soft labels, NaN in
            ``input``, no counted sample, a wrong number of bins, an unknown strategy.
    """
    if not isinstance(bins, int) or isinstance(bins, bool):
        raise TypeError(f"bins must be an int, got {inputs.describe(bins)}")
    if bins < 1:
        raise ValueError(f"bins must be >= 1, got {bins}")
    inputs.check_choice("strategy", strategy, STRATEGIES)
    p, y = _scores_and_labels(input, target, ignore_index, from_logits)
    calibration = _imported("sklearn.calibration", "scikit-learn")
    ax = _axes(ax)
    positives, predicted = calibration.calibration_curve(y, p, n_bins=bins, strategy=strategy)
    edges = np.linspace(0, 1, bins + 1)
    if strategy == "quantile":
        edges = np.percentile(p, edges * 100)
    # The rule of calibration_curve: an inner edge belongs to the bin below it.
    counts = np.bincount(np.searchsorted(edges[1:-1], p), minlength=bins)

    twin = ax.twinx()
    twin.bar(edges[:-1], counts, np.diff(edges), align="edge", color="#56B4E9", alpha=0.4)
    twin.set_ylabel("samples in a bin (bars)")
    # Lines above bars, and a background that does not hide them.
    ax.set_zorder(twin.get_zorder() + 1)
    ax.patch.set_visible(False)
    ax.plot((0, 1), (0, 1), ":", color="black", linewidth=1, label="perfect")
    ax.plot(predicted, positives, "o-", color="#D55E00", label="classifier")
    ax.set(xlabel="mean predicted probability", ylabel="share of positives")
    ax.set(xlim=(0, 1), ylim=(0, 1.05))
    ax.legend(**LEGEND, loc="lower right")
    return ax


def _scores_and_labels(
    input: Tensor, target: Tensor, ignore_index: float | None, from_logits: bool
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Probabilities and labels, both (S,), of the counted samples of one class."""
    options = Options(ignore_index=ignore_index, from_logits=from_logits)
    _check_one_class(input)
    batch = inputs.canonical(input.detach(), target, options, TensorOptions())
    labels, counted = reference.labels(batch)
    p, y = inputs.by_class(batch.input)[counted], labels[counted].double()
    if p.numel() == 0:
        raise ValueError("target must hold a label that is not ignored, got none")
    if from_logits:
        p = torch.sigmoid(p.double())
    if p.isnan().any():
        raise ValueError(
            f"input must not hold NaN, got {int(p.isnan().sum())} of {p.numel()} scores"
        )
    check_probabilities(p)
    soft = y[(y != 0) & (y != 1)]
    if soft.numel() > 0:
        raise ValueError(f"target must hold the labels 0 and 1 only, got {soft[0].item():g}")
    return _numbers(p), _numbers(y)


def _check_one_class(input: Tensor) -> None:
    inputs.check_tensor("input", input)
    if input.dim() > 2 or inputs.number_of_classes(input) != 1:
        raise ValueError(
            f"input must have one class, (N,) or (N, 1), got shape {tuple(input.shape)}; draw the "
            "classes one by one, such as input[:, 0] and target[:, 0]"
        )


def _numbers(values: Any) -> "NDArray[np.float64]":
    if isinstance(values, Tensor):
        values = values.detach().double().cpu()
    return np.asarray(values, dtype=np.float64)


def _styles(count: int) -> list[tuple[str, str]]:
    return [STYLES[i % len(STYLES)] for i in range(count)]


def _axes(ax: "Axes | None") -> "Axes":
    _imported("matplotlib", "matplotlib")
    if ax is None:
        from matplotlib import pyplot

        return pyplot.subplots(layout="constrained")[1]
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes or None, got {inputs.describe(ax)}")
    return ax


def _imported(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ImportError(f"softcm.plot needs {name}, which is not installed: {INSTALL}") from None


def _finished(ax: "Axes") -> "Axes":
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(**LEGEND)
    return ax
