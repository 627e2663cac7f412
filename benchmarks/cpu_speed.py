"""Speed of one F1-loss step on the CPU, as ratios within one run.

    python benchmarks/cpu_speed.py [--threads 2] [--seconds 1]

A step is forward and backward through the public call: float32 probabilities, one threshold,
default options; medians. It is set beside cross-entropy, the reference backend, torch.compile of
the reference, and the floor: the time to stream the bytes that a step must move (prediction and
label twice, the gradient once) with buffers that are warm. "kernels" are the two compiled operators
by themselves. Freed memory is kept by the allocator, so that every contender reuses its buffers;
without that, a large gradient costs more in page faults than in arithmetic.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import measure, parse_arguments, print_ratios
from torch import Tensor

import softcm
from softcm import inputs
from softcm.autograd import Rule
from softcm.metrics import F1

SIZES = (1_024, 1 << 20, 1 << 24)
ROWS = (
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


if __name__ == "__main__":
    arguments = parse_arguments(__doc__.splitlines()[0])
    print_ratios(measure(SIZES, contenders, arguments.seconds), ROWS)
