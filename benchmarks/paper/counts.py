"""Tables that need no trained classifier: S2, S5 and S7."""

import torch
from torch import Tensor

import softcm
from softcm.demo_data import Data

from . import losses, models, training
from .baselines.weighting import class_weights
from .data import split_seeds
from .models import DROPOUT
from .tables import BATCH_SIZES


def count(data: Data) -> dict[str, float]:
    """Tables S5 and S7: weights of the classes, and rows before and after oversampling.

    Of the training part, whose weights a loss takes; all splits have the same numbers.
    """
    weights = class_weights(split_seeds(data, range(1)).training.y.T)
    oversampled = split_seeds(data, range(1), balanced=True).training.y
    positives, repeated = data.y.sum().item(), oversampled.sum().item()
    rows, after = len(data.y), oversampled.numel()
    return {
        "weight_negative": round(weights.negative.item(), 2),
        "weight_positive": round(weights.positive.item(), 2),
        "rows": rows,
        "positives": positives,
        "positive_percent": round(100 * positives / rows, 2),
        "oversampled_rows": after,
        "oversampled_positives": repeated,
        "oversampled_positive_percent": round(100 * repeated / after, 2),
    }


def batch_differences(
    data: Data, trials: int, epochs: int, tick: training.Tick
) -> dict[int, list[float]]:
    """Table S2: F1 of each training batch less that of all data, with the same weights.

    Hard F1 at threshold 0.5, in evaluation; the absolute mean and the deviation over all steps of
    all trials, by batch size. The paper does not say on what is trained: f1_linear here.
    """
    parts = split_seeds(data, range(trials))
    X, y = (torch.cat([getattr(part, key) for part in parts], dim=1) for key in ("X", "y"))
    loss = losses.RECIPES["f1_linear"].make(parts.training.y)
    found = {}
    for size in BATCH_SIZES:
        watch = _Watch(X, y)
        networks = models.FeedForward(X.shape[-1], models.generators(range(trials)), DROPOUT)
        schedule = training.Schedule(epochs, epochs, size)
        training.train(networks, parts, loss, schedule, tick, watch)
        differences = torch.stack(watch.differences)
        found[size] = [abs(differences.mean().item()), differences.std().item()]
    return found


class _Watch:
    """Remembers F1 of each batch less F1 of all data, before each step."""

    def __init__(self, X: Tensor, y: Tensor) -> None:
        self.X, self.y = X, y
        self.differences: list[Tensor] = []  # (S,)

    def __call__(self, networks: models.Networks, batch: Tensor, labels: Tensor) -> None:
        of_batch = _f1(training.logits(networks, batch), labels)
        self.differences.append(of_batch - _f1(training.logits(networks, self.X), self.y.T))


def _f1(z: Tensor, y: Tensor) -> Tensor:
    return softcm.metrics.f1(softcm.confusion_matrix(z, y, from_logits=True))
