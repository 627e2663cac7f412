"""Results as Markdown: each figure beside the paper's, and beside that of cross-entropy."""

import json
from collections.abc import Iterable
from pathlib import Path

from . import protocols, published
from .data import TEST_TO_TRAINING
from .losses import RECIPES, rows_at_once
from .protocols import TUNED
from .run import Found, Job, Results
from .statistics import mean_and_deviation, paired
from .tables import TABLES, WIDTH

NAMES = {
    "f1": "F1",
    "auroc": "AUROC",
    "f1_tuned": "F1, tuned",
    "accuracy_tuned": "accuracy, tuned",
    "average_precision": "average precision",
    "brier": "Brier",
}
CORRECTED = (
    *("f1", "f1_tuned", "accuracy", "accuracy_tuned"),
    *("auroc", "average_precision", "brier"),
)
NONE, GARBLED = "–", "?"
USUAL = Job._field_defaults


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
    usual = USUAL | {"width": None if settings["width"] is None else WIDTH}
    names = ("dropout", "initial", "weights", "split", "stratified", "width")
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


def paper(table: str, dataset: str, loss: str, metric: str) -> str:
    """The paper's cell, in brackets."""
    cell = published.value(table, dataset, loss, metric)
    if cell is None:
        garbled = published.is_garbled(table, dataset, loss, metric)
        return f"({GARBLED if garbled else NONE})"
    mean, deviation = cell
    return f"({mean:g})" if deviation is None else f"({mean:g} ± {deviation:g})"


def picked(found: Found | None, protocol: str, metric: str) -> list[float]:
    """A figure of each trial; empty where there is no such result."""
    if found is None or any(metric not in trial[protocol] for trial in found["trials"]):
        return []
    return [trial[protocol][metric] for trial in found["trials"]]


def difference(values: list[float], baseline: list[float], dataset: str) -> str:
    """Of the seeds that both have; bold where the interval leaves out 0."""
    seeds = min(len(values), len(baseline))
    if seeds < 2 or values == baseline:
        return NONE
    found = paired(values[:seeds], baseline[:seeds], TEST_TO_TRAINING[dataset])
    text = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return f"**{text}**" if found.clear else text


def found_for(dataset: str, loss: str, size: int, results: Results) -> Found | None:
    """In a table of this batch size; that of the loss may be another."""
    return results.get((dataset, loss, rows_at_once(loss, size)))


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
                theirs = paper(name, dataset, loss, key)
                cells.append(f"{spread(picked(found, protocol, metric))} {theirs}")
            ours = picked(found, protocol, "f1")
            apart = (difference(ours, base, dataset) for base in bases)
            rows.append([label(loss, protocol, found), *cells, *apart])
    return grid(rows)


def protocols_of(loss: str) -> tuple[str, ...]:
    """A network trained on cross-entropy is judged both by its outputs and by probabilities."""
    return ("raw", "published") if loss in RECIPES and RECIPES[loss].raw else ("published",)


def label(loss: str, protocol: str, found: Found | None) -> str:
    """The name of a row, with what its judgement or its training has of its own."""
    words = [loss]
    if protocol == "raw":
        words.append("raw outputs")
    if found is not None:
        for name in ("trials", "epochs"):
            number = found["settings"][name]
            if number < USUAL[name]:
                words.append(f"{number} {name if number > 1 else name.removesuffix('s')}")
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
        cells = (spread(picked(found, "corrected", metric)) for metric in CORRECTED)
        pairs = ([picked(of, "corrected", metric) for of in (found, bce)] for metric in compared)
        apart = (difference(ours, base, dataset) for ours, base in pairs)
        rows.append([label(loss, "corrected", found), *cells, *apart])
    return grid(rows) if len(rows) > 1 else []


def plug_in(dataset: str, size: int, results: Results) -> list[str]:
    """Table S4: the best of nine thresholds on validation data, and how many are as good."""
    rows = [["trained on"]]
    for metric in TUNED:
        rows[0] += [NAMES.get(metric, metric), "T", "number of best T"]
    for loss in TABLES["S4"].losses:
        found = results.get((dataset, loss, size))
        cells = []
        for metric in TUNED:
            ours = [NONE] * 3
            if found is not None:
                trials = found["trials"]
                at, count = protocols.plug_in([t["validation_curve"][metric] for t in trials])
                scores = [trial["curve"][metric][at] for trial in trials]
                ours = [spread(scores), f"{protocols.THRESHOLDS[at]:g}", str(count)]
            columns = (metric, f"{metric}_threshold", f"{metric}_maximizers")
            theirs = (paper("S4", dataset, loss, column) for column in columns)
            cells += [" ".join(pair) for pair in zip(ours, theirs, strict=True)]
        rows.append([label(loss, "published", found), *cells])
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
            f"{format(ours[column], 'g') if column in ours else NONE} "
            f"{paper(name, dataset, 'none', column)}"
            for column in theirs
        )
        rows.append([dataset, *cells])
    return grid([head, *rows])


def batch_differences(found: Found) -> list[str]:
    """Table S2: the mean and the deviation over the steps of all trials, by batch size."""
    cells = []
    for size in TABLES["S2"].batch_sizes:
        ours = found.get("differences", {}).get(str(size))
        theirs = paper("S2", "mammography", "none", f"f1_difference@{size}")
        cells.append(f"{f'{ours[0]:.3f} ± {ours[1]:.3f}' if ours else NONE} {theirs}")
    return grid([[f"batches of {size}" for size in TABLES["S2"].batch_sizes], cells])
