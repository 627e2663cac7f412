"""The whole page of results: what was run, every table, both protocols, times, what is missing."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from . import published, report
from .data import DATASETS, TABULAR
from .report import NONE, grid
from .run import Results
from .tables import BEYOND, TABLES, batch_size, called

INTRODUCTION = """
A cell is ours, mean ± standard deviation over the trials, then in brackets the paper's; – is what
there is not, ? what cannot be read in the copy of the paper at hand. Differences are to training on
BCE with the same splits and initial weights: mean and 95 % interval, whose standard error is
enlarged as the splits share rows (Nadeau and Bengio 2003); bold where the interval leaves out 0.

The published protocol is the mean over the thresholds 0.1, 0.2, ..., 0.9, and its AUROC that of
thresholded predictions, balanced accuracy. The paper does not say what it compared with them where
a network was trained on cross-entropy, so such a network stands there twice: "raw outputs" is what
comes before the sigmoid, as a network trained on logits gives it, the other row its probabilities.

The corrected protocol takes probabilities for all, thresholds 0.5 and the best on validation data,
the AUROC and average precision of the ranking, and the Brier score.
"""


def page(folder: Path, command: str, notes: str, batch: int, names: Sequence[str]) -> str:
    """Markdown of these tables, as far as the folder has results, under hand-written notes."""
    results = report.load(folder)
    counts = report.read(folder / "counts.json")
    batches = report.read(folder / "batch_f1.json")
    lines = ["# The paper's experiments: results", "", f"Made by `{command}`.", ""]
    lines += [*_versions(results), INTRODUCTION.strip(), ""]
    if notes:
        lines += [notes.strip(), ""]
    lines += _summary(results, batch)
    missing = []
    for name in names:
        table = TABLES[name]
        lines += [f"## {called(name)}: {table.title}", ""]
        if name in ("S5", "S7"):
            lines += report.counted(name, counts)
            continue
        if name == "S2":
            lines += report.batch_differences(batches)
            continue
        for dataset in table.datasets:
            for size in table.batch_sizes or (None,):
                shown, absent = _part(name, dataset, size or batch_size(dataset, batch), results)
                lines += shown
                missing += absent
    lines += _corrected(results, batch)
    lines += _variations(folder)
    lines += _times(results)
    lines += ["## Not run", "", *(missing or ["Nothing: every row of every table was run."]), ""]
    return "\n".join(lines)


def _summary(results: Results, batch: int) -> list[str]:
    """F1 of the paper's main losses in both protocols, with the distance to the paper."""
    head = ["data", "trained on", "F1 as published", "ours − paper", "F1 at 0.5", "F1, tuned"]
    rows = [head]
    for dataset in TABULAR:
        for loss in ("f1_linear", "f1_sigmoid", "bce"):
            found = results.get((dataset, loss, batch))
            if found is None:
                continue
            for protocol in report.protocols_of(loss):
                ours = report.picked(found, protocol, "f1")
                theirs = published.value("1", dataset, loss, "f1")
                apart = NONE if theirs is None else f"{fmean(ours) - theirs[0]:+.3f}"
                half, tuned = (report.picked(found, "corrected", m) for m in ("f1", "f1_tuned"))
                rows.append(
                    [
                        dataset,
                        report.label(loss, protocol, found),
                        f"{report.spread(ours)} {report.paper('1', dataset, loss, 'f1')}",
                        apart,
                        report.spread(half),
                        report.spread(tuned),
                    ]
                )
    return ["## F1 on tabular data", "", *grid(rows)] if len(rows) > 1 else []


def _part(name: str, dataset: str, size: int, results: Results) -> tuple[list[str], list[str]]:
    """The lines of one data set, and a line about the rows that have not been run."""
    table = TABLES[name]
    losses = [*table.losses, *table.beyond]
    absent = [
        loss
        for loss in losses
        if report.found_for(dataset, table.trained(loss), size, results) is None
    ]
    where = f"{dataset}, batches of {size}"
    missing = [f"- {called(name)}, {where}: {', '.join(absent)}"] if absent else []
    if len(absent) == len(losses):
        return [], missing
    lines = [f"**{where}**", ""]
    if name == "S4":
        return [*lines, *report.plug_in(dataset, size, results)], missing
    return [*lines, *report.as_published(name, dataset, size, results)], missing


def _corrected(results: Results, batch: int) -> list[str]:
    lines = ["## The corrected protocol", ""]
    for dataset in DATASETS:
        size = batch_size(dataset, batch)
        names = list(dict.fromkeys(loss for data, loss, _ in results if data == dataset))
        order = [*TABLES["1"].losses, *BEYOND]
        names.sort(key=lambda loss: order.index(loss) if loss in order else len(order))
        shown = report.corrected(dataset, names, size, results)
        if shown:
            lines += [f"**{dataset}**", "", *shown]
    return lines


def _variations(folder: Path) -> list[str]:
    """Runs that differ in what the paper does not tell."""
    rows = [["data", "trained on", "but", "F1 as published", "F1 at 0.5", "average precision"]]
    for found in report.runs(folder):
        settings = found["settings"]
        if varied := report.variation(settings):
            columns = (("published", "f1"), ("corrected", "f1"), ("corrected", "average_precision"))
            cells = (report.spread(report.picked(found, *column)) for column in columns)
            text = ", ".join(f"{name} {value}" for name, value in varied.items())
            rows.append([settings["dataset"], settings["loss"], text, *cells])
    return ["## Variations", "", *grid(rows)] if len(rows) > 1 else []


def _times(results: Results) -> list[str]:
    rows = [
        [
            *("data", "trained on", "batch", "trials", "epochs", "at the most", "patience"),
            *("processor ms an epoch and trial", "wall-clock"),
        ]
    ]
    for (dataset, loss, size), found in sorted(results.items()):
        how, settings = found["training"], found["settings"]
        epochs = sum(how["epochs"])
        rows.append(
            [
                *(dataset, loss, str(size), str(settings["trials"])),
                f"{epochs / len(how['epochs']):.0f}",
                f"{how['epochs'].count(settings['epochs'])} of {len(how['epochs'])}",
                str(settings["patience"]),
                f"{1e3 * how['cpu_seconds'] / epochs:.1f}",
                f"{1e3 * how['seconds'] / epochs:.1f}",
            ]
        )
    theirs = ", ".join(
        f"{loss} {report.paper('text 5.4', 'tabular', loss, 'training_minutes')}"
        for loss in published.load()["tables"]["text 5.4"]["tabular"]
    )
    text = (
        'An epoch of one trial, with the other trials beside it in one batched model. "At the '
        'most" counts the trials that ran into the limit of epochs. The paper (Section 5.4), '
        f"minutes of a whole training on a processor: {theirs}. For eum and svm_... an epoch is "
        "the whole training."
    )
    return ["## Training time", "", text, "", *grid(rows)]


def _versions(results: Results) -> list[str]:
    """Each machine and set of versions, with the number of runs made there."""
    found = Counter(
        (
            f"{run['machine']['processor']}, {run['machine']['cores']} cores",
            f"{run['threads']} thread",
            ", ".join(f"{k} {v}" for k, v in run["versions"].items() if isinstance(v, str)),
        )
        for run in results.values()
    )
    return [f"{count} runs: {'; '.join(words)}.\n" for words, count in found.items()]
