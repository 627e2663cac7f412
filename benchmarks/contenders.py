"""The columns of a group: softcm's backends, its look-up table, PyTorch's compiler, the peers.

Nothing is timed before its value and its gradient have been compared with those of a formula in
float64.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

import softcm

from .cases import LOSSES, Case, batch
from .measure import Step
from .peers import PEERS, LossFunction, NotRun

OWN = ("native", "native, logits", "triton", "table")
CONTENDERS = (*OWN, "reference", "compiled", *PEERS, "floor")
# An error of the value relative to it, of the gradient relative to the largest.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
CHECKED = 4096  # samples on which values are compared
# With many thresholds eq. (5) has thousands of kinks, and rounding may put a prediction on the
# other side of one: the share of gradients that this may change.
MOST_ACROSS_A_KINK = 1e-3
# The reference materialises every sample at every threshold, some 80 ns each.
MOST_OF_REFERENCE = 1 << 24
# The compiler unrolls the loop over thresholds, and takes minutes from some dozen on.
MOST_COMPILED_THRESHOLDS = 9


class Contender(NamedTuple):
    loss: LossFunction
    exact: LossFunction  # in float64
    from_logits: bool = False
    checked: int = CHECKED


def _call(case: Case, options: dict[str, object]) -> LossFunction:
    def loss(input: Tensor, target: Tensor) -> Tensor:
        return LOSSES[case.loss](input, target, threshold=case.threshold, **options)

    return loss


def _own(case: Case, name: str) -> Contender:
    options: dict[str, object] = {"backend": "triton" if name == "triton" else "native"}
    if options["backend"] not in softcm.available_backends(case.device):
        raise NotRun(f"no {options['backend']} backend for tensors on {case.device!r}")
    if name == "native, logits":
        options["from_logits"] = True
    elif name == "table":
        options["heaviside"] = softcm.Table(threshold_step=1 / (case.thresholds + 1))
    loss, exact = (_call(case, options | more) for more in ({}, {"backend": "reference"}))
    return Contender(loss, exact, name == "native, logits")


def _compiled(call: LossFunction) -> LossFunction:
    torch.compiler.reset()  # else the graphs of other losses and shapes would count as recompiled
    return torch.compile(call, fullgraph=True)


def _reference(case: Case, name: str) -> Contender:
    if case.elements * case.thresholds > MOST_OF_REFERENCE:
        raise NotRun(f"at N C T > {MOST_OF_REFERENCE:,} a step would take many seconds")
    call = _call(case, {"backend": "reference"})
    if name == "reference":
        return Contender(call, call)
    if case.thresholds > MOST_COMPILED_THRESHOLDS:
        raise NotRun(f"torch.compile takes minutes for more than {MOST_COMPILED_THRESHOLDS}")
    # As a whole: another size would be another graph.
    return Contender(_compiled(call), call, checked=case.size)


def _peer(case: Case, name: str) -> Contender:
    peer = PEERS[name]
    if peer.losses is not None and case.loss not in peer.losses:
        raise NotRun(f"it stands in for {', '.join(peer.losses)}")
    if not peer.several_classes and (case.classes > 1 or case.thresholds > 1):
        raise NotRun("for one class and one threshold only")
    return Contender(peer.make(), peer.exact, peer.from_logits)


def contender(case: Case, name: str) -> Contender:
    if name in OWN:
        return _own(case, name)
    return _reference(case, name) if name in ("reference", "compiled") else _peer(case, name)


def check(case: Case, name: str, found: Contender) -> None:
    """Raise AssertionError where value or gradient is not what the formula says, or is constant."""
    logits, p, target = (x[: found.checked] for x in batch(case))
    input = logits if found.from_logits else p
    x = input.clone().requires_grad_()
    value = found.loss(x, target)
    gradient = torch.autograd.grad(value, x)[0].double()
    # In float64 the reference would take long for a whole batch, and truncate to other levels.
    dtype = input.dtype if name in ("compiled", "table") else torch.float64
    x = input.to(dtype, copy=True).requires_grad_()
    exact = found.exact(x, target.to(dtype))
    of_exact = torch.autograd.grad(exact, x)[0].double()

    tolerance = TOLERANCE[case.dtype]
    error = ((value.double() - exact.double()) / exact.double()).abs().item()
    errors = ((gradient - of_exact).abs() / of_exact.abs().max()).flatten()
    spared = int(MOST_ACROSS_A_KINK * errors.numel()) if case.thresholds > 1 else 0
    gradient_error = errors.kthvalue(errors.numel() - spared).values.item()
    assert error <= tolerance, f"{name}, {case}: the value is {error:.1e} off"
    assert gradient_error <= tolerance, f"{name}, {case}: the gradient is {gradient_error:.1e} off"
    assert gradient.isfinite().all(), f"{name}, {case}: the gradient is not finite"
    assert gradient.unique().numel() > 1, f"{name}, {case}: the gradient is constant"


def floor(case: Case) -> Step:
    """Streams as many bytes as the part has to move: both operands in, the gradient out."""
    size = case.elements * getattr(torch, case.dtype).itemsize // 4
    a, b = (torch.rand(size, device=case.device) for _ in range(2))
    out = torch.empty_like(a)

    def forward() -> object:
        return torch.dot(a, b)

    def backward() -> object:
        return torch.add(a, b, out=out)

    def both() -> object:
        return forward(), backward()

    return {"forward": forward, "backward": backward, "both": both}[case.part]


def part_of_step(case: Case, loss: LossFunction, input: Tensor, target: Tensor) -> Step:
    """The part of a training step that the case asks for."""
    if case.part == "forward":
        return lambda: loss(input, target)
    if case.part == "both":
        return lambda: torch.autograd.grad(loss(input, target), input)
    value = loss(input, target)
    return lambda: torch.autograd.grad(value, input, retain_graph=True)


def steps(
    case: Case, names: tuple[str, ...] = CONTENDERS
) -> tuple[dict[str, Step], dict[str, str]]:
    """What can be timed, checked, by name; and why the others cannot."""
    torch.set_num_threads(case.threads)
    logits, p, target = batch(case)
    leaves: dict[bool, Callable[[], Tensor]] = {
        from_logits: lru_cache(lambda x=x: x.clone().requires_grad_())
        for from_logits, x in ((True, logits), (False, p))
    }
    found: dict[str, Step] = {}
    reasons: dict[str, str] = {}
    for name in names:
        if name == "floor":
            found[name] = floor(case)
            continue
        try:
            made = contender(case, name)
            check(case, name, made)
        except NotRun as reason:
            reasons[name] = str(reason)
            continue
        found[name] = part_of_step(case, made.loss, leaves[made.from_logits](), target)
    return found, reasons
