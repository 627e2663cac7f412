"""What the first GPU has to show, in one go and one Markdown table.

    python benchmarks/gpu_report.py [--seconds 1] [--output gpu_report.md]

Correctness (pytest -m gpu, and each backend against the reference in float64), the same bits from
run to run, capture in a CUDA graph, compute-sanitizer where it is on PATH: all of the F1 loss at
one threshold of eq. (5), and at one size of losses at 99 thresholds and of metrics that are not
linear-fractional. Then the time of a step, forward and backward through the public call, of the
F1 loss and of those, beside cross-entropy, torch.compile of the reference, and a copy within the
device of as many bytes as a step has to move (prediction and label twice, the gradient once). Times
are medians, by CUDA events without waiting in between, so that a small step shows how long Python
takes to launch it; nothing empties the caches. Exits non-zero when a check failed. --device cpu
goes the same way as far as a CPU can, with perf_counter.
"""

import argparse
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from measure import Step, median_time
from torch import Tensor

import softcm
from softcm.__main__ import installation
from softcm.backends import select_backend

ROOT = Path(__file__).resolve().parent.parent
SIZES = (1_024, 1 << 20, 1 << 24)
DTYPES = (torch.float32, torch.bfloat16)
BACKENDS = ("native", "triton")
TESTS = "tests"
SANITIZER_TOOLS = ("memcheck", "racecheck", "synccheck")
MOVED = 5  # elements that a step has to read or write, for a sample
MANY = tuple(i / 100 for i in range(1, 100))
# By the way that the kernels take: fused at one threshold, buckets, composite metrics, both.
LOSSES = {
    "F1": (softcm.f1_loss, 0.5),
    "F1 at 99 thresholds": (softcm.f1_loss, MANY),
    "MCC": (softcm.mcc_loss, 0.5),
    "AUROC at 99 thresholds": (softcm.auroc_loss, MANY),
}
OTHER_LOSSES = tuple(LOSSES)[1:]
SIZE_OF_OTHERS = 20_001  # the reference holds a float64 number for each threshold and sample


class Row(NamedTuple):
    what: str
    size: str = ""
    dtype: str = ""
    result: str = ""
    rate: str = ""
    ratio: str = ""


HEADER = Row("what", "N", "dtype", "result", "GB/s", "time / copy")


class NotRun(Exception):
    """A check that this machine cannot do, and why."""


def batch(size: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    input = torch.rand(size, generator=generator).to(device, dtype)
    target = (torch.rand(size, generator=generator) < 0.05).to(device, dtype)
    return input.requires_grad_(), target


def loss_step(
    input: Tensor, target: Tensor, backend: str, loss: str = "F1"
) -> tuple[Tensor, Tensor]:
    function, threshold = LOSSES[loss]
    value = function(input, target, threshold=threshold, backend=backend)
    return value, torch.autograd.grad(value, input)[0]


def demand(backend: str, device: str) -> None:
    try:
        select_backend(backend, device)
    except RuntimeError as error:
        raise NotRun(error) from None


def run_tests() -> str:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    summary = (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1].strip("= ")
    if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:  # the file has skipped itself
        raise NotRun(summary)
    assert done.returncode == 0, summary
    return summary


def check_against_reference(loss_name: str, backend: str, device: str, size: int) -> str:
    demand(backend, device)
    input, target = batch(size, torch.float32, device)
    loss, gradient = loss_step(input, target, backend, loss_name)
    exact, exact_gradient = loss_step(
        input.detach().double().requires_grad_(), target.double(), "reference", loss_name
    )
    error = ((loss - exact).abs() / exact).item()
    gradient_error = ((gradient - exact_gradient).abs().max() / exact_gradient.abs().max()).item()
    found = f"relative error: loss {error:.1e}, gradient {gradient_error:.1e} of the largest"
    assert error <= 1e-6, found
    assert gradient_error <= 1e-5, found
    return found


def check_same_bits(loss: str, backend: str, device: str, size: int) -> str:
    demand(backend, device)
    example = batch(size, torch.float32, device)
    first, *others = (loss_step(*example, backend, loss) for _ in range(10))
    assert all(all(map(torch.equal, first, other)) for other in others), "bits differ"
    return "the same bits in 10 runs"


def check_graph(loss: str, backend: str, device: str, size: int) -> str:
    demand(backend, device)
    if device != "cuda":
        raise NotRun(f"no CUDA graphs on {device}")
    input, target = batch(size, torch.float32, device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        loss_step(input, target, backend, loss)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = loss_step(input, target, backend, loss)
    with torch.no_grad():
        input.copy_(1 - input)
    graph.replay()
    assert all(map(torch.equal, captured, loss_step(input, target, backend, loss))), (
        "a replay differs"
    )
    return "captured; a replay on new values gives the bits of a call"


CHECKS = {
    "against float64": check_against_reference,
    "determinism": check_same_bits,
    "CUDA graph": check_graph,
}


def small_steps(device: str) -> None:
    """What compute-sanitizer looks at: each backend and loss, few and many samples."""
    for backend in BACKENDS:
        try:
            demand(backend, device)
        except NotRun:
            continue
        for size in (1_000, 100_001):
            for loss in LOSSES:
                loss_step(*batch(size, torch.float32, device), backend, loss)


def run_sanitizer(tool: str, device: str) -> str:
    if device != "cuda":
        raise NotRun(f"no compute-sanitizer on {device}")
    if shutil.which("compute-sanitizer") is None:
        raise NotRun("compute-sanitizer is not on PATH")
    code = "import gpu_report, torch; gpu_report.small_steps('cuda'); torch.cuda.synchronize()"
    # Without PyTorch's cache of memory every tensor has bounds that the tool knows.
    command = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer", "--tool", tool]
    command += ["--error-exitcode", "1", sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=False
    )
    summary = ([x for x in done.stdout.splitlines() if "SUMMARY" in x] or [done.stderr[-200:]])[-1]
    assert done.returncode == 0, summary
    return summary.strip("= ")


def median_event_time(step: Step, seconds: float) -> float:
    """Seconds on the device's own clock."""
    for _ in range(10):
        step()
    torch.cuda.synchronize()
    pairs = []
    deadline = time.perf_counter() + seconds
    while len(pairs) < 20 or time.perf_counter() < deadline:
        pairs.append(tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)))
        pairs[-1][0].record()
        step()
        pairs[-1][1].record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in pairs) / 1_000


