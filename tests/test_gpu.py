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
@pytest.mark.parametrize("case_id", ["size-16385-plain", "target-soft", "weight-zeros-classes"])
def test_loss_and_gradient(case_id, name):
    case = by_id[case_id]
    exact, exact_gradient = loss_of(case.build().in_float64(), name, "reference")
    loss, gradient = (x.cpu() for x in loss_of(case.build("cuda"), name, "native"))
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)
    assert_gradient(gradient, exact_gradient, 1e-5, exact_gradient.abs().max())


def test_same_bits_from_run_to_run():
    example = by_id["large"].build("cuda")
    first, second = (loss_of(example, "f1", "native") for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_capture_in_a_graph():
    input = torch.rand(100_000, device="cuda", requires_grad=True)
    target = (torch.rand(100_000, device="cuda") < 0.3).float()

    def step():
        loss = softcm.f1_loss(input, target, backend="native")
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
