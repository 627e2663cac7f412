"""Which of softcm's times in one run are longer than in another, beyond noise."""

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

from .cases import Case
from .contenders import OWN

JUDGED = (*OWN, "kernels")
# What no change of softcm can slow down: it shows how the machine differs between the runs.
YARDSTICKS = ("floor", "cross-entropy", "cross-entropy of logits")


class Slower(NamedTuple):
    case: Case
    contender: str
    before: float
    after: float
    ratio: float  # with the machine's own change taken out


def _rows(run: dict[str, Any]) -> dict[tuple[Case, str], dict[str, Any]]:
    return {(Case(**row["case"]), row["contender"]): row for row in run["times"]}


def drift(before: dict[str, Any], after: dict[str, Any]) -> float:
    """How many times longer the yardsticks took in the second run; 1 where there are none."""
    old, new = _rows(before), _rows(after)
    ratios = [
        new[key]["median"] / old[key]["median"]
        for key in old.keys() & new.keys()
        if key[1] in YARDSTICKS
    ]
    return statistics.median(ratios) if ratios else 1.0


def slower(
    before: dict[str, Any], after: dict[str, Any], tolerance: float = 0.1
) -> Iterator[Slower]:
    """Cases whose median grew by more than the tolerance, and whose quartiles do not overlap."""
    old, new, change = _rows(before), _rows(after), drift(before, after)
    for key, row in new.items():
        if key not in old or key[1] not in JUDGED:
            continue
        ratio = row["median"] / old[key]["median"] / change
        apart = row["low"] / change > old[key]["high"]
        if ratio > 1 + tolerance and apart:
            yield Slower(*key, old[key]["median"], row["median"], ratio)
