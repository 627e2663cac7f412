"""Weights of the classes, and repeated positives: Supplement 5.3.

King and Zeng, "Logistic Regression in Rare Events Data", Political Analysis 9(2), 2001, weigh the
likelihood of each class; the paper does so by the inverse of its share. The square root of the
ratio of the classes is a compromise between that and none. Random oversampling is described in He
and Garcia, "Learning from Imbalanced Data", TKDE 21(9), 2009, Section 3.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


class ClassWeights(NamedTuple):
    negative: Tensor  # (S,)
    positive: Tensor  # (S,)

    def of(self, y: Tensor) -> Tensor:
        """The weight of each sample, in the shape of y (N, S)."""
        return torch.where(y > 0, self.positive, self.negative)


def class_weights(y: Tensor) -> ClassWeights:
    """W_n = N / (2 |n|) and W_p = N / (2 |p|), (S,), of the training labels y (N, S).

    Every sample has a weight of 1 in the mean, and both classes weigh the same.
    """
    share = y.mean(dim=0)
    if not ((share > 0) & (share < 1)).all():
        raise ValueError("y must hold both classes for every seed")
    return ClassWeights(0.5 / (1 - share), 0.5 / share)


def weighted_bce(z: Tensor, y: Tensor, *, weights: ClassWeights) -> Tensor:
    """Cross-entropy (S,) of logits z and labels y (N, S), with the weight of each one's class."""
    return binary_cross_entropy_with_logits(z, y, weights.of(y), reduction="none").mean(dim=0)


def sqrt_ratio(y: Tensor) -> ClassWeights:
    """A positive weighs the root of the ratio |n| / |p| of the training labels, a negative 1."""
    weights = class_weights(y)
    ratio = weights.positive / weights.negative
    return ClassWeights(torch.ones_like(ratio), ratio.sqrt())


def oversample(y: Tensor, seed: int) -> Tensor:
    """Rows of the training part (N,): each once, and positives again until the classes are equal.

    The further positives are drawn with replacement. Where positives are the majority, the
    negatives are repeated.
    """
    positives, negatives = (y > 0).nonzero().squeeze(1), (y <= 0).nonzero().squeeze(1)
    few, many = sorted((positives, negatives), key=len)
    if len(few) == 0:
        raise ValueError("y must hold both classes")
    generator = torch.Generator().manual_seed(seed)
    further = torch.randint(len(few), (len(many) - len(few),), generator=generator)
    return torch.cat([torch.arange(len(y)), few[further]])
