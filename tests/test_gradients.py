"""Gradients: against finite differences, by hand where the slope jumps, and as autograd asks."""

import math
from functools import partial

import pytest
import torch
from cases import EXACT_THRESHOLDS, LOSSES, TENTHS, Case

import softcm
from softcm import Linear, Sigmoid

BACKENDS = softcm.available_backends("cpu")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_heaviside = pytest.mark.parametrize("heaviside", [Linear(0.2), Sigmoid(6.0)], ids=str)
each_membership = pytest.mark.parametrize("membership", ["soft", "gated"])
each_loss = pytest.mark.parametrize("name", LOSSES)
HALF = [torch.float16, torch.bfloat16]


def own_metric(cm):
    """A metric that no kernel knows."""
    return 2 * cm.tp / (2 * cm.tp + cm.fn + cm.fp)


def loss_named(name, backend, **options):
    own = (softcm.confusion_loss, {"metric": own_metric})
    function, arguments = own if name == "own" else LOSSES[name]
    return partial(function, backend=backend, **arguments | options)


def probabilities(shape, thresholds, seed=0, dtype=torch.float64):
    """Random p, further from every kink than a finite difference reaches."""
    p = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for _ in range(100):
        for tau in thresholds:
            half = min(tau, 1 - tau) / 2
            for kink in (0.0, tau - half, tau, tau + half, 1.0):
                p = torch.where((p - kink).abs() < 2e-3, (p + 0.0137) % 1, p)
    return p.to(dtype).requires_grad_()


def labels(shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def gradcheck(function, *inputs):
    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-7, rtol=1e-5)


# Against finite differences.


@each_backend
@each_membership
@each_heaviside
@each_loss
def test_every_loss(name, heaviside, membership, backend):
    loss = loss_named(name, backend, heaviside=heaviside, membership=membership)
    thresholds = TENTHS if name in ("auroc", "auprc") else (0.5,)
    y = labels(11)
    gradcheck(lambda p: loss(p, y), probabilities(11, thresholds))


OPTIONS = {
    "logits": {"from_logits": True},
    "several thresholds": {"threshold": (0.3, 0.5, 0.8)},
    "weights": {"weight": torch.linspace(0, 2, 24, dtype=torch.float64).reshape(8, 3)},
    "pos_weight": {"pos_weight": torch.tensor([0.5, 1.0, 4.0])},
    "ignored": {"ignore_index": 0},
    "cross-entropy": {"ce_weight": 0.7},
    "cross-entropy of logits": {"ce_weight": 0.7, "from_logits": True},
    "micro": {"average": "micro", "ce_weight": 0.7},
    "weighted": {"average": "weighted", "pos_weight": 3.0},
    "none": {"average": "none", "ce_weight": 0.7},
    "all": {
        "from_logits": True,
        "ce_weight": 0.7,
        "average": "none",
        "pos_weight": torch.tensor([0.5, 1.0, 4.0]),
        "weight": torch.tensor([[0.5, 1.0, 2.0]]),
        "threshold": (0.3, 0.6),
    },
}


@each_backend
@each_heaviside
@pytest.mark.parametrize("target", ["labels", "soft labels", "class indices"])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option(option, target, heaviside, backend):
    options = OPTIONS[option] | {"heaviside": heaviside, "backend": backend}
    p = probabilities((8, 3), (0.3, 0.5, 0.6, 0.8))
    y = labels((8, 3))
    if target == "soft labels":
        y = torch.where(y, 0.9, 0.2)
    elif target == "class indices":
        y = torch.arange(8) % 3
        if option in ("weights", "all"):
            options["weight"] = torch.linspace(0, 2, 8)
    if options.get("from_logits"):
        # Logits whose sigmoid or softmax is p.
        p = p.detach() / p.detach().sum(1, keepdim=True) if target == "class indices" else p
        p = (p.log() if target == "class indices" else p.logit()).detach().requires_grad_()
    for loss in (softcm.f1_loss, softcm.mcc_loss):
        gradcheck(lambda x, loss=loss: loss(x, y, **options), p)


