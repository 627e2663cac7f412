"""The paper's baselines, each against a case worked by hand or against brute force."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch.nn.functional import binary_cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.paper.baselines import adversarial, marginals, plug_in, svmperf
from benchmarks.paper.baselines.dice import dice_loss
from benchmarks.paper.baselines.focal import focal_loss
from benchmarks.paper.baselines.weighting import (
    class_weights,
    oversample,
    sqrt_ratio,
    weighted_bce,
)
from benchmarks.paper.baselines.wmw import wmw_loss


def column(*values):
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


# --- Losses of networks ---------------------------------------------------------------------------


def test_wmw_by_hand():
    # Pairs of a positive and a negative: 0.9 - 0.8 = 0.1 and 0.9 - 0.2 (no cost from 0.3 on),
    # 0.4 - 0.8 = -0.4 and 0.4 - 0.2 = 0.2.
    p, y = column(0.9, 0.8, 0.4, 0.2), column(1, 0, 1, 0)
    costs = 0.2**2 + 0.7**2 + 0.1**2
    assert wmw_loss(p, y).item() == pytest.approx(costs / 4, rel=1e-12)
    cubes = 0.2**3 + 0.7**3 + 0.1**3
    assert wmw_loss(p, y, power=3).item() == pytest.approx(cubes / 4, rel=1e-12)
    p.requires_grad_()
    wmw_loss(p, y).backward()
    by_hand = [-2 * 0.2, 2 * (0.2 + 0.7), -2 * (0.7 + 0.1), 2 * 0.1]
    assert p.grad.flatten().tolist() == pytest.approx([x / 4 for x in by_hand])


@pytest.mark.parametrize("power", [1, 2, 3])
def test_wmw_is_the_mean_over_all_pairs(power):
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(200, 3, generator=generator)
    y = (torch.rand(200, 3, generator=generator) < torch.tensor([0.3, 0.02, 0.0])).float()
    for_pairs = []
    for x, labels in zip(p.double().T, y.T, strict=True):
        difference = x[labels > 0].unsqueeze(1) - x[labels == 0]
        cost = (0.4 - difference).clamp(min=0) ** power
        for_pairs.append(cost.mean().item() if cost.numel() else 0.0)
    assert wmw_loss(p, y, gamma=0.4, power=power).tolist() == pytest.approx(for_pairs, rel=1e-6)


def test_dice_by_hand():
    p, y = column(0.8, 0.5, 0.0), column(1, 0, 1)
    assert dice_loss(p, y).item() == pytest.approx(1 - 1.6 / (0.64 + 0.25 + 2))
    raw = column(2.0, -1.0, -3.0)
    assert dice_loss(raw, y).item() == pytest.approx(1 - 2 * (2 - 3) / (4 + 1 + 9 + 2))
    nothing = torch.zeros(3, 2, requires_grad=True)
    loss = dice_loss(nothing, torch.zeros(3, 2))
    loss.sum().backward()
    assert loss.tolist() == [1, 1]
    assert (nothing.grad == 0).all()


def test_focal_by_hand():
    p, y = column(0.9, 0.4), column(1, 0)
    expected = -(0.25 * 0.1**2 * math.log(0.9) + 0.75 * 0.4**2 * math.log(0.6)) / 2
    assert focal_loss(p.logit(), y).item() == pytest.approx(expected)
    # With gamma = 0 and alpha = 1/2 it is half the cross-entropy.
    half = focal_loss(p.logit(), y, alpha=0.5, gamma=0.0).item()
    assert half == pytest.approx(binary_cross_entropy(p, y).item() / 2)
    assert focal_loss(column(200.0, -200.0), column(0, 1)).isfinite().all()


def test_weights_are_those_of_table_s5():
    y = (torch.arange(4800) < 1454).float().unsqueeze(1)
    weights = class_weights(y)
    assert round(weights.negative.item(), 2) == 0.72
    assert round(weights.positive.item(), 2) == 1.65
    assert weights.of(y).mean().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="y must hold both classes"):
        class_weights(torch.zeros(3, 1))


def test_weighted_cross_entropy_by_hand():
    p = torch.tensor([[0.8, 0.6], [0.5, 0.6], [0.3, 0.1]])
    y = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    # One positive of three: weights 3/2 and 3/4; two of three: 3/4 and 3/2.
    first = -(1.5 * math.log(0.8) + 0.75 * math.log(0.5) + 0.75 * math.log(0.7)) / 3
    second = -(0.75 * math.log(0.6) + 0.75 * math.log(0.6) + 1.5 * math.log(0.9)) / 3
    loss = weighted_bce(p.logit(), y, weights=class_weights(y))
    assert loss.tolist() == pytest.approx([first, second], rel=1e-5)
    assert sqrt_ratio(y).positive.tolist() == pytest.approx([math.sqrt(2), math.sqrt(0.5)])
    assert sqrt_ratio(y).negative.tolist() == [1, 1]


def test_oversampling_repeats_the_smaller_class_until_both_are_equal():
    y = (torch.arange(100) % 10 == 3).float()
    rows = oversample(y, seed=1)
    assert len(rows) == 180
    assert y[rows].mean() == 0.5
    assert rows[:100].tolist() == list(range(100))
    repeated = torch.bincount(rows, minlength=100)
    assert (repeated[y == 0] == 1).all()
    assert (repeated[y == 1] >= 1).all()
    assert repeated[y == 1].sum() == 90
    assert torch.equal(rows, oversample(y, seed=1))
    assert not torch.equal(rows, oversample(y, seed=2))
    with pytest.raises(ValueError, match="y must hold both classes"):
        oversample(torch.ones(3), seed=0)


# --- Plug-in --------------------------------------------------------------------------------------


def test_two_step_eum_by_hand():
    # Scores rise with the feature. F1 of "positive from here on" is 2/3 from 1, 4/5 from 2, 1/2
    # from 3 and 2/3 from 4, so that the classes part half-way between 1 and 2.
    train = np.array([[0.0], [1.0], [4.0], [5.0]]), np.array([0, 0, 1, 1])
    predict = plug_in.fit(*train, np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([0, 1, 0, 1]), 0)
    assert predict(np.array([[1.5]])) == pytest.approx(0, abs=1e-12)
    assert (predict(np.array([[1.4], [1.6]])) > 0).tolist() == [False, True]


@pytest.mark.parametrize("seed", range(20))
def test_two_step_eum_is_as_good_on_validation_data_as_any_threshold(seed):
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(seed)
    y = (rng.random(120) < 0.3).astype(float)
    X = rng.normal(size=(120, 2)).round(1) + 0.7 * y[:, None]
    scores = plug_in.fit(X[:60], y[:60], X[60:], y[60:], seed)(X[60:])
    found = f1_score(y[60:], scores > 0)
    assert found == max(f1_score(y[60:], scores >= at) for at in scores)


def test_two_step_eum_separates_at_the_best_threshold():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(400, 1)), np.zeros(400)
    y[X[:, 0] > 1.2] = 1
    predict = plug_in.fit(X[:200], y[:200], X[200:], y[200:], seed=0)
    assert ((predict(X[200:]) >= 0) == (y[200:] > 0)).all()
    # Logistic regression alone is not there yet: C = 1 keeps its slope small.
    from sklearn.linear_model import LogisticRegression

    plain = LogisticRegression(max_iter=1000).fit(X[:200], y[:200])
    assert (plain.predict(X[200:]) != y[200:]).any()


# --- The adversarial game -------------------------------------------------------------------------


SMALL = adversarial.Steps(1, 1, 1)


def labellings(n):
    return np.array(list(itertools.product([0, 1], repeat=n)))


def f1(a, b):
    return 1.0 if a.sum() + b.sum() == 0 else 2 * (a * b).sum() / (a.sum() + b.sum())


def full_game(f):
    """Value, and chance of each sample to be positive, of the game over all label vectors."""
    vectors = labellings(len(f))
    payoff = np.array([[f1(a, b) for b in vectors] for a in vectors])
    count = len(vectors)
    found = linprog(
        np.append(-(vectors @ f), 1),
        A_ub=np.hstack([payoff, -np.ones((count, 1))]),
        b_ub=np.zeros(count),
        A_eq=[np.append(np.ones(count), 0)],
        b_eq=[1],
        bounds=[(0, None)] * count + [(None, None)],
    )
    return found.fun, vectors.T @ found.x[:-1]


@pytest.mark.parametrize(
    ("n", "scale"), [(1, 0.3), (2, 0.1), (2, 1.0), (3, 0.3), (3, 3.0), (4, 0.1)]
)
def test_game_of_marginals_is_the_full_game(n, scale):
    f = np.random.default_rng(n).normal(size=(n, 3)) * scale
    saddle = adversarial.solve(f, 3000, 1e-5, SMALL)
    values, q = zip(*(full_game(column) for column in f.T), strict=True)
    assert (saddle.upper - saddle.lower <= 1e-5).all()
    assert saddle.upper == pytest.approx(np.array(values), abs=1e-5)
    assert saddle.q == pytest.approx(np.array(q).T, abs=1e-4)


def test_bounds_of_a_large_game_close_in_on_its_value():
    f = np.random.default_rng(0).normal(size=(20, 5))
    early, late = adversarial.solve(f, 50, 0), adversarial.solve(f, 400, 0)
    assert (late.upper - late.lower < 0.03).all()
    for bound in (early.upper, early.lower):
        assert np.isfinite(bound).all()
    assert (early.lower <= late.upper).all()
    assert (late.lower <= early.upper).all()


def test_adversarial_loss_and_its_gradient():
    f = torch.tensor([[0.6, -9.0], [-0.3, 9.0], [0.1, -9.0]], requires_grad=True)
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    loss = adversarial.adversarial_loss(f, y, iterations=1000, tolerance=1e-4, steps=SMALL)
    value, q = full_game(f.detach()[:, 0].double().numpy())
    assert loss[0].item() == pytest.approx(1 - value - 0.7, abs=1e-4)
    # Sure and right: the adversary does best to tell the truth.
    assert loss[1].item() == pytest.approx(0, abs=1e-4)
    (loss * torch.tensor([2.0, 1.0])).sum().backward()
    assert f.grad[:, 0].tolist() == pytest.approx(2 * (q - y[:, 0].numpy()), abs=1e-3)
    assert f.grad[:, 1].tolist() == pytest.approx([0, 0, 0], abs=1e-3)


def test_games_that_cannot_be_solved():
    with pytest.raises(ValueError, match="a game holds at most 127 samples, got 128"):
        adversarial.solve(np.zeros((128, 1)))
    with pytest.raises(ValueError, match="f must hold finite numbers"):
        adversarial.solve(np.array([[0.0], [np.nan]]))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_projection_on_marginals(n):
    rng = np.random.default_rng(n)
    points = rng.normal(size=(n, 6, n)) * [[[0.1]], [[1.0]], [[1.0]], [[2.0]], [[5.0]], [[1.0]]][0]
    points[:, 5] = np.round(2 * points[:, 5]) / 2  # ties
    nearest, pieces = marginals.project(points)
    k = np.arange(1, n + 1)
    r = nearest.sum(0) / k
    assert (nearest >= 0).all()
    assert (nearest <= r + 1e-12).all()
    assert (r.sum(1) <= 1 + 1e-12).all()
    # Nearest: no vertex of the polytope, of k samples or none, lies further along what is missing.
    missing = points - nearest
    along = (missing * nearest).sum((0, 2))
    best = np.diagonal(np.cumsum(-np.sort(-missing, axis=0), axis=0), axis1=0, axis2=2).max(-1)
    assert (np.maximum(best, 0) <= along + 1e-9).all()
    again, _ = marginals.project(points + 1e-3, pieces)
    assert again == pytest.approx(marginals.project(points + 1e-3)[0], abs=1e-12)


# --- Support vector machines ----------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 5, 8])
def test_most_violated_labelling(n):
    rng = np.random.default_rng(n)
    for _ in range(20):
        positive = np.arange(n) < rng.integers(1, n)
        scores = rng.normal(size=n) * rng.choice([0.3, 1, 3, 10])
        vectors = labellings(n) > 0
        gains = ((vectors * 1 - positive * 1) * scores).sum(1) / n
        errors = (vectors != positive).mean(1)
        losses = np.array([1 - f1(positive * 1, vector * 1) for vector in vectors])
        for measure, deltas in (("error", errors), ("f1", losses)):
            coefficients, delta = svmperf.WORST[measure](scores, positive)
            assert delta - coefficients @ scores == pytest.approx((deltas + gains).max())
        coefficients, delta = svmperf.worst_auroc(scores, positive)
        margins = scores[positive][:, None] - scores[~positive]
        assert delta - coefficients @ scores == pytest.approx(np.maximum(0, 1 - margins).mean())
        assert delta == pytest.approx((margins < 1).mean())


def toy():
    rng = np.random.default_rng(0)
    y = np.array([1, 0, 1, 0, 0, 1])
    return rng.normal(size=(6, 2)) + 0.5 * y[:, None], y


@pytest.mark.parametrize("C", [0.1, 1.0, 10.0, 1e3, 1e5])
def test_svm_for_f1_against_all_constraints_at_once(C):
    X, y = toy()
    vectors = labellings(6)
    directions = ((y - vectors) / 6) @ np.hstack([X, np.ones((6, 1))])
    deltas = np.array([1 - f1(y, vector) for vector in vectors])
    found = minimize(
        lambda v: 0.5 * v[:3] @ v[:3] + C * v[3],
        np.zeros(4),
        jac=lambda v: np.append(v[:3], C),
        constraints={"type": "ineq", "fun": lambda v: directions @ v[:3] - deltas + v[3]},
        bounds=[(None, None)] * 3 + [(0, None)],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    machine = svmperf.train(X, y, "f1", C, tolerance=1e-7)
    assert machine.objective == pytest.approx(found.fun, abs=2e-7 * C, rel=1e-6)


@pytest.mark.parametrize("C", [0.1, 10.0])
def test_svm_for_the_area_against_all_pairs_at_once(C):
    X, y = toy()
    pairs = (X[y == 1][:, None] - X[y == 0]).reshape(-1, 2)
    k = len(pairs)
    found = minimize(  # |w|^2 / 2 + C mean(slack), each slack at least 1 - <w, pair>
        lambda v: 0.5 * v[:2] @ v[:2] + C * v[2:].mean(),
        np.zeros(2 + k),
        jac=lambda v: np.append(v[:2], np.full(k, C / k)),
        constraints={"type": "ineq", "fun": lambda v: pairs @ v[:2] - 1 + v[2:]},
        bounds=[(None, None)] * 2 + [(0, None)] * k,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    machine = svmperf.train(X, y, "auroc", C, tolerance=1e-7)
    assert machine.objective == pytest.approx(found.fun, abs=2e-7 * C, rel=1e-6)
    assert machine.bias == 0


def test_svm_for_the_error_rate_is_the_usual_one():
    from sklearn.svm import LinearSVC

    X, y = toy()
    machine = svmperf.train(X, y, "error", 10.0, tolerance=1e-7)
    usual = LinearSVC(C=10.0 / 6, loss="hinge", tol=1e-8, max_iter=100_000, random_state=0)
    usual.fit(X, y)
    assert machine.weights == pytest.approx(usual.coef_[0], abs=1e-3)
    assert machine.bias == pytest.approx(usual.intercept_[0], abs=1e-3)


def test_svm_chooses_its_constant_on_the_validation_part():
    rng = np.random.default_rng(0)
    y = (rng.random(600) < 0.15).astype(int)
    X = rng.normal(size=(600, 2)) + 1.5 * y[:, None]
    parts = X[:300], y[:300], X[300:], y[300:], 0
    ranked = {}
    for measure in svmperf.MEASURES:
        scores = svmperf.fit(*parts, measure=measure)(X[300:])
        assert scores.shape == (300,)
        ranked[measure] = np.mean(scores[y[300:] == 1][:, None] > scores[y[300:] == 0])
    assert min(ranked.values()) > 0.9
    with pytest.raises(ValueError, match="measure must be one of error, f1, auroc, got 'recall'"):
        svmperf.train(X, y, "recall", 1.0)
    with pytest.raises(ValueError, match="y must hold both classes"):
        svmperf.train(X, np.zeros(600), "f1", 1.0)
