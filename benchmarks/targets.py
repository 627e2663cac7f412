"""The ratios aimed at, and what a run has to say of them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from .cases import RANKING, Case

SMALL, MIDDLE, LARGE = 1 << 10, 1 << 20, 1 << 24
SIZES = (SMALL, MIDDLE, LARGE)


class Target(NamedTuple):
    """That a ratio of medians is at most so much."""

    name: str
    over: str
    below: str
    size: int
    aim: float | None


STEP = (
    Target("step / cross-entropy", "native", "cross-entropy", SMALL, 0.75),
    Target("step / cross-entropy", "native", "cross-entropy", MIDDLE, None),
    Target("step / cross-entropy", "native", "cross-entropy", LARGE, None),
    Target("step / reference", "native", "reference", SMALL, 0.25),
    Target("step / reference", "native", "reference", MIDDLE, 0.01),
    Target("step / compiled reference", "native", "compiled", MIDDLE, 1 / 30),
    Target("step / floor", "native", "floor", MIDDLE, 2.5),
    Target("step / floor", "native", "floor", LARGE, 2.0),
    Target("kernels / floor", "kernels", "floor", MIDDLE, 1.5),
    Target("kernels / floor", "kernels", "floor", LARGE, 1.5),
)
THRESHOLDS = (
    Target("99 / 1 thresholds", "linear 99", "linear 1", MIDDLE, 15),
    Target("99 thresholds / direct", "linear 99", "direct 99", MIDDLE, 1 / 3),
    Target("999 / 99 thresholds", "linear 999", "linear 99", MIDDLE, 1.3),
    Target("skewed / uniform, 99", "skewed 99", "linear 99", MIDDLE, 1.3),
    Target("table 9 / linear 1", "table 9", "linear 1", MIDDLE, 8),
    Target("table 9 / linear 1", "table 9", "linear 1", LARGE, 3),
    Target("table 999 / table 1", "table 999", "table 1", MIDDLE, 1.1),
    Target("table 999 / table 1", "table 999", "table 1", LARGE, 1.1),
)


class Result(NamedTuple):
    target: Target
    ratio: float | None  # None: not timed in this run


def _medians(run: dict[str, Any], case: Case) -> dict[str, float]:
    key = case.record()
    return {row["contender"]: row["median"] for row in run["times"] if row["case"] == key}


def _ratio(medians: dict[str, float], target: Target) -> float | None:
    if target.over not in medians or target.below not in medians:
        return None
    return medians[target.over] / medians[target.below]


def of_loss(run: dict[str, Any], loss: str, threads: int) -> list[Result]:
    """The ratios of a loss at one threshold; of a ranking loss at nine, and no floor to aim at."""
    thresholds = 9 if loss in RANKING else 1
    found = []
    for target in STEP:
        case = Case(loss, target.size, thresholds=thresholds, threads=threads)
        aim = None if thresholds > 1 and target.below == "floor" else target.aim
        found.append(Result(target._replace(aim=aim), _ratio(_medians(run, case), target)))
    return found


def of_thresholds(run: dict[str, Any]) -> Iterator[Result]:
    for target in THRESHOLDS:
        yield Result(target, _ratio(run["thresholds"].get(str(target.size), {}), target))


def text(result: Result) -> str:
    """A cell of a table: the ratio, and in brackets an aim that was missed."""
    if result.ratio is None:
        return ""
    aim = result.target.aim
    missed = aim is not None and result.ratio > aim
    return f"**{result.ratio:.3g}** ({aim:.3g})" if missed else f"{result.ratio:.3g}"