@each_backend
@each_membership
@each_heaviside
@pytest.mark.parametrize("name", ["f1", "gmean", "auprc", "cost"])
@pytest.mark.parametrize("thresholds", [(0.3,), (0.35, 0.6, 0.8)], ids=["one", "three"])
def test_threshold(thresholds, name, heaviside, membership, backend):
    loss = loss_named(name, backend, heaviside=heaviside, membership=membership, ce_weight=0.5)
    p = probabilities((9, 2), thresholds)
    y = labels((9, 2))
    tau = torch.tensor(thresholds, dtype=torch.float64, requires_grad=True)
    gradcheck(lambda p, tau: loss(p, y, threshold=tau, pos_weight=2.0), p, tau)
    gradcheck(lambda tau: loss(p.detach().logit(), y, threshold=tau, from_logits=True), tau)
    one = torch.tensor(thresholds[0], dtype=torch.float64, requires_grad=True)
    gradcheck(lambda one: loss(p.detach(), y, threshold=one), one)


@each_backend
@each_heaviside
def test_counts(heaviside, backend):
    tau = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    y = labels((9, 2))

    def counts(p, tau):
        return tuple(
            softcm.soft_confusion_matrix(p, y, threshold=tau, heaviside=heaviside, backend=backend)
        )

    gradcheck(counts, probabilities((9, 2), (0.3, 0.6)), tau)


# By hand, where the slope jumps.


@each_backend
@each_membership
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF], ids=str)
@pytest.mark.parametrize("tau", EXACT_THRESHOLDS)
def test_slope_at_every_kink(tau, dtype, membership, backend):
    """Both breakpoints and tau have the slope m2, and p = tau is on the side of p >= tau."""
    tau_m, delta = min(tau, 1 - tau), 0.125
    low, high = tau - tau_m / 2, tau + tau_m / 2
    p = torch.tensor([0.0, low / 2, low, tau, high, (1 + high) / 2, 1.0], dtype=dtype)
    m1, m2, m3 = delta / low, (1 - 2 * delta) / tau_m, delta / (1 - high)
    slope = torch.tensor([m1, m1, m2, m2, m2, m3, m3], dtype=torch.float64)
    side = torch.tensor([1, 1, 1, -1, -1, -1, -1])  # of do/dh
    other = side * slope if membership == "soft" else 0 * slope
    for label, rows in ((1, (slope, -slope, other, other)), (0, (other, other, slope, -slope))):
        for count, expected in enumerate(rows):
            x = p.clone().requires_grad_()
            matrix = softcm.soft_confusion_matrix(
                x,
                torch.full_like(p, label),
                threshold=tau,
                heaviside=Linear(delta),
                membership=membership,
                backend=backend,
            )
            matrix[count].backward()
            torch.testing.assert_close(x.grad, expected.to(dtype), rtol=1e-6, atol=0)


@each_backend
@pytest.mark.parametrize("heaviside", [Linear(0.125), Sigmoid(8.0)], ids=["linear", "sigmoid"])
def test_side_of_the_threshold_of_a_loss(heaviside, backend):
    """Eq. (3) with gradients (g_tp, g_fn, g_fp, g_tn) = (1, 2, 4, 8), one sample, p = tau = 0.5."""
    slope = 1.5 if isinstance(heaviside, Linear) else 2.0
    costs = (1.0, 2.0, 4.0, 8.0)
    for label, expected in ((1, 1 - 2 - (4 + 8)), (0, 4 - 8 - (1 + 2))):
        p = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
        loss = softcm.confusion_loss(
            p,
            torch.tensor([label]),
            lambda cm: sum(c * x for c, x in zip(costs, cm, strict=True)),
            maximize=False,
            heaviside=heaviside,
            backend=backend,
        )
        loss.backward()
        torch.testing.assert_close(p.grad.item(), expected * slope)


@each_backend
def test_threshold_at_the_kink_of_tau_m(backend):
    """min(tau, 1 - tau) has no derivative at 0.5; that in the middle, 0, is taken."""
    delta, p = 0.125, torch.tensor([0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875])
    # m1 = m3 = 0.5 and m2 = 1.5; with tau_m held fixed the breakpoints move along with tau, so that
    # m1 = delta / low falls by m1 / low, m3 = delta / (1 - high) rises by as much, and m2 stays.
    expected = [-2.0 * 0.125, -1.5, -1.5, -1.5, -1.5, -1.5, -2.0 * 0.125]
    for x, dh in zip(p, expected, strict=True):
        tau = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
        options = {"heaviside": Linear(delta), "threshold": tau, "backend": backend}
        matrix = softcm.soft_confusion_matrix(x.reshape(1), torch.ones(1), **options)
        matrix.tp.sum().backward()
        assert tau.grad.item() == pytest.approx(dh, rel=1e-6)


