"""Minimise |w|^2 / 2 + C xi under constraints that an oracle names one after the other.

Joachims, "Training Linear SVMs in Linear Time", KDD 2006, Algorithm 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MOST_STEPS = 10_000
# Added to a diagonal, as a share of its largest entry: it decides between constraints of which some
# depend on others, so that many weights are as good. What it leaves to do the next step does.
RIDGE = 1e-12


class Constraint(NamedTuple):
    """<w, direction> >= delta - xi."""

    direction: Array
    delta: float


class Solution(NamedTuple):
    weights: Array
    objective: float  # with the xi that all constraints need
    constraints: int


def minimize(
    worst: Callable[[Array], Constraint], size: int, C: float, tolerance: float, most: int
) -> Solution:
    """Until the most violated constraint at w asks for at most ``tolerance`` more slack.

    ``worst(w)`` is the constraint with the largest delta - <w, direction>, which is xi at w. So the
    objective is at most C x tolerance above the least one. The returned w is the best seen.
    """
    directions, deltas, alpha = np.empty((0, size)), np.empty(0), np.empty(0)
    gram = np.empty((0, 0))
    w, slack, best = np.zeros(size), 0.0, Solution(np.zeros(size), np.inf, 0)
    for count in range(1, most + 1):
        found = worst(w)
        needed = max(0.0, found.delta - w @ found.direction)
        objective = 0.5 * w @ w + C * needed
        if objective < best.objective:
            best = Solution(w, float(objective), count)
        if needed <= slack + tolerance:
            return best._replace(constraints=count)
        cross = directions @ found.direction
        gram = np.block([[gram, cross[:, None]], [cross, found.direction @ found.direction]])
        directions = np.vstack([directions, found.direction])
        deltas, alpha = np.append(deltas, found.delta), np.append(alpha, 0.0)
        alpha = solve_dual(gram, deltas, C, alpha, tolerance / 10)
        w = alpha @ directions
        slack = max(0.0, (deltas - directions @ w).max())
    raise RuntimeError(f"no w within {tolerance} after {most} constraints; take a smaller C")


def solve_dual(gram: Array, deltas: Array, C: float, alpha: Array, tolerance: float) -> Array:
    """max <deltas, a> - a gram a / 2 for a >= 0, sum a <= C, from ``alpha`` on.

    With a slack entry of direction and delta 0 the sum is C. A step moves weight from the entry
    with the least to that with the largest derivative, as far as is best, and then goes to the best
    of the entries that have weight, dropping those that lose it on the way. The gap of the
    objective is at most C times the difference of the two derivatives.
    """
    k = len(deltas)
    H = np.zeros((k + 1, k + 1))
    H[:k, :k] = gram
    d, a = np.append(deltas, 0.0), np.append(alpha, C - alpha.sum())
    for _ in range(MOST_STEPS):
        derivative = d - H @ a
        up = int(derivative.argmax())
        down = int(np.where(a > 0, derivative, np.inf).argmin())
        rise = derivative[up] - derivative[down]
        if rise <= tolerance:
            return a[:k]
        curvature = H[up, up] + H[down, down] - 2 * H[up, down]
        step = a[down] if curvature <= 0 else min(a[down], rise / curvature)
        a[up] += step
        a[down] = 0.0 if step == a[down] else a[down] - step
        _go_to_best_of_active(H, d, a)
    raise RuntimeError(f"a dual of {k} constraints is not solved after {MOST_STEPS} steps")


def _go_to_best_of_active(H: Array, d: Array, a: Array) -> None:
    """Towards the maximum over the positive entries of ``a`` with their sum, while they stay so."""
    while True:
        active = np.flatnonzero(a)
        m = len(active)
        system = np.ones((m + 1, m + 1))
        system[:m, :m] = H[np.ix_(active, active)] + RIDGE * H.diagonal().max() * np.eye(m)
        system[m, m] = 0
        move = np.linalg.solve(system, np.append((d - H @ a)[active], 0))[:m]
        now = a[active]
        share = np.full(m, np.inf)
        share[move < 0] = now[move < 0] / -move[move < 0]
        first = share.argmin()
        a[active] = np.maximum(now + min(1, share[first]) * move, 0)
        if share[first] > 1:
            return
        a[active[first]] = 0.0
