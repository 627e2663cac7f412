"""Speed of one F1-loss step on the CPU, as ratios within one run.

    python benchmarks/cpu_speed.py [--threads 2] [--seconds 1.5]

A step is forward and backward through the public call: float32 probabilities, one threshold,
default options; medians. It is set beside cross-entropy, the reference backend, torch.compile of
the reference, and the floor: the time to stream the bytes that a step must move (prediction and
label twice, the gradient once) with buffers that are warm. "kernels" are the two compiled operators
by themselves. Freed memory is kept by the allocator, so that every contender reuses its buffers;
without that, a large gradient costs more in page faults than in arithmetic.
"""

import argparse
import ctypes
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import softcm
from softcm import inputs
from softcm.autograd import Rule
from softcm.metrics import F1

SIZES = (1_024, 1 << 20, 1 << 24)
ROWS = (  # name, numerator, denominator, largest ratio aimed at for each size
    ("step / cross-entropy", "softcm", "cross-entropy", (0.75, None, None)),
    ("step / reference", "softcm", "reference", (0.25, 0.01, 0.01)),
    ("step / compiled reference", "softcm", "compiled", (None, 1 / 30, 1 / 30)),
    ("step / floor", "softcm", "floor", (None, 2.5, 2.0)),
    ("kernels / floor", "kernels", "floor", (None, 1.5, 1.5)),
    ("empty Function / cross-entropy", "empty Function", "cross-entropy", (None, None, None)),
)


class EmptyFunction(torch.autograd.Function):
    """What PyTorch itself takes for a step through any autograd.Function."""

    @staticmethod
    def forward(ctx, input: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return gradient.new_empty(())

    @staticmethod
    def backward(ctx, _: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient, None


def keep_freed_memory() -> None:
    """Tell glibc neither to map large blocks afresh nor to give freed ones back."""
    trim_threshold, mmap_threshold = -1, -3
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


def median_time(step: Callable[[], object], seconds: float) -> float:
    for _ in range(3):
        step()
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < deadline:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def contenders(size: int) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(size, generator=generator)
    y = (torch.rand(size, generator=generator) < 0.05).float()
    leaf = p.clone().requires_grad_(True)
    gradient = torch.empty_like(p)

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(leaf, y), leaf)

    def reference(input: Tensor, target: Tensor) -> Tensor:
        return softcm.f1_loss(input, target, backend="reference")

    def floor() -> None:
        torch.dot(p, y)
        torch.add(p, y, out=gradient)

    batch = (p, y, inputs.constant((0.5,), p.device), None, None, None)
    rule = Rule(None, "linear", 0.1, "soft", False)
    metric = inputs.constant(F1.coefficients, p.device)
    one = torch.tensor(1.0)

    def kernels() -> None:
        _, *partials, _ = torch.ops.softcm.fractional_loss.default(
            *batch, *rule, metric, True, "macro", 0.0, 0.0, False
        )
        torch.ops.softcm.soft_counts_backward.default(*partials, one, *batch, *rule, False)

    return {
        "softcm": step(softcm.f1_loss),
        "kernels": kernels,
        "cross-entropy": step(F.binary_cross_entropy),
        "reference": step(reference),
        "compiled": step(torch.compile(reference, fullgraph=True)),
        "floor": floor,
        "empty Function": step(lambda input, _: EmptyFunction.apply(input, gradient)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each measurement")
    arguments = parser.parse_args()
    if "native" not in softcm.available_backends():
        sys.exit("the compiled extension is not installed: nothing to measure")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()

    times: dict[int, dict[str, float]] = {}
    for size in SIZES:
        times[size] = {}
        for name, step in contenders(size).items():
            times[size][name] = median_time(step, arguments.seconds)
            print(f"N = {size:>10,}  {name:<16} {times[size][name] * 1e6:>12,.1f} us", flush=True)

    print(f"\n{platform.processor() or platform.machine()}, {arguments.threads} threads,", end=" ")
    print(f"torch {torch.__version__}, softcm {softcm.__version__}; ratio (aim)\n")
    print(f"{'':<32}" + "".join(f"{f'N = {size:,}':>24}" for size in SIZES))
    for name, top, bottom, aims in ROWS:
        cells = []
        for size, aim in zip(SIZES, aims, strict=True):
            ratio = times[size][top] / times[size][bottom]
            cells.append(f"{ratio:.3g}" + (f" ({aim:.3g})" if aim else ""))
        print(f"{name:<32}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    main()
