"""GradientAccumulation: the loss and the gradient of a batch from its micro-batches."""

import pytest
import torch
from cases import AVERAGES, LOSSES

import softcm

BACKENDS = softcm.available_backends()
each_backend = pytest.mark.parametrize("backend", BACKENDS)
# Also one without samples, and one whose samples do not count.
SIZES = (20, 1, 0, 16, 5)
IGNORED = -100


def module_named(name, **options):
    by_name = {cls.__name__.lower(): cls for cls in vars(softcm).values() if isinstance(cls, type)}
    function, own = LOSSES[name]
    return by_name[function.__name__.replace("_", "")](**own, **options)


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    size = sum(SIZES)
    features = torch.randn(size, 4, generator=generator, dtype=dtype)
    labels = (torch.rand(size, 3, generator=generator) < 0.4).long()
    indices = torch.randint(0, 3, (size,), generator=generator)
    labels[-5:] = indices[-5:] = IGNORED
    return features, labels, indices, torch.rand(size, 1, generator=generator)


def model(dtype=torch.float64):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3)).to(
        dtype
    )


def accumulate(network, loss, *tensors):
    """The losses of the second pass; gradients add up in the parameters."""
    micro_batches = list(zip(*(x.split(SIZES) for x in tensors), strict=True))
    accumulation = softcm.GradientAccumulation(loss)
    with torch.no_grad():
        for features, *rest in micro_batches:
            accumulation.count(network(features), *rest)
    losses = []
    for features, *rest in reversed(micro_batches):
        value = accumulation.loss(network(features), *rest)
        value.sum().backward()
        losses.append(value.detach())
    return losses


def assert_accumulated(loss, *tensors, rtol=1e-11):
    network = model(tensors[0].dtype)
    modules = torch.nn.ModuleList((network, loss))
    modules.zero_grad()
    expected = loss(network(tensors[0]), *tensors[1:])
    expected.sum().backward()
    gradients = [p.grad for p in modules.parameters()]
    modules.zero_grad()
    for value in accumulate(network, loss, *tensors):
        torch.testing.assert_close(value, expected.detach(), rtol=rtol, atol=rtol)
    largest = max(gradient.abs().max() for gradient in gradients)
    for p, gradient in zip(modules.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=0, atol=rtol * largest.item())
    assert largest > 0


@each_backend
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name, backend):
    features, labels, indices, weight = batch()
    options = {"from_logits": True, "ignore_index": IGNORED, "backend": backend}
    assert_accumulated(module_named(name, **options), features, labels)
    threshold = torch.nn.Parameter(torch.tensor([0.3, 0.6], dtype=torch.float64))
    options |= {"threshold": threshold, "ce_weight": 0.3, "pos_weight": 2.0}
    assert_accumulated(module_named(name, **options), features, labels, weight)
    assert_accumulated(module_named(name, **options), features, indices)


@each_backend
@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", ["f1", "mcc"])
def test_averages_and_single_precision(name, average, backend):
    features, labels, _, _ = batch(torch.float32)
    options = {"from_logits": True, "ignore_index": IGNORED, "ce_weight": 0.3}
    loss = module_named(name, average=average, backend=backend, **options)
    assert_accumulated(loss, features, labels, rtol=2e-6)


@each_backend
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("f1", {"per_sample": True}),
        ("f1", {"per_sample": True, "average": "none"}),
        ("dice", {"average": "present", "class_weight": torch.tensor([1.0, 2.0, 0.5])}),
        ("mcc", {"threshold": torch.tensor([[0.3], [0.5], [0.6]], dtype=torch.float64)}),
        ("mcc", {"average": "multiclass"}),
        ("kappa", {"average": "multiclass", "per_sample": True}),
    ],
)
def test_options_of_classes_and_samples(name, options, backend):
    features, labels, indices, _ = batch()
    options = {"from_logits": True, "ignore_index": IGNORED, "ce_weight": 0.3} | options
    loss = module_named(name, backend=backend, **options)
    if options.get("average") != "multiclass":
        assert_accumulated(loss, features, labels)
    assert_accumulated(loss, features, indices)


def test_it_is_not_the_mean_of_the_losses_of_the_micro_batches():
    """Otherwise the tests above would show nothing."""
    features, labels, _, _ = batch()
    loss = module_named("f1", from_logits=True, ignore_index=IGNORED)
    z = model()(features)
    parts = [loss(a, b) for a, b in zip(z.split(SIZES), labels.split(SIZES), strict=True) if len(a)]
    assert abs(sum(parts) / len(parts) - loss(z, labels)) > 0.01


def test_dropout_draws_the_same_numbers_in_both_passes():
    features, labels, _, _ = batch()
    loss = module_named("f1", from_logits=True, ignore_index=IGNORED)
    outputs = []
    dropout = torch.nn.Dropout(0.5)

    def network(x):
        outputs.append(dropout(x)[:, :3])
        return outputs[-1]

    micro_batches = list(zip(features.split(SIZES), labels.split(SIZES), strict=True))
    accumulation = softcm.GradientAccumulation(loss)
    with torch.random.fork_rng(), torch.no_grad():
        for x, y in micro_batches:
            accumulation.count(network(x), y)
    values = [accumulation.loss(network(x), y) for x, y in micro_batches]
    first, second = (torch.cat(part) for part in (outputs[: len(SIZES)], outputs[len(SIZES) :]))
    assert torch.equal(first, second)
    torch.testing.assert_close(values[0], loss(first, labels))


def test_infinite_cross_entropy():
    """Not inf - inf: a sure and wrong logit makes the loss infinite, and its gradient is finite."""
    z = torch.tensor([torch.inf, 0.5], requires_grad=True)
    y = torch.tensor([0, 1])
    accumulation = softcm.GradientAccumulation(softcm.F1Loss(from_logits=True, ce_weight=1.0))
    for i in range(2):
        accumulation.count(z[i : i + 1], y[i : i + 1])
    losses = [accumulation.loss(z[i : i + 1], y[i : i + 1]) for i in range(2)]
    assert [loss.item() for loss in losses] == [torch.inf] * 2
    sum(losses).backward()
    assert z.grad.isfinite().all()


def test_what_it_refuses():
    loss = softcm.F1Loss()
    p, y = torch.rand(6, 2), torch.ones(6, 2)
    with pytest.raises(TypeError, match=r"loss must be a loss module of softcm.*f1_loss"):
        softcm.GradientAccumulation(softcm.f1_loss)
    accumulation = softcm.GradientAccumulation(loss)
    with pytest.raises(RuntimeError, match="loss was called before count"):
        accumulation.loss(p, y)
    accumulation.count(p, y)
    for call in (accumulation.count, accumulation.loss):
        with pytest.raises(ValueError, match=r"its sums have shape \(2, 8\).*\(1, 8\)"):
            call(p[:, 0], y[:, 0])
        with pytest.raises(ValueError, match="input must lie in"):
            call(p + 1, y)
    accumulation.loss(p, y)
    with pytest.raises(RuntimeError, match="count was called after loss"):
        accumulation.count(p, y)
    value = accumulation.loss(p.requires_grad_(), y)
    (gradient,) = torch.autograd.grad(value, p, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
