"""The Triton backend in its interpreter, on the CPU. Needs TRITON_INTERPRET=1 from the start.

tests/test_triton.py runs this file in a process of its own: one that interprets cannot compile.
"""

import importlib
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_backends as backends
import torch
import triton
import triton.language as tl
from cases import CASES, EXACT_THRESHOLDS, Case
from test_operators import ARGUMENT_CASES, arguments
from triton.runtime.errors import InterpreterError
from triton_checks import checked

import softcm
from softcm import Linear, Sigmoid, triton_kernels, triton_ops
from softcm.triton_math import (
    exp_nonpositive,
    log_one_plus,
    make_heaviside,
    minus_log,
    minus_log_one_minus,
    other,
    slope,
    slope_threshold,
)
from softcm.triton_plan import Tuning

# So small that a few hundred samples are many programs, whose sums take several rounds.
SMALL = Tuning(tile=32, terms=2, most_groups=4, most_thresholds=2, programs=16)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(triton_ops, "tuning", SMALL)
    monkeypatch.setattr(triton_ops, "_tickets", {})


@pytest.fixture
def large(monkeypatch):
    """The interpreter takes hardly longer for a large tile than for a small one."""
    monkeypatch.setattr(triton_ops, "tuning", Tuning(tile=2048))


# The shared cases, in shuffled order of programs: those that the interpreter does in a second, and
# a few of the others.
SLOW = ("99-thresholds", "many-linear0.01-soft", "many-sigmoid10-gated-logits", "table-soft-fine")
SLOW += ("many-linear0.01-gated-exact", "many-sigmoid10-soft-exact")


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (case, list(backends.LOSSES)[i % len(backends.LOSSES)])
        for i, case in enumerate(CASES)
        if case.id in SLOW or math.prod((*case.shape, len(case.thresholds))) < 30_000
    ],
    ids=lambda value: getattr(value, "id", value),
)
def test_case(case, name, large):
    """A loss for each case, all in turn."""
    example = case.build()
    with checked(watch=False):
        exact = backends.counts_of(example.in_float64(), "reference")
        backends.assert_counts(backends.counts_of(example, "triton"), exact, 1e-6)
        backends.assert_loss(case, example, name, "triton")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "case", [c for c in CASES[3::24] if len(c.thresholds) < 20], ids=backends.get_id
)
def test_dtype(case, dtype, large):
    with checked(watch=False):
        backends.assert_loss(case, case.build(dtype=dtype), "f1", "triton")


@pytest.mark.parametrize("p", [0.1, 1 / 3, 0.5181677937507629, 0.982695460319519, 1 - 2**-24])
@pytest.mark.parametrize("heaviside", [Linear(), Sigmoid()], ids=str)
def test_sums_of_equal_probabilities(heaviside, p):
    """The worst for a running sum: all its roundings go one way."""
    options = {"heaviside": heaviside, "membership": "gated", "backend": "triton"}
    backends.assert_counts(*backends.repeated(p, 6000, 2192, **options), 1e-6)


# Programs and memory.

CHECKED = [
    Case("one-class", (300,), "logits", target="soft", heaviside=Sigmoid(), ce_weight=0.3),
    Case("thresholds", (150,), threshold=(0.2, 0.4, 0.5, 0.7, 0.9), weight="zeros"),
    Case("classes", (70, 7), target="uint8", pos_weight="classes", average="weighted"),
    Case("indices", (3, 5, 50), "logits", target="index", ignore_index=2, average="none"),
    Case("strides", (9, 3, 7), layout="step", target_layout="transposed", average="micro"),
    # A plan for each: groups of one sample's classes in turn, and side by side; one class.
    Case(
        "samples",
        (3, 5, 50),
        target="index",
        ignore_index=2,
        per_sample=True,
        threshold=(0.2, 0.4, 0.5, 0.7, 0.9),
        of_classes=True,
        pos_weight="classes",
        average="present",
        class_weight=True,
        ce_weight=0.3,
    ),
    Case(
        "samples-strides",
        (7, 3, 9),
        "logits",
        positives=0.05,
        per_sample=True,
        layout="channels last",
        weight="per row",
        average="weighted",
        ce_weight=0.3,
    ),
    Case(
        "samples-missing",
        (3, 1, 90),
        target="soft",
        ignore_index=math.nan,
        per_sample=True,
        threshold=(0.3, 0.6),
        average="none",
    ),
    Case(
        "thresholds-of-classes",
        (70, 3),
        threshold=(0.2, 0.4, 0.5, 0.7, 0.9, 0.6),
        of_classes=True,
        average="present",
        class_weight=True,
        target="float",
        ignore_index=math.nan,
    ),
]
each_checked = pytest.mark.parametrize("case", CHECKED, ids=backends.get_id)


