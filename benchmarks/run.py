"""One run: every case of a selection timed, and the costs; as a dictionary that JSON can hold."""

import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib import metadata
from typing import Any, NamedTuple

from softcm.__main__ import installation

from . import costs, thresholds
from .cases import LOSSES, RANKING, Case
from .contenders import CONTENDERS, steps
from .measure import Others, interleaved, keep_freed_memory, machine
from .peers import NotRun

FORMAT = 1
PACKAGES = ("torchvision", "segmentation-models-pytorch", "monai", "libauc", "torch-btg")
# Where torch.compile takes part unless all contenders do everywhere: it takes ten seconds a loss,
# and the graphs of the linear-fractional ones differ in a few scalars only.
COMPILED_SIZE = 1 << 20
COMPILED_LOSSES = ("f1", "cost", "mcc", "auroc", "own")
LARGE = 1 << 24
AT_LARGE = ("native", "cross-entropy", "floor")  # for other losses than F1


class Settings(NamedTuple):
    name: str
    seconds: float
    threads: tuple[int, ...]
    costs: bool
    instructions: bool
    contenders: tuple[str, ...] = CONTENDERS


def names_of(case: Case, settings: Settings) -> tuple[str, ...]:
    """The contenders of a case, without those that would make an ordinary run long."""
    if settings.name == "full":
        return settings.contenders
    names = settings.contenders
    if case.size >= LARGE and case.loss != "f1":
        names = tuple(name for name in names if name in AT_LARGE)
    standard = Case(
        case.loss,
        COMPILED_SIZE,
        thresholds=9 if case.loss in RANKING else 1,
        threads=settings.threads[0],
        device=case.device,
    )
    compiled = case == standard and case.loss in COMPILED_LOSSES
    return tuple(name for name in names if compiled or name != "compiled")


def versions() -> dict[str, str]:
    found = {part.strip(): version for part, version in installation()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _tell(what: object) -> None:
    print(what, file=sys.stderr, flush=True)


def time_cases(cases: Sequence[Case], settings: Settings) -> tuple[list[Any], list[Any]]:
    """Rows of times, and rows of what could not be timed."""
    times, missing = [], []
    for index, case in enumerate(cases):
        _tell(f"{index + 1} of {len(cases)}: {case}")
        found, reasons = steps(case, names_of(case, settings))
        if case.part == "both" and case.device == "cpu" and "native" in found:
            found["kernels"] = costs.operators(found["native"])
        for name, timing in interleaved(found, settings.seconds).items():
            times.append({"case": case.record(), "contender": name, **timing._asdict()})
        missing += [{"case": case.record(), "contender": n, "why": w} for n, w in reasons.items()]
    return times, missing


def _or_why_not(measure: Callable[[], Any]) -> Any:
    try:
        return measure()
    except NotRun as reason:
        return {"why": str(reason)}


def all_costs(settings: Settings, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Where the time of small steps goes; memory, page faults and instructions."""
    threads, seconds = settings.threads[0], settings.seconds
    losses = ("f1", "mcc", "own") if settings.name == "quick" else tuple(LOSSES)
    size_of_memory = 1 << 20 if settings.name == "quick" else costs.MEMORY_SIZE
    measured = ("native", "table", "reference", "cross-entropy")
    found: dict[str, Any] = {"split": {}, "fresh": {}, "instructions": {}}
    for loss in losses:
        _tell(f"where the time goes: {loss}")
        found["split"][loss] = costs.split(loss, 9 if loss in RANKING else 1, seconds)._asdict()
    _tell("memory and page faults")
    found["memory"] = _or_why_not(lambda: costs.memory(threads, measured, size_of_memory))
    for size in sizes:
        found["fresh"][str(size)] = _or_why_not(
            lambda size=size: costs.fresh_buffers(size, threads, seconds)
        )
    if not settings.instructions:
        found["instructions"] = {"why": "left out: valgrind takes minutes; --instructions counts"}
        return found
    for name in ("native", "cross-entropy", "reference"):
        _tell(f"instructions: {name}")
        counted = _or_why_not(lambda name=name: costs.instructions(name, 1 << 10))
        found["instructions"][name] = counted
    return found


def run(cases: Sequence[Case], settings: Settings, command: str) -> dict[str, Any]:
    keep_freed_memory()
    others = Others()
    sizes = (1 << 10,) if settings.name == "quick" else (1 << 20, 1 << 24)
    of_thresholds = {}
    for size in sizes if settings.costs else ():
        _tell(f"many thresholds: N={size}")
        timings = interleaved(thresholds.steps(size, settings.threads[0]), settings.seconds)
        of_thresholds[str(size)] = {name: timing.median for name, timing in timings.items()}
    times, missing = time_cases(cases, settings)
    found = all_costs(settings, sizes) if settings.costs else {}
    return {
        "format": FORMAT,
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": settings._asdict(),
        "others": others.share(),
        "times": times,
        "missing": missing,
        "thresholds": of_thresholds,
        "costs": found,
    }
