"""What networks are trained on, by name; of logits and labels (N, S), one column for each seed."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import softcm

from .baselines.adversarial import adversarial_loss
from .training import Loss

# Section 5: k = 10, delta = 0.1, threshold 0.5; the areas take the thresholds of the judgement.
HEAVISIDES = {"linear": softcm.Linear(delta=0.1), "sigmoid": softcm.Sigmoid(k=10.0)}
METRICS: dict[str, Callable[..., Tensor]] = {
    "accuracy": softcm.accuracy_loss,
    "f1": softcm.f1_loss,
    "f2": partial(softcm.fbeta_loss, beta=2.0),
    "f3": partial(softcm.fbeta_loss, beta=3.0),
    "auroc": softcm.auroc_loss,
}
# Beyond the paper; see the README.
OPTIONS: dict[str, dict[str, Any]] = {
    "gated": {"membership": "gated"},
    "bce": {"bce_weight": 0.3},
    "gated_bce": {"membership": "gated", "bce_weight": 0.3},
}


class Recipe(NamedTuple):
    """How to make a loss for the labels (S, N) of the training part."""

    make: Callable[[Tensor], Loss]
    raw: bool = False  # as published, its outputs before the sigmoid meet the thresholds
    rows: int | None = None  # that the loss takes at most, of the validation part too


def _soft(metric: str, heaviside: str, **options: Any) -> Recipe:
    loss = partial(
        METRICS[metric],
        heaviside=HEAVISIDES[heaviside],
        from_logits=True,
        average="none",
        **options,
    )
    return Recipe(lambda labels: loss)


def _weighted_soft(metric: str, heaviside: str) -> Recipe:
    def make(labels: Tensor) -> Loss:
        negative, positive = class_weights(labels)

        def loss(z: Tensor, y: Tensor) -> Tensor:
            weight = torch.where(y > 0, positive, negative)
            options = {"heaviside": HEAVISIDES[heaviside], "from_logits": True, "average": "none"}
            return METRICS[metric](z, y, weight=weight, **options)

        return loss

    return Recipe(make)


def class_weights(labels: Tensor) -> tuple[float, float]:
    """Supplement 5.3: of negatives and of positives, so that both classes weigh the same."""
    positives = labels.mean().item()
    return 1 / (2 * (1 - positives)), 1 / (2 * positives)


def bce(z: Tensor, y: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(z, y, reduction="none").mean(dim=0)


def weighted_bce(labels: Tensor) -> Loss:
    negative, positive = class_weights(labels)

    def loss(z: Tensor, y: Tensor) -> Tensor:
        weight = torch.where(y > 0, positive, negative)
        return binary_cross_entropy_with_logits(z, y, weight, reduction="none").mean(dim=0)

    return loss


def sqrt_weighted_bce(labels: Tensor) -> Loss:
    """The positives weigh as much more as the root of the ratio of the classes."""
    share = labels.mean()
    pos_weight = ((1 - share) / share).sqrt()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(z, y, pos_weight=pos_weight, reduction="none").mean(
            dim=0
        )

    return loss


# The training part of these holds its positives so often that the classes are equal.
OVERSAMPLED = "_oversampled"
# Section 5: the batch size for the adversarial loss, whose solver takes cubic time.
ADVERSARIAL_ROWS = 20
# Scores that are no logits.
MARGINS = ("svm_error", "svm_f1", "svm_auroc")


def _recipes() -> dict[str, Recipe]:
    found = {"bce": Recipe(lambda labels: bce, raw=True)}
    found["bce_sqrt"] = Recipe(sqrt_weighted_bce, raw=True)
    found["bce_weighted"] = Recipe(weighted_bce, raw=True)
    # Its potentials are raw outputs, of which a positive one is a positive.
    found["f1_adversarial"] = Recipe(
        lambda labels: adversarial_loss, raw=True, rows=ADVERSARIAL_ROWS
    )
    for heaviside in HEAVISIDES:
        for metric in METRICS:
            found[f"{metric}_{heaviside}"] = _soft(metric, heaviside)
        for metric in ("accuracy", "f1"):
            found[f"{metric}_{heaviside}_weighted"] = _weighted_soft(metric, heaviside)
        for name, options in OPTIONS.items():
            found[f"f1_{heaviside}_{name}"] = _soft("f1", heaviside, **options)
    for name in ("bce", "accuracy_linear", "accuracy_sigmoid", "f1_linear", "f1_sigmoid"):
        found[f"{name}{OVERSAMPLED}"] = found[name]
    return found


RECIPES = _recipes()
