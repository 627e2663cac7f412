"""The support vector machine for multivariate measures: error rate, F1 or area under the ROC curve.

Joachims, "A Support Vector Method for Multivariate Performance Measures", ICML 2005, trained with
one slack for all, as in Joachims, "Training Linear SVMs in Linear Time", KDD 2006:

    min_w,xi  |w|^2 / 2 + C xi    such that for all labellings y':
              <w, Psi(y) - Psi(y')> >= Delta(y, y') - xi

For measures of the confusion matrix Psi(y') = sum_i y'_i x_i / (2 N) with y'_i = -1 or 1, for the
area Psi(y') is the mean of y'_ij (x_i - x_j) / 2 over the pairs of a positive i and a negative j.
Delta is the error rate, 1 - F1, or the share of swapped pairs. By these scales, which are not those
of the papers, xi is the mean hinge loss max(0, 1 - y_i <w, x_i>) for the error rate, and that of
the pairs for the area.

The kernel is linear. A constant feature stands for the bias, as in the authors' program.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cutting_plane import Array, Constraint, minimize

MEASURES = ("error", "f1", "auroc")


def worst_error(scores: Array, positive: NDArray[np.bool_]) -> tuple[Array, float]:
    """Which samples the most violated labelling gets wrong, as coefficients, and its error rate.

    The coefficients c say that Psi(y) - Psi(y') = c @ X. Each sample decides for itself.
    """
    sign = np.where(positive, 1.0, -1.0)
    wrong = sign * scores < 1
    return sign * wrong / len(scores), wrong.mean()


def worst_f1(scores: Array, positive: NDArray[np.bool_]) -> tuple[Array, float]:
    """The same for 1 - F1: Joachims 2005, Algorithm 2, over all contingency tables.

    A table with a true and b false positives is worst if they are the highest of their class. For
    each a the sum of Delta = 1 - 2 a / (P + a + b) and of the scores is concave in b, so that
    bisection finds the best b, and O(P log N) tables are looked at instead of P N. Without any
    positive F1 is 0, as P > 0.
    """
    n = len(scores)
    of_positives, of_negatives = np.flatnonzero(positive), np.flatnonzero(~positive)
    of_positives = of_positives[np.argsort(-scores[of_positives], kind="stable")]
    of_negatives = of_negatives[np.argsort(-scores[of_negatives], kind="stable")]
    # What the labelling gains by calling the first of each class positive.
    gains = [np.append(0, np.cumsum(scores[rows])) / n for rows in (of_positives, of_negatives)]
    P, a = len(of_positives), np.arange(len(of_positives) + 1)

    def value(b: NDArray[np.int64]) -> Array:
        return -2 * a / (P + a + b) + gains[0] + gains[1][b]

    low, high = np.zeros_like(a), np.full_like(a, len(of_negatives))
    while (low < high).any():
        middle = (low + high) // 2
        rises = (middle < high) & (value(np.minimum(middle + 1, high)) > value(middle))
        low, high = np.where(rises, middle + 1, low), np.where(rises, high, middle)
    values = value(low)
    best = int(np.argmax(values))
    coefficients = np.zeros(n)
    coefficients[of_positives[best:]] = 1 / n  # missed
    coefficients[of_negatives[: low[best]]] = -1 / n  # false alarms
    return coefficients, 1 - 2 * best / (P + best + low[best])


def worst_auroc(scores: Array, positive: NDArray[np.bool_]) -> tuple[Array, float]:
    """The same for 1 - AUROC: Joachims 2005, Algorithm 3. A pair is swapped within a margin of 1.

    Its coefficients count, by one sort, in how many swapped pairs a sample is.
    """
    high, low = scores[positive], np.sort(scores[~positive])
    ascending = np.sort(high)
    pairs = len(high) * len(low)
    coefficients = np.empty(len(scores))
    above = len(low) - np.searchsorted(low, high - 1, side="right")
    coefficients[positive] = above / pairs
    below = np.searchsorted(ascending, scores[~positive] + 1, side="left")
    coefficients[~positive] = -below / pairs
    return coefficients, above.sum() / pairs


WORST = {"error": worst_error, "f1": worst_f1, "auroc": worst_auroc}


class Machine(NamedTuple):
    weights: Array  # (features,)
    bias: float
    objective: float  # |w|^2 / 2 + C xi, with the bias among w
    constraints: int  # cutting planes

    def scores(self, X: Array) -> Array:
        return X @ self.weights + self.bias


def train(
    X: Array, y: Array, measure: str, C: float, *, tolerance: float = 1e-4, planes: int = 2000
) -> Machine:
    """The machine whose objective is within C x ``tolerance`` of the least.

    Raises:
        ValueError: an unknown measure, labels of one class only.
    """
    if measure not in WORST:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    positive = np.asarray(y) > 0
    if positive.all() or not positive.any():
        raise ValueError("y must hold both classes")
    # The area does not depend on a bias.
    constant = np.zeros((len(X), 1)) if measure == "auroc" else np.ones((len(X), 1))
    features = np.hstack([np.asarray(X, np.float64), constant])

    def worst(w: Array) -> Constraint:
        coefficients, delta = WORST[measure](features @ w, positive)
        return Constraint(coefficients @ features, delta)

    found = minimize(worst, features.shape[1], C, tolerance, planes)
    return Machine(found.weights[:-1], found.weights[-1], found.objective, found.constraints)


def fit(
    X_train: Array,
    y_train: Array,
    X_validation: Array,
    y_validation: Array,
    seed: int,
    *,
    measure: str = "f1",
    Cs: tuple[float, ...] = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5),
) -> Callable[[Array], Array]:
    """Train with each C and keep the best on the validation part: ``predict(X) -> scores``.

    A positive or 0 score is a positive; those of "auroc" have no threshold of their own. Nothing is
    drawn at random; ``seed`` is there for the common interface.
    """
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    judges = {
        "error": lambda scores: accuracy_score(y_validation, scores >= 0),
        "f1": lambda scores: f1_score(y_validation, scores >= 0, zero_division=0),
        "auroc": lambda scores: roc_auc_score(y_validation, scores),
    }
    machines = [train(X_train, y_train, measure, C) for C in Cs]
    best = max(machines, key=lambda machine: judges[measure](machine.scores(X_validation)))
    return best.scores