@pytest.mark.skipif("native" not in BACKENDS, reason="needs the compiled extension")
@each_membership
@each_heaviside
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF], ids=str)
@pytest.mark.parametrize("shape", [(700, 3), (50_000,), (100, 40)], ids=str)
def test_threshold_gradient_equals_that_of_the_reference(shape, dtype, heaviside, membership):
    """Also where samples and classes are divided among several tasks."""
    case = Case("threshold", shape, "exact", target="soft", weight="sample", threshold=0.5)
    example = case.build(dtype=dtype)
    gradients = []
    for backend, input in (("native", example.input), ("reference", example.input.double())):
        tau = torch.tensor([0.25, 0.5, 0.75, 0.5], dtype=torch.float64, requires_grad=True)
        options = example.options | {"threshold": tau, "heaviside": heaviside}
        options |= {"membership": membership, "pos_weight": 3.0, "backend": backend}
        softcm.f1_loss(input, example.target, **options).backward()
        gradients.append(tau.grad)
    relative = 1e-12 if dtype == torch.float64 else 1e-5
    atol = relative * gradients[1].abs().max().item()
    torch.testing.assert_close(*gradients, rtol=0, atol=atol)


# What autograd asks of a function. The two sizes go different ways through native code.


each_size = pytest.mark.parametrize("size", [16_000, 20_000])
each_kind = pytest.mark.parametrize(
    "name", ["f1", "mcc", "own"], ids=["fused", "composite", "two steps"]
)


@each_backend
@each_size
@each_kind
def test_upstream_gradient(name, size, backend):
    y = labels(size)
    x = probabilities(size, (0.5,))
    loss = loss_named(name, backend, ce_weight=0.3)
    (once,) = torch.autograd.grad(loss(x, y), x)
    (scaled,) = torch.autograd.grad(3.7 * loss(x, y) + 2, x)
    torch.testing.assert_close(scaled, 3.7 * once, rtol=1e-12, atol=0)
    (none,) = torch.autograd.grad(0 * loss(x, y), x)
    assert not none.any()


