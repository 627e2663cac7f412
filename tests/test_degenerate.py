"""Degenerate batches: what a loss is, and what its gradient, where a formula alone does not say.

Each rule holds for every loss and on every backend.
"""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as nnf

import softcm
from softcm import ConfusionMatrix, metrics

BACKENDS = softcm.available_backends("cpu")
RATIOS = ("f1", "fbeta", "precision", "recall", "specificity", "jaccard", "tversky", "accuracy")
COMPOSITE = ("balanced_accuracy", "informedness", "gmean", "mcc", "kappa", "auroc", "auprc")
LOSSES = (*RATIOS, *COMPOSITE, "cost", "linear_fractional", "callable")
NAN, INF = math.nan, math.inf

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_loss = pytest.mark.parametrize("name", LOSSES)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
AVERAGES = ("macro", "micro", "weighted", "none")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def loss_function(name, **options):
    if name == "cost":
        return partial(softcm.cost_loss, costs={"fn": 5.0, "fp": 1.0}, **options)
    if name == "linear_fractional":
        metric = softcm.LinearFractional((1, 0, 0, 1), (2, 1, 1, 1))
        return partial(softcm.confusion_loss, metric=metric, **options)
    if name == "callable":
        # A careful one, which treats 0 / 0 as the package's own metrics do.
        metric = partial(metrics.tversky, alpha=0.2, zero_division=options.get("zero_division", 0))
        return partial(softcm.confusion_loss, metric=metric, **options)
    return partial(getattr(softcm, f"{name}_loss"), **options)


def value_and_gradient(loss, x, y, **options):
    """The loss and the gradient of its sum, on a copy of ``x``."""
    x = x.clone().requires_grad_()
    value = loss(x, y, **options)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def batch():
    """Eight samples of three classes."""
    return torch.rand(8, 3, dtype=torch.float64), torch.randint(0, 2, (8, 3))


# Batches in which a denominator is exactly 0 (gated, linear: the counts of the other label and the
# steps at p = 0 and 1 are exactly 0): p, y.
NOTHING = ([0.0, 0.0], [0, 0])  # TP = FN = FP = 0
NO_POSITIVES = ([0.3, 0.6], [0, 0])  # TP = FN = 0
NO_NEGATIVES = ([0.3, 0.6], [1, 1])  # FP = TN = 0
ALL_FOUND = ([1.0, 1.0], [1, 1])  # FN = FP = TN = 0
NONE_PREDICTED = ([0.0, 0.0], [1, 0])  # TP = FP = 0
ZERO_DENOMINATORS = [
    *[(name, NOTHING) for name in ("f1", "fbeta", "precision", "jaccard", "tversky", "callable")],
    ("precision", NONE_PREDICTED),
    ("recall", NO_POSITIVES),
    ("specificity", NO_NEGATIVES),
    ("mcc", NO_NEGATIVES),
    ("mcc", NO_POSITIVES),
    ("mcc", NONE_PREDICTED),
    ("kappa", ALL_FOUND),
    ("kappa", NOTHING),
]


@each_backend
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("name", "samples"), ZERO_DENOMINATORS)
def test_zero_denominator(name, samples, dtype, backend):
    p, y = torch.tensor(samples[0], dtype=dtype), torch.tensor(samples[1])
    for zero_division in (0.0, 1.0, 0.25):
        options = {"membership": "gated", "zero_division": zero_division, "backend": backend}
        loss = loss_function(name, **options)
        value, gradient = value_and_gradient(loss, p, y)
        assert value.item() == 1 - zero_division
        assert gradient.tolist() == [0, 0]
        threshold = torch.tensor([0.4], requires_grad=True)
        loss(p, y, threshold=threshold).backward()
        assert threshold.grad.item() == 0


# Only positives, p = 1/2 and 5/8: h = .5 and .7, recall .6 with gradient 1.6 / 2 = .8 for each;
# specificity, and with it the false positive rate, is 0 / 0 = z.
COMPOSITES = {
    "balanced_accuracy": (lambda z: 1 - (0.6 + z) / 2, lambda z: -0.4),
    "informedness": (lambda z: 2 - 0.6 - z, lambda z: -0.8),
    "gmean": (lambda z: 1 - math.sqrt(0.6 * z), lambda z: -0.4 * math.sqrt(z / 0.6)),
}


