"""Results as Markdown: each figure beside the paper's, and beside that of cross-entropy."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import published
from .losses import ADVERSARIAL_ROWS, RECIPES
from .run import Job
from .statistics import mean_and_deviation, paired
from .tables import TABLES

Found = dict[str, Any]
Results = dict[tuple[str, str, int], Found]  # by data set, loss and batch size

NAMES = {
    "f1": "F1",
    "auroc": "AUROC",
    "f1_tuned": "F1, tuned",
    "accuracy_tuned": "accuracy, tuned",
    "average_precision": "average precision",
    "brier": "Brier",
    "f1_threshold": "T",
    "accuracy_threshold": "T",
    "f1_maximizers": "number of best T",
    "accuracy_maximizers": "number of best T",
}
CORRECTED = (
    *("f1", "f1_tuned", "accuracy", "accuracy_tuned"),
    *("auroc", "average_precision", "brier"),
)
NONE = "–"
USUAL_TRIALS = 10  # of the paper; fewer are named


def runs(folder: Path) -> list[Found]:
    return [read(path) for path in sorted((folder / "runs").glob("*.json"))]


def load(folder: Path) -> Results:
    """The runs of a folder; of several of one loss the one with most trials, then patience."""

    def thorough(found: Found) -> tuple[int, ...]:
        return tuple(found["settings"][key] for key in ("trials", "patience", "epochs"))

    results: Results = {}
    for found in runs(folder):
        key = tuple(found["settings"][key] for key in ("dataset", "loss", "batch_size"))
        usual = not variation(found["settings"])
        if usual and (key not in results or thorough(found) > thorough(results[key])):
            results[key] = found
    return results


def variation(settings: Found) -> Found:
    """What of a training is not as usual; such runs have a table of their own."""
    usual = Job._field_defaults
    names = ("dropout", "initial", "weights", "split")
    return {
        name: settings[name] for name in names if settings.get(name, usual[name]) != usual[name]
    }


def read(path: Path) -> Found:
    """A file of results, or nothing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def grid(rows: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table, of which the first row is the head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|---" * (head.count("|") - 1) + "|", *body, ""]


def spread(values: list[float], digits: int = 3) -> str:
    if not values:
        return NONE
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(values) > 1 else "")


def paper(cell: published.Cell | None) -> str:
    if cell is None:
        return f"({NONE})"
    mean, deviation = cell
    return f"({mean:g})" if deviation is None else f"({mean:g} ± {deviation:g})"


def picked(found: Found | None, protocol: str, metric: str) -> list[float]:
    """A figure of each trial; empty where there is no such result."""
    if found is None or any(metric not in trial[protocol] for trial in found["trials"]):
        return []
    return [trial[protocol][metric] for trial in found["trials"]]


def difference(values: list[float], baseline: list[float]) -> str:
    """Of the seeds that both have; bold where the interval leaves out 0."""
    seeds = min(len(values), len(baseline))
    if seeds < 2 or values == baseline:
        return NONE
    found = paired(values[:seeds], baseline[:seeds])
    text = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return f"**{text}**" if found.clear else text


def found_for(dataset: str, loss: str, size: int, results: Results) -> Found | None:
    """The adversarial loss has a batch size of its own, whatever that of the others."""
    if loss == "f1_adversarial":
        size = ADVERSARIAL_ROWS
    return results.get((dataset, loss, size))


def as_published(name: str, dataset: str, size: int, results: Results) -> list[str]:
    """One data set at one batch size, judged as in the paper."""
    table = TABLES[name]
    bce = results.get((dataset, table.trained("bce"), size))
    bases = [picked(bce, protocol, "f1") for protocol in ("raw", "published")]
    names = (NAMES.get(metric, metric) for metric in table.metrics)
    rows = [["trained on", *names, "F1 − BCE, raw", "F1 − BCE"]]
    for loss in (*table.losses, *table.beyond):
        found = found_for(dataset, table.trained(loss), size, results)
        if found is None and loss in table.beyond:
            continue
        for protocol in protocols_of(loss):
            cells = []
            for metric in table.metrics:
                key = f"{metric}@{size}" if table.batch_sizes else metric
                theirs = paper(published.value(name, dataset, loss, key))
                cells.append(f"{spread(picked(found, protocol, metric))} {theirs}")
            ours = picked(found, protocol, "f1")
            rows.append(
                [label(loss, protocol, found), *cells, *(difference(ours, base) for base in bases)]
            )
    return grid(rows)


