"""What networks are trained on, by name; of logits and labels (N, S), one column for each seed."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import softcm

from .baselines import plug_in, svmperf, weighting
from .baselines.adversarial import adversarial_loss
from .baselines.dice import dice_loss
from .baselines.focal import focal_loss
from .baselines.wmw import wmw_loss
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
GATED: dict[str, Any] = {"membership": "gated"}
WITH_BCE: dict[str, Any] = {"ce_weight": 0.3}


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
        loss, weights = _soft(metric, heaviside).make(labels), _class_weights(labels)
        return lambda z, y: loss(z, y, weight=weights.of(y))

    return Recipe(make)


def _class_weights(labels: Tensor) -> weighting.ClassWeights:
    # Splits are stratified, so that all seeds have the same; of one, they fit however many train.
    return weighting.class_weights(labels[:1].T)


def _sqrt_weighted(labels: Tensor) -> Loss:
    return partial(weighting.weighted_bce, weights=weighting.sqrt_ratio(labels[:1].T))


def bce(z: Tensor, y: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(z, y, reduction="none").mean(dim=0)


# The training part of these holds its positives so often that the classes are equal.
OVERSAMPLED = "_oversampled"
WEIGHTED = "_weighted"
# Section 5: the batch size for the adversarial loss, whose solver takes cubic time.
ADVERSARIAL_ROWS = 20


def of_logits(loss: Loss, **options: Any) -> Recipe:
    return Recipe(lambda labels: loss, **options)


def of_probabilities(loss: Loss) -> Recipe:
    return Recipe(lambda labels: lambda z, y: loss(torch.sigmoid(z), y))


def _recipes() -> dict[str, Recipe]:
    found = {
        "bce": of_logits(bce, raw=True),
        "bce_sqrt": Recipe(_sqrt_weighted, raw=True),
        f"bce{WEIGHTED}": Recipe(
            lambda labels: partial(weighting.weighted_bce, weights=_class_weights(labels)), raw=True
        ),
        "focal": of_logits(focal_loss, raw=True),
        "auroc_wmw": of_probabilities(wmw_loss),
        # The paper's "Dice" is of raw outputs, its "Dice^s" of their sigmoid.
        "dice": of_logits(dice_loss, raw=True),
        "dice_sigmoid": of_probabilities(dice_loss),
        # Its potentials are raw outputs, of which a positive one is a positive.
        "f1_adversarial": of_logits(adversarial_loss, raw=True, rows=ADVERSARIAL_ROWS),
    }
    for heaviside in HEAVISIDES:
        for metric in METRICS:
            found[f"{metric}_{heaviside}"] = _soft(metric, heaviside)
        for metric in ("accuracy", "f1"):
            found[f"{metric}_{heaviside}{WEIGHTED}"] = _weighted_soft(metric, heaviside)
        found[f"f1_{heaviside}_bce"] = _soft("f1", heaviside, **WITH_BCE)
        found[f"f1_{heaviside}_gated"] = _soft("f1", heaviside, **GATED)
    found["f1_sigmoid_gated_bce"] = _soft("f1", "sigmoid", **GATED, **WITH_BCE)
    for metric in ("f2", "f3"):
        found[f"{metric}_linear_gated"] = _soft(metric, "linear", **GATED)
    for name in ("bce", "accuracy_linear", "accuracy_sigmoid", "f1_linear", "f1_sigmoid"):
        found[f"{name}{OVERSAMPLED}"] = found[name]
    return found


RECIPES = _recipes()

# Methods that are no networks: their scores have 0 between the classes, and are no logits.
SOLVERS = {
    "eum": plug_in.fit,
    **{f"svm_{measure}": partial(svmperf.fit, measure=measure) for measure in svmperf.MEASURES},
}
ALL_ROWS = 0


def weighs_classes(loss: str) -> bool:
    """Whether it takes the classes' ratio in the training part, which is one for all seeds."""
    return loss == "bce_sqrt" or loss.endswith((OVERSAMPLED, WEIGHTED))


def rows_at_once(loss: str, batch_size: int) -> int:
    """The size of the batches that a loss takes: a few have their own, a solver has none."""
    return ALL_ROWS if loss in SOLVERS else RECIPES[loss].rows or batch_size
