"""Speed of an F1-loss step at many thresholds and with a look-up table, as ratios within one run.

    python benchmarks/many_thresholds.py [--threads 2] [--seconds 1]

A step is forward and backward through the public call; float32 probabilities, medians. "direct" is
the same 99 thresholds nine at a time, so few that the kernels take them one by one. "skewed" is 99
thresholds for predictions of which 95% are below 0.01, as with rare positives. The last lines show
where the kernels change from a loop over the thresholds to buckets: from there the time is flat.
"""

from collections.abc import Callable
from functools import partial

import torch
from measure import measure, median_time, parse_arguments, print_ratios
from torch import Tensor

import softcm

SIZES = (1 << 20, 1 << 24)
CROSSOVER_SIZES = (1 << 10, 1 << 14, 1 << 20)
CROSSOVER_COUNTS = (4, 8, 12, 14, 16, 20, 32, 64)
ROWS = (
    ("99 / 1 thresholds", "linear 99", "linear 1", (15, None)),
    ("99 thresholds / direct", "linear 99", "direct 99", (1 / 3, 1 / 3)),
    ("999 / 99 thresholds", "linear 999", "linear 99", (1.3, 1.3)),
    ("9 / 1 thresholds", "linear 9", "linear 1", (None, None)),
    ("skewed / uniform, 99", "skewed 99", "linear 99", (1.3, 1.3)),
    ("table 9 / linear 1", "table 9", "linear 1", (8, 3)),
    ("table 999 / table 1", "table 999", "table 1", (1.1, 1.1)),
    ("skewed table / table, 9", "skewed table 9", "table 9", (1.3, 1.3)),
    ("sigmoid 99 / sigmoid 9", "sigmoid 99", "sigmoid 9", (None, None)),
    ("sigmoid 9 / linear 9", "sigmoid 9", "linear 9", (None, None)),
)


def grid(count: int) -> tuple[float, ...]:
    return tuple(i / (count + 1) for i in range(1, count + 1))


def contenders(size: int) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(size, generator=generator)
    rare = torch.rand(size, generator=generator) < 0.95
    y = (torch.rand(size, generator=generator) < 0.05).float()
    uniform = p.clone().requires_grad_()
    skewed = torch.where(rare, 0.01 * p, p).requires_grad_()

    def step(input: Tensor, count: int, **options: object) -> Callable[[], object]:
        threshold = grid(count) if count > 1 else 0.5
        return lambda: torch.autograd.grad(
            softcm.f1_loss(input, y, threshold=threshold, **options), input
        )

    def direct() -> None:
        thresholds = grid(99)
        for first in range(0, 99, 9):
            nine = thresholds[first : first + 9]
            torch.autograd.grad(softcm.f1_loss(uniform, y, threshold=nine), uniform)

    sigmoid, table = softcm.Sigmoid(), softcm.Table()
    fine = softcm.Table(threshold_step=1 / 1000)
    return {
        **{f"linear {count}": step(uniform, count) for count in (1, 9, 99, 999)},
        "direct 99": direct,
        "skewed 99": step(skewed, 99),
        **{f"sigmoid {count}": step(uniform, count, heaviside=sigmoid) for count in (9, 99)},
        **{f"table {count}": step(uniform, count, heaviside=table) for count in (1, 9)},
        "table 999": step(uniform, 999, heaviside=fine),
        "skewed table 9": step(skewed, 9, heaviside=table),
    }


def crossover(seconds: float) -> None:
    print(
        f"\n{'us at T thresholds, T =':<28}" + "".join(f"{count:>8}" for count in CROSSOVER_COUNTS)
    )
    for size in CROSSOVER_SIZES:
        p, y = torch.rand(size, requires_grad=True), (torch.rand(size) < 0.05).float()

        def step(threshold: tuple[float, ...], p: Tensor = p, y: Tensor = y) -> object:
            return torch.autograd.grad(softcm.f1_loss(p, y, threshold=threshold), p)

        times = [median_time(partial(step, grid(count)), seconds) for count in CROSSOVER_COUNTS]
        print(f"{f'N = {size:,}':<28}" + "".join(f"{t * 1e6:>8,.0f}" for t in times))


if __name__ == "__main__":
    arguments = parse_arguments(__doc__.splitlines()[0])
    print_ratios(measure(SIZES, contenders, arguments.seconds), ROWS)
    crossover(arguments.seconds / 4)
