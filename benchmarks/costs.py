"""What a step costs beside its time: memory, page faults, instructions; and where a small step's
time goes."""

import ctypes
import gc
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .cases import Case
from .contenders import contender, steps
from .measure import (
    Step,
    give_freed_memory_back,
    interleaved,
    keep_freed_memory,
    page_faults,
)
from .peers import NotRun

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
INSTRUCTION_CALLS = 50
MEMORY_SIZE = 1 << 22
SMALL = 1 << 10


class Split(NamedTuple):
    """Seconds of a step, and what becomes of them."""

    step: float
    kernel: float  # in the compiled operators beyond what they take for two samples
    dispatch: float  # PyTorch's way to them and back, and what they allocate: for two samples
    autograd: float  # a step through a Function that does nothing
    python: float  # the rest: checks, the Functions' bodies, PyTorch on the counts


class EmptyFunction(torch.autograd.Function):
    """What PyTorch itself takes for a step through any Function in Python."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return gradient.new_empty(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient, None


class _Recorder(TorchDispatchMode):
    """Keeps the calls of softcm's operators that happen under it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "softcm":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def operators(step: Step) -> Step:
    """The compiled operators that a step calls, by themselves, on the same tensors."""
    with _Recorder() as recorder:
        step()
    calls = recorder.calls

    def replay() -> None:
        for operator, args in calls:
            operator(*args)

    return torch.no_grad()(replay)


def split(loss: str, thresholds: int, seconds: float) -> Split:
    """Where the time of a step on 1,024 samples goes."""
    case = Case(loss, SMALL, thresholds=thresholds)
    (step,), (tiny,) = (
        steps(c, ("native",))[0].values() for c in (case, Case(loss, 2, thresholds=thresholds))
    )
    leaf = torch.rand(SMALL, requires_grad=True)
    gradient = torch.rand(SMALL)
    timings = interleaved(
        {
            "step": step,
            "operators": operators(step),
            "tiny": operators(tiny),
            "empty": lambda: torch.autograd.grad(EmptyFunction.apply(leaf, gradient), leaf),
        },
        seconds,
    )
    whole, of_operators, of_tiny, empty = (timing.median for timing in timings.values())
    python = whole - of_operators - empty
    return Split(whole, of_operators - of_tiny, of_tiny, empty, python)


def _status(field: str) -> int:
    """Bytes, from what the system tells of this process."""
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.M)
    assert found is not None, field
    return int(found[1]) * 1024


def peak_memory(step: Step) -> int:
    """Bytes that a call needs at its height beyond what was there before.

    Raises NotRun where the system does not tell.
    """
    if not CLEAR_REFS.exists():
        raise NotRun("only Linux tells a process's peak of memory, and resets it")
    if not give_freed_memory_back():
        raise NotRun("without glibc, freed memory may hide what a call needs")
    try:
        step()  # what is made once
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR_REFS.write_text("5")
        before = _status("VmRSS")
        step()
        return max(0, _status("VmHWM") - before)
    except OSError as error:
        raise NotRun(f"the peak of memory cannot be reset: {error}") from None
    finally:
        keep_freed_memory()


def memory(
    threads: int, names: tuple[str, ...], size: int = MEMORY_SIZE
) -> dict[str, dict[str, float]]:
    """Peak bytes of an F1 step beyond its operands, a sample, at 1 and 99 thresholds."""
    found: dict[str, dict[str, float]] = {}
    for thresholds in (1, 99):
        case = Case("f1", size, thresholds=thresholds, threads=threads)
        for name, step in steps(case, names)[0].items():
            found.setdefault(name, {})[str(thresholds)] = peak_memory(step) / size
    return found


def fresh_buffers(size: int, threads: int, seconds: float) -> dict[str, float]:
    """Time and page faults of an F1 step that reuses its memory, and of one that does not."""
    (step,) = steps(Case("f1", size, threads=threads), ("native",))[0].values()
    reused = interleaved({"": step}, seconds)[""].median
    faults = page_faults(step)
    if not give_freed_memory_back():
        raise NotRun("without glibc there is no saying which memory is reused")
    try:
        step()
        fresh = interleaved({"": step}, seconds)[""].median
        return {
            "reused": reused,
            "fresh": fresh,
            "faults reused": faults,
            "faults fresh": page_faults(step),
        }
    finally:
        keep_freed_memory()


def repeat(name: str, size: int, calls: int) -> None:
    """What the counters of instructions run: so many steps of a contender, on one thread."""
    case = Case("f1", size)
    found = contender(case, name)
    leaf = torch.rand(size, requires_grad=True)
    target = (torch.rand(size) < 0.05).float()
    torch.set_num_threads(1)
    for _ in range(calls):
        torch.autograd.grad(found.loss(leaf, target), leaf)


def _instructions(counter: list[str], pattern: str, name: str, size: int, calls: int) -> int:
    code = f"from benchmarks.costs import repeat; repeat({name!r}, {size}, {calls})"
    done = subprocess.run(
        [*counter, sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(pattern, done.stderr)
    if done.returncode != 0 or found is None:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise NotRun(f"{counter[0]} did not count: {last}")
    return int(found[1].replace(",", ""))


def instructions(name: str, size: int) -> tuple[float, str]:
    """Instructions of one step, in user space, and what counted them.

    The processor's own counters, by perf, where they may be read; else valgrind, which emulates a
    processor without AVX-512, so that its count is of the AVX2 kernels. Raises NotRun.
    """
    counters = {
        "perf": (["perf", "stat", "-x,", "-e", "instructions:u"], r"(?m)^(\d+),,instructions"),
        "valgrind": (
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"],
            r"Collected : (\d+)",
        ),
    }
    reasons = []
    for counter, (command, pattern) in counters.items():
        if shutil.which(counter) is None:
            reasons.append(f"{counter} is not installed")
            continue
        try:
            few, many = (
                _instructions(command, pattern, name, size, calls)
                for calls in (2, 2 + INSTRUCTION_CALLS)
            )
        except NotRun as reason:
            reasons.append(str(reason))
            continue
        return (many - few) / INSTRUCTION_CALLS, counter
    raise NotRun("; ".join(reasons))
