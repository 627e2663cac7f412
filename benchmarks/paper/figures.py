"""The paper's pictures, drawn anew: Figure 1 and S1 ... S4, the trade-off of precision and recall,
and reliability. S4 and the last two show results, so far as there are any."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import softcm
from softcm import Linear, Sigmoid

from . import published
from .run import Found, Results
from .statistics import mean_and_deviation
from .tables import BATCH_SIZE, batch_size

Approximation = Linear | Sigmoid
Array = NDArray[np.float64]

TAUS = tuple(i / 10 for i in range(1, 10))
KS = (1.0, 10.0, 20.0, 50.0)  # those of Supplement 2.1
# Of Figure S3. Eq. (5) needs 0 < delta < 0.5; the first two are its limits to the eye.
DELTAS = {"δ → 0": 1e-6, "δ → 0.5": 0.5 - 1e-6, "δ = 0.1": 0.1}
POINTS = 1001
HALF = TAUS.index(0.5)
# Distinct to the colour-blind too (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#555555"
OBJECTIVES = {
    "accuracy": ("accuracy_linear", "accuracy_sigmoid"),
    "F1": ("f1_linear", "f1_sigmoid"),
    "AUROC": ("auroc_linear", "auroc_sigmoid"),
    "cross-entropy": ("bce",),
}
# Colour and place of a bar, by the last word of the loss.
BARS = {"linear": (COLOURS[0], -0.2), "sigmoid": (COLOURS[1], 0.2), "bce": (GREY, 0.0)}
METRICS = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1"}
F_BETA = {"f1": "F1", "f2": "F2", "f3": "F3"}
# A bin of fewer predictions, of all trials together, says nothing about its share of positives.
FEWEST = 20
RELIABILITY = ("bce", "bce_sqrt", "f1_linear", "f1_sigmoid", "f1_sigmoid_gated_bce")


def draw(folder: Path, results: Results | None = None) -> list[str]:
    """Names of the pictures written into ``folder``."""
    results = results or {}
    drawn = {
        "figure_1.png": figure_1(),
        "figure_S1.png": by_tau({f"k = {k:g}": Sigmoid(k) for k in KS}, derivative=True),
        "figure_S2.png": by_tau({f"k = {k:g}": Sigmoid(k) for k in KS}, derivative=False),
        "figure_S3.png": figure_s3(),
        **{
            f"figure_S4_{dataset}.png": batch_sizes(results, dataset, sizes)
            for dataset, sizes in compared_sizes(results).items()
        },
        "precision_recall.png": trade_off(results),
        "reliability.png": reliability(results),
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {name: figure for name, figure in drawn.items() if figure is not None}
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=110)
    return list(drawn)


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure of panels, each so many inches, and their axes (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _panels(titles: list[str], columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure with one panel for each title, filled row by row."""
    columns = min(columns, len(titles))
    figure, axes = _figure(-(-len(titles) // columns), columns, width, height)
    panels = list(axes.flat)
    for panel in panels[len(titles) :]:
        panel.set_axis_off()
    for panel, title in zip(panels, titles, strict=False):
        panel.set_title(title)
    return figure, panels[: len(titles)]


def curve(approximation: Approximation, tau: float) -> tuple[Array, Array, Array]:
    """Predictions in [0, 1], the approximation and its derivative."""
    p = torch.linspace(0, 1, POINTS, dtype=torch.float64, requires_grad=True)
    h = softcm.heaviside(p, tau, approximation)
    (slope,) = torch.autograd.grad(h.sum(), p)
    return p.detach().numpy(), h.detach().numpy(), slope.numpy()


def figure_1() -> Any:
    """H and both approximations at tau = 0.7, each with its derivative."""
    figure, axes = _figure(2, 3, 3.2, 2.4)
    tau = 0.7
    p = np.linspace(0, 1, POINTS)
    step = (p, (p >= tau).astype(float), np.where(p == tau, np.nan, 0.0))
    panels = {
        "Heaviside H": step,
        "sigmoid, k = 10": curve(Sigmoid(10.0), tau),
        "linear, δ = 0.1": curve(Linear(0.1), tau),
    }
    for (title, (x, h, slope)), (above, below) in zip(panels.items(), axes.T, strict=True):
        above.plot(x, h, color=COLOURS[0])
        above.set(title=title, ylim=(-0.05, 1.05))
        below.plot(x, slope, color=COLOURS[1])
        below.set(xlabel="prediction p", ylim=(-0.15, 3.2))
        for axis in (above, below):
            axis.axvline(tau, color=GREY, linestyle=":", linewidth=1)
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("value")
    axes[1, 0].set_ylabel("derivative by p")
    axes[1, 0].annotate("undefined at τ", (tau, 0), (0.12, 1.2), arrowprops={"arrowstyle": "->"})
    axes[0, 0].annotate("τ = 0.7", (tau, 0.2), (0.38, 0.18), color=GREY)
    return figure


def by_tau(approximations: dict[str, Approximation], derivative: bool) -> Any:
    """One panel an approximation, one line a threshold."""
    figure, axes = _figure(1, len(approximations), 3.0, 3.0)
    for axis, (title, approximation) in zip(axes[0], approximations.items(), strict=True):
        _lines_by_tau(axis, approximation, derivative)
        axis.set(title=title, xlabel="prediction p")
    axes[0, 0].set_ylabel("derivative by p" if derivative else "value")
    figure.colorbar(_colours_of_tau(), ax=axes[0, -1], label="threshold τ", ticks=TAUS)
    return figure


def figure_s3() -> Any:
    """The linear approximation and its derivative at its extremes and as it is used."""
    figure, axes = _figure(2, len(DELTAS), 3.4, 2.6)
    for (title, delta), (above, below) in zip(DELTAS.items(), axes.T, strict=True):
        _lines_by_tau(above, Linear(delta), derivative=False)
        _lines_by_tau(below, Linear(delta), derivative=True)
        above.set(title=title)
        zero = "" if delta == 0.1 else " (no line: 0)"
        below.set(xlabel=f"prediction p{zero}", yscale="log", ylim=(0.05, 20))
    axes[0, 0].set_ylabel("value")
    axes[1, 0].set_ylabel("derivative by p (log)")
    figure.colorbar(_colours_of_tau(), ax=axes[:, -1], label="threshold τ", ticks=TAUS)
    return figure


def _colours_of_tau() -> Any:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm

    edges = [tau - 0.05 for tau in TAUS] + [0.95]
    return ScalarMappable(BoundaryNorm(edges, 256), colormaps["viridis"])


def _lines_by_tau(axis: Any, approximation: Approximation, derivative: bool) -> None:
    colours = _colours_of_tau()
    for tau in TAUS:
        p, h, slope = curve(approximation, tau)
        axis.plot(p, slope if derivative else h, color=colours.to_rgba(tau), linewidth=1.3)
    axis.grid(alpha=0.3)
    if not derivative:
        axis.set_ylim(-0.05, 1.05)


def compared_sizes(results: Results) -> dict[str, list[int]]:
    """The batch sizes of data sets on which networks were trained with several."""
    sizes: dict[str, set[int]] = {}
    for dataset, loss, size in results:
        if loss == "bce":
            sizes.setdefault(dataset, set()).add(size)
    return {dataset: sorted(found) for dataset, found in sizes.items() if len(found) > 1}


def batch_sizes(results: Results, dataset: str, sizes: list[int]) -> Any:
    """Figure S4: bars by batch size, objectives in rows, metrics in columns."""
    from matplotlib.patches import Patch

    objectives = {
        title: [loss for loss in losses if any((dataset, loss, size) in results for size in sizes)]
        for title, losses in OBJECTIVES.items()
    }
    objectives = {title: losses for title, losses in objectives.items() if losses}
    figure, axes = _figure(len(objectives), len(METRICS), 2.6, 1.7)
    figure.suptitle(f"{dataset}: mean and standard deviation of the trials, by batch size")
    for (title, losses), row in zip(objectives.items(), axes, strict=True):
        for metric, axis in zip(METRICS, row, strict=True):
            for loss in losses:
                _bars(axis, results, dataset, loss, metric, sizes)
            axis.set(ylim=(0, 1), xticks=range(len(sizes)), xlim=(-0.6, len(sizes) - 0.4))
            axis.set_xticklabels(sizes)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3, axis="y")
            axis.set_axisbelow(True)
        row[0].set_ylabel(f"trained on\n{title}")
    for title, axis in zip(METRICS.values(), axes[0], strict=True):
        axis.set_title(title)
    handles = [Patch(color=colour) for colour, _ in BARS.values()]
    figure.legend(handles, list(BARS), loc="outside right upper", fontsize=8)
    return figure


def _bars(
    axis: Any, results: Results, dataset: str, loss: str, metric: str, sizes: list[int]
) -> None:
    colour, shift = BARS[loss.rpartition("_")[2]]
    for place, size in enumerate(sizes):
        found = results.get((dataset, loss, size))
        if found is not None:
            mean, deviation = mean_and_deviation(
                [trial["published"][metric] for trial in found["trials"]]
            )
            axis.bar(place + shift, mean, 0.4, yerr=deviation, color=colour, capsize=2)


def trade_off(results: Results) -> Any:
    """Precision against recall by F-beta loss: lines over thresholds, dots at 0.5, crosses the
    paper's means. None without results of an F2 or F3 loss."""
    datasets = [
        dataset
        for dataset in dict.fromkeys(dataset for dataset, _, _ in results)
        if any(_found(results, dataset, f"{beta}_linear") for beta in ("f2", "f3"))
    ]
    if not datasets:
        return None
    figure, axes = _panels(datasets, 2, 4.4, 3.8)
    for axis, dataset in zip(axes, datasets, strict=True):
        _levels_of_f1(axis)
        for colour, (beta, name) in zip(COLOURS, F_BETA.items(), strict=False):
            for heaviside, dashes in (("linear", "-"), ("sigmoid", "--")):
                loss = f"{beta}_{heaviside}"
                style = {"color": colour, "linestyle": dashes, "label": f"{name}, {heaviside}"}
                _threshold_line(axis, _found(results, dataset, loss), style)
                axis.plot(*_published_point(dataset, loss), "x", color=colour, markersize=7)
        style = {"color": GREY, "linestyle": ":", "label": "BCE"}
        _threshold_line(axis, _found(results, dataset, "bce"), style)
        axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    handles, labels = axes[0].get_legend_handles_labels()
    title = "trained on\n(line: by threshold,\n●: at 0.5, ×: paper,\ngrey: equal F1)"
    figure.legend(
        handles, labels, loc="outside right upper", fontsize=8, title=title, title_fontsize=8
    )
    return figure


def _found(results: Results, dataset: str, loss: str) -> Found | None:
    """At the usual batch size."""
    return results.get((dataset, loss, batch_size(dataset, BATCH_SIZE)))


def _threshold_line(axis: Any, found: Found | None, style: dict[str, Any]) -> None:
    if found is None:
        return
    recall, precision = (
        np.mean([trial["curve"][name] for trial in found["trials"]], axis=0)
        for name in ("recall", "precision")
    )
    axis.plot(recall, precision, linewidth=1.5, **style)
    axis.plot(recall[HALF], precision[HALF], "o", color=style["color"], markersize=5)


def _published_point(dataset: str, loss: str) -> tuple[list[float], list[float]]:
    table = "2" if dataset == "mammography" else "S10"
    cells = [published.value(table, dataset, loss, metric) for metric in ("recall", "precision")]
    return tuple([] if cell is None else [cell[0]] for cell in cells)


def _levels_of_f1(axis: Any) -> None:
    x = np.linspace(0.01, 1.02, 200)
    for f1 in TAUS:
        above = 2 * x > f1
        y = f1 * x[above] / (2 * x[above] - f1)
        axis.plot(x[above], y, color="#dddddd", linewidth=0.8, zorder=0)
        axis.text(1.01, f1 / (2 - f1), f"{f1:g}", fontsize=6, color="#999999", ha="right")


def reliability(results: Results) -> Any:
    """Share of positives against mean prediction in ten bins; None without results."""
    datasets = [
        dataset
        for dataset in dict.fromkeys(dataset for dataset, _, _ in results)
        if _found(results, dataset, "bce") and _found(results, dataset, "f1_linear")
    ]
    if not datasets:
        return None
    figure, axes = _panels(datasets, 4, 3.2, 3.4)
    for axis, dataset in zip(axes, datasets, strict=True):
        axis.plot((0, 1), (0, 1), color=GREY, linestyle=":", linewidth=1)
        for colour, loss in zip((GREY, *COLOURS), RELIABILITY, strict=False):
            found = _found(results, dataset, loss)
            if found is not None:
                bins = _all_trials(trial["reliability"] for trial in found["trials"])
                axis.plot(bins[:, 1], bins[:, 2], "o-", markersize=3, color=colour, label=loss)
        axis.set(xlabel="mean prediction", ylabel="share of positives", xlim=(0, 1), ylim=(0, 1))
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    columns = min(2 * len(datasets), len(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)
    return figure


def _all_trials(of_trials: Iterable[list[list[float]]]) -> Array:
    """Size, mean prediction and share of positives of the bins (n, 3) that hold enough."""
    bins = np.array(list(of_trials))  # (trials, bins, 3)
    size = bins[..., 0].sum(axis=0)
    sums = (bins[..., :1] * bins[..., 1:]).sum(axis=0)
    kept = size >= FEWEST
    return np.column_stack([size[kept], sums[kept] / size[kept, None]])
