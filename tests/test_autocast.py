"""Half types as training meets them: under autocast, and with a gradient scaler."""

import pytest
import torch
from cases import LOSSES

import softcm

BACKENDS = softcm.available_backends()
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_loss = pytest.mark.parametrize("name", LOSSES)
each_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def batch(size=400):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(size, 4, generator=generator)
    labels = (features[:, :3] + torch.rand(size, 3, generator=generator) > 1).float()
    return features, labels, torch.randint(0, 3, (size,), generator=generator)


def calls(name, backend):
    """Logits of labels, logits of class indices, probabilities."""
    function, arguments = LOSSES[name]
    options = {**arguments, "ce_weight": 0.3, "backend": backend}
    return (
        lambda z, labels, _: function(z, labels, from_logits=True, **options),
        lambda z, _, indices: function(z, indices, from_logits=True, **options),
        lambda z, labels, _: function(z.sigmoid(), labels, **options),
    )


@each_backend
@each_half
@each_loss
def test_autocast_changes_nothing_in_a_loss(name, dtype, backend):
    """It chooses the dtype of the model's output; sums and metric stay in float32 and float64."""
    features, *targets = batch()
    with torch.autocast("cpu", dtype):
        z = torch.nn.functional.linear(features, torch.ones(3, 4) / 2)
    assert z.dtype == dtype
    for call in calls(name, backend):
        results = []
        for enabled in (True, False):
            leaf = z.clone().requires_grad_()
            with torch.autocast("cpu", dtype, enabled=enabled):
                loss = call(leaf, *targets)
                (gradient,) = torch.autograd.grad(loss, leaf)
            assert loss.dtype == torch.float32
            assert gradient.dtype == dtype
            results.append((loss.detach(), gradient))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(results[0][1], results[1][1])
        assert results[1][1].any()


def plain_loss(name, p, y):
    """Eq. (3) with the sigmoid, and the metric, everything in the dtype of p."""
    h = torch.sigmoid(10 * (p - 0.5))
    other = torch.where(p < 0.5, h, 1 - h)
    cm = (
        (y * h + (1 - y) * other).sum(0),
        (y * (1 - h) + (1 - y) * other).sum(0),
        (y * other + (1 - y) * h).sum(0),
        (y * other + (1 - y) * (1 - h)).sum(0),
    )
    metric = getattr(softcm.metrics, name)
    return (1 - metric(cm)).mean()


@each_backend
@each_half
@pytest.mark.parametrize("name", ["f1", "accuracy", "jaccard", "kappa", "gmean", "informedness"])
def test_no_worse_than_plain_pytorch(name, dtype, backend):
    _, y, _ = batch(2000)
    p = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    wide = p.detach().double().requires_grad_()
    function, _ = LOSSES[name]
    options = {"heaviside": softcm.Sigmoid(10.0)}
    exact = function(wide, y, backend="reference", **options)
    ours = function(p, y, backend=backend, **options)
    plain = plain_loss(name, p, y.to(dtype))
    # Plain formulas may overflow: "not worse" holds of NaN too, "finite" of ours alone.
    assert ours.isfinite()
    assert not abs(ours.double() - exact) > abs(plain.double() - exact)
    (of_exact,) = torch.autograd.grad(exact, wide)
    errors = [
        (torch.autograd.grad(loss, p)[0].double() - of_exact).abs().max() for loss in (ours, plain)
    ]
    assert errors[0].isfinite()
    assert not errors[0] > errors[1]


@each_backend
@pytest.mark.parametrize("name", ["f1", "mcc"])
def test_training_with_a_gradient_scaler(name, backend):
    """Autocast to float16 with a scaler follows the training in float32."""
    features, labels, _ = batch()
    call = calls(name, backend)[0]
    losses = {}
    for half in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, enabled=half)
        skipped, history = 0, []
        while len(history) < 20:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=half):
                loss = call(model(features), labels, None)
            scale = scaler.get_scale()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            # A scale that is too large gives infinite gradients, which the scaler has to see.
            if scaler.get_scale() < scale:
                skipped += 1
            else:
                history.append(loss.item())
        losses[half] = history
        assert (skipped > 0) == half
    assert losses[True] == pytest.approx(losses[False], abs=2e-3)
    assert losses[False][-1] < losses[False][0] - 0.01
