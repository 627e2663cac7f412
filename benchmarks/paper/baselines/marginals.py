"""The marginal polytope of label vectors of n samples, and the projection onto it.

Fathony and Kolter, "AP-Perf: Incorporating Generic Performance Metrics in Differentiable Learning",
AISTATS 2020: a distribution over {0, 1}^n matters to a metric of the confusion matrix
only by its marginals Q[i, k], the probability that sample i is positive and exactly k samples are
(k = 1 ... n). Those that belong to a distribution are the ones with

    0 <= Q[i, k] <= r[k] = sum_i Q[i, k] / k,    sum_k r[k] <= 1,

where r[k] is the probability of k positives, and the rest to 1 that of none. The projection below
is an algorithm of its own, a finite Newton iteration, not the published one.

Arrays hold B problems at once, as (n, B, n): sample, problem, k.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MOST_STEPS = 200  # Newton needs about ten
MOST_SAMPLES = 127  # entries are counted in bytes


class Pieces(NamedTuple):
    """The linear pieces on which a projection ended: where the next, similar one may start."""

    capped: NDArray[np.int64]  # (B, n): entries at the upper limit r[k]
    positive: NDArray[np.int64]  # (B, n): entries above 0
    multiplier: Array  # (B, 1): of sum_k r[k] <= 1


def project(points: Array, start: Pieces | None = None) -> tuple[Array, Pieces]:
    """The nearest points (n, B, n) of the polytope.

    Let a be the column k of a point, λ the multiplier of sum r <= 1. The nearest column is
    clip(a + t, 0, r) for a t. With g(t) = sum_i max(a_i + t, 0) - k t, which is convex, the
    conditions of optimality say that g takes the same value v at t and at t - r, and that
    λ = v - k r. So r is the width of a sublevel set of g, concave in v, and r as a function of λ
    is convex and decreasing, linear where the numbers of capped and positive entries do not change.
    Newton's method on sum r(λ) = 1 hence approaches λ from below, wherever it started, and ends on
    the right pieces after finitely many steps.
    """
    n, problems, _ = points.shape
    if n > MOST_SAMPLES:
        raise ValueError(f"a game holds at most {MOST_SAMPLES} samples, got {n}")
    k = np.arange(1, n + 1)
    rank = k[:, None, None]
    a = -np.sort(-points, axis=0)
    sums = np.zeros((n + 1, problems, n))
    np.cumsum(a, axis=0, out=sums[1:])
    level = sums[1:] + (k - rank) * a  # g(-a_i), least around i = k
    # Ranks k and k + 1 lie at the minimum of g themselves, whatever rounding says.
    head = np.where(rank < k, level, -np.inf)
    tail = np.where(rank > k + 1, level, np.inf)
    kth = np.diagonal(a, axis1=0, axis2=2)
    after = np.full((problems, n), -np.inf)
    after[:, :-1] = np.diagonal(a, offset=-1, axis1=0, axis2=2)
    flat = kth - after  # up to this r, g is at its minimum: exactly k entries are positive
    column, flat_sums = np.arange(problems * n).reshape(problems, n), sums.ravel()
    if start is None:
        shape = problems, n
        start = Pieces(np.full(shape, k - 1), np.full(shape, k), np.zeros((problems, 1)))
    capped, positive, multiplier = start
    r, rounding = np.full((problems, n), np.nan), 1e-13 * (1 + np.abs(points).max())
    for _ in range(MOST_STEPS):
        width, above = positive - capped, positive - k
        at_capped = flat_sums.take(capped * column.size + column)
        at_positive = flat_sums.take(positive * column.size + column)
        # On this piece v = base + slope r, hence r = (base - λ) / drop.
        base = (at_positive * (width - above) + at_capped * above) / width
        slope = above * (width - above) / width
        drop = k - slope
        weight = (base > multiplier) / drop
        total = weight.sum(1, keepdims=True)
        excess = (weight * base).sum(1, keepdims=True) - 1
        multiplier = np.maximum(excess / np.where(total > 0, total, np.inf), 0)
        former, r = r, np.maximum(base - multiplier, 0) / drop
        value = base + slope * r
        # Not the numbers of entries: at a border of pieces rounding may swap them for ever.
        if (np.abs(r - former) <= rounding).all():
            break
        on_flat = r <= flat
        capped = np.where(on_flat, k - 1, _count(head > value))
        positive = np.where(on_flat, k, k + 1 + _count(tail <= value))
    else:
        raise RuntimeError(f"the projection did not end after {MOST_STEPS} steps")
    t = np.where(above > 0, (value - at_positive) / np.where(above > 0, above, 1), r - kth)
    return np.minimum(np.maximum(points + t, 0), r), Pieces(capped, positive, multiplier)


def _count(of: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many are true along the first axis; many times as fast as sum(0)."""
    return np.add.reduce(of.view(np.int8), axis=0, dtype=np.int8).astype(np.int64)