def protocols_of(loss: str) -> tuple[str, ...]:
    """A network trained on cross-entropy is judged both by its outputs and by probabilities."""
    return ("raw", "published") if loss in RECIPES and RECIPES[loss].raw else ("published",)


def label(loss: str, protocol: str, found: Found | None) -> str:
    """The name of a row, with what its judgement or its training has of its own."""
    words = [loss]
    if protocol == "raw":
        words.append("raw outputs")
    if found is not None and found["settings"]["trials"] < USUAL_TRIALS:
        words.append(f"{found['settings']['trials']} trials")
    return ", ".join(words)


def corrected(dataset: str, losses: Iterable[str], size: int, results: Results) -> list[str]:
    """One data set, every loss at threshold 0.5 and tuned, with ranking and calibration."""
    bce = results.get((dataset, "bce", size))
    compared = ("f1_tuned", "average_precision")
    rows = [
        [
            *("trained on", *(NAMES.get(metric, metric) for metric in CORRECTED)),
            *(f"{NAMES[metric]} − BCE" for metric in compared),
        ]
    ]
    for loss in losses:
        found = found_for(dataset, loss, size, results)
        if found is None:
            continue
        cells = [picked(found, "corrected", metric) for metric in CORRECTED]
        rows.append(
            [
                label(loss, "corrected", found),
                *(spread(values) for values in cells),
                *(
                    difference(picked(found, "corrected", m), picked(bce, "corrected", m))
                    for m in compared
                ),
            ]
        )
    return grid(rows) if len(rows) > 1 else []


def plug_in(dataset: str, size: int, results: Results) -> list[str]:
    """Table S4: the best of nine thresholds on validation data, and how many are as good."""
    columns = [
        f"{metric}{end}"
        for metric in ("accuracy", "f1")
        for end in ("", "_threshold", "_maximizers")
    ]
    rows = [["trained on", *(NAMES.get(column, column) for column in columns)]]
    for loss in TABLES["S4"].losses:
        found = results.get((dataset, loss, size))
        cells = []
        for column in columns:
            values = picked(found, "plug_in", column)
            digits = 1 if column.endswith("maximizers") else 3
            theirs = paper(published.value("S4", dataset, loss, column))
            cells.append(f"{spread(values, digits)} {theirs}")
        rows.append([loss, *cells])
    return grid(rows)


def counted(name: str, counts: dict[str, Found]) -> list[str]:
    """Tables S5 and S7, which need no training."""
    head: list[str] = []
    rows = []
    for dataset in TABLES[name].datasets:
        theirs = published.load()["tables"][name][dataset]["none"]
        head = ["data", *(column.replace("_", " ") for column in theirs)]
        ours = counts.get(dataset, {})
        cells = (
            f"{format(ours[column], 'g') if column in ours else NONE} {paper(tuple(cell))}"
            for column, cell in theirs.items()
        )
        rows.append([dataset, *cells])
    return grid([head, *rows])


def batch_differences(found: Found) -> list[str]:
    """Table S2: the mean and the deviation over the steps of all trials, by batch size."""
    cells = []
    for size in TABLES["S2"].batch_sizes:
        ours = found.get("differences", {}).get(str(size))
        theirs = paper(published.value("S2", "mammography", "none", f"f1_difference@{size}"))
        cells.append(f"{f'{ours[0]:.3f} ± {ours[1]:.3f}' if ours else NONE} {theirs}")
    return grid([[f"batches of {size}" for size in TABLES["S2"].batch_sizes], cells])