@each_backend
@each_size
@each_kind
def test_upstream_gradient_of_classes(name, size, backend):
    y = labels((size // 4, 4))
    x = probabilities((size // 4, 4), (0.5,))
    upstream = torch.tensor([0.3, -2.0, 0.0, 5.0], dtype=torch.float64)
    loss = loss_named(name, backend, average="none", ce_weight=0.3)
    (actual,) = torch.autograd.grad(loss(x, y), x, upstream)
    # Classes do not mix: the gradient of each is that of its own loss.
    for c in range(4):
        column = x.detach()[:, c].clone().requires_grad_()
        (own,) = torch.autograd.grad(loss(column, y[:, c]).sum(), column)
        torch.testing.assert_close(actual[:, c], upstream[c] * own, rtol=1e-12, atol=1e-17)


@each_backend
@each_size
@each_kind
@pytest.mark.parametrize("dtype", HALF, ids=["float16", "bfloat16"])
def test_half_precision_under_a_gradient_scaler(dtype, name, size, backend):
    """A scaler multiplies the loss because float16 cannot hold a gradient of 1e-7 without that."""
    scale = 2.0**16
    y = labels(size)
    x = probabilities(size, (0.5,), dtype=dtype)
    wide = x.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(scale * loss_named(name, "reference")(wide, y), wide)
    (actual,) = torch.autograd.grad(scale * loss_named(name, backend)(x, y), x)
    assert actual.isfinite().all()
    u = torch.finfo(dtype).eps / 2
    error = (actual.double() - exact).abs() - 1.01 * u * exact.abs()
    assert error.max() <= 1e-5 * exact.abs().max()


@each_backend
@pytest.mark.parametrize("dtype", HALF, ids=["float16", "bfloat16"])
def test_half_precision_is_finite(dtype, backend):
    generator = torch.Generator().manual_seed(0)
    z = (20 * torch.randn(200_000, generator=generator)).to(dtype).requires_grad_()
    loss = softcm.f1_loss(z, labels(200_000), from_logits=True, ce_weight=0.3, backend=backend)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()
    assert z.grad.any()


@each_backend
@each_size
@each_kind
def test_backward_twice_and_accumulation(name, size, backend):
    y = labels(size)
    x = probabilities(size, (0.5,))
    loss = loss_named(name, backend)(x, y)
    loss.backward(retain_graph=True)
    first = x.grad.clone()
    loss.backward()
    assert torch.equal(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@each_backend
@each_size
@each_kind
def test_only_input_and_threshold_have_gradients(name, size, backend):
    x, y, w = probabilities(size, (0.5,)), labels(size).double(), torch.ones(size)
    before = [t.detach().clone() for t in (x, y, w)]
    loss_named(name, backend, weight=w, ce_weight=0.3)(x, y).backward()
    assert x.grad is not None
    assert y.grad is None
    assert w.grad is None
    for tensor, copy in zip((x, y, w), before, strict=True):
        assert tensor._version == 0
        assert torch.equal(tensor, copy)
    with pytest.raises(ValueError, match="target"):
        loss_named(name, backend)(x, y.clone().requires_grad_())
    with pytest.raises(ValueError, match="weight"):
        loss_named(name, backend, weight=w.clone().requires_grad_())(x, y)


@pytest.mark.skipif(
    "native" not in BACKENDS, reason="autograd's own formulas look after themselves"
)
@each_size
@each_kind
def test_changing_an_input_before_backward_is_noticed(name, size):
    for changed in (0, 1):
        tensors = [probabilities(size, (0.5,)) * 1, labels(size).double()]
        loss = loss_named(name, "native")(*tensors)
        with torch.no_grad():
            tensors[changed].mul_(0.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@each_backend
@each_kind
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode, name, backend):
    y = labels(50)
    x = probabilities(50, (0.5,))
    # Numbers that no other test uses: constants made here must serve a later training step.
    loss = loss_named(name, backend, threshold=0.4321, pos_weight=1.2345)
    with mode():
        value = loss(x, y)
        inside = loss(x.clone(), y.clone())
    assert not value.requires_grad
    trained = loss(x, y)
    trained.backward()
    assert trained.item() == value.item() == inside.item()
    assert x.grad.any()


@each_backend
@each_kind
@each_heaviside
def test_second_derivative_is_right_or_refused(heaviside, name, backend):
    """Never silently wrong; a warning that it may be is an error here."""
    y = labels(7)
    x = probabilities(7, (0.5,))
    tau = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    v = torch.linspace(-1, 1, 7, dtype=torch.float64)
    loss = loss_named(name, backend, heaviside=heaviside, ce_weight=0.3)
    for function, inputs in (
        (lambda x: loss(x.sigmoid(), y), (x,)),
        (lambda x, tau: loss(x, y, threshold=tau), (x, tau)),
        (lambda x: loss(x, y, from_logits=True, average="none"), (x,)),
    ):
        try:
            (gradient,) = torch.autograd.grad(
                function(*inputs).sum(), inputs[:1], create_graph=True
            )
            seconds = torch.autograd.grad((gradient * v).sum(), inputs)
        except RuntimeError as error:
            assert "differentiable" in str(error), "an error that does not tell why"  # noqa: PT017
            continue
        step = 1e-6
        for i, second in enumerate(seconds):
            for j in range(second.numel()):
                ends = []
                for sign in (1, -1):
                    moved = [t.detach().clone().requires_grad_() for t in inputs]
                    with torch.no_grad():
                        moved[i].view(-1)[j] += sign * step
                    (g,) = torch.autograd.grad(function(*moved).sum(), moved[:1])
                    ends.append((g * v).sum().item())
                expected = (ends[0] - ends[1]) / (2 * step)
                assert second.view(-1)[j].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@each_backend
@each_kind
def test_ignored_sample_has_no_gradient_whatever_the_others_hold(name, backend):
    x = torch.tensor([0.2, math.nan, math.inf, 0.8], requires_grad=True)
    loss_named(name, backend, ignore_index=-1)(x, torch.tensor([1, 0, -1, -1])).backward()
    assert x.grad[:2].isnan().all()
    assert not x.grad[2:].any()


@each_backend
@each_kind
def test_gradient_flows_through_a_non_leaf(name, backend):
    """One step of a small model: the same parameters' gradients as by the chain rule."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(64, 4, generator=generator, dtype=torch.float64)
    w = torch.randn(4, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    y = labels(64)
    loss = loss_named(name, backend, from_logits=True)
    loss(features @ w, y).backward()
    z = (features @ w).detach().requires_grad_()
    (of_logits,) = torch.autograd.grad(loss(z, y), z)
    torch.testing.assert_close(w.grad, features.T @ of_logits, rtol=1e-12, atol=1e-15)
    assert math.isfinite(w.grad.sum())
