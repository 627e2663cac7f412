"""The pictures of the paper's experiments: what they are drawn from, and that they are drawn."""

import sys
from pathlib import Path

import numpy as np
import pytest

from softcm import Linear, Sigmoid

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.paper import figures

pytest.importorskip("matplotlib", reason="the pictures need matplotlib")


def test_curves_are_the_approximations_and_their_slopes():
    p, h, slope = figures.curve(Linear(0.1), 0.7)
    at = np.searchsorted(p, [0.3, 0.7, 0.9])
    # Through (0, 0), (0.55, 0.1), (0.7, 0.5), (0.85, 0.9) and (1, 1).
    assert h[at] == pytest.approx([0.3 * 0.1 / 0.55, 0.5, 0.9 + 0.1 / 3])
    assert slope[at] == pytest.approx([0.1 / 0.55, 0.8 / 0.3, 0.1 / 0.15])
    p, h, slope = figures.curve(Sigmoid(10.0), 0.7)
    assert h[at[1]] == pytest.approx(0.5)
    assert slope[at[1]] == pytest.approx(2.5)


def result(rng):
    recall = np.linspace(0.9, 0.5, 9)
    bins = [[10.0, (i + 0.5) / 10, i / 10] for i in range(10)]
    scores = dict.fromkeys(figures.METRICS, float(rng.random()))
    curve = {"recall": recall.tolist(), "precision": (1.2 - recall).tolist()}
    return {"trials": [{"published": scores, "curve": curve, "reliability": bins}] * 2}


def test_each_picture_is_drawn_where_there_is_something_to_draw(tmp_path):
    from matplotlib.image import imread

    rng = np.random.default_rng(0)
    losses = ("bce", "f1_linear", "f2_linear", "f1_sigmoid")
    results = {("mammography", loss, size): result(rng) for loss in losses for size in (128, 1024)}
    drawn = figures.draw(tmp_path, results)
    assert drawn == [
        *("figure_1.png", "figure_S1.png", "figure_S2.png", "figure_S3.png"),
        *("figure_S4_mammography.png", "precision_recall.png", "reliability.png"),
    ]
    for name in drawn:
        pixels = imread(tmp_path / name)
        assert pixels.shape[1] > 300, name
        assert (pixels[..., :3].min(axis=2) < 0.9).mean() > 0.01, name


def test_nothing_is_drawn_where_there_is_nothing_to_compare():
    rng = np.random.default_rng(0)
    few = {("adult", loss, 1024): result(rng) for loss in ("bce", "f1_linear")}
    for results in ({}, few):
        assert figures.compared_sizes(results) == {}
        assert figures.trade_off(results) is None
    assert figures.reliability({}) is None
    assert figures.reliability(few) is not None


def test_bins_of_all_trials_are_pooled():
    first, second = [[5.0, 0.1, 0.4], [0.0, 0.0, 0.0]], [[15.0, 0.2, 0.0], [19.0, 0.9, 1.0]]
    pooled = figures._all_trials([first, second])
    assert pooled == pytest.approx(np.array([[20.0, 3.5 / 20, 2 / 20]]))