@each_backend
@pytest.mark.parametrize("z", [0.0, 1.0, 0.25])
@pytest.mark.parametrize("name", COMPOSITES)
def test_composite_metric_applies_the_rule_to_each_ratio(name, z, backend):
    value_of, slope_of = COMPOSITES[name]
    loss = loss_function(
        name, threshold=[0.5], membership="gated", zero_division=z, backend=backend
    )
    p = torch.tensor([0.5, 0.625], dtype=torch.float64)
    value, gradient = value_and_gradient(loss, p, torch.tensor([1, 1]))
    close(value.item(), value_of(z))
    close(gradient.tolist(), [slope_of(z)] * 2)


@each_backend
def test_infinite_slope_has_no_gradient(backend):
    # Recall is exactly 0, specificity .9: the square root of their product has an infinite slope.
    p, y = torch.tensor([0.0, 0.25], dtype=torch.float64), torch.tensor([1, 0])
    value, gradient = value_and_gradient(
        softcm.gmean_loss, p, y, membership="gated", backend=backend
    )
    assert value == 1
    assert gradient.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "counts", "value"),
    [
        ("gmean", (0, 3, 1, 4), 0.0),
        ("gmean", (3, 0, 4, 0), 0.0),
        ("mcc", (0, 3, 0, 4), 0.25),
        ("mcc", (0, 0, 3, 4), 0.25),
        ("mcc", (5, 0, 0, 0), 0.25),
        ("kappa", (5, 0, 0, 0), 0.25),
    ],
)
def test_metric_at_zero_has_no_gradient(name, counts, value):
    cm = ConfusionMatrix(*torch.tensor(counts, dtype=torch.float64).requires_grad_().unbind())
    got = getattr(metrics, name)(cm, zero_division=0.25)
    assert got.item() == value
    assert [g.item() for g in torch.autograd.grad(got, cm)] == [0] * 4


def without_class_1(how, y):
    """Two ways to count no sample of class 1: options and target."""
    if how == "ignored":
        y = y.clone()
        y[:, 1] = -1
        return y, {"ignore_index": -1}
    return y, {"weight": torch.tensor([[1.0, 0.0, 1.0]])}


@each_backend
@pytest.mark.parametrize("how", ["ignored", "weight"])
@each_loss
def test_class_without_counted_samples(name, how, backend):
    for average in AVERAGES:
        p, y = batch()
        z = 0.25
        loss = loss_function(name, average=average, zero_division=z, ce_weight=0.3, backend=backend)
        target, options = without_class_1(how, y)
        value, gradient = value_and_gradient(loss, p, target, **options)
        value_of_rest, gradient_of_rest = value_and_gradient(loss, p[:, [0, 2]], y[:, [0, 2]])
        close(gradient[:, [0, 2]], gradient_of_rest)
        assert gradient[:, 1].tolist() == [0] * 8
        if average == "none":
            close(value[[0, 2]], value_of_rest)
            assert value[1].item() == (z if name == "cost" else 1 - z)
        else:
            close(value, value_of_rest)


@each_backend
@each_loss
def test_nan_in_a_class_without_counted_samples(name, backend):
    for average in ("macro", "weighted", "none"):
        p, y = batch()
        loss = loss_function(name, average=average, backend=backend)
        target, options = without_class_1("weight", y)
        expected = value_and_gradient(loss, p, target, **options)
        p[3, 1] = NAN
        value, gradient = value_and_gradient(loss, p, target, **options)
        close(value, expected[0])
        close(gradient, expected[1])


@each_backend
@each_loss
def test_nan_where_no_class_has_a_share(name, backend):
    p, _ = batch()
    p[3, 1] = NAN
    loss = loss_function(name, average="weighted", backend=backend)
    value, gradient = value_and_gradient(loss, p, torch.zeros(8, 3))
    assert value.isnan()
    assert gradient[:, 1].isnan().all()


@each_backend
@pytest.mark.parametrize("others", [[NAN], [NAN, -INF], [-INF, NAN], [NAN, 2.0], [0.5, NAN]])
def test_nan_of_one_class_reaches_all_of_its_softmax(others, backend):
    for row in ([1.0, *others], [*others, 1.0]):
        z = torch.zeros(3, len(row))
        z[1] = torch.tensor(row)
        counts = softcm.soft_confusion_matrix(
            z, torch.arange(3) % 2, from_logits=True, backend=backend
        )
        assert torch.stack(counts).isnan().all(), row


