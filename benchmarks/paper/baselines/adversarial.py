"""The adversarial baseline for F1: a zero-sum game over marginals for every small batch.

Fathony and Kolter, "AP-Perf: Incorporating Generic Performance Metrics in Differentiable Learning",
AISTATS 2020; the game is that of Wang, Xing, Asif and Ziebart, "Adversarial Prediction Games for
Multivariate Losses", NeurIPS 2015. Written from the mathematics of these papers.

A predictor draws labels to make F1 large, an adversary draws the labels of evaluation to make it
small, but pays for leaving the potentials f of the network (raw outputs, positive for a positive):

    value(f) = min_Q max_P E[F1(P, Q)] - sum_i f_i Pr_Q(i is positive)
    loss(f, y) = 1 - value(f) - sum_i f_i y_i,    dloss/df_i = Pr_Q*(i is positive) - y_i

(the 1 makes the loss 0 at best, and is not in the papers). F1 of two vectors without a positive is
1. By the marginals P, Q of marginals.py, with W[k, l] = 2 / (k + l) and the probabilities
p0 = 1 - sum_ik P[i, k] / k, q0 of no positive,

    E[F1(P, Q)] = sum_ikl P[i, k] W[k, l] Q[i, l] + p0 q0

The saddle point is found by ADMM on Q = X, Z = L(X), L(Q) being the gradient for P, as in the first
paper; the steps are worked out anew. They cost O(n^3), so batches are of about 20.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .marginals import Array, project


class Steps(NamedTuple):
    """Of ADMM: penalties of Q = X and of Z = L(X), and over-relaxation.

    Of those tried, with these the bounds of the value were closest after 60 steps for n = 20 and
    potentials of 0.05 to 4. Games of 2 to 4 samples end sooner with (1, 1, 1).
    """

    penalty_q: float = 3.0
    penalty_z: float = 0.5
    relaxation: float = 1.6


STEPS = Steps()


class Saddle(NamedTuple):
    """Approximate saddle points of B games."""

    upper: Array  # (B,): what the predictor can reach against Q
    lower: Array  # (B,): what the adversary can reach against P; the value lies between the two
    q: Array  # (n, B): probability under Q that a sample is positive


class Game(NamedTuple):
    """What depends on the size of the batch alone."""

    W: Array  # (n, n)
    d: Array  # (n,): 1 / k
    # Inverses of penalty_q I + penalty_z L0^2 on the two subspaces that L0 keeps.
    centred: Array  # (n, n)
    constant: Array  # (n, n)

    def linear(self, X: Array) -> Array:
        """L0(X): X W, and <X, d> in units of d added to each sample."""
        return X @ self.W + self.d * (X @ self.d).sum(0)[..., None]

    def solve(self, X: Array) -> Array:
        """L0 maps what is the same for all samples, and what averages to 0, to such again."""
        mean = X.mean(0)
        return (X - mean) @ self.centred + mean @ self.constant


@cache
def game(n: int, steps: Steps) -> Game:
    k = np.arange(1, n + 1)
    W, d = 2.0 / (k[:, None] + k), 1.0 / k
    V = W + n * np.outer(d, d)
    q, z, _ = steps
    inverses = (np.linalg.inv(q * np.eye(n) + z * A @ A) for A in (W, V))
    return Game(W, d, *inverses)


def solve(f: Array, iterations: int = 100, tolerance: float = 1e-3, steps: Steps = STEPS) -> Saddle:
    """The saddle points of the games with potentials f (n, B), n at most 127.

    Stops when upper - lower <= tolerance in each game, or after so many iterations. Potentials that
    are not finite are a ValueError.
    """
    if not np.isfinite(f).all():
        raise ValueError("f must hold finite numbers: the network has diverged")
    n, games = f.shape
    rules = game(n, steps)
    penalty_q, penalty_z, relaxation = steps
    price = rules.d + f[..., None]  # (n, B, n), what Q gains for itself
    X = np.zeros((n, games, n))
    U, V = np.zeros_like(X), np.zeros_like(X)
    image = rules.linear(X) - rules.d  # L(X)
    of_q = of_p = None
    for step in range(1, iterations + 1):
        Q, of_q = project(X + V + price / penalty_q, of_q)
        # Moreau: what the proximal step of P's best response takes away is P itself.
        P, of_p = project(penalty_z * (image + U), of_p)
        if step % 10 == 0 or step == iterations:
            saddle = bounds(rules, f, P, Q)
            if (saddle.upper - saddle.lower <= tolerance).all():
                break
        Z = image + relaxation * (U - P / penalty_z)
        mixed = X + relaxation * (Q - X)
        of_z = rules.linear(penalty_z * (Z - U + rules.d))
        X = rules.solve(of_z + penalty_q * (mixed - V))
        image = rules.linear(X) - rules.d
        U += image - Z
        V += X - mixed
    return saddle


def bounds(rules: Game, f: Array, P: Array, Q: Array) -> Saddle:
    """Best responses to each strategy: a vertex of the polytope is k samples, or none."""
    q0, p0 = 1 - (Q @ rules.d).sum(0), 1 - (P @ rules.d).sum(0)  # (B,)
    q = Q.sum(2)
    against_q = _best(rules.linear(Q) - rules.d) + q0 - (f * q).sum(0)
    against_p = -_best(rules.d + f[..., None] - rules.linear(P)) + p0
    return Saddle(against_q, against_p, q)


def _best(gain: Array) -> Array:
    """The largest <gain, vertex>, (B,): of column k the sum of its k largest entries; or 0."""
    sums = np.cumsum(-np.sort(-gain, axis=0), axis=0)
    return np.maximum(np.diagonal(sums, axis1=0, axis2=2).max(-1), 0)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f, y, iterations, tolerance, steps):
        saddle = solve(f.double().numpy(force=True), iterations, tolerance, steps)
        q = torch.from_numpy(saddle.q).to(f)
        ctx.save_for_backward(q - y)
        return 1 - torch.from_numpy(saddle.upper).to(f) - (f * y).sum(0)

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0] * grad, None, None, None, None


def adversarial_loss(
    f: Tensor,
    y: Tensor,
    *,
    iterations: int = 60,
    tolerance: float = 0.02,
    steps: Steps = STEPS,
) -> Tensor:
    """The loss (S,) of potentials f and labels y of shape (N, S), one column a seed.

    Potentials are raw outputs of the network; a positive one is a positive. N is the size of a
    small batch (the papers: 20 to 25). The gradient is not divided by N. After 60 iterations the
    bounds of the value are 0.01 to 0.05 apart for N = 20, and the probabilities off by 0.01.
    """
    return _Loss.apply(f, y.to(f), iterations, tolerance, steps)
