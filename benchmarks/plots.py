"""Pictures of a run: time against N and T, speed-up, share of the floor."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .cases import Case

Rows = list[tuple[Case, str, float]]


def draw(run: dict[str, Any], folder: Path) -> list[str]:
    """Names of the pictures written; none where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return []
    rows = [(Case(**row["case"]), row["contender"], row["median"]) for row in run["times"]]
    threads = run["settings"]["threads"][0]
    rows = [
        (case, name, median)
        for case, name, median in rows
        if case.classes == 1 and case.part == "both" and case.dtype == "float32"
        if case.threads == threads
    ]
    f1 = [row for row in rows if row[0].loss == "f1"]
    one = [row for row in f1 if row[0].thresholds == 1]
    largest = max((case.size for case, _, _ in f1 if case.thresholds > 1), default=0)
    many = [row for row in f1 if row[0].size == largest]
    drawn = {
        "time_against_n.png": _lines(one, lambda case: case.size, "N", "seconds a step", None),
        "time_against_t.png": _lines(
            many,
            lambda case: case.thresholds,
            f"thresholds, N = {largest:,}",
            "seconds a step",
            None,
        ),
        "speed_up.png": _lines(
            [row for row in one if row[1] in ("native", "reference", "compiled")],
            lambda case: case.size,
            "N",
            "times as fast as this",
            "native",
        ),
        "share_of_floor.png": _lines(
            one, lambda case: case.size, "N", "time of the floor / time", "floor"
        ),
    }
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=110)
    return list(drawn)


def _lines(
    rows: Rows, x_of: Callable[[Case], int], x_label: str, y_label: str, over: str | None
) -> Any:
    """A line for each contender; of its time, or of the time of ``over`` in terms of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    base = {x_of(case): median for case, name, median in rows if name == over}
    for contender in dict.fromkeys(name for _, name, _ in rows):
        points = {x_of(case): median for case, name, median in rows if name == contender}
        if over is not None:
            points = {x: _share(base[x], y, over) for x, y in points.items() if x in base}
        if contender != over and points:
            axis.plot(*zip(*sorted(points.items()), strict=True), "o-", ms=3, label=contender)
    axis.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=7)
    return figure


def _share(base: float, time: float, over: str) -> float:
    return base / time if over == "floor" else time / base
