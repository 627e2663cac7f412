"""The CUDA kernels on a GPU: the shared cases, the same bits twice, capture in a CUDA graph."""

import pytest
import torch
from cases import CASES, LOSSES
from test_backends import assert_counts, assert_gradient, by_id, counts_of, loss_of

import softcm
from softcm.backends import NATIVE_DEVICES

pytestmark = pytest.mark.gpu
# One skip for all of them, not a line for each case.
if not torch.cuda.is_available():
    pytest.skip("no CUDA device on this machine", allow_module_level=True)
if "cuda" not in NATIVE_DEVICES:
    pytest.skip("softcm was built without CUDA", allow_module_level=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_counts(case, dtype):
    if case.id == "many-large-sure" and dtype == torch.float32:
        pytest.skip("a float32 probability next to 1 has too few digits for these thresholds")
    exact = counts_of(case.build(dtype=dtype).in_float64(), "reference")
    actual = counts_of(case.build("cuda", dtype), "native").cpu()
    assert_counts(actual, exact, 1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "case_id",
    [
        "size-16385-plain",
        "target-soft",
        "weight-zeros-classes",
        "average-micro-int64-all",
        "many-linear0.1-soft",  # buckets
        "many-soft",
        "table-large",
    ],
)
def test_loss_and_gradient(case_id, name):
    case = by_id[case_id]
    exact, exact_gradient = loss_of(case.build().in_float64(), name, "reference")
    loss, gradient = (x.cpu() for x in loss_of(case.build("cuda"), name, "native"))
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)
    assert_gradient(gradient, exact_gradient, 1e-5, exact_gradient.abs().max())


# At one threshold and in buckets, of a linear-fractional metric and of one that is not.
THRESHOLDS = {"one": 0.5, "buckets": tuple(i / 100 for i in range(1, 100))}
each_way = pytest.mark.parametrize(
    ("name", "threshold"),
    [(name, threshold) for name in ("f1", "mcc", "auroc") for threshold in THRESHOLDS],
)


def random_batch(size):
    return torch.rand(size, device="cuda"), (torch.rand(size, device="cuda") < 0.3).float()


@each_way
@pytest.mark.parametrize("size", [1000, 100_000])
def test_value_and_grad(size, name, threshold):
    """Of a small batch by one kernel, of a large one by two."""
    input, target = random_batch(size)
    options = {"threshold": THRESHOLDS[threshold], "backend": "native"}
    value, grad = softcm.value_and_grad(LOSSES[name][0])(input, target, **options)
    leaf = input.requires_grad_()
    expected = LOSSES[name][0](leaf, target, **options)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=0)
    expected_grad = torch.autograd.grad(expected, leaf)[0]
    torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-12)


@each_way
def test_same_bits_from_run_to_run(name, threshold):
    input, target = random_batch(1_000_001)
    options = {"threshold": THRESHOLDS[threshold], "backend": "native"}
    step = softcm.value_and_grad(LOSSES[name][0])
    first, second = (step(input, target, **options) for _ in range(2))
    assert all(map(torch.equal, first, second))


@each_way
def test_capture_in_a_graph(name, threshold):
    input, target = random_batch(100_000)
    input.requires_grad_()

    def step():
        options = {"threshold": THRESHOLDS[threshold], "backend": "native"}
        loss = LOSSES[name][0](input, target, **options)
        return loss, torch.autograd.grad(loss, input)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        input.copy_(torch.rand(100_000, device="cuda"))
    graph.replay()
    assert all(map(torch.equal, captured, step()))