def thresholds_of(example):
    return torch.as_tensor(example.options["threshold"]).detach().clone()


@each_checked
def test_programs_in_any_order_give_the_same_bits(case, small):
    example = case.build()
    tau = thresholds_of(example).float().requires_grad_()
    results = []
    for seed in range(2):
        with checked(seed):
            backends.assert_loss(case, example, "f1", "triton")
            input = example.input.detach().requires_grad_()
            options = example.options | example.loss_options | {"threshold": tau}
            loss = softcm.mcc_loss(input, example.target, backend="triton", **options)
            grads = torch.autograd.grad(loss.sum(), (input, tau))
            results.append([loss.detach(), *grads])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("case", backends.UPSTREAM, ids=backends.get_id)
def test_upstream_gradient(case):
    backends.assert_upstream_gradient(case, "triton")


@each_checked
def test_threshold_gradient(case, small):
    example = case.build(dtype=torch.float64)

    def gradient(backend):
        tau = thresholds_of(example).double().requires_grad_()
        options = example.options | example.loss_options | {"threshold": tau}
        loss = softcm.f1_loss(example.input, example.target, backend=backend, **options)
        return torch.autograd.grad(loss.sum(), tau)[0]

    torch.testing.assert_close(gradient("triton"), gradient("reference"), rtol=1e-10, atol=1e-12)


