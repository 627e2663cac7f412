"""Steps at many thresholds and with a look-up table, side by side on one batch.

"direct" is the same 99 thresholds nine at a time, so few that the kernels take them one by one.
"skewed" is for predictions of which 95% are below 0.01, as with rare positives.
"""

from collections.abc import Callable

import torch
from torch import Tensor

import softcm

from .cases import Case, batch, grid
from .measure import Step

COUNTS = (1, 9, 99, 999)


def steps(size: int, threads: int) -> dict[str, Step]:
    torch.set_num_threads(threads)
    _, p, y = batch(Case("f1", size))
    generator = torch.Generator().manual_seed(1)
    rare = torch.rand(size, generator=generator) < 0.95
    uniform = torch.rand(size, generator=generator).requires_grad_()
    skewed = torch.where(rare, 0.01 * p, p).requires_grad_()

    def step(input: Tensor, count: int, **options: object) -> Callable[[], object]:
        threshold = grid(count)
        return lambda: torch.autograd.grad(
            softcm.f1_loss(input, y, threshold=threshold, **options), input
        )

    def direct() -> None:
        for first in range(0, 99, 9):
            nine = grid(99)[first : first + 9]
            torch.autograd.grad(softcm.f1_loss(uniform, y, threshold=nine), uniform)

    sigmoid, table = softcm.Sigmoid(), softcm.Table()
    fine = softcm.Table(threshold_step=1 / 1000)
    return {
        **{f"linear {count}": step(uniform, count) for count in COUNTS},
        "direct 99": direct,
        "skewed 99": step(skewed, 99),
        **{f"sigmoid {count}": step(uniform, count, heaviside=sigmoid) for count in (9, 99)},
        **{f"table {count}": step(uniform, count, heaviside=table) for count in (1, 9)},
        "table 999": step(uniform, 999, heaviside=fine),
        "skewed table 9": step(skewed, 9, heaviside=table),
    }
