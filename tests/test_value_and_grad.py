"""softcm.value_and_grad against the loss and its backward pass."""

import pytest
import torch
from cases import LOSSES
from test_backends import by_id, get_id

import softcm


def build(case, **changes):
    input, target, options, _ = case.build(**changes)
    return input, target, options


def by_autograd(loss, input, target, **options):
    leaf = input.detach().requires_grad_()
    value = loss(leaf, target, **options)
    value.sum().backward()
    return value.detach(), leaf.grad


CHOSEN = [
    by_id[name]
    for name in (
        "size-1000-plain",
        "size-16385-staged",
        "shape-300x40",
        "index-5x2x11x13-logits",
        "weight-zeros-classes",
        "many-linear0.1-soft",
        "table-gated",
        "sure-logits-soft",
    )
]


@pytest.mark.parametrize("average", ["macro", "micro", "none"])
@pytest.mark.parametrize("case", CHOSEN, ids=get_id)
def test_is_the_loss_and_its_gradient(case, average):
    input, target, options = build(case)
    options["average"] = average
    value, grad = softcm.value_and_grad(softcm.f1_loss)(input, target, **options)
    expected, expected_grad = by_autograd(softcm.f1_loss, input, target, **options)
    assert torch.equal(value, expected)
    assert not value.requires_grad
    assert not grad.requires_grad
    assert grad.shape == input.shape
    assert grad.dtype == input.dtype
    torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_every_loss(name, backend):
    input, target, options = build(by_id["shape-300x40"])
    options["backend"] = backend
    loss, own_options = LOSSES[name]
    options |= own_options
    results = [f(loss, input, target, **options) for f in (together, by_autograd)]
    torch.testing.assert_close(*results, rtol=1e-6, atol=0)


def together(loss, *args, **options):
    return softcm.value_and_grad(loss)(*args, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    input, target, options = build(by_id["size-1000-plain"], dtype=dtype)
    results = [f(softcm.f1_loss, input, target, **options) for f in (together, by_autograd)]
    torch.testing.assert_close(*results, rtol=1e-6, atol=0)
    assert results[0][1].dtype == dtype


def test_modules_and_functions_of_losses():
    input, target = torch.rand(100), torch.rand(100) < 0.3
    module = softcm.F1Loss(threshold=0.3, from_logits=True)
    value, grad = softcm.value_and_grad(module)(input, target, torch.ones(100))
    expected, expected_grad = by_autograd(module, input, target)
    assert torch.equal(value, expected)
    torch.testing.assert_close(grad, expected_grad)

    def mixed(p, y):
        return softcm.recall_loss(p, y) + 2 * softcm.f1_loss(p.square(), y)

    def inner(p, y):
        return softcm.f1_loss(p.square(), y)

    def first_of_two(p, y):
        loss = softcm.f1_loss(p, y)
        softcm.recall_loss(p, y)
        return loss

    for loss in (mixed, inner, first_of_two):
        torch.testing.assert_close(
            together(loss, input, target), by_autograd(loss, input, target), rtol=1e-6, atol=0
        )


def test_leaves_nothing_behind():
    input = torch.rand(20_000, requires_grad=True)
    target = torch.rand(20_000) < 0.3
    with pytest.raises(ValueError, match="target must have the shape"):
        softcm.value_and_grad(softcm.f1_loss)(input, target[:5])
    with torch.no_grad():
        value, grad = softcm.value_and_grad(softcm.f1_loss)(input, target)
    assert input.grad is None
    softcm.f1_loss(input, target).backward()
    assert torch.equal(input.grad, grad)
    assert value > 0


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"loss must be a callable such .*, got 0.5 of type float"):
        softcm.value_and_grad(0.5)
    with pytest.raises(TypeError, match=r"input must be a torch.Tensor"):
        softcm.value_and_grad(softcm.f1_loss)([0.5], torch.ones(1))
    p, y, w = torch.rand(8), torch.ones(8), torch.ones((), requires_grad=True)
    for loss in (
        lambda p, y: 2 * w,
        lambda p, y: softcm.f1_loss(p, y).detach(),
        lambda p, y: softcm.f1_loss(p, y).item(),
    ):
        with pytest.raises(ValueError, match="loss must return a tensor that depends on its first"):
            softcm.value_and_grad(loss)(p, y)


def test_one_call_of_the_kernels():
    if "native" not in softcm.available_backends():
        pytest.skip("needs the compiled extension")
    called = []

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    with Mode():
        softcm.value_and_grad(softcm.f1_loss)(torch.rand(50_000), torch.rand(50_000))
    assert [name for name in called if name in ("fractional_loss", "mul", "ones_like")] == [
        "fractional_loss"
    ]


def test_in_compiled_code():
    input, target = torch.rand(100), torch.rand(100)
    step = torch.compile(lambda p, y: softcm.value_and_grad(softcm.f1_loss)(p, y))
    torch.testing.assert_close(step(input, target), by_autograd(softcm.f1_loss, input, target))
