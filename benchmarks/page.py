"""A run as a Markdown page."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from . import targets
from .cases import LOSSES, RANKING, Case
from .measure import processor
from .run import COMPILED_LOSSES

Run = dict[str, Any]
NOISY = 0.05  # share of the processors' time in other processes


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


def seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:,.3g} {unit}"
    return f"{value * 1e6:,.1f} us"


def page(run: Run, pictures: Sequence[str]) -> str:
    lines = [
        "# Speed of softcm",
        "",
        *_head(run),
        *_targets(run),
        *_thresholds(run),
        *_split(run),
        *_memory(run),
        *_fresh(run),
        *_instructions(run),
        *(f"![{name}]({name})\n" for name in pictures),
        *_times(run),
        *_missing(run),
    ]
    return "\n".join(lines)


def _head(run: Run) -> Iterator[str]:
    yield f"By `{run['command']}`, {run['date']}."
    yield ""
    yield from table(("what", "which"), (run["machine"] | run["versions"]).items())
    yield (
        "Times are medians of samples that the contenders of a group take in turn, with the "
        "quartiles behind them; a step is forward and backward through the public call. Freed "
        "memory is kept, so that every contender reuses its buffers. The floor streams as many "
        "bytes as a part has to move: prediction and label in, for a step twice, and the gradient "
        "out. Values and gradients of every contender were compared with a formula in float64 "
        "before it was timed."
    )
    yield ""
    share = run["others"]
    if share is None:
        yield "The system does not tell how much other processes ran meanwhile."
    else:
        yield f"Other processes took {share:.0%} of the processors' time during the run."
        if share > NOISY:
            yield "**The machine was not quiet: take times, and ratios of short ones, as rough.**"
    yield ""


def _targets(run: Run) -> Iterator[str]:
    yield "## Ratios aimed at"
    yield ""
    yield (
        "Float32, one threshold (nine for the ranking losses), all threads. Smaller is better; "
        "bold: an aim, in brackets, was missed."
    )
    yield ""
    threads = run["settings"]["threads"][0]
    header = ["loss", *(f"{t.name}, N = {t.size:,}" for t in targets.STEP)]
    rows = []
    for loss in LOSSES:
        results = targets.of_loss(run, loss, threads)
        if any(result.ratio is not None for result in results):
            rows.append([loss, *map(targets.text, results)])
    yield from table(header, rows)


def _thresholds(run: Run) -> Iterator[str]:
    if not run["thresholds"]:
        return
    yield "## Many thresholds"
    yield ""
    yield from table(
        ("ratio", "N", "result"),
        (
            (r.target.name, f"{r.target.size:,}", targets.text(r))
            for r in targets.of_thresholds(run)
        ),
    )
    threads = run["settings"]["threads"][0]
    sizes = list(run["thresholds"])
    names = run["thresholds"][sizes[0]]
    header = ("ns a sample and thread", *(f"N = {int(size):,}" for size in sizes))
    cells = (
        [name, *(f"{run['thresholds'][s][name] / int(s) * threads * 1e9:.1f}" for s in sizes)]
        for name in names
    )
    yield from table(header, cells)


def _split(run: Run) -> Iterator[str]:
    if not run["costs"]:
        return
    yield "## Where the time of a step on 1,024 samples goes"
    yield ""
    yield (
        "Microseconds, one thread, one threshold (ranking losses: nine). Kernel: in the compiled "
        "operators, beyond what two samples take. Dispatch: PyTorch's way to the operators and "
        "back, and what they allocate. Autograd: a step through an `autograd.Function` that does "
        "nothing. Python: the rest, which is checks, the Functions' bodies, and for a metric of "
        "one's own PyTorch on the counts."
    )
    yield ""
    rows = (
        [loss, *(f"{value * 1e6:.1f}" for value in split.values())]
        for loss, split in run["costs"]["split"].items()
    )
    yield from table(("loss", "step", "kernel", "dispatch", "autograd", "Python"), rows)


def _memory(run: Run) -> Iterator[str]:
    memory = run["costs"].get("memory")
    if not memory:
        return
    yield "## Peak of memory"
    yield ""
    if "why" in memory:
        yield f"Not measured: {memory['why']}."
        yield ""
        return
    yield "Bytes a sample that an F1 step needs beyond prediction and label, at T thresholds."
    yield ""
    rows = (
        [name, *(f"{of_count[t]:.1f}" if t in of_count else "" for t in ("1", "99"))]
        for name, of_count in memory.items()
    )
    yield from table(("contender", "T = 1", "T = 99"), rows)


def _fresh(run: Run) -> Iterator[str]:
    fresh = run["costs"].get("fresh")
    if not fresh:
        return
    yield "## Fresh buffers"
    yield ""
    yield "An F1 step that reuses memory, and one for which the system brings in new pages."
    yield ""
    rows = []
    for size, found in fresh.items():
        if "why" in found:
            rows.append([f"{int(size):,}", f"not measured: {found['why']}", "", "", ""])
            continue
        times = [seconds(found["reused"]), seconds(found["fresh"])]
        faults = [f"{found[key]:,}" for key in ("faults reused", "faults fresh")]
        rows.append([f"{int(size):,}", *times, *faults])
    yield from table(("N", "reused", "fresh", "page faults, reused", "page faults, fresh"), rows)


def _instructions(run: Run) -> Iterator[str]:
    instructions = run["costs"].get("instructions")
    if not instructions:
        return
    yield "## Instructions of an F1 step on 1,024 samples"
    yield ""
    if "why" in instructions:
        yield f"Not counted: {instructions['why']}."
        yield ""
        return
    rows = []
    for name, found in instructions.items():
        why = isinstance(found, dict)
        rows.append([name, found["why"] if why else f"{found[0]:,.0f}", "" if why else found[1]])
    yield from table(("contender", "instructions", "counted by"), rows)


def _times(run: Run) -> Iterator[str]:
    yield "## All times"
    yield ""
    by_case: dict[Case, dict[str, Any]] = defaultdict(dict)
    for row in run["times"]:
        by_case[Case(**row["case"])][row["contender"]] = row
    rows = []
    for case, contenders in by_case.items():
        floor = contenders.get("floor", {}).get("median")
        for name, row in contenders.items():
            share = f"{floor / row['median']:.0%}" if floor else ""
            spread = f"{seconds(row['low'])} ... {seconds(row['high'])}"
            rows.append([str(case), name, seconds(row["median"]), spread, share])
    yield from table(("case", "contender", "median", "quartiles", "share of the floor"), rows)


def _missing(run: Run) -> Iterator[str]:
    if not run["missing"]:
        return
    yield "## Not timed"
    yield ""
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for row in run["missing"]:
        counted[row["contender"], row["why"]] += 1
    rows = ([name, why, str(count)] for (name, why), count in counted.items())
    yield from table(("contender", "why", "groups"), rows)


def readme_tables(run: Run) -> str:
    """The few tables that the README shows."""
    threads = run["settings"]["threads"][0]
    header = ["ratio of medians", "N", *(f"`{loss}`" for loss in COMPILED_LOSSES)]
    results = [targets.of_loss(run, loss, threads) for loss in COMPILED_LOSSES]
    rows = [
        [target.name, f"{target.size:,}", *(targets.text(of_loss[i]) for of_loss in results)]
        for i, target in enumerate(targets.STEP)
    ]
    where = f"{processor()}, {threads} threads, torch {run['versions']['torch']}"
    nine = ", ".join(f"`{loss}`" for loss in RANKING)
    lines = (f"{where}; {nine} at nine thresholds:", "", *table(header, rows))
    return "\n".join((*lines, *_thresholds(run), *_split(run)))