def contenders(size: int, dtype: torch.dtype, device: str) -> dict[str, Step]:
    input, target = batch(size, dtype, device)
    source = torch.ones(MOVED * size // 2, dtype=dtype, device=device)
    destination = torch.empty_like(source)
    torch.compiler.reset()  # of what was compiled for another size
    reference = torch.compile(
        lambda input, target: softcm.f1_loss(input, target, backend="reference"),
        fullgraph=True,
        dynamic=False,
    )

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
        return lambda: torch.autograd.grad(loss(input, target), input)

    return {
        "copy": lambda: destination.copy_(source),
        **{backend: partial(loss_step, input, target, backend) for backend in BACKENDS},
        **{
            f"{backend}, {loss}": partial(loss_step, input, target, backend, loss)
            for backend in BACKENDS
            for loss in OTHER_LOSSES
        },
        "cross-entropy": step(F.binary_cross_entropy),
        "compiled reference": step(reference),
    }


def times(size: int, dtype: torch.dtype, device: str, seconds: float) -> Iterator[Row]:
    median = median_event_time if device == "cuda" else median_time
    moved = MOVED * size * dtype.itemsize
    copy = float("nan")
    for name, step in contenders(size, dtype, device).items():
        where = (f"time, {name}", f"{size:,}", str(dtype).removeprefix("torch."))
        try:
            backend = name.split(",")[0]
            if backend in BACKENDS:
                demand(backend, device)
            seconds_a_step = median(step, seconds)
        except Exception as error:
            yield Row(*where, failure(error))
            continue
        if name == "copy":
            copy = seconds_a_step
        rate, ratio = moved / seconds_a_step / 1e9, seconds_a_step / copy
        yield Row(*where, f"{seconds_a_step * 1e6:,.1f} us", f"{rate:,.1f}", f"{ratio:.2f}")


def failure(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"not run: {first}" if isinstance(error, NotRun) else f"FAILED: {first}"


def check(what: str, function: Callable[..., str], *arguments: object, size: str = "") -> Row:
    try:
        return Row(what, size, result=function(*arguments))
    except Exception as error:
        return Row(what, size, result=failure(error))


def machine(device: str) -> Iterator[Row]:
    cpu = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU ({cpu})"
    yield Row("device", result=name)
    smi = shutil.which("nvidia-smi")
    query = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False) if smi else None
    yield Row("driver", result=driver.stdout.split("\n")[0] if driver else "none: no nvidia-smi")
    yield Row("clock", result="CUDA events" if device == "cuda" else "perf_counter")
    for part, version in installation():
        nested = part.startswith(" ")
        yield Row(f"built with {part.strip()}" if nested else part, result=version)


def report(arguments: argparse.Namespace) -> Iterator[Row]:
    device = arguments.device
    yield from machine(device)
    yield check("pytest -m gpu", run_tests)
    for backend in BACKENDS:
        for name, function in CHECKS.items():
            for size in arguments.sizes:
                what = f"{name}, {backend}"
                yield check(what, function, "F1", backend, device, size, size=f"{size:,}")
        for loss, (name, function) in product(OTHER_LOSSES, CHECKS.items()):
            what, size = f"{name}, {backend}, {loss}", SIZE_OF_OTHERS
            yield check(what, function, loss, backend, device, size, size=f"{size:,}")
    for tool in SANITIZER_TOOLS:
        yield check(f"compute-sanitizer, {tool}", run_sanitizer, tool, device)
    for size in arguments.sizes:
        for dtype in DTYPES:
            yield from times(size, dtype, device, arguments.seconds)


def markdown(row: Row) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def sizes(text: str) -> tuple[int, ...]:
    found = tuple(int(part) if part.strip().isdecimal() else 0 for part in text.split(","))
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"positive integers with commas expected, not {text!r}")
    return found


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", type=sizes, default=SIZES, help="as 1024,1048576")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--output", type=Path, default=Path("gpu_report.md"))
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu shows what the report looks like")
    if find_spec("pytest") is None:
        parser.error("the report runs the tests: pip install 'softcm[test]'")
    return arguments


def main(argv: list[str]) -> int:
    arguments = parse_arguments(argv)
    failed = False
    with arguments.output.open("w", encoding="utf-8") as file:

        def write(line: str) -> None:
            print(line, flush=True)
            print(line, file=file, flush=True)

        write(markdown(HEADER))
        write("|---" * len(HEADER) + "|")
        command = shlex.join(["python", "benchmarks/gpu_report.py", *argv])
        write(markdown(Row("command", result=f"`{command}`")))
        for row in report(arguments):
            write(markdown(row))
            failed |= row.result.startswith("FAILED")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
