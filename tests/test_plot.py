"""The pictures hold softcm's numbers; how they look is not tested."""

import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason="pictures need matplotlib")
pytest.importorskip("sklearn", reason="the reliability diagram needs scikit-learn")

from matplotlib import pyplot
from matplotlib.axes import Axes
from sklearn.calibration import calibration_curve

import softcm
from softcm import Linear, Sigmoid, Table, plot

pyplot.switch_backend("Agg")
GENERATOR = torch.Generator().manual_seed(0)
P = torch.rand(400, generator=GENERATOR) ** 2
Y = (torch.rand(400, generator=GENERATOR) < P).long()
LOGITS = torch.logit(P)
WEIGHT = torch.rand(400, generator=GENERATOR)
OF_DATA = [plot.metric_by_threshold, plot.confusion_matrices, plot.reliability_diagram]
OTHERS = [
    plot.approximations,
    plot.derivatives,
    lambda **options: plot.metric_curves((0.2, 0.4), {"a": torch.ones(2)}, **options),
]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def line(ax, label):
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found.get_xdata(), found.get_ydata()


@pytest.mark.parametrize("draw", [*OTHERS, *OF_DATA])
def test_draws_into_the_axes_given_or_into_new_ones(draw):
    data = (P, Y) if draw in OF_DATA else ()
    _, (left, right) = pyplot.subplots(1, 2)
    assert draw(*data, ax=right) is right
    assert right.has_data()
    assert not left.has_data()
    new = draw(*data)
    assert isinstance(new, Axes)
    assert new.figure is not right.figure
    with pytest.raises(TypeError, match="ax must be a matplotlib Axes or None, got 'right'"):
        draw(*data, ax="right")


@pytest.mark.parametrize("heaviside", [Linear(0.2), Sigmoid(7.0), Table()])
@pytest.mark.parametrize("tau", [0.3, 0.5])
def test_approximations_and_derivatives(heaviside, tau):
    label = "Table of Linear(delta=0.1)" if isinstance(heaviside, Table) else str(heaviside)
    p, h = line(plot.approximations(heaviside, threshold=tau), label)
    x = torch.tensor(p, requires_grad=True)
    expected = softcm.heaviside(x, tau, heaviside)
    np.testing.assert_array_equal(h, expected.detach())
    expected.sum().backward()
    with torch.no_grad():  # which must not reach the picture
        p, slope = line(plot.derivatives(heaviside, threshold=tau), label)
    np.testing.assert_array_equal(p, x.detach())
    np.testing.assert_array_equal(slope, x.grad)
    assert (p[0], p[-1]) == (0, 1)


def test_a_line_for_each_approximation_at_each_threshold():
    ax = plot.approximations([Linear(), Sigmoid()], threshold=(0.25, 0.5))
    labels = [line.get_label() for line in ax.get_lines()]
    assert labels[:4] == [
        "Linear(delta=0.1), threshold 0.25",
        "Linear(delta=0.1), threshold 0.5",
        "Sigmoid(k=10.0), threshold 0.25",
        "Sigmoid(k=10.0), threshold 0.5",
    ]
    steps = [line.get_xydata().tolist() for line in ax.get_lines()[4:]]
    assert steps == [[[0, 0], [t, 0], [t, 1], [1, 1]] for t in (0.25, 0.5)]
    assert len(ax.get_legend().get_texts()) == 5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metric": "mcc", "heaviside": Sigmoid(20.0), "membership": "gated"},
        {"weight": WEIGHT, "pos_weight": 3.0, "thresholds": torch.tensor([0.2, 0.4, 0.7])},
        {"metric": softcm.LinearFractional((0, 5, 1, 0), (1, 1, 1, 1)), "maximize": False},
        {"metric": lambda cm: cm.tp / (cm.tp + cm.fp + 1)},
        {"thresholds": (0.1, 0.5, 0.9), "heaviside": Table(), "zero_division": 1.0},
    ],
)
@pytest.mark.parametrize("from_logits", [False, True])
def test_metric_by_threshold(options, from_logits):
    options["from_logits"] = from_logits
    input = LOGITS if from_logits else P
    ax = plot.metric_by_threshold(input, Y, **options)

    counts = {**options, "threshold": options.get("thresholds", [i / 100 for i in range(1, 100)])}
    metric = counts.pop("metric", "f1")
    tuning = {"metric": metric, "maximize": counts.pop("maximize", True)}
    zero = {"zero_division": counts.pop("zero_division")} if "zero_division" in counts else {}
    counts.pop("thresholds", None)
    call = getattr(softcm.metrics, metric) if isinstance(metric, str) else metric
    for name, count in (
        ("soft", softcm.soft_confusion_matrix),
        ("hard", softcm.confusion_matrix),
    ):
        x, values = line(ax, name)
        np.testing.assert_allclose(x, counts["threshold"], rtol=1e-7)
        cm = softcm.ConfusionMatrix(*(x.double() for x in count(input, Y, **counts)))
        np.testing.assert_allclose(values, call(cm, **zero), rtol=1e-12)
    kept = {k: v for k, v in options.items() if k in ("weight", "pos_weight", "from_logits")}
    best = softcm.tune_threshold(input, Y, **tuning, **zero, **kept)
    tau, score = best.threshold.item(), best.score.item()
    assert line(ax, f"tuned: {score:.3f} at {tau:.3f}") == ([tau], [score])
    assert ax.get_ylabel() == (metric if isinstance(metric, str) else "metric")


