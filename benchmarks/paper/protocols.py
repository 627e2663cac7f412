"""Two ways of judging the same trained classifier.

*As published*: the mean of each metric over the thresholds 0.1, 0.2, ..., 0.9 (Section 5.2). The
AUROC is that of the thresholded predictions, which is balanced accuracy: the published figures of
losses that predict one class alone are 0.50, and none comes near what the same data and network
reach as a ranking. The paper does not say what is compared with the thresholds where a network was
trained on cross-entropy; `raw` does it with the outputs before the sigmoid, as a network trained on
logits gives them, `published` with probabilities.

*Corrected*: probabilities; thresholds 0.5 and the one that is best on the validation part, for
every loss; AUROC and average precision of the ranking; the Brier score and a reliability curve.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import softcm
from softcm import metrics
from softcm.thresholds import best, closest_to_half

THRESHOLDS = tuple(i / 10 for i in range(1, 10))
BINS = 10
TUNED = ("accuracy", "f1")  # what thresholds are chosen for
DIGITS = 2  # of the values that Supplement 5.2 compares
# By the names of published.json.
HARD = {
    "accuracy": metrics.accuracy,
    "f1": metrics.f1,
    "auroc": metrics.balanced_accuracy,
    "precision": metrics.precision,
    "recall": metrics.recall,
}

Judged = dict[str, Any]


def judge(
    validation: Tensor, validation_labels: Tensor, test: Tensor, labels: Tensor, margins: bool
) -> list[Judged]:
    """Everything that the tables need, for each seed.

    Logits and labels are (N, S). ``margins`` says that the scores, as of a support vector machine,
    are no logits: then 0 is the only threshold, nothing is said of calibration, and what needs
    thresholds between takes the sigmoid of the scores.
    """
    each = zip(validation.T, validation_labels.T, test.T, labels.T, strict=True)
    return [_judge(*(x.double() for x in seed), margins) for seed in each]


def _judge(
    z_validation: Tensor, y_validation: Tensor, z: Tensor, y: Tensor, margins: bool
) -> Judged:
    # In float64, where different logits hardly ever become one probability.
    p_validation, p = torch.sigmoid(z_validation), torch.sigmoid(z)
    grid = torch.tensor(THRESHOLDS, dtype=torch.float64)
    cm = softcm.confusion_matrix(p, y, threshold=THRESHOLDS)
    cm_validation = softcm.confusion_matrix(p_validation, y_validation, threshold=THRESHOLDS)
    if margins:
        at_zero = softcm.confusion_matrix(p, y, threshold=0.5)
        published = {name: metric(at_zero).item() for name, metric in HARD.items()}
        raw = published
    else:
        published = {name: metric(cm).mean().item() for name, metric in HARD.items()}
        at_raw = softcm.confusion_matrix(p, y, threshold=torch.sigmoid(grid))
        raw = {name: metric(at_raw).mean().item() for name, metric in HARD.items()}
    return {
        "published": published,
        "raw": raw,
        "corrected": _corrected(p_validation, y_validation, p, y, margins),
        "curve": {name: metric(cm).tolist() for name, metric in HARD.items()},
        "validation_curve": {name: HARD[name](cm_validation).tolist() for name in TUNED},
        "reliability": [] if margins else reliability(p, y),
    }


def _corrected(
    p_validation: Tensor, y_validation: Tensor, p: Tensor, y: Tensor, margins: bool
) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    half = softcm.confusion_matrix(p, y, threshold=0.5)
    found = {
        "accuracy": metrics.accuracy(half).item(),
        "f1": metrics.f1(half).item(),
        "positives": ((half.tp + half.fp) / len(p)).item(),
        "auroc": float(roc_auc_score(y, p)),
        "average_precision": float(average_precision_score(y, p)),
    }
    for name in TUNED:
        tuned = softcm.tune_threshold(p_validation, y_validation, metric=name)
        cm = softcm.confusion_matrix(p, y, threshold=tuned.threshold)
        found[f"{name}_tuned"] = HARD[name](cm).item()
        found[f"{name}_threshold"] = tuned.threshold.item()
    if not margins:
        found["brier"] = (p - y).square().mean().item()
    return found


def plug_in(curves: Sequence[Sequence[float]]) -> tuple[int, int]:
    """Supplement 5.2: the place of T_max among the thresholds, and |T_max|.

    ``curves`` holds a metric on validation data by threshold, for each trial. The paper gives one
    threshold and one count for ten trials, so they are those of the mean, cut off to two decimals;
    T_max is the closest to 0.5 of the thresholds that are equally good.
    """
    means = torch.tensor(curves, dtype=torch.float64).mean(dim=0)
    tied = torch.tensor(THRESHOLDS, dtype=torch.float64)[best(means, DIGITS)]
    return THRESHOLDS.index(closest_to_half(tied).item()), len(tied)


def reliability(p: Tensor, y: Tensor) -> list[list[float]]:
    """For each of ten bins of equal width: its size, mean probability and share of positives."""
    bins = (p * BINS).long().clamp(max=BINS - 1)
    size = torch.bincount(bins, minlength=BINS).double()
    sums = (torch.bincount(bins, weights=x, minlength=BINS) for x in (p, y))
    columns = [size, *(x / size.clamp(min=1) for x in sums)]
    return torch.stack(columns, dim=1).tolist()
