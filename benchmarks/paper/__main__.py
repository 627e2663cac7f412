"""``python -m benchmarks.paper TABLE``: train what a table needs, and show both figures."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from softcm.demo import positive, whole
from softcm.demo_data import DemoError

from ..measure import keep_freed_memory
from . import counts, data, losses, models, page, report, run, tables
from .run import Job
from .tables import TABLES
from .training import Tick

INSTALL = "pip install 'softcm[demo]'"
COMMANDS = (*TABLES, "all", "report", "figures")
NOTES = Path(__file__).with_name("notes.md")


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description="The experiments of the paper, beside its figures.",
    )
    add, default = words.add_argument, " (default: %(default)s)"
    add("table", choices=COMMANDS, help="of the paper, S for its supplement; report: all tables "
        "from what has been found so far; figures: pictures of it")  # fmt: skip
    add("--data-dir", type=Path, metavar="DIR", help="a folder with the data (see the README)")
    add("--datasets", nargs="+", choices=data.DATASETS, metavar="DATA", help="these alone")
    add("--losses", nargs="+", choices=tables.ROWS, metavar="LOSS", help="these rows alone")
    add("--trials", type=whole, default=10, metavar="N", help="seeds" + default)
    add("--epochs", type=whole, default=2000, metavar="N", help="at most, of a trial" + default)
    add(
        "--patience",
        type=whole,
        default=100,
        metavar="N",
        help="epochs without a lower validation loss, after which a trial stops" + default,
    )
    add(
        "--batch-size",
        type=whole,
        default=tables.BATCH_SIZE,
        metavar="N",
        help="of tabular data; a few losses have their own" + default,
    )
    add("--dropout", type=share, default=models.DROPOUT, help="rate, on tabular data" + default)
    add(
        "--initial",
        choices=models.INITIAL,
        default="torch",
        help="the library whose way of drawing weights is taken, on tabular data" + default,
    )
    add(
        "--weights",
        choices=("best", "last"),
        default="best",
        help="those that are judged: of the lowest validation loss or the last epoch" + default,
    )
    add(
        "--split",
        type=int,
        metavar="SEED",
        help="on tabular data, all trials take the split of this seed (default: each its own)",
    )
    add(
        "--not-stratified",
        dest="stratified",
        action="store_false",
        help="on tabular data, splits have as many positives as chance gives them",
    )
    add(
        "--width",
        type=positive,
        default=tables.WIDTH,
        help="of the image network, as a share of the paper's channels" + default,
    )
    add(
        "--output",
        type=Path,
        default=Path("paper_results"),
        metavar="DIR",
        help="for the results; what is there already is not trained again" + default,
    )
    return words


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a number in [0, 1), got '{text}'")
    return value


def _datasets(name: str, options: argparse.Namespace) -> list[str]:
    """Those of a table that are asked for."""
    datasets = TABLES[name].datasets
    return [word for word in datasets if not options.datasets or word in options.datasets]


def jobs(name: str, options: argparse.Namespace) -> Iterator[Job]:
    """What has to be trained for a table, each loss under the name by which it is kept."""
    table = TABLES[name]
    for dataset in _datasets(name, options):
        for size in table.batch_sizes or (tables.batch_size(dataset, options.batch_size),):
            for loss in (*table.losses, *table.beyond):
                if not options.losses or loss in options.losses:
                    yield _job(dataset, table.trained(loss), size, options)


def _job(dataset: str, loss: str, size: int, options: argparse.Namespace) -> Job:
    """With those of the options that have an effect on it: by the others no result differs."""
    job = Job(dataset, loss, options.trials, batch_size=losses.rows_at_once(loss, size))
    if dataset not in data.IMAGES:
        job = job._replace(split=options.split, stratified=options.stratified)
    elif options.split is not None or options.initial != "torch" or not options.stratified:
        raise DemoError(
            f"--initial, --split and --not-stratified are for tabular data, not for {dataset}"
        )
    if not job.stratified and losses.weighs_classes(loss):
        raise DemoError(f"--not-stratified: {loss} needs as many positives in every split")
    if loss in losses.SOLVERS:
        return job
    job = job._replace(
        epochs=options.epochs, patience=options.patience, weights=options.weights, lr=tables.LR
    )
    if dataset in data.IMAGES:
        return job._replace(lr=tables.IMAGE_LR, width=options.width)
    return job._replace(dropout=options.dropout, initial=options.initial)


def check(names: Sequence[str], options: argparse.Namespace) -> None:
    """What is asked for must stand in one of the tables."""
    chosen = [TABLES[name] for name in names]
    there = {
        "datasets": [dataset for table in chosen for dataset in table.datasets],
        "losses": [loss for table in chosen for loss in (*table.losses, *table.beyond)],
    }
    for option, allowed in there.items():
        wrong = [word for word in getattr(options, option) or () if word not in allowed]
        if wrong:
            few = ", ".join(dict.fromkeys(allowed)) or "none"
            raise DemoError(
                f"--{option}: not in table {', '.join(names)}: {', '.join(wrong)}; there: {few}"
            )


def train(names: Sequence[str], options: argparse.Namespace) -> None:
    from tqdm import tqdm

    check(names, options)
    load = cache(lambda name: data.load(name, options.data_dir))
    # Several tables share jobs.
    todo = list(dict.fromkeys(job for name in names for job in jobs(name, options)))
    with tqdm(total=len(todo), desc="trainings", mininterval=1) as bar:
        for job in todo:
            tick = _tick(bar, f"{job.dataset} {job.loss} {job.batch_size}")
            run.find(job, load, options.output, tick)
            bar.update(1)
        for name in names:
            _count(name, load, options, _tick(bar, f"table {name}"))


def _tick(bar: Any, text: str) -> Tick:
    def tick(epoch: int, seeds: int) -> None:
        bar.set_postfix_str(f"{text}: epoch {epoch}, {seeds} trials going")

    return tick


def _count(name: str, load: run.Load, options: argparse.Namespace, tick: Tick) -> None:
    """What S2, S5 and S7 hold, into files of their own."""
    options.output.mkdir(parents=True, exist_ok=True)
    if name in ("S5", "S7"):
        path = options.output / "counts.json"
        found = report.read(path)
        for dataset in _datasets(name, options):
            found[dataset] = counts.count(load(dataset))
        run.write(path, found)
    if name == "S2" and _datasets(name, options):
        path = options.output / "batch_f1.json"
        settings = {"trials": options.trials, "epochs": options.epochs}
        if report.read(path).get("settings") == settings:
            return
        read = load("mammography")
        differences = counts.batch_differences(read, options.trials, options.epochs, tick)
        run.write(path, {"settings": settings, "differences": differences})


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
        import tqdm  # noqa: F401
    except ImportError as error:
        print(f"{error}: {INSTALL}", file=sys.stderr)
        return 2
    # More threads gain nothing with so small a network; several commands at once do.
    torch.set_num_threads(1)
    keep_freed_memory()
    command = shlex.join(["python", "-m", "benchmarks.paper", *arguments])
    names = {"all": tuple(TABLES), "report": (), "figures": ()}.get(options.table, (options.table,))
    try:
        if names:
            train(names, options)
    except DemoError as error:
        print(f"python -m benchmarks.paper: error: {error}", file=sys.stderr)
        return 2
    if options.table in ("figures", "all"):
        from .figures import draw

        print("\n".join(draw(options.output, report.load(options.output))))
    if options.table != "figures":
        shown = names or tuple(TABLES)
        notes = NOTES.read_text(encoding="utf-8") if options.table == "report" else ""
        print(page.page(options.output, command, notes, options.batch_size, shown))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