@each_backend
@pytest.mark.parametrize("average", ["macro", "weighted", "none"])
@pytest.mark.parametrize("how", ["ignored", "weight"])
def test_class_without_counted_samples_under_a_careless_metric(how, average, backend):
    # The user's function is 0 / 0 for a class that is left out: that must not reach the gradient.
    def careless(cm):
        return cm.tp / (cm.tp + cm.fn)

    p, y = batch()
    loss = partial(softcm.confusion_loss, metric=careless, average=average, backend=backend)
    target, options = without_class_1(how, y)
    value, gradient = value_and_gradient(loss, p, target, **options)
    assert value.isfinite().all()
    assert gradient[:, [0, 2]].isfinite().all()
    assert gradient[:, 1].tolist() == [0] * 8


@each_backend
@pytest.mark.parametrize("how", ["ignored", "weight"])
@each_loss
def test_all_left_out(name, how, backend):
    for average in AVERAGES:
        p, y = batch()
        z = 0.25
        options = {"weight": torch.zeros(1)}
        if how == "ignored":
            y, options = torch.full_like(y, -100), {"ignore_index": -100}
        loss = loss_function(name, average=average, zero_division=z, ce_weight=0.3, backend=backend)
        value, gradient = value_and_gradient(loss, p, y, **options)
        expected = [z if name == "cost" else 1 - z] * 3 if average == "none" else 0
        assert value.tolist() == expected
        assert gradient.count_nonzero() == 0
        assert softcm.soft_confusion_matrix(p, y, backend=backend, **options).tn.tolist() == [0] * 3


@each_backend
@each_loss
def test_empty_batch_is_an_error(name, backend):
    for shape in [(0,), (0, 1), (0, 3), (0, 3, 2), (4, 3, 0)]:
        empty = torch.empty(shape)
        for call in (
            loss_function(name, backend=backend),
            partial(softcm.soft_confusion_matrix, backend=backend),
            partial(softcm.confusion_matrix, backend=backend),
        ):
            with pytest.raises(ValueError, match=r"input .*\(" + ", ".join(map(str, shape))):
                call(empty, empty)


@each_backend
@each_loss
def test_nan_reaches_loss_and_gradient_of_its_class(name, backend):
    for average in AVERAGES:
        for from_logits in (False, True):
            p, y = batch()
            x = p.logit() if from_logits else p
            loss = loss_function(name, average=average, from_logits=from_logits, backend=backend)
            clean_value, clean_gradient = value_and_gradient(loss, x, y)
            x[3, 1] = NAN
            value, gradient = value_and_gradient(loss, x, y)
            assert gradient[:, 1].isnan().all()
            if average == "none":
                assert value[1].isnan()
                close(value[[0, 2]], clean_value[[0, 2]])
            else:
                assert value.isnan()
            if average != "micro":  # there, the classes are one
                close(gradient[:, [0, 2]], clean_gradient[:, [0, 2]])


@each_backend
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("membership", ["soft", "gated"])
@pytest.mark.parametrize("heaviside", [softcm.Linear(), softcm.Sigmoid()])
def test_nan_reaches_all_four_counts(heaviside, membership, dtype, backend):
    p = torch.tensor([[0.2, NAN], [0.9, 0.4]], dtype=dtype)
    options = {"heaviside": heaviside, "membership": membership, "backend": backend}
    for y in (torch.zeros(2, 2), torch.ones(2, 2)):
        for matrix in (softcm.soft_confusion_matrix, softcm.confusion_matrix):
            counts = torch.stack(matrix(p, y, **options))
            assert counts.isnan().tolist() == [[False, True]] * 4


# Forms of a batch: (N,), (N, C) and class indices against (N, C) and (N, C, L), of logits or not.
FORMS = {
    "binary": ((8,), (8,), 2),
    "multi-label": ((8, 3), (8, 3), 2),
    "classes": ((8, 3), (8,), 3),
    "dense classes": ((4, 3, 2), (4, 2), 3),
}


def form_of(kind, from_logits):
    input_shape, target_shape, labels = FORMS[kind]
    x = torch.randn(input_shape, dtype=torch.float64)
    y = torch.arange(math.prod(target_shape)).reshape(target_shape) * 5 % 7 % labels
    return x if from_logits else x.sigmoid(), y


