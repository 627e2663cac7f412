"""``python -m benchmarks report`` and ``python -m benchmarks compare A.json B.json``."""

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch

import softcm

from . import cases, compare, page, plots
from .contenders import CONTENDERS
from .run import Settings, run

DESCRIPTION = "How fast softcm is, beside what a user would pick instead."
AXES = {
    "losses": tuple(cases.LOSSES),
    "sizes": cases.SIZES,
    "classes": cases.CLASSES,
    "thresholds": cases.THRESHOLDS,
    "dtypes": cases.DTYPES,
    "parts": cases.PARTS,
}
SECONDS = {"quick": 0.02, "default": 0.25, "full": 0.5}


def _integers(text: str) -> tuple[int, ...]:
    found = tuple(int(part) if part.isdecimal() else 0 for part in text.split(","))
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"positive integers with commas expected, not {text!r}")
    return found


def _among(allowed: tuple[str, ...]) -> object:
    def words(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        if not set(found) <= set(allowed):
            raise argparse.ArgumentTypeError(f"some of {','.join(allowed)} expected, not {text!r}")
        return found

    return words


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="python -m benchmarks", description=DESCRIPTION)
    commands = whole.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="time, and write a page, pictures and JSON")
    grid = report.add_mutually_exclusive_group()
    grid.add_argument("--quick", action="store_true", help="a few small cases: seconds")
    grid.add_argument("--full", action="store_true", help="every combination: hours")
    for name, values in AXES.items():
        kind = _integers if isinstance(values[0], int) else _among(values)
        shown = "some of " + ",".join(map(str, values))
        report.add_argument(f"--{name}", type=kind, help=f"{shown}: time these combinations only")
    report.add_argument("--contenders", type=_among(CONTENDERS), default=CONTENDERS)
    report.add_argument(
        "--threads", type=_integers, help="the first is that of all losses, the others of F1"
    )
    report.add_argument("--seconds", type=float, help="for each measurement")
    report.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    report.add_argument("--instructions", action="store_true", help="count them: minutes")
    report.add_argument("--output", type=Path, default=Path("benchmark_report"), help="a folder")
    report.add_argument(
        "--readme", action="store_true", help="print the README's tables at the end"
    )
    judge = commands.add_parser("compare", help="exit 1 where the second run is slower")
    judge.add_argument("before", type=Path)
    judge.add_argument("after", type=Path)
    judge.add_argument("--tolerance", type=float, default=0.1, help="of a median's growth")
    return whole


def selection(arguments: argparse.Namespace) -> tuple[str, list[cases.Case], tuple[int, ...]]:
    """The grid's name, its cases, and the numbers of threads, all of them first."""
    every = torch.get_num_threads()
    threads = arguments.threads or tuple(dict.fromkeys((every, 1)))
    given = {name: getattr(arguments, name) for name in AXES}
    if any(given.values()):
        defaults = {name: values[:1] for name, values in AXES.items()} | {"parts": ("both",)}
        chosen = (given[name] or defaults[name] for name in AXES)
        return "chosen", list(cases.all_cases(*chosen, threads)), threads
    if arguments.quick:
        return "quick", cases.quick_cases(threads), threads
    if arguments.full:
        return "full", cases.full_cases(threads), threads
    return "default", cases.default_cases(threads), threads


def report(arguments: argparse.Namespace, argv: list[str]) -> int:
    if "native" not in softcm.available_backends(arguments.device):
        print(f"no compiled kernels for {arguments.device!r}: nothing to measure", file=sys.stderr)
        return 2
    name, chosen, threads = selection(arguments)
    if arguments.device != "cpu":
        chosen = [cases.on_device(case, arguments.device) for case in chosen]
    settings = Settings(
        name,
        arguments.seconds or SECONDS.get(name, SECONDS["default"]),
        threads,
        costs=name != "chosen" and arguments.device == "cpu",
        instructions=arguments.instructions,
        contenders=arguments.contenders,
    )
    command = shlex.join(["python", "-m", "benchmarks", *argv])
    found = run(chosen, settings, command)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "run.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    pictures = plots.draw(found, arguments.output)
    text = page.page(found, pictures)
    (arguments.output / "report.md").write_text(text, encoding="utf-8")
    print(page.readme_tables(found) if arguments.readme else arguments.output / "report.md")
    return 0


def judge(arguments: argparse.Namespace) -> int:
    before, after = (
        json.loads(path.read_text(encoding="utf-8")) for path in (arguments.before, arguments.after)
    )
    print(f"yardsticks: {compare.drift(before, after):.2f} times the time; taken out below")
    found = list(compare.slower(before, after, arguments.tolerance))
    for case, contender, old, new, ratio in found:
        print(f"{ratio:.2f} x  {page.seconds(old)} -> {page.seconds(new)}  {contender}  {case}")
    print(f"{len(found)} slower beyond noise")
    return 1 if found else 0


def main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    return report(arguments, argv) if arguments.command == "report" else judge(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
