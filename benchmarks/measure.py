"""Times of steps that run in turn, and what is known of the machine they ran on."""

import ctypes
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

Step = Callable[[], object]

SHORTEST_SAMPLE = 1e-3  # seconds: below that, the clock and a cold start would count
WARM_UP = 3
FEWEST = 3  # samples, for a median
# Of glibc's mallopt.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


class Timing(NamedTuple):
    """Seconds a call: the median and the quartiles of the samples."""

    median: float
    low: float
    high: float
    samples: int


def _clock(step: Step, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls


def interleaved(
    steps: Mapping[str, Step], seconds: float, fewest_rounds: int = 5
) -> dict[str, Timing]:
    """Times of steps that take turns, so that a change of the machine's speed meets all of them.

    Each has ``seconds`` in all, divided into rounds; in each round it takes at least one sample,
    and a sample is as many calls as fill a millisecond. The order of every other round is reversed.
    A step so slow that its samples take more than ten times ``seconds`` sits out after three.
    """
    calls: dict[str, int] = {}
    for name, step in steps.items():
        # Compilers and caches have their time before; slow steps have not much to warm up.
        first = _clock(step, 1)
        once = min(_clock(step, 1) for _ in range(WARM_UP)) if first < seconds else first
        calls[name] = max(1, round(SHORTEST_SAMPLE / once))
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(fewest_rounds):
        for name in list(steps)[:: 1 if turn % 2 == 0 else -1]:
            if turn >= FEWEST and sum(samples[name]) > 10 * seconds:
                continue
            deadline = time.perf_counter() + seconds / fewest_rounds
            samples[name].append(_clock(steps[name], calls[name]))
            while time.perf_counter() < deadline:
                samples[name].append(_clock(steps[name], calls[name]))
    return {name: _timing(of_step) for name, of_step in samples.items()}


def _timing(samples: list[float]) -> Timing:
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(median, low, high, len(samples))


def median_time(step: Step, seconds: float) -> float:
    return interleaved({"": step}, seconds)[""].median


def _mallopt(option: int, value: int) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(option, value))


def keep_freed_memory() -> bool:
    """Tell glibc neither to map large blocks afresh nor to give freed ones back.

    So every contender reuses its buffers; else a large gradient costs more in page faults than in
    arithmetic. False where there is no glibc.
    """
    return _mallopt(TRIM_THRESHOLD, 2**31 - 1) and _mallopt(MMAP_THRESHOLD, 2**30)


def give_freed_memory_back() -> bool:
    """As glibc begins: large blocks are fresh each time. False where there is no glibc."""
    if not (_mallopt(TRIM_THRESHOLD, 2**17) and _mallopt(MMAP_THRESHOLD, 2**17)):
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


class Others:
    """How much of the processors' time went to other processes since this was made."""

    def __init__(self) -> None:
        self.start = self._clocks()

    @staticmethod
    def _clocks() -> tuple[float, float, float] | None:
        try:
            line = Path("/proc/stat").read_text().split("\n", 1)[0]
        except OSError:
            return None
        ticks = [int(field) for field in line.split()[1:9]]
        idle = ticks[3] + ticks[4]
        own = sum(os.times()[:4])
        return sum(ticks) / os.sysconf("SC_CLK_TCK"), idle / os.sysconf("SC_CLK_TCK"), own

    def share(self) -> float | None:
        """In 0 ... 1, or None where the system does not tell."""
        end = self._clocks()
        if self.start is None or end is None or end[0] <= self.start[0]:
            return None
        total, idle, own = (after - before for after, before in zip(end, self.start, strict=True))
        return max(0.0, (total - idle - own) / total)


def page_faults(step: Step) -> int:
    """Pages that the system had to bring in for one call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, str]:
    """What a reader has to know to make sense of the figures."""
    found = {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.release()}",
    }
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found