@each_backend
@pytest.mark.parametrize("kind", FORMS)
@each_loss
def test_ignored_sample_has_no_effect(name, kind, backend):
    for from_logits in (False, True):
        x, y = form_of(kind, from_logits)
        y[2] = -100
        ignored = y == -100
        if y.shape != x.shape:
            ignored = ignored.unsqueeze(1).expand(x.shape)
        options = {"ignore_index": -100, "from_logits": from_logits, "ce_weight": 0.3}
        loss = loss_function(name, backend=backend, **options)
        value, gradient = value_and_gradient(loss, x, y)
        for other in (0.9, NAN, INF, -INF) if from_logits else (0.9, NAN):
            got, gradient_got = value_and_gradient(loss, x.masked_fill(ignored, other), y)
            close(got, value)
            assert gradient_got[ignored].tolist() == [0] * int(ignored.sum()), other
            close(gradient_got, gradient)


@each_backend
@pytest.mark.parametrize("kind", FORMS)
@each_loss
def test_infinite_logits(name, kind, backend):
    # Half of the samples have infinite logits that agree with their labels; the loss, cross-entropy
    # included, is that of probabilities 0 and 1 there, and the gradient is 0.
    exact_z, y = form_of(kind, from_logits=True)
    multi_label = y.shape == exact_z.shape
    one_hot = y if multi_label else nnf.one_hot(y, 3).movedim(-1, 1)
    half = torch.arange(len(y)).reshape(-1, *[1] * (exact_z.dim() - 1)) % 2 == 0
    infinite = [torch.where(one_hot == 1, INF, -INF)]
    if not multi_label:  # one infinite logit decides a softmax
        infinite.append(torch.where(one_hot == 1, INF, 0.0))
    for dtype, ce_weight in [(torch.float32, 0.0), (torch.float32, 0.3), (torch.float16, 0.3)]:
        z = exact_z.to(dtype)
        p = z.double().sigmoid() if multi_label else z.double().softmax(1)
        loss = loss_function(name, ce_weight=ce_weight, backend=backend)
        expected, of_p = value_and_gradient(loss, torch.where(half, one_hot.double(), p), y)
        for logits in infinite:
            x = torch.where(half, logits.to(dtype), z)
            value, gradient = value_and_gradient(loss, x, y, from_logits=True)
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
            assert gradient.isfinite().all()
            assert gradient[half.expand(z.shape)].double().abs().max() < 1e-30
            rest = ~half.expand(z.shape)  # whose gradient does not vanish with the others'
            assert gradient[rest].any() or not of_p[rest].any()


@each_backend
@each_loss
def test_infinite_logits_against_the_label(name, backend):
    for dtype in FLOATS:
        z = torch.tensor([INF, -INF, 0.5, -0.25], dtype=dtype)
        p, y = z.double().sigmoid(), torch.tensor([0, 1, 1, 0])
        loss = loss_function(name, backend=backend)
        value, gradient = value_and_gradient(loss, z, y, from_logits=True)
        torch.testing.assert_close(value.double(), loss(p, y), rtol=1e-5, atol=1e-6)
        assert gradient.isfinite().all()


@each_backend
@each_loss
def test_probabilities_zero_and_one(name, backend):
    for dtype in FLOATS:
        p = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.25, 0.5], dtype=dtype)
        y = torch.tensor([0, 1, 1, 0, 1, 0])
        loss = loss_function(name, backend=backend)
        value, gradient = value_and_gradient(loss, p, y)
        assert value.isfinite()
        assert gradient.isfinite().all()
        # Cross-entropy's logarithms are bounded at -100, as torch bounds them.
        entropy = nnf.binary_cross_entropy(p.double(), y.double())
        with_entropy, gradient = value_and_gradient(loss, p, y, ce_weight=0.3)
        torch.testing.assert_close(
            with_entropy.double(), value.double() + 0.3 * entropy, rtol=1e-5, atol=1e-6
        )
        assert not gradient.isnan().any()