@each_checked
def test_every_byte_of_the_results_is_written(case, small, monkeypatch):
    """Memory that a call is handed holds NaN: what it does not write stays NaN."""
    example = case.build()
    expected = backends.loss_of(example, "f1", "triton")

    def poisoned(make):
        return lambda *a, **k: (x := make(*a, **k)).fill_(math.nan if x.is_floating_point() else 99)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    for actual, wanted in zip(backends.loss_of(example, "f1", "triton"), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_two_launches_for_a_loss_and_its_gradient(monkeypatch):
    launched, launch = [], triton_ops._launch
    monkeypatch.setattr(
        triton_ops, "_launch", lambda *a, **k: (launched.append(a), launch(*a, **k))
    )
    for case in CHECKED:
        backends.loss_of(case.build(), "f1", "triton")
    assert len(launched) == 2 * len(CHECKED)


def search_for_mistakes():
    cases = [
        *CHECKED[:3],
        Case("exact", (70,), "exact", threshold=0.5),
        Case("ignored", (70,), ignore_index=0),
        Case("no-positives", (40,), positives=0.0, membership="gated"),
    ]
    for case in cases:
        example = case.build()
        if case.id == "ignored":
            example.input[example.target == 0] = math.nan
        with checked():
            for name in ("f1", "recall"):
                backends.assert_loss(case, example, name, "triton")


def test_no_mistake_is_found(small):
    search_for_mistakes()


# The module, what is there and what instead, and what tells of it.
MISTAKES = {
    "relaxed ticket": ("kernels", 'sem="acq_rel"', 'sem="relaxed"', "Race"),
    "last but one": ("kernels", "== programs - 1", "== programs - 2", "Race"),
    "shared partial": ("kernels", "partial + part * size", "partial", "Race"),
    "ticket not reset": ("kernels", "tl.store(ticket, 0)", "pass", "Race|close"),
    "end of a part": ("kernels", "< last - start", "< last - start + 3", "out of bounds"),
    "end of the groups": ("kernels", "known = tile < groups", "known = tile >= 0", "out of"),
    "breakpoint": ("math", "tl.where(p < low, m1", "tl.where(p <= low, m1", "of the largest"),
    "side of the threshold": ("math", "below = p < h[0]", "below = p <= h[0]", "of the largest"),
    "ignored sample": ("samples", "tl.where(counted, x, 0.5)", "x", "nan"),
    "zero division": ("metric", "bottom != 0.0", "bottom == bottom", "nan"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistake_is_found(mistake, small, tmp_path, monkeypatch):
    """The search can fail: here for kernels in which something has been changed."""
    module, right, wrong, words = MISTAKES[mistake]
    name = "mutant_" + mistake.replace(" ", "_")
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    for path in Path(triton_kernels.__file__).parent.glob("triton_*.py"):
        shutil.copy(path, folder)
    changed = folder / f"triton_{module}.py"
    text = changed.read_text()
    assert right in text
    changed.write_text(text.replace(right, wrong))
    monkeypatch.syspath_prepend(tmp_path)
    mutant = importlib.import_module(f"{name}.triton_kernels")
    for kernel in ("soft_counts_kernel", "soft_counts_backward_kernel"):
        monkeypatch.setattr(triton_kernels, kernel, getattr(mutant, kernel))
    with pytest.raises((AssertionError, InterpreterError), match=words):
        search_for_mistakes()


def test_losses_that_one_operator_does_not_take():
    operator = torch.ops.softcm_triton.fractional_loss.default
    names = [argument.name for argument in operator._schema.arguments]
    given = arguments("fractional_loss", ARGUMENT_CASES["indices"], torch.float32, False)
    given = dict(zip(names, given, strict=True))
    for change, words in (({"per_sample": True}, "per sample"), ({"average": "none"}, "softmax")):
        with pytest.raises(RuntimeError, match=words):
            operator(*(given | change).values())


# On a GPU, "auto" is this backend.


def test_tuned_threshold_reproduces_its_score(monkeypatch):
    case = Case("tune", (50, 12), "logits", positives=0.3)
    input, target, _, _ = case.build()
    monkeypatch.setattr(softcm.backends, "select_backend", lambda *_, **__: "triton")
    tuned = softcm.tune_threshold(input, target, from_logits=True)
    options = {"threshold": tuned.threshold, "from_logits": True}
    f1 = softcm.metrics.f1(softcm.confusion_matrix(input, target, **options))
    assert torch.equal(f1.squeeze(1), tuned.score)


# Device maths.


@triton.jit
def heaviside_kernel(
    p, q, threshold, parameter, outputs, KIND: tl.constexpr, T: tl.constexpr, N: tl.constexpr
):
    at = tl.arange(0, N)
    x, y = tl.load(p + at), tl.load(q + at)
    h = make_heaviside(KIND, (threshold, parameter, None, 1), 0, T)
    tl.store(outputs + at, other(KIND, h, x, y))
    tl.store(outputs + N + at, slope(KIND, h, x, y))
    tl.store(outputs + 2 * N + at, slope_threshold(KIND, h, x, y))


def grid_of(tau):
    """0, 1, the threshold, the breakpoints, their neighbours, NaN and what lies between them."""
    half = min(tau, 1 - tau) / 2
    kinks = torch.tensor([0.0, tau - half, tau, tau + half, 1.0])
    around = [kinks, torch.nextafter(kinks, torch.tensor(1.0)), torch.nextafter(kinks, -kinks)]
    points = torch.cat((*around, torch.linspace(0, 1, 16), torch.tensor([math.nan])))
    return points[~((points < 0) | (points > 1))]


def native_heaviside(p, tau, heaviside):
    """other, dh/dp and dh/dtau of each element by the compiled kernels: a class for each."""
    batch = (p[None], torch.ones_like(p)[None], tau, None, None, None)
    rule = (None, False, heaviside.kind, heaviside.parameter, "gated", False, False)
    counts, _, _ = torch.ops.softcm.soft_counts(*batch, *rule, False)
    h, rest = counts[:, 0, 0], counts[:, 0, 1]
    gradient = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    grads = (gradient.expand_as(counts), torch.zeros(p.numel(), dtype=torch.float64), None)
    of_p, _ = torch.ops.softcm.soft_counts_backward(*batch, *rule, *grads, False)
    of_tau = []
    for x in p:
        alone = (x[None], torch.ones(1, dtype=p.dtype), *batch[2:])
        grads = (gradient.expand(1, 1, 4), torch.zeros(1, dtype=torch.float64), None)
        of_tau.append(torch.ops.softcm.soft_counts_backward(*alone, *rule, *grads, True)[1])
    return torch.where(p < tau, h, rest), of_p[0], torch.cat(of_tau)


@pytest.mark.skipif("native" not in softcm.available_backends("cpu"), reason="needs the extension")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("tau", [*EXACT_THRESHOLDS, 0.1, 0.3, 0.998])
@pytest.mark.parametrize("heaviside", [Linear(), Linear(0.49), Sigmoid(), Sigmoid(200.0)], ids=str)
def test_heaviside_equals_that_of_the_compiled_kernels(heaviside, tau, dtype):
    p = grid_of(tau).to(dtype)
    size = triton.next_power_of_2(p.numel())
    padded = torch.nn.functional.pad(p, (0, size - p.numel()))
    outputs = torch.full((3, size), math.nan, dtype=dtype)
    threshold, parameter = (
        torch.tensor([x], dtype=torch.float64) for x in (tau, heaviside.parameter)
    )
    kind, T = heaviside.kind, triton_kernels.ARITHMETIC[dtype]
    with np.errstate(all="ignore"):
        heaviside_kernel[1,](padded, 1 - padded, threshold, parameter, outputs, kind, T, size)
    actual, expected = outputs[:, : p.numel()], native_heaviside(p, threshold, heaviside)
    for x, y in zip(actual, expected, strict=True):
        # Both round the slopes of the segments, and a product or two.
        torch.testing.assert_close(
            x.double(), y.double(), rtol=8 * torch.finfo(dtype).eps, atol=0, equal_nan=True
        )


@triton.jit
def elementary_kernel(x, outputs, N: tl.constexpr):
    at = tl.arange(0, N)
    of_unit = tl.load(x + at)  # in [0, 1]
    tl.store(outputs + at, exp_nonpositive(-80.0 * of_unit))
    tl.store(outputs + N + at, log_one_plus(of_unit))
    tl.store(outputs + 2 * N + at, minus_log_one_minus(0.5 * of_unit))
    tl.store(outputs + 3 * N + at, minus_log(0.5 * of_unit))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_elementary_functions(dtype):
    x = torch.rand(1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:300] = x[:300] ** 40
    x[:3] = torch.tensor([0.0, 1.0, math.nan])
    x = x.to(dtype)
    outputs = torch.empty(4, 1024, dtype=dtype)
    with np.errstate(all="ignore"):
        elementary_kernel[1,](x, outputs, 1024)
    large, half = (-80.0 * x).double(), (0.5 * x).double()  # rounded, as in the kernel
    expected = (large.exp(), x.double().log1p(), -(-half).log1p(), -half.log().clamp(min=-100))
    for actual, wanted in zip(outputs, expected, strict=True):
        # Of numbers below the smallest normal one, the last digits are lost.
        rtol, atol = 4 * torch.finfo(dtype).eps, torch.finfo(dtype).tiny
        torch.testing.assert_close(actual.double(), wanted, rtol=rtol, atol=atol, equal_nan=True)


# The operators as PyTorch sees them.


@pytest.mark.parametrize("operator", ["soft_counts", "soft_counts_backward", "fractional_loss"])
@pytest.mark.parametrize(
    "case", ["one class", "indices", "samples", "thresholds of classes", "missing", "not dense"]
)
def test_opcheck(operator, case):
    op = getattr(torch.ops.softcm_triton, operator).default
    for last in (True, False):
        torch.library.opcheck(op, arguments(operator, ARGUMENT_CASES[case], torch.float32, last))
