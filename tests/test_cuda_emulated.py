"""The CUDA kernels, emulated on the CPU, against the float64 reference on the one list of cases.

The library's own path from the public functions to the operators is taken; what the operators do on
a CPU tensor is replaced by the CUDA part's functions, and the GPU by tests/simt.
"""

import ctypes
import itertools
import math

import pytest
import torch
from cases import AVERAGES, CASES, LOSSES, Case
from emulator import build_library, build_once, needs_emulator
from test_backends import (
    DTYPES,
    HALF,
    UPSTREAM,
    assert_counts,
    assert_gradient,
    assert_loss,
    assert_upstream_gradient,
    by_id,
    counts_of,
    get_id,
    largest_gradient,
    loss_of,
)
from test_operators import OPERATORS

import softcm
from softcm import Linear, Sigmoid, Table

pytestmark = [
    needs_emulator,
    pytest.mark.skipif(
        "native" not in softcm.available_backends(), reason="needs the compiled extension"
    ),
    pytest.mark.filterwarnings("ignore:Warning only once for all operators:UserWarning"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = build_once(tmp_path_factory, "emulated", build_library)
    torch.ops.load_library(path)
    return ctypes.CDLL(path)


@pytest.fixture(autouse=True)
def calls(library):
    """The names of the operators that the emulator has served in a test; fails if there is none."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)
    names = []

    def emulated(name):
        operator = getattr(torch.ops.softcm, name).default

        def function(*arguments):
            names.append(name)
            return operator.redispatch(keys, *arguments)

        return function

    replaced = torch.library.Library("softcm", "IMPL")
    for name in OPERATORS:
        replaced.impl(name, emulated(name), "CPU", allow_override=True)
    deterministic = torch.are_deterministic_algorithms_enabled()
    # Fills new memory with NaN, so that nothing unwritten can pass for a result.
    torch.use_deterministic_algorithms(True)
    library.simt_seed(1)
    yield names
    torch.use_deterministic_algorithms(deterministic)
    replaced._destroy()
    assert names


# So many thresholds that a batch of a few thousand samples goes into buckets.
NINETEEN = tuple(i / 20 for i in range(1, 20))
FINER = Table(threshold_step=0.05)
# Many thresholds of tables and of hard counts, for whose buckets the shared cases are too small.
BUCKETS = [
    Case("buckets-table", (9000,), target="float", heaviside=FINER, threshold=NINETEEN),
    Case("buckets-table-soft", (3000, 3), target="soft", heaviside=FINER, threshold=NINETEEN),
    Case(
        "buckets-table-index",
        (3000, 3),
        "logits",
        target="index",
        heaviside=Table(Sigmoid(), thresholds=[i / 50 for i in range(1, 50)]),
        threshold=tuple(i / 50 for i in range(1, 50)),
        pos_weight="classes",
        membership="gated",
        ce_weight=0.3,
    ),
    Case("buckets-one-class-many-blocks", (70_001,), target="float", threshold=NINETEEN),
    Case("buckets-pos-weight", (3000, 2), pos_weight="classes", threshold=NINETEEN, ce_weight=0.3),
]
# Every case in float32 and, in turn, in one of the other dtypes.
DTYPES_OF_CASE = [
    (case, dtype)
    for case, other in zip(CASES + BUCKETS, itertools.cycle(DTYPES[1:]), strict=False)
    for dtype in (torch.float32, other)
]
TURN = [name for name in LOSSES if name not in ("f1", "mcc")]


def losses_of(case, i):
    """Those of each way to a result, and one of the others; of the largest cases that one alone."""
    one = TURN[i % len(TURN)]
    return (one,) if math.prod((*case.shape, len(case.thresholds))) > 10**6 else ("f1", "mcc", one)


@pytest.mark.parametrize(
    ("case", "dtype", "names"),
    [(case, dtype, losses_of(case, i)) for i, (case, dtype) in enumerate(DTYPES_OF_CASE)],
    ids=lambda value: getattr(value, "id", None) or str(value)[6:] if value else None,
)
def test_case(case, dtype, names):
    example = case.build(dtype=dtype)
    relative = 1e-5 if dtype in HALF else 1e-12 if dtype == torch.float64 else 1e-6
    if case.per_sample and len(case.shape) == 2 and case.from_logits and dtype == torch.float32:
        # A count of one sample has the whole error of its probability: exp is off by two units in
        # the last place, as on the hardware, and nothing averages it.
        relative = 2e-6
    exact = counts_of(example.in_float64(), "reference")
    assert_counts(counts_of(example, "native"), exact, relative)
    for name in names:
        assert_loss(case, example, name, "native")


COMPOSITE = ("balanced_accuracy", "gmean", "informedness", "mcc", "kappa", "auroc", "auprc")


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(calls, name, average):
    case = by_id[f"average-{average}-index"]
    assert_loss(case, case.build(), name, "native")
    operator = dict.fromkeys(("callable", "focal_tversky", "partial_auroc"), "soft_counts")
    operator |= dict.fromkeys(COMPOSITE, "composite_loss")
    assert calls[0] == operator.get(name, "fractional_loss")


@pytest.mark.parametrize("case", [case for case in CASES if case.values == "exact"], ids=get_id)
def test_hard_counts(case):
    input, target, options, _ = case.build()
    matrices = [
        torch.stack(softcm.confusion_matrix(input, target, backend=backend, **options))
        for backend in ("native", "reference")
    ]
    assert torch.equal(*matrices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_hard_counts_at_many_thresholds(dtype):
    input = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    input[:3] = torch.tensor([[0.0, 1.0], [0.5, 0.25], [1.0, 0.0]])
    target = torch.rand(5000, 2, generator=torch.Generator().manual_seed(1)) < 0.3
    thresholds = [i / 64 for i in range(1, 64)] + [0.3, 0.7]
    native, reference = (
        torch.stack(softcm.confusion_matrix(input, target, threshold=thresholds, backend=backend))
        for backend in ("native", "reference")
    )
    assert torch.equal(native, reference)


# One block and many, a class at a time and classes side by side, packs and tails, several groups of
# thresholds.
SEEDED = (
    "size-1000-plain",
    "size-16385-plain",
    "size-16385-staged",
    "shape-2x17x300-logits",
    "shape-300x40",
    "index-5x2x11x13-logits",
    "weight-zeros-classes",
    "average-micro-int64-all",
    "99-thresholds-classes",
    "999-thresholds",
)


@pytest.mark.parametrize("case_id", SEEDED)
def test_bits_do_not_depend_on_the_order_of_threads(library, case_id):
    example = by_id[case_id].build()
    results = []
    for seed in range(4):
        library.simt_seed(seed)
        results.append((counts_of(example, "native"), *loss_of(example, "f1", "native")))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.parametrize("case", UPSTREAM, ids=get_id)
def test_upstream_gradient(case):
    assert_upstream_gradient(case, "native")


@pytest.mark.parametrize(
    "case_id",
    [
        "size-1000-plain",
        "shape-300x40",
        "average-micro-index",
        "average-none-index",
        "weight-zeros-classes",
        "many-linear0.1-soft",
        "table-gated-logits",
        "many-sigmoid200-gated",
        "size-16385-staged",
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_value_and_grad(calls, case_id, dtype):
    """One call, which for small batches is a kernel of its own."""
    input, target, options, _ = by_id[case_id].build(dtype=dtype)
    value, grad = softcm.value_and_grad(softcm.f1_loss)(input, target, **options)
    assert calls.count("fractional_loss") == 1
    assert "soft_counts_backward" not in calls
    leaf = input.detach().requires_grad_()
    expected = softcm.f1_loss(leaf, target, **options)
    expected.sum().backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=0)
    coarse = {"rtol": 1e-2, "atol": 0} if dtype == torch.bfloat16 else {"rtol": 1e-6, "atol": 1e-12}
    torch.testing.assert_close(grad, leaf.grad, **coarse)


# One block, class indices of logits, buckets, several blocks.
@pytest.mark.parametrize(
    ("average", "case_id"),
    [
        *itertools.product(AVERAGES, ("average-{}-int64", "average-{}-index-all")),
        ("micro", "buckets-classes"),
        ("none", "blocks-classes"),
    ],
)
@pytest.mark.parametrize("name", COMPOSITE)
def test_value_and_grad_of_composite_losses(calls, name, average, case_id):
    """Against float64, at several thresholds."""
    case = COMPOSITE_CASES.get(case_id) or by_id[case_id.format(average)]
    example = case.build()
    loss, arguments = LOSSES[name]
    options = example.options | {"average": average} | arguments
    value, grad = softcm.value_and_grad(loss)(example.input, example.target, **options)
    assert calls.count("composite_loss") == 1
    assert "soft_counts_backward" not in calls
    example = example._replace(options=options, loss_options={}).in_float64()
    exact, exact_grad = loss_of(example, name, "reference")
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-6)
    assert_gradient(grad, exact_grad, 1e-5, largest_gradient(case, example, name, exact_grad))


COMPOSITE_CASES = {
    case.id: case
    for case in (
        Case("buckets-classes", (5000, 2), threshold=NINETEEN, pos_weight="classes"),
        Case("blocks-classes", (5000, 3), threshold=(0.7, 0.2), membership="gated"),
    )
}


@pytest.mark.parametrize(
    "heaviside", [Linear(), Sigmoid(), FINER], ids=["linear", "sigmoid", "table"]
)
@pytest.mark.parametrize("thresholds", [0.5, NINETEEN], ids=["one", "nineteen"])
@pytest.mark.parametrize("name", ["f1", "mcc"])
def test_launches(library, name, thresholds, heaviside):
    """A loss and its gradient take two kernels, in buckets too; of few samples one."""
    loss = LOSSES[name][0]
    options = {"threshold": thresholds, "heaviside": heaviside}
    for size, kernels in ((1000, 1), (20_000, 2)):
        input, target = torch.rand(size, requires_grad=True), (torch.rand(size) < 0.3).float()
        before = library.simt_launches()
        loss(input, target, **options).backward()
        softcm.value_and_grad(loss)(input, target, **options)
        assert library.simt_launches() - before == 2 * kernels


@pytest.mark.parametrize("heaviside", [Linear(), Sigmoid()], ids=str)
@pytest.mark.parametrize("shape", [(9000,), (300, 5)], ids=str)
@pytest.mark.parametrize("from_logits", [False, True])
def test_threshold_gradient(from_logits, shape, heaviside):
    case = Case("thresholds", shape, "logits" if from_logits else "uniform", heaviside=heaviside)
    example = case.build()
    gradients = []
    for backend, input in (("native", example.input), ("reference", example.input.double())):
        threshold = torch.tensor([0.2, 0.5, 0.7], requires_grad=True, dtype=torch.float64)
        options = example.options | {"threshold": threshold, "backend": backend}
        softcm.mcc_loss(input, example.target, **options).backward()
        gradients.append(threshold.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6 * float(gradients[1].abs().max()))


def test_offset_slices_take_the_scalar_path():
    """Whatever the alignment, the same samples give the same counts."""
    generator = torch.Generator().manual_seed(0)
    input = torch.rand(9000, generator=generator)
    target = (torch.rand(9000, generator=generator) < 0.3).float()
    exact = torch.stack(softcm.soft_confusion_matrix(input, target, backend="reference"))
    for offset in range(1, 5):
        moved = torch.cat((input[:offset], input))[offset:]
        assert moved.data_ptr() % 16 == offset * 4 % 16
        actual = torch.stack(softcm.soft_confusion_matrix(moved, target))
        torch.testing.assert_close(actual, exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": 1.5}, "input must lie in"),
        ({"input": -0.1, "position": 8999}, "input must lie in"),
        ({"target": 1.5}, "target must lie in"),
        ({"target": float("nan")}, "target must lie in"),
        ({"weight": -1.0}, "weight must be finite"),
        ({"weight": float("inf")}, "weight must be finite"),
    ],
    ids=str,
)
def test_values_out_of_range_end_the_kernel(changes, message):
    tensors = {name: torch.full((9000,), 0.5) for name in ("input", "target", "weight")}
    if "weight" not in changes:
        del tensors["weight"]
    changes = dict(changes)
    position = changes.pop("position", 4500)
    for name, value in changes.items():
        tensors[name][position] = value
    with pytest.raises((RuntimeError, ValueError), match=message):
        softcm.soft_confusion_matrix(**tensors)
    # The next call is served again.
    for tensor in tensors.values():
        tensor.fill_(0.5)
    softcm.soft_confusion_matrix(**tensors)


@pytest.mark.parametrize(
    "case",
    ["size-1000-plain", "many-linear0.1-soft", "table-soft"],
)
def test_nan_reaches_the_loss(case):
    input = torch.full((9000,), 0.5)
    input[7] = torch.nan
    loss, gradient = loss_of(
        by_id[case].build()._replace(input=input, target=input.new_ones(9000)),
        "f1",
        "native",
    )
    assert loss.isnan()
    assert gradient.isnan().all()