@each_backend
@pytest.mark.parametrize("contiguous", [True, False])
@each_loss
def test_inputs_are_never_modified(name, contiguous, backend):
    given = {
        "input": torch.randn(4, 4),
        "target": torch.randint(0, 2, (4, 4)),
        "weight": torch.rand(4, 4),
        "pos_weight": torch.rand(8)[::2],
        "threshold": torch.tensor([0.7, 0.2], requires_grad=True),
    }
    given["target"][0, 0], given["input"][0, 0] = -100, NAN
    given["input"].requires_grad_()
    if not contiguous:
        given |= {key: given[key].t() for key in ("input", "target", "weight")}
    copies = {key: tensor.detach().clone() for key, tensor in given.items()}
    versions = {key: tensor._version for key, tensor in given.items()}
    options = {"average": "none", "ce_weight": 0.3, "ignore_index": -100, "from_logits": True}
    value = loss_function(name, backend=backend, **options)(**given)
    value.backward(torch.rand_like(value))
    for key, tensor in given.items():
        torch.testing.assert_close(tensor.detach(), copies[key], rtol=0, atol=0, equal_nan=True)
        assert tensor._version == versions[key], key


# Shape of the input; the classes' dimension in results, which one class does not have.
SHAPES = [
    ((6,), ()),
    ((6, 1), ()),
    ((6, 1, 2), ()),
    ((6, 3), (3,)),
    ((6, 3, 2), (3,)),
    ((6, 2, 2, 2), (2,)),
]
# Threshold and its dimension in results, which a number does not have.
THRESHOLDS = [
    (0.5, ()),
    ([0.5], (1,)),
    ((0.2, 0.5), (2,)),
    (torch.tensor([0.2, 0.5, 0.7]), (3,)),
]


@each_backend
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("shape", "classes"), SHAPES)
def test_shapes_and_dtypes_of_counts(shape, classes, dtype, backend):
    p = torch.rand(shape).to(dtype)
    targets = [torch.randint(0, 2, shape), torch.rand(shape)]
    if classes:
        targets.append(torch.randint(0, *classes, (shape[0], *shape[2:])))
    for threshold, thresholds in THRESHOLDS:
        options = {"threshold": threshold, "backend": backend}
        for y in targets:
            soft = softcm.soft_confusion_matrix(p, y, **options)
            hard = softcm.confusion_matrix(p, y, **options)
            assert {count.shape for count in (*soft, *hard)} == {classes + thresholds}
            assert {count.dtype for count in soft} == {torch.promote_types(dtype, torch.float32)}


@each_backend
@each_loss
def test_shapes_and_dtypes_of_losses(name, backend):
    for shape, classes in SHAPES:
        for average in AVERAGES:
            for threshold, dtype in zip((0.5, [0.5], [0.5, 0.25], 0.4), FLOATS, strict=True):
                p, y = torch.rand(shape).to(dtype), torch.randint(0, 2, shape)
                loss = loss_function(name, average=average, threshold=threshold, backend=backend)
                value, gradient = value_and_gradient(loss, p, y)
                assert value.shape == ((classes or (1,)) if average == "none" else ())
                assert value.dtype == torch.promote_types(dtype, torch.float32)
                assert gradient.shape == p.shape
                assert gradient.dtype == dtype


@each_backend
def test_one_class_has_two_shapes(backend):
    p, y, w = torch.rand(6), torch.tensor([0, 1, 1, 0, 1, 0]), torch.rand(6)
    expected = softcm.f1_loss(p, y, weight=w, backend=backend)
    for x in (p, p[:, None]):
        for target in (y, y[:, None]):
            for weight in (w, w[:, None]):
                value, gradient = value_and_gradient(
                    softcm.f1_loss, x, target, weight=weight, backend=backend
                )
                close(value, expected)
                assert gradient.shape == x.shape


SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64, *FLOATS)


@each_backend
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, *SIGNED], ids=str)
def test_labels_of_every_dtype(dtype, backend):
    p, y = torch.rand(6), torch.tensor([0, 1, 1, 0, 1, 0])
    loss = partial(softcm.f1_loss, backend=backend)
    close(loss(p, y.to(dtype)), loss(p, y.float()))
    # Beyond what the dtype holds, no label is ignored.
    close(loss(p, y.to(dtype), ignore_index=256), loss(p, y.float()))
    if dtype in SIGNED:
        y[0] = -1
        close(loss(p, y.to(dtype), ignore_index=-1), loss(p[1:], y[1:]))