def test_ignored_samples_count_nowhere():
    target = torch.where(torch.arange(400) % 3 == 0, -1, Y)
    kept = target >= 0
    for draw in (plot.metric_by_threshold, plot.reliability_diagram):
        ignoring = draw(P, target, ignore_index=-1).get_lines()
        for one, other in zip(ignoring, draw(P[kept], Y[kept]).get_lines(), strict=True):
            np.testing.assert_allclose(one.get_ydata(), other.get_ydata(), rtol=1e-6)


def test_metric_curves():
    thresholds, runs = (0.2, 0.5, 0.9), np.array([[0.1, 0.5, 1.0], [0.3, 0.5, 0.9]])
    ax = plot.metric_curves(thresholds, {"one": torch.tensor([0.1, 0.2, 0.3]), "two": runs})
    np.testing.assert_allclose(line(ax, "one"), (thresholds, (0.1, 0.2, 0.3)), rtol=1e-6)
    np.testing.assert_allclose(line(ax, "two"), (thresholds, (0.2, 0.5, 0.95)))
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    spread = runs.std(axis=0, ddof=1)
    for x, low, high in zip(
        thresholds,
        runs.mean(axis=0) - spread,
        np.minimum(runs.mean(axis=0) + spread, 1),
        strict=True,
    ):
        at_x = corners[corners[:, 0] == x][:, 1]
        assert (at_x.min(), at_x.max()) == pytest.approx((low, high))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0.3, "membership": "gated", "heaviside": Sigmoid()},
        {"threshold": torch.tensor(0.7), "weight": WEIGHT, "pos_weight": 2.5},
    ],
)
@pytest.mark.parametrize("shape", [(400,), (400, 1)])
def test_confusion_matrices(options, shape):
    weight = {"weight": options["weight"].reshape(shape)} if "weight" in options else {}
    options = {**options, **weight}
    ax = plot.confusion_matrices(P.reshape(shape).requires_grad_(), Y.reshape(shape), **options)
    soft = softcm.soft_confusion_matrix(P.reshape(shape), Y.reshape(shape), **options)
    hard = softcm.confusion_matrix(P.reshape(shape), Y.reshape(shape), **options)
    texts = {text.get_text().split("\n")[0]: text for text in ax.texts}
    (image,) = ax.get_images()
    shares = image.get_array()
    assert shares.shape == (2, 4)
    assert ax.get_yticklabels()[1].get_text() == "1"
    for kind, cm in (("soft", soft), ("hard", hard)):
        for name in ("tp", "fn", "fp", "tn"):
            count = getattr(cm, name).item()
            text = texts.pop(f"{name.upper()}, {kind}")
            assert float(text.get_text().split("\n")[1]) == pytest.approx(count, rel=1e-4)
            column, row = text.get_position()
            of_label = hard.tp + hard.fn if name in ("tp", "fn") else hard.fp + hard.tn
            assert row == (name in ("tp", "fn"))
            assert column == 2 * (name in ("tp", "fp")) + (kind == "hard")
            assert shares[row, column] == pytest.approx(count / of_label.item(), rel=1e-6)
    assert texts == {}


def test_confusion_matrices_without_positives():
    ax = plot.confusion_matrices(P, Y * 0, membership="gated")
    assert np.isfinite(ax.get_images()[0].get_array()).all()


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("bins", [1, 5, 17])
@pytest.mark.parametrize("from_logits", [False, True])
def test_reliability_diagram(strategy, bins, from_logits):
    input = LOGITS.double() if from_logits else P
    ax = plot.reliability_diagram(input, Y, bins=bins, strategy=strategy, from_logits=from_logits)
    p = (torch.sigmoid(input) if from_logits else input).double().numpy()
    positives, predicted = calibration_curve(Y.numpy(), p, n_bins=bins, strategy=strategy)
    np.testing.assert_array_equal(line(ax, "classifier"), (predicted, positives))
    np.testing.assert_array_equal(line(ax, "perfect"), ((0, 1), (0, 1)))

    (twin,) = [other for other in ax.figure.axes if other is not ax]
    counts = np.array([bar.get_height() for bar in twin.patches])
    assert len(counts) == bins
    assert counts.sum() == len(P)
    # With the right counts, and no others, the points give back the two means over the samples.
    kept = counts[counts > 0]
    assert (kept * predicted).sum() / len(P) == pytest.approx(p.mean())
    assert (kept * positives).sum() == pytest.approx(Y.sum().item())


def test_reliability_diagram_counts_a_probability_on_an_edge_where_scikit_learn_does():
    p, y = torch.tensor([0.0, 0.5, 0.5, 1.0]).double(), torch.tensor([0, 1, 1, 1])
    ax = plot.reliability_diagram(p, y, bins=2)
    assert line(ax, "classifier")[0].tolist() == [1 / 3, 1.0]
    (twin,) = [other for other in ax.figure.axes if other is not ax]
    assert [bar.get_height() for bar in twin.patches] == [3, 1]


@pytest.mark.parametrize("draw", [*OTHERS, *OF_DATA])
def test_without_matplotlib(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"needs matplotlib.*pip install 'softcm\[plot\]'"):
        draw(*((P, Y) if draw in OF_DATA else ()))


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.calibration", None)
    with pytest.raises(ImportError, match=r"needs scikit-learn.*pip install 'softcm\[plot\]'"):
        plot.reliability_diagram(P, Y)
    assert pyplot.get_fignums() == []


def test_import_of_softcm_imports_neither():
    code = "import sys, softcm.plot; print({'matplotlib', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
