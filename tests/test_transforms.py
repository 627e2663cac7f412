"""The transforms of torch.func, which the reference serves, against autograd on the kernels."""

import math

import pytest
import torch
from cases import LOSSES
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap

import softcm

BACKENDS = ("auto", "reference")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_loss = pytest.mark.parametrize("name", LOSSES)
OPTIONS = {
    "probabilities": {"ce_weight": 0.3},
    "logits": {"from_logits": True, "ce_weight": 0.3, "pos_weight": 2.0},
    "class indices": {"from_logits": True, "ce_weight": 0.3, "ignore_index": 1},
    "weights": {"weight": torch.linspace(0, 2, 8).reshape(8, 1), "average": "micro"},
}
each_option = pytest.mark.parametrize("option", OPTIONS)


def loss_named(name, option="probabilities", **changed):
    function, arguments = LOSSES[name]
    options = {**arguments, **OPTIONS[option], **changed}
    return lambda x, y: function(x, y, **options)


def batches(option="probabilities", number=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((number, 8, 3), generator=generator, dtype=torch.float64)
    if option == "class indices":
        return x, torch.randint(0, 3, (number, 8), generator=generator)
    return x, (torch.rand((number, 8, 3), generator=generator) < 0.4).float()


def by_autograd(loss, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x, y), x)[0]


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-13)


@each_backend
@each_option
@each_loss
def test_grad_and_vmap(name, option, backend):
    loss, eager = loss_named(name, option, backend=backend), loss_named(name, option)
    x, y = batches(option)
    gradients = torch.stack([by_autograd(eager, *pair) for pair in zip(x, y, strict=True)])
    assert_close(grad(loss)(x[0], y[0]), gradients[0])
    assert_close(vmap(grad(loss))(x, y), gradients)
    assert_close(vmap(loss)(x, y), torch.stack([*map(eager, x, y)]))
    assert_close(vmap(loss, in_dims=(1, None))(x.movedim(0, 1), y[0]), vmap(eager)(x, y[[0] * 3]))
    assert gradients.any()


@each_option
@pytest.mark.parametrize("name", ["f1", "mcc"])
def test_jacrev(name, option):
    loss = loss_named(name, option, average="none")
    (x, *_), (y, *_) = batches(option)
    jacobian = jacrev(loss)(x, y)
    leaf = x.clone().requires_grad_()
    batched = torch.autograd.grad(
        loss(leaf, y), leaf, torch.eye(3, dtype=x.dtype), is_grads_batched=True
    )
    assert_close(jacobian, batched[0])
    for c in range(3):
        of_class = torch.autograd.grad(loss(leaf, y)[c], leaf)
        assert_close(jacobian[c], of_class[0])
    assert jacobian.any()


@each_option
@pytest.mark.parametrize("name", ["f1", "mcc"])
def test_second_derivatives(name, option):
    loss = loss_named(name, option, heaviside=softcm.Sigmoid(6.0))
    (x, *_), (y, *_) = batches(option)
    hessian = jacrev(jacrev(loss))(x, y)
    expected = torch.autograd.functional.hessian(lambda x: loss(x, y), x)
    torch.testing.assert_close(hessian, expected, rtol=1e-8, atol=1e-12)
    assert hessian.any()


def test_thresholds():
    (x, *_), (y, *_) = batches()
    thresholds = torch.tensor([0.3, 0.45, 0.6], dtype=torch.float64)

    def loss(threshold):
        return softcm.f1_loss(x, y, threshold=threshold)

    assert_close(vmap(loss)(thresholds), torch.stack([*map(loss, thresholds)]))
    leaf = thresholds.clone().requires_grad_()
    expected = torch.autograd.grad(sum(map(loss, leaf)), leaf)[0]
    assert_close(vmap(grad(loss))(thresholds), expected)


