"""The Wilcoxon-Mann-Whitney statistic made differentiable, the paper's baseline for AUROC.

Yan, Dodier, Mozer and Wolniewicz, "Optimizing Classifier Performance via an Approximation to the
Wilcoxon-Mann-Whitney Statistic", ICML 2003: a positive with output x and a negative with output z
cost

    R(x, z) = (gamma - (x - z))^power  if x - z < gamma,  else 0,

and the loss is the sum over all pairs, here their mean. They recommend a gamma of 0.1 to 0.7 and a
power of 2 or 3.
"""

from math import comb

import torch
from torch import Tensor


def wmw_loss(p: Tensor, y: Tensor, *, gamma: float = 0.3, power: int = 2) -> Tensor:
    """The loss (S,) of p and y (N, S); 0 for a seed without a positive or without a negative.

    Exact in O(N log N): with z + gamma and x sorted into one list, a positive pays for the
    negatives above it, and (z + gamma - x)^power is a polynomial in x whose coefficients are sums
    of powers of z + gamma.
    """
    positive = y > 0
    # In float64: sums of powers of many numbers are subtracted from each other.
    x = torch.where(positive, p, p + gamma).double()
    order = x.argsort(dim=0, descending=True)
    x, positive = x.gather(0, order), positive.gather(0, order)
    negative = (~positive).double()
    loss = torch.zeros_like(x[0])
    for m in range(power + 1):
        above = (negative * x**m).cumsum(dim=0)
        loss = loss + (positive * comb(power, m) * above * (-x) ** (power - m)).sum(dim=0)
    pairs = positive.sum(dim=0) * negative.sum(dim=0)
    return (loss / pairs.clamp(min=1)).to(p.dtype)
