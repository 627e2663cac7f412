"""Medians of steps, and their ratios within one run, for the scripts of this folder."""

import argparse
import ctypes
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch

import softcm

Step = Callable[[], object]
# Name, numerator, denominator, and for each size the largest ratio aimed at.
Row = tuple[str, str, str, tuple[float | None, ...]]


def parse_arguments(description: str) -> argparse.Namespace:
    """--threads and --seconds; ends the program where there is nothing to measure."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    arguments = parser.parse_args()
    if "native" not in softcm.available_backends():
        sys.exit("the compiled extension is not installed: nothing to measure")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    return arguments


def keep_freed_memory() -> None:
    """Tell glibc neither to map large blocks afresh nor to give freed ones back."""
    trim_threshold, mmap_threshold = -1, -3
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


def median_time(step: Step, seconds: float) -> float:
    for _ in range(3):
        step()
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < deadline:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(
    sizes: tuple[int, ...], contenders: Callable[[int], dict[str, Step]], seconds: float
) -> dict[int, dict[str, float]]:
    """Median seconds of each contender at each size, printed as they come."""
    times: dict[int, dict[str, float]] = {}
    for size in sizes:
        times[size] = {}
        for name, step in contenders(size).items():
            median = times[size][name] = median_time(step, seconds)
            each = median / size * torch.get_num_threads()
            print(
                f"N = {size:>10,}  {name:<16} {median * 1e6:>12,.1f} us "
                f"{each * 1e9:>10.1f} ns a sample and thread",
                flush=True,
            )
    return times


def print_ratios(times: dict[int, dict[str, float]], rows: tuple[Row, ...]) -> None:
    threads = torch.get_num_threads()
    print(f"\n{platform.processor() or platform.machine()}, {threads} threads,", end=" ")
    print(f"torch {torch.__version__}, softcm {softcm.__version__}; ratio (aim)\n")
    print(f"{'':<32}" + "".join(f"{f'N = {size:,}':>24}" for size in times))
    for name, top, bottom, aims in rows:
        cells = []
        for of_size, aim in zip(times.values(), aims, strict=True):
            cells.append(f"{of_size[top] / of_size[bottom]:.3g}" + (f" ({aim:.3g})" if aim else ""))
        print(f"{name:<32}" + "".join(f"{cell:>24}" for cell in cells))
