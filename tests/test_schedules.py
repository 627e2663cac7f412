"""Thresholds that learn, and options that change between steps, eager and compiled."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parametrize

import softcm

BACKENDS = softcm.available_backends()
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def batch():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand((64, 3), generator=generator).requires_grad_()
    return p, torch.rand((64, 3), generator=generator) < 0.4


def learning(threshold=0.4, dtype=torch.float32, **options):
    parameter = torch.nn.Parameter(torch.tensor(threshold, dtype=dtype))
    loss = softcm.F1Loss(threshold=parameter, **options)
    parametrize.register_parametrization(loss, "threshold", softcm.UnitInterval())
    return loss


@each_backend
@pytest.mark.parametrize("threshold", [0.4, [0.3, 0.6]], ids=["one", "two"])
def test_threshold_stays_inside(threshold, backend):
    """However large a step is; without the parametrisation the same step ends outside."""
    p, y = batch()
    free = softcm.F1Loss(threshold=torch.nn.Parameter(torch.tensor(threshold)), backend=backend)
    for loss in (learning(threshold, backend=backend), free):
        torch.testing.assert_close(loss.threshold.detach(), torch.tensor(threshold))
        optimizer = torch.optim.SGD(loss.parameters(), lr=1e4)
        loss(p, y).backward()
        optimizer.step()
        if loss is free:
            with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\)"):
                loss(p, y)
        else:
            assert ((loss.threshold > 0) & (loss.threshold < 1)).all()
            assert (loss.threshold - torch.tensor(threshold)).abs().min() > 0.1
            assert loss(p, y).isfinite()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_ends_of_the_interval(dtype):
    for logit in (-1000.0, 1000.0):
        tau = softcm.UnitInterval()(torch.tensor(logit, dtype=dtype))
        assert 0 < tau < 1
        assert tau.dtype == dtype


def test_gradient_of_the_parametrisation():
    p, y = batch()
    loss = learning()
    loss(p, y).backward()
    tau = torch.tensor(0.4, requires_grad=True)
    softcm.f1_loss(p, y, threshold=tau).backward()
    (original,) = loss.parameters()
    torch.testing.assert_close(original.grad, tau.grad * 0.4 * 0.6)
    assert original.grad != 0


def test_assignment_copies_and_checkpoints():
    p, y = batch()
    loss = learning()
    twin = copy.deepcopy(loss)
    loss.threshold = torch.tensor(0.7)
    torch.testing.assert_close(loss(p, y), softcm.f1_loss(p, y, threshold=0.7))
    torch.testing.assert_close(twin(p, y), softcm.f1_loss(p, y, threshold=0.4))
    twin.load_state_dict(loss.state_dict())
    assert torch.equal(twin(p, y), loss(p, y))
    assert "threshold" in repr(loss)
    for wrong in (1.0, -0.5):
        with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\)"):
            loss.threshold = torch.tensor(wrong)
    with pytest.raises(TypeError, match="threshold must be float16"):
        loss.threshold = torch.tensor(1)


# Compiled. The first change of a number makes a symbol of it, which costs one compilation.


def compiled(module, dynamic):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(module, fullgraph=True, dynamic=dynamic, backend=counter), counter


def compilations(module, changes, dynamic=None):
    """How many there were after each change; each time, the gradient equals that of eager."""
    p, y = batch()
    fast, counter = compiled(module, dynamic)
    numbers = []
    for change in changes:
        change(module)
        expected, actual = (torch.autograd.grad(f(p, y), p)[0] for f in (module, fast))
        torch.testing.assert_close(actual, expected)
        assert expected.any()
        numbers.append(counter.frame_count)
    return numbers


def set_threshold(value):
    def change(module):
        if isinstance(module.threshold, torch.Tensor):
            with torch.no_grad():
                module.threshold.copy_(torch.tensor(value))
        else:
            module.threshold = value

    return change


@each_backend
@pytest.mark.parametrize("dynamic", [False, None])
def test_a_threshold_in_a_tensor_compiles_once(dynamic, backend):
    module = softcm.MCCLoss(threshold=torch.tensor([0.3, 0.5]), backend=backend)
    changes = [set_threshold((tau, tau + 0.1)) for tau in (0.3, 0.4, 0.5)]
    assert compilations(module, changes, dynamic) == [1, 1, 1]


def step_of(optimizer):
    def change(module):
        optimizer.zero_grad()
        p, y = batch()
        module(p, y).backward()
        optimizer.step()

    return change


def test_a_threshold_that_learns_compiles_once():
    module = learning()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    assert compilations(module, [step_of(optimizer)] * 3) == [1, 1, 1]


def set_option(name, value):
    return lambda module: module.options.update({name: value})


CHANGES = {
    "threshold": [set_threshold(tau) for tau in (0.3, 0.4, 0.5, 0.6)],
    "delta": [set_option("heaviside", softcm.Linear(delta)) for delta in (0.1, 0.15, 0.2, 0.4)],
    "k": [set_option("heaviside", softcm.Sigmoid(k)) for k in (5.0, 7.5, 10.0, 20.0)],
    "ce_weight": [set_option("ce_weight", weight) for weight in (0.3, 0.2, 0.1, 0.05)],
}


@each_backend
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("loss", [softcm.F1Loss, softcm.MCCLoss])
def test_a_number_compiles_once_more(loss, change, backend):
    assert compilations(loss(backend=backend), CHANGES[change]) == [1, 2, 2, 2]
