"""What is timed: losses, shapes, dtypes, threads, and the parts of a step."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

import softcm

Loss = Callable[..., Tensor]


def macro_f1(cm: softcm.ConfusionMatrix) -> Tensor:
    """A metric of the user's own, which no kernel knows: the mean F1 of both labels."""
    of_positives = 2 * cm.tp / (2 * cm.tp + cm.fn + cm.fp)
    return (of_positives + 2 * cm.tn / (2 * cm.tn + cm.fn + cm.fp)) / 2


LOSSES: dict[str, Loss] = {
    "f1": softcm.f1_loss,
    "fbeta": softcm.fbeta_loss,
    "accuracy": softcm.accuracy_loss,
    "precision": softcm.precision_loss,
    "recall": softcm.recall_loss,
    "specificity": softcm.specificity_loss,
    "jaccard": softcm.jaccard_loss,
    "tversky": partial(softcm.tversky_loss, alpha=0.3, beta=0.7),
    "cost": partial(softcm.cost_loss, costs={"fn": 50.0, "fp": 1.0}),
    "balanced_accuracy": softcm.balanced_accuracy_loss,
    "gmean": softcm.gmean_loss,
    "informedness": softcm.informedness_loss,
    "mcc": softcm.mcc_loss,
    "kappa": softcm.kappa_loss,
    "auroc": softcm.auroc_loss,
    "auprc": softcm.auprc_loss,
    "own": partial(softcm.confusion_loss, metric=macro_f1),
}
SIZES = (128, 1 << 10, 1 << 16, 1 << 20, 1 << 24)
CLASSES = (1, 20)
THRESHOLDS = (1, 9, 99, 999)
DTYPES = ("float32", "bfloat16")
PARTS = ("forward", "backward", "both")
RANKING = ("auroc", "auprc")
MOST_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Case:
    """One group of contenders: they all get the same batch."""

    loss: str
    size: int
    classes: int = 1
    thresholds: int = 1
    dtype: str = "float32"
    part: str = "both"
    threads: int = 1
    device: str = "cpu"

    def __str__(self) -> str:
        shape = f"N={self.size} C={self.classes} T={self.thresholds}"
        where = f"threads={self.threads}" if self.device == "cpu" else self.device
        return f"{self.loss} {shape} {self.dtype} {self.part} {where}"

    @property
    def elements(self) -> int:
        return self.size * self.classes

    @property
    def threshold(self) -> float | tuple[float, ...]:
        return grid(self.thresholds)

    def record(self) -> dict[str, Any]:
        return asdict(self)


def grid(count: int) -> float | tuple[float, ...]:
    """So many thresholds, evenly spaced; one is 1/2."""
    return 0.5 if count == 1 else tuple(i / (count + 1) for i in range(1, count + 1))


def batch(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, their probabilities, and labels with 5% positives (but one at least)."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.size,) if case.classes == 1 else (case.size, case.classes)
    logits = torch.randn(shape, generator=generator)
    target = (torch.rand(shape, generator=generator) < 0.05).float()
    target[0] = 1.0
    to = {"dtype": getattr(torch, case.dtype), "device": case.device}
    return logits.to(**to), logits.sigmoid().to(**to), target.to(**to)


def on_device(case: Case, device: str) -> Case:
    return replace(case, device=device)


def all_cases(
    losses: tuple[str, ...],
    sizes: tuple[int, ...],
    classes: tuple[int, ...],
    thresholds: tuple[int, ...],
    dtypes: tuple[str, ...],
    parts: tuple[str, ...],
    threads: tuple[int, ...],
) -> Iterator[Case]:
    """Every combination whose input has at most 2^24 elements."""
    for values in product(losses, sizes, classes, thresholds, dtypes, parts, threads):
        case = Case(*values)
        if case.elements <= MOST_ELEMENTS:
            yield case


def default_cases(threads: tuple[int, ...]) -> list[Case]:
    """Every loss at three sizes, F1 at every shape, and its parts, dtypes and threads.

    The first of ``threads`` is all of them.
    """
    every = threads[:1]
    family = [
        Case(loss, size, thresholds=9 if loss in RANKING else 1, threads=every[0])
        for loss in LOSSES
        for size in (1 << 10, 1 << 20, 1 << 24)
    ]
    shapes = all_cases(("f1",), SIZES, CLASSES, THRESHOLDS, DTYPES[:1], ("both",), every)
    parts = all_cases(("f1",), (1 << 10, 1 << 20), (1,), (1,), DTYPES, PARTS, threads)
    return list(dict.fromkeys((*family, *shapes, *parts)))


def quick_cases(threads: tuple[int, ...]) -> list[Case]:
    """A few small ones, to see that everything works."""
    return list(
        all_cases(("f1", "mcc"), (128, 1 << 10), (1,), (1, 99), DTYPES[:1], ("both",), threads[:1])
    )


def full_cases(threads: tuple[int, ...]) -> list[Case]:
    return list(all_cases(tuple(LOSSES), SIZES, CLASSES, THRESHOLDS, DTYPES, PARTS, threads))
