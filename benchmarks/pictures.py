"""The pictures of the README, written to benchmarks/pictures.

python benchmarks/pictures.py
"""

import io
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import cross_val_predict
from torch import Tensor

import softcm
from softcm import Linear, Sigmoid, Table, plot

FOLDER = Path(__file__).resolve().parent / "pictures"
COUNTS = (9, 19, 49, 99, 199, 499, 999)


def save(figure: Figure, name: str) -> None:
    """As a PNG of 64 colours, a third of the size and the same to the eye."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    Image.open(buffer).convert("RGB").quantize(64).save(FOLDER / name, optimize=True)
    plt.close(figure)


def look_up_table() -> None:
    """H, its table of 100 levels and 8 bits, and their difference, at two thresholds."""
    table = Table()
    p = torch.linspace(0, 1, 5001, dtype=torch.float64)
    figure, (values, errors) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for tau, color in ((0.2, "C0"), (0.5, "C1")):
        h = softcm.heaviside(p, tau, table.approximation)
        entry = softcm.heaviside(p, tau, table)
        values.plot(p, h, color, lw=3, alpha=0.4, label=f"Linear(), threshold {tau}")
        values.plot(p, entry, color, lw=0.8, label=f"Table(), threshold {tau}")
        errors.plot(p, entry - h, color, lw=0.8, label=f"threshold {tau}")
        bound = table.errors[table.thresholds.index(tau)]
        errors.axhline(-bound, color=color, ls="--", lw=0.8, label=f"bound, {tau}")
    values.set(xlabel="p", ylabel="h", title="approximation and table")
    errors.set(xlabel="p", title="table - approximation")
    values.legend()
    errors.legend()
    save(figure, "look_up_table.png")


def digit_scores() -> tuple[Tensor, Tensor]:
    """Cross-validated probabilities of one digit against the rest, from a blunt classifier."""
    X, digit = load_digits(return_X_y=True)
    model = LogisticRegression(C=1e-4, max_iter=1000)
    p = cross_val_predict(model, X, digit == 8, method="predict_proba")[:, 1]
    return torch.tensor(p), torch.tensor(digit == 8)


def ranking() -> None:
    """1 - auroc_loss and 1 - auprc_loss against the number of thresholds."""
    p, y = digit_scores()
    approximations = {
        "Sigmoid(k=T), gated": (lambda count: Sigmoid(float(count)), "gated"),
        "Sigmoid(k=10 T), eq. (3)": (lambda count: Sigmoid(10.0 * count), "soft"),
        "Sigmoid(k=10), gated": (lambda _: Sigmoid(10.0), "gated"),
        "Linear(delta=0.01), gated": (lambda _: Linear(0.01), "gated"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axis, loss, exact in zip(
        axes,
        (softcm.auroc_loss, softcm.auprc_loss),
        (roc_auc_score(y, p), average_precision_score(y, p)),
        strict=True,
    ):
        for label, (heaviside, membership) in approximations.items():
            areas = []
            for count in COUNTS:
                threshold = tuple(i / (count + 1) for i in range(1, count + 1))
                options = {"heaviside": heaviside(count), "membership": membership}
                areas.append(1 - loss(p, y, threshold=threshold, **options).item())
            axis.plot(COUNTS, areas, "o-", ms=3, label=label)
        axis.axhline(exact, color="k", ls="--", lw=0.8, label="scikit-learn")
        axis.set(xscale="log", xlabel="thresholds T", title=f"1 - {loss.__name__}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, "ranking.png")


def of_softcm_plot() -> None:
    """One of each function of softcm.plot."""
    p, y = digit_scores()
    approximations = Linear(), Linear(delta=0.25), Sigmoid(), Sigmoid(k=30.0)
    for name, draw in {
        "approximations": partial(plot.approximations, approximations, threshold=0.3),
        "derivatives": partial(plot.derivatives, approximations, threshold=0.3),
        "metric_by_threshold": partial(plot.metric_by_threshold, p, y, membership="gated"),
        "confusion_matrices": partial(plot.confusion_matrices, p, y, threshold=0.18),
        "reliability_diagram": partial(plot.reliability_diagram, p, y),
    }.items():
        figure, ax = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
        draw(ax=ax)
        save(figure, f"{name}.png")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    of_softcm_plot()
    look_up_table()
    ranking()