def test_an_ensemble_by_functional_call():
    """Modules: a model and a loss whose threshold is a parameter."""

    class Model(torch.nn.Module):
        def __init__(self, tau):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)
            self.loss = softcm.F1Loss(
                threshold=torch.nn.Parameter(torch.tensor(tau)), from_logits=True
            )

        def forward(self, x, y):
            return self.loss(self.linear(x), y)

    torch.manual_seed(0)
    models = [Model(0.4).double(), Model(0.6).double()]
    parameters, buffers = stack_module_state(models)
    (x, *_), (y, *_) = batches()

    def loss(parameters, buffers):
        return functional_call(models[0], (parameters, buffers), (x, y))

    gradients = vmap(grad(loss))(parameters, buffers)
    for i, model in enumerate(models):
        model(x, y).backward()
        for name, p in model.named_parameters():
            assert_close(gradients[name][i], p.grad)


def test_confusion_matrices_and_heaviside():
    x, y = batches()
    for function in (softcm.soft_confusion_matrix, softcm.confusion_matrix):
        for i, count in enumerate(vmap(function)(x, y)):
            expected = torch.stack([function(*pair)[i] for pair in zip(x, y, strict=True)])
            assert_close(count, expected)
    assert_close(vmap(softcm.heaviside)(x), softcm.heaviside(x))


def test_nothing_of_a_transform_remains_for_later_calls():
    """Numbers that no other test uses: their tensors are made inside of the transform."""
    (x, *_), (y, *_) = batches()
    options = {"threshold": 0.4567, "pos_weight": 1.4567}
    loss = loss_named("f1", **options)
    gradient = grad(loss)(x, y)
    assert_close(by_autograd(loss, x, y), gradient)


@pytest.mark.skipif(
    "native" not in softcm.available_backends("cpu"), reason="the reference looks at values"
)
@pytest.mark.parametrize("loss", [softcm.f1_loss, softcm.mcc_loss])
def test_fake_tensors_and_real_ones_keep_apart(loss):
    """Numbers that no other test uses: their tensors are made inside and outside of the mode."""

    def call(threshold):
        options = {"threshold": threshold, "pos_weight": threshold + 1}
        return loss(torch.rand(8, requires_grad=True), torch.ones(8), **options)

    with FakeTensorMode():
        call(0.5678).backward()
    assert call(0.5678).isfinite()
    assert call(0.5679).isfinite()
    with FakeTensorMode():
        assert call(0.5679).shape == ()


@pytest.mark.parametrize("option", ["probabilities", "class indices"])
def test_bad_values_are_found_in_every_sample(option):
    x, y = batches(option)
    (x if option == "probabilities" else y)[2, 4] = -5
    loss = loss_named("f1", option, ignore_index=None)
    message = r"input must lie in \[0, 1\], got values in \[-5.0, " if y.dim() > 2 else "got -5"
    with pytest.raises(ValueError, match=message):
        vmap(loss)(x, y)
    with pytest.raises(ValueError, match=message):
        vmap(grad(loss))(x, y)
    assert vmap(loss)(x[:2], y[:2]).isfinite().all()


def test_nan_stays_nan():
    x, y = batches()
    x[1, 0] = math.nan
    assert vmap(loss_named("f1"))(x, y).isnan().tolist() == [False, True, False]


def test_what_does_not_serve():
    (x, *_), (y, *_) = batches()
    with pytest.raises(RuntimeError, match="backend='native' cannot serve under a transform"):
        grad(loss_named("f1", backend="native"))(x, y)
    accumulation = softcm.GradientAccumulation(softcm.F1Loss())
    accumulation.count(x, y)
    with pytest.raises(RuntimeError, match="process_group and GradientAccumulation cannot serve"):
        grad(accumulation.loss)(x, y)


def test_compiled_grad():
    loss = loss_named("mcc")
    (x, *_), (y, *_) = batches()
    torch._dynamo.reset()
    fast = torch.compile(grad(loss), fullgraph=True, backend="aot_eager")
    assert_close(fast(x, y), grad(loss)(x, y))
