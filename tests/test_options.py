"""What the options of all losses mean: hand-worked tables, other libraries' numbers, messages."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch.utils._python_dispatch import TorchDispatchMode

import softcm
from softcm import Linear
from softcm.options import ALL, DEFAULTS, LossOptions, Options, TensorOptions

BACKENDS = softcm.available_backends("cpu")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
NAN = math.nan
# Probabilities themselves as memberships.
IDENTITY = {"membership": "gated", "heaviside": Linear(delta=0.25)}


def close(actual, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


def one_hot(index, classes):
    return F.one_hot(index, classes).movedim(-1, 1).float()


# The one list.


def test_the_type_hints_have_every_option():
    fields = {**TensorOptions.__annotations__, **Options.__annotations__}
    hints = {**LossOptions.__annotations__}
    assert set(hints) == set(fields) == set(ALL)
    for name, hint in hints.items():
        plain, of_field = (getattr(x, "__forward_arg__", x) for x in (hint, fields[name]))
        assert str(plain) == str(of_field), name


def test_options_are_frozen_hashable_and_checked_once():
    a, b = Options(ce_weight=1, membership="gated"), Options(ce_weight=1.0, membership="gated")
    assert a == b
    assert len({a, b, Options()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.ce_weight = 2.0
    with pytest.raises(ValueError, match="ce_weight must be finite and >= 0, got -1"):
        Options(ce_weight=-1)
    assert {name: DEFAULTS[name] for name in ("average", "per_sample", "ce_weight")} == {
        "average": "macro",
        "per_sample": False,
        "ce_weight": 0.0,
    }


# Two samples of three classes and two elements, at thresholds that make decisions plain:
#            class 0        class 1        class 2
# sample 0   tp, tp         fp, tn         fn, tn
# sample 1   fn, tn         tp, tp         tn, tn
POSITIVE = torch.tensor([[[1, 1], [0, 0], [1, 0]], [[1, 0], [1, 1], [0, 0]]])
DECIDED = torch.tensor([[[1.0, 1], [1, 0], [0, 0]], [[0, 0], [1, 1], [0, 0]]])
# F1 of each class of all samples: 2 * 2 / (4 + 1), 2 * 2 / (4 + 1), 0; of each sample:
F1_OF_CLASSES = [4 / 5, 4 / 5, 0.0]
F1_OF_SAMPLES = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def loss_of_decisions(backend, **options):
    return softcm.f1_loss(DECIDED, POSITIVE, backend=backend, membership="gated", **options)


@each_backend
def test_average_by_hand(backend):
    def loss(average, **options):
        return loss_of_decisions(backend, average=average, **options)

    close(loss("macro"), 1 - 1.6 / 3)
    close(loss("none"), [1 / 5, 1 / 5, 1])
    close(loss("micro"), 1 - 2 * 4 / (2 * 4 + 2 + 1))
    close(loss("weighted"), 1 - (3 * 0.8 + 2 * 0.8 + 0) / 6)
    close(loss("present"), 1 - 1.6 / 3)  # all three classes have a positive
    weights = torch.tensor([1, 3, 0])
    close(loss("macro", class_weight=weights), 1 / 5)
    close(loss("present", class_weight=weights.double()), 1 / 5)
    close(loss("macro", class_weight=torch.tensor([1.0, 0.0, 3.0])), 1 - 0.8 / 4)


@each_backend
def test_present_leaves_out_classes_without_a_positive(backend):
    p = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]], requires_grad=True)
    y = torch.tensor([[1, 0, 1], [1, 0, 0]])
    options = {"membership": "gated", "backend": backend}
    losses = [1 - 2 / 3, 1.0, 1 - 2 / 3]
    close(softcm.f1_loss(p, y, average="none", **options), losses)
    close(softcm.f1_loss(p, y, **options), sum(losses) / 3)
    present = softcm.f1_loss(p, y, average="present", **options)
    close(present, 1 / 3)
    (gradient,) = torch.autograd.grad(present, p)
    assert gradient[:, 1].tolist() == [0, 0]
    assert (gradient[:, [0, 2]] != 0).any()
    # None of the classes has one: nothing to train on, unlike "weighted".
    nothing = softcm.f1_loss(p, 0 * y, average="present", **options)
    (gradient,) = torch.autograd.grad(nothing, p)
    assert nothing == 0
    assert not gradient.any()


@each_backend
def test_per_sample_by_hand(backend):
    def loss(**options):
        return loss_of_decisions(backend, per_sample=True, **options)

    of_samples = torch.tensor(F1_OF_SAMPLES)
    close(loss(), 1 - of_samples.mean())
    close(loss(average="none"), 1 - of_samples.mean(0))
    # Sample 0 has positives of classes 0 and 2, sample 1 of classes 0 and 1.
    close(loss(average="present"), 1 - (1 / 2 + 1 / 2) / 2)
    close(loss(average="micro"), 1 - (2 * 2 / (4 + 2) + 2 * 2 / (4 + 1)) / 2)
    close(loss(average="weighted"), 1 - (2 / 3 + 2 / 3) / 2)
    close(loss(class_weight=torch.tensor([0.0, 1.0, 1.0])), 1 - (0 + 1 / 2) / 2)
    cm = softcm.confusion_matrix(DECIDED, POSITIVE, per_sample=True, backend=backend)
    assert cm.tp.tolist() == [[2, 0, 0], [0, 2, 0]]
    assert cm.fn.tolist() == [[0, 0, 1], [1, 0, 0]]
    close(softcm.metrics.f1(cm), of_samples)


@each_backend
def test_per_sample_micro_is_scikit_learns_samples_average(backend):
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(50, 6, generator=generator) < 0.4
    decided = torch.where(torch.rand(50, 6, generator=generator) < 0.3, ~y, y)
    loss = softcm.f1_loss(
        decided.float(), y, per_sample=True, average="micro", membership="gated", backend=backend
    )
    close(1 - loss, f1_score(y, decided, average="samples", zero_division=0))


@each_backend
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "none", "present"])
@pytest.mark.parametrize("target", ["labels", "indices"])
def test_per_sample_is_the_mean_of_samples(average, target, backend):
    """Of samples in which every class has a positive; with weights, thresholds and gradients."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    index = torch.randint(0, 3, (4, 5, 6), generator=generator)
    y = index if target == "indices" else one_hot(index, 3)
    weight = torch.rand(4, 1, 1, 1, generator=generator).expand(4, 3, 5, 6)
    weight = weight[:, 0] if target == "indices" else weight
    thresholds = torch.tensor([[0.2, 0.5], [0.3, 0.4], [0.6, 0.7]])
    options = {"from_logits": True, "threshold": thresholds, "average": average}
    options |= {"backend": backend, "pos_weight": torch.tensor([1.0, 2.0, 0.5])}
    loss = softcm.f1_loss(z, y, per_sample=True, weight=weight, **options)
    alone = [
        softcm.f1_loss(z[n : n + 1], y[n : n + 1], weight=weight[n : n + 1], **options)
        for n in range(4)
    ]
    expected = torch.stack(alone).mean(0)
    close(loss, expected.detach(), 1e-12)
    pair = [torch.autograd.grad(x.sum(), z, retain_graph=True)[0] for x in (loss, expected)]
    torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-12)


@each_backend
def test_a_sample_without_a_counted_element_is_left_out(backend):
    y = POSITIVE.clone()
    y[1] = -1
    close(loss_of_decisions(backend, per_sample=True), 1 - 1 / 3)
    loss = softcm.f1_loss(
        *(DECIDED, y), per_sample=True, ignore_index=-1, membership="gated", backend=backend
    )
    close(loss, 1 - 1 / 3)
    everything = softcm.f1_loss(
        *(DECIDED, torch.full_like(y, -1)), per_sample=True, ignore_index=-1, backend=backend
    )
    assert everything == 0


@each_backend
def test_thresholds_of_classes_by_hand(backend):
    p = torch.tensor([[0.2, 0.6], [0.4, 0.8], [0.6, 0.3]])
    y = torch.tensor([[0, 0], [1, 1], [1, 0]])
    of_classes = torch.tensor([[0.3], [0.7]])
    cm = softcm.confusion_matrix(p, y, threshold=of_classes, backend=backend)
    assert [x.tolist() for x in cm] == [[[2], [1]], [[0], [0]], [[0], [0]], [[1], [2]]]
    assert softcm.f1_loss(p.round(), y, threshold=0.5, backend=backend) > 0
    # A column for each threshold of a class.
    two = torch.tensor([[0.3, 0.5], [0.7, 0.1]])
    cm = softcm.confusion_matrix(p, y, threshold=two, backend=backend)
    assert cm.tp.tolist() == [[2, 1], [1, 1]]
    assert cm.fp.tolist() == [[0, 0], [0, 2]]


@each_backend
@pytest.mark.parametrize("heaviside", [Linear(), softcm.Sigmoid(), softcm.Table()], ids=str)
@pytest.mark.parametrize("count", [1, 2, 30])
def test_thresholds_of_classes_are_those_of_each_alone(heaviside, count, backend):
    generator = torch.Generator().manual_seed(2)
    p = torch.rand(700, 3, generator=generator, dtype=torch.float64).requires_grad_()
    y = (torch.rand(700, 3, generator=generator) < 0.3).float()
    tenths = torch.arange(1, 10) / 10
    thresholds = tenths[torch.randint(0, 9, (3, count), generator=generator)].double()
    learned = not isinstance(heaviside, softcm.Table)
    thresholds.requires_grad_(learned)
    options = {"heaviside": heaviside, "backend": backend}
    loss = softcm.mcc_loss(p, y, threshold=thresholds, **options)
    alone = [
        softcm.mcc_loss(p[:, c], y[:, c], threshold=thresholds[c], **options) for c in range(3)
    ]
    expected = sum(alone) / 3
    close(loss, expected.detach(), 1e-12)
    wanted = (p, thresholds) if learned else (p,)
    for one, other in zip(
        torch.autograd.grad(loss, wanted), torch.autograd.grad(expected, wanted), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


@each_backend
@pytest.mark.parametrize("heaviside", [Linear(), softcm.Table()], ids=str)
def test_thresholds_of_classes_that_share_memory(heaviside, backend):
    p, y = torch.rand(9, 3, requires_grad=True), torch.ones(9, 3)
    shared = torch.tensor([0.3, 0.6])
    options = {"heaviside": heaviside, "backend": backend}
    results = []
    for threshold in (shared, shared.expand(3, 2), shared.expand(3, 2).contiguous()):
        loss = softcm.f1_loss(p, y, threshold=threshold, **options)
        results.append((loss.detach(), *torch.autograd.grad(loss, p)))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])
    if isinstance(heaviside, Linear):
        learned = shared.clone().requires_grad_()
        (of_shared,) = torch.autograd.grad(
            softcm.f1_loss(p, y, threshold=learned, **options), learned
        )
        loss = softcm.f1_loss(p, y, threshold=learned.expand(3, 2), **options)
        torch.testing.assert_close(torch.autograd.grad(loss, learned)[0], of_shared)


# Class indices.


@each_backend
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "present"])
def test_a_class_that_ignore_index_names_is_left_out(average, backend):
    t = torch.tensor([0, 1, 2, 0, 1, 2])
    options = {"average": average, "ignore_index": 0, "backend": backend}
    assert softcm.f1_loss(one_hot(t, 3), t, **options) == 0
    none = softcm.f1_loss(
        one_hot(t, 3), t, average="none", zero_division=0.25, ignore_index=0, backend=backend
    )
    assert none.tolist() == [0.75, 0, 0]
    # Whatever is predicted of it.
    p = one_hot(t, 3)
    p[:, 0] = torch.linspace(0, 1, 6)
    p.requires_grad_()
    loss = softcm.f1_loss(p, t, **options)
    (gradient,) = torch.autograd.grad(loss, p)
    assert loss == 0
    assert not gradient[:, 0].any()


@each_backend
@pytest.mark.parametrize("shape", [(40, 5), (3, 4, 6), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("average", ["macro", "micro", "none"])
def test_softmax_cross_entropy_is_torchs(shape, per_sample, average, backend):
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    t = torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)
    t[0] = -100
    of_classes = torch.rand(shape[1], generator=generator, dtype=torch.float64)
    options = {"from_logits": True, "ignore_index": -100, "average": average, "backend": backend}
    options["per_sample"] = per_sample
    for pos_weight in (None, of_classes):
        alone = softcm.f1_loss(z, t, pos_weight=pos_weight, **options)
        loss = softcm.f1_loss(z, t, pos_weight=pos_weight, ce_weight=0.7, **options)
        expected = alone + 0.7 * F.cross_entropy(z, t, weight=pos_weight)
        close(loss, expected.detach(), 1e-12)
        pair = [torch.autograd.grad(x.sum(), z, retain_graph=True)[0] for x in (loss, expected)]
        torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-12)
    p = z.detach().softmax(1)
    options["from_logits"] = False
    added = softcm.f1_loss(p, t, ce_weight=0.7, **options) - softcm.f1_loss(p, t, **options)
    close(added, (0.7 * F.cross_entropy(z, t)).detach().expand_as(added), 1e-12)


@each_backend
def test_sample_weights_weigh_the_softmax_cross_entropy(backend):
    z, t = torch.randn(7, 3, generator=torch.Generator().manual_seed(4)), torch.arange(7) % 3
    weight = torch.tensor([0.0, 1, 2, 3, 0.5, 1, 4])
    options = {"from_logits": True, "weight": weight, "backend": backend}
    added = softcm.f1_loss(z, t, ce_weight=1.0, **options) - softcm.f1_loss(z, t, **options)
    entropy = F.cross_entropy(z, t, reduction="none")
    close(added, (weight * entropy).sum() / weight.sum())


def test_infinite_logits_of_a_softmax():
    z = torch.tensor([[torch.inf, 0.0, 1.0], [0.0, -torch.inf, 2.0]], requires_grad=True)
    t = torch.tensor([1, 0])
    for backend in BACKENDS:
        loss = softcm.f1_loss(z[1:], t[1:], from_logits=True, ce_weight=1.0, backend=backend)
        (gradient,) = torch.autograd.grad(loss, z)
        assert gradient.isfinite().all(), backend
        assert softcm.f1_loss(z, t, from_logits=True, ce_weight=1.0, backend=backend) == torch.inf


# Weights.


def test_weights_of_classes_are_no_weights_of_samples():
    p, y = torch.rand(64, 3), torch.ones(64, 3)
    with pytest.raises(ValueError, match=r"weights of samples.*\(3,\).*pass class_weight"):
        softcm.f1_loss(p, y, weight=torch.tensor([1.0, 5.0, 20.0]))
    # As many samples as classes: neither is guessed.
    for target in (torch.tensor([0, 1, 2]), torch.ones(3, 3)):
        square = torch.full((3, 3), 0.5)
        message = r"pass class_weight, for weights of samples weight.reshape\(\(3, 1\)\)"
        with pytest.raises(ValueError, match=message):
            softcm.f1_loss(square, target, weight=torch.ones(3))
        softcm.f1_loss(square, target, weight=torch.ones(3, 1))
    softcm.f1_loss(torch.rand(4, 3), torch.tensor([0, 1, 2, 0]), weight=torch.ones(4))


@pytest.mark.parametrize(
    ("class_weight", "options", "error", "words"),
    [
        (torch.ones(2), {}, ValueError, ["class_weight", "(3,)", "(2,)"]),
        (torch.ones(3, 1), {}, ValueError, ["class_weight", "(3,)", "flatten"]),
        (torch.tensor([1.0, -1, 0]), {}, ValueError, ["class_weight", ">= 0", "-1"]),
        (torch.tensor([1.0, NAN, 0]), {}, ValueError, ["class_weight", ">= 0"]),
        ([1.0, 1.0, 1.0], {}, TypeError, ["class_weight", "torch.as_tensor(class_weight)"]),
        (torch.ones(3, requires_grad=True), {}, ValueError, ["class_weight", "detach"]),
        (torch.ones(3), {"average": "micro"}, ValueError, ["class_weight", "'present'", "'micro'"]),
        (torch.ones(3), {"average": "none"}, ValueError, ["class_weight", "'none'"]),
    ],
)
def test_class_weights_that_do_not_fit(class_weight, options, error, words):
    for loss in (softcm.f1_loss, softcm.mcc_loss):
        with pytest.raises(error) as caught:
            loss(torch.rand(5, 3), torch.ones(5, 3), class_weight=class_weight, **options)
        assert [word for word in words if word not in str(caught.value)] == []


@each_backend
def test_missing_labels(backend):
    generator = torch.Generator().manual_seed(5)
    p = torch.rand(30, 3, generator=generator)
    y = (torch.rand(30, 3, generator=generator) < 0.4).float()
    missing = torch.rand(30, 3, generator=generator) < 0.3
    masked = y.masked_fill(missing, NAN)
    p[missing] = NAN  # what is not known of a sample does not matter
    p.requires_grad_()
    loss = softcm.f1_loss(p, masked, ignore_index=NAN, ce_weight=0.3, backend=backend)
    known = torch.where(missing, 0.5, p)
    expected = softcm.f1_loss(known, y, weight=(~missing).float(), ce_weight=0.3, backend=backend)
    close(loss, expected.detach())
    pair = [torch.autograd.grad(x, p)[0] for x in (loss, expected)]
    torch.testing.assert_close(*pair)
    with pytest.raises(ValueError, match=r'got .*NaN; pass ignore_index=float\("nan"\)'):
        softcm.f1_loss(known.detach(), masked, backend=backend)


# The multi-class metrics as losses.


@each_backend
@pytest.mark.parametrize("name", ["mcc", "kappa", "accuracy"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_multiclass_losses(name, per_sample, backend):
    generator = torch.Generator().manual_seed(6)
    z = torch.randn(3, 4, 20, generator=generator, dtype=torch.float64).requires_grad_()
    t = torch.randint(0, 4, (3, 20), generator=generator)
    loss, metric = getattr(softcm, f"{name}_loss"), getattr(softcm.metrics, name)
    options = {"from_logits": True, "backend": backend, "per_sample": per_sample} | IDENTITY
    got = loss(z, t, average="multiclass", **options)
    cm = softcm.soft_confusion_matrix(z, t, **options)
    if per_sample:
        of_samples = [metric([x[n] for x in cm], average="multiclass") for n in range(3)]
        close(got, 1 - torch.stack(of_samples).mean().detach(), 1e-12)
    else:
        close(got, 1 - metric(cm, average="multiclass").detach(), 1e-12)
    hard = one_hot(z.argmax(1), 4).double()
    perfect = loss(one_hot(t, 4), t, average="multiclass", membership="gated", backend=backend)
    assert perfect == 0
    assert loss(hard, t, average="multiclass", membership="gated", backend=backend) > 0

    def of_logits(z):
        return loss(z, t, average="multiclass", **options)

    assert torch.autograd.gradcheck(of_logits, z)
    with pytest.raises(ValueError, match="needs a target of class indices"):
        loss(z, one_hot(t, 4), average="multiclass", **options)
    with pytest.raises(ValueError, match="mcc, kappa and accuracy have"):
        softcm.f1_loss(z, t, average="multiclass", **options)


# Losses of segmentation.


@each_backend
def test_dice_by_hand(backend):
    p, y = torch.tensor([0.75, 0.5, 0.25, 0.0]), torch.tensor([1, 1, 0, 0])
    close(softcm.dice_loss(p, y, backend=backend), 1 - 2 * 1.25 / (1.5 + 2))
    close(softcm.dice_loss(p, y, smooth=1.0, backend=backend), 1 - (2.5 + 1) / (3.5 + 1))
    nothing = torch.zeros(4), torch.zeros(4)
    assert softcm.dice_loss(*nothing, smooth=1e-5, backend=backend) == 0
    assert softcm.dice_loss(*nothing, backend=backend) == 1
    with pytest.raises(ValueError, match="smooth must be finite and >= 0, got -1"):
        softcm.dice_loss(p, y, smooth=-1)


@each_backend
def test_focal_tversky_by_hand(backend):
    p, y = torch.tensor([0.75, 0.5, 0.25, 0.0], dtype=torch.float64), torch.tensor([1, 1, 0, 0])
    tversky = 1.25 / (1.25 + 0.7 * 0.25 + 0.3 * 0.75)
    close(softcm.focal_tversky_loss(p, y, backend=backend), (1 - tversky) ** 0.75, 1e-12)
    options = {"alpha": 0.2, "beta": 1.5, "gamma": 2.0, "backend": backend}
    tversky = 1.25 / (1.25 + 0.2 * 0.25 + 1.5 * 0.75)
    close(softcm.focal_tversky_loss(p, y, **options), (1 - tversky) ** 2, 1e-12)

    def loss(p):
        return softcm.focal_tversky_loss(p, y, backend=backend)

    assert torch.autograd.gradcheck(loss, (0.1 + 0.8 * p).requires_grad_())
    # At a perfect prediction the slope of x^(3/4) is infinite.
    perfect = y.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(perfect), perfect)
    assert loss(perfect) == 0
    assert gradient.tolist() == [0, 0, 0, 0]
    for name, value in (("alpha", -1), ("beta", NAN), ("gamma", 0)):
        with pytest.raises(ValueError, match=name):
            softcm.focal_tversky_loss(p, y, **{name: value})


@each_backend
@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0, None])
def test_partial_area(max_fpr, backend):
    generator = torch.Generator().manual_seed(7)
    y = torch.rand(200, 2, generator=generator) < 0.4
    p = (torch.rand(200, 2, generator=generator) + 0.5 * y).clamp(max=1.49) / 1.5
    options = {"membership": "gated", "heaviside": softcm.Sigmoid(30.0), "average": "none"}
    loss = softcm.auroc_loss(p, y, max_fpr=max_fpr, backend=backend, **options)
    thresholds = [i / 10 for i in range(1, 10)]
    cm = softcm.soft_confusion_matrix(
        p.double(), y, threshold=thresholds, membership="gated", heaviside=softcm.Sigmoid(30.0)
    )
    close(loss, 1 - softcm.metrics.auroc(cm, max_fpr=max_fpr))


# Ranking losses of classes without positives or without negatives.


@each_backend
@pytest.mark.parametrize("name", ["auroc", "auprc"])
@pytest.mark.parametrize("membership", ["soft", "gated"])
def test_no_ranking_without_both_labels(name, membership, backend):
    generator = torch.Generator().manual_seed(8)
    p = torch.rand(20, 3, generator=generator, requires_grad=True)
    y = (torch.rand(20, 3, generator=generator) < 0.5).float()
    y[:, 1], y[:, 2] = 0, 1
    loss = getattr(softcm, f"{name}_loss")
    options = {"membership": membership, "zero_division": 0.25, "backend": backend}
    alone = loss(p[:, 0], y[:, 0], **options)
    close(loss(p, y, **options), alone.detach())
    close(loss(p, y, average="none", **options), [alone.item(), 0.75, 0.75])
    (gradient,) = torch.autograd.grad(loss(p, y, **options), p)
    assert not gradient[:, 1:].any()
    assert loss(p[:, 1:], y[:, 1:], **options) == 0


# Messages and types that callers stumble over.


def test_numpy_integers_as_ignore_index():
    p, y = torch.rand(6), torch.tensor([0, 1, -1, 1, 0, -1])
    assert softcm.f1_loss(p, y, ignore_index=np.int64(-1)) == softcm.f1_loss(p, y, ignore_index=-1)
    for wrong in (1.5, True, "nan"):
        with pytest.raises(TypeError, match="ignore_index must be an int"):
            softcm.f1_loss(p, y, ignore_index=wrong)


@pytest.mark.parametrize("threshold", [0.0, [0.5, 1.0], torch.tensor(0.0), torch.tensor([[2.0]])])
@each_backend
def test_thresholds_are_on_the_scale_of_probabilities(threshold, backend):
    z, y = torch.randn(5), torch.ones(5)
    words = "threshold must lie in .0, 1.*scale of probabilities, also with from_logits=True"
    with pytest.raises(ValueError, match=words):
        softcm.f1_loss(z, y, threshold=threshold, from_logits=True, backend=backend)
    if not isinstance(threshold, torch.Tensor):
        with pytest.raises(ValueError, match=words):
            softcm.F1Loss(threshold=threshold, from_logits=True)


@pytest.mark.parametrize(
    "threshold", [torch.full((2, 1), 0.5), torch.full((3, 1, 1), 0.5), torch.empty(3, 0)]
)
def test_thresholds_of_other_classes(threshold):
    with pytest.raises(ValueError, match=r"shape \(\) or \(T,\), or \(3, T\) for thresholds of"):
        softcm.f1_loss(torch.rand(4, 3), torch.ones(4, 3), threshold=threshold)


def test_data_that_are_no_tensors():
    p, y = torch.rand(4), torch.ones(4)
    for wrong in ([0.5] * 4, (0.5,) * 4, np.full(4, 0.5)):
        with pytest.raises(
            TypeError, match=r"input must be a torch.Tensor.*torch.as_tensor\(input\)"
        ):
            softcm.f1_loss(wrong, y)
        with pytest.raises(TypeError, match=r"torch.as_tensor\(target\)"):
            softcm.f1_loss(p, wrong)
    with pytest.raises(TypeError, match=r"pass torch.as_tensor\(threshold\)"):
        softcm.f1_loss(p, y, threshold=np.array([0.3, 0.5]))
    with pytest.raises(
        ValueError, match=r"pos_weight.*\(3,\).*\(3, 1, 1\); pass pos_weight.flatten"
    ):
        softcm.f1_loss(
            torch.rand(2, 3, 4, 4), torch.ones(2, 3, 4, 4), pos_weight=torch.ones(3, 1, 1)
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_tracing_is_refused_in_words(backend):
    def loss(p):
        return softcm.f1_loss(p, torch.ones(4), backend=backend)

    with pytest.raises(RuntimeError, match=r"torch.jit.trace; torch.compile and torch.export"):
        torch.jit.trace(loss, (torch.rand(4),))


def test_per_sample_needs_more_than_one_element():
    for shape in ((5,), (5, 1)):
        with pytest.raises(ValueError, match=r"per_sample needs an input \(N, C, \*\)"):
            softcm.f1_loss(torch.rand(shape), torch.ones(shape), per_sample=True)
    softcm.f1_loss(torch.rand(5, 1, 2), torch.ones(5, 1, 2), per_sample=True)


def test_unknown_and_renamed_options():
    p, y = torch.rand(4), torch.ones(4)
    with pytest.raises(TypeError, match="bce_weight is now called ce_weight"):
        softcm.f1_loss(p, y, bce_weight=0.3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'average'"):
        softcm.confusion_matrix(p, y, average="macro")


# Half types compare as torch does.


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_hard_counts_compare_as_torch_does(dtype, backend):
    for tau in (0.9, 0.3, 0.1, 1 / 3, 0.7):
        p = torch.tensor([tau, tau * 0.99, tau * 1.01], dtype=dtype)
        cm = softcm.confusion_matrix(p, torch.ones(3), threshold=tau, backend=backend)
        assert cm.tp.item() == (p >= tau).sum().item(), tau
        taus = torch.tensor([tau, 0.5], dtype=torch.float64)
        several = softcm.confusion_matrix(p, torch.ones(3), threshold=taus, backend=backend)
        assert several.tp.tolist() == [(p >= t).sum().item() for t in (tau, 0.5)]
    # A threshold that rounds to 1 stays where it is.
    p = torch.tensor([1.0, 0.0], dtype=dtype)
    cm = softcm.confusion_matrix(p, torch.ones(2), threshold=1 - 2.0**-12, backend=backend)
    assert cm.tp.item() == 1


# Devices without float64.


class WithoutFloat64(TorchDispatchMode):
    """As on Apple's GPUs: whoever makes or touches a float64 tensor is refused."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves((args, kwargs, found)):
            if x is torch.float64 or (isinstance(x, torch.Tensor) and x.dtype == torch.float64):
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return found


LOSSES = {
    "f1": softcm.f1_loss,
    "mcc": softcm.mcc_loss,
    "gmean": softcm.gmean_loss,
    "auroc": softcm.auroc_loss,
    "auprc": softcm.auprc_loss,
    "dice": softcm.dice_loss,
    "focal": softcm.focal_tversky_loss,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_without_float64(name, dtype):
    generator = torch.Generator().manual_seed(9)
    z = torch.randn(6, 3, 20, generator=generator).to(dtype).requires_grad_()
    t = torch.randint(0, 3, (6, 20), generator=generator)
    labels = one_hot(t, 3)
    table = softcm.Table()
    own = {
        "plain": {},
        "learned": {"threshold": torch.full((3, 2), 0.4, requires_grad=True)},
        "options": {
            "pos_weight": torch.tensor([1.0, 2.0, 0.5]),
            "class_weight": torch.tensor([1.0, 2.0, 0.5]),
            "weight": torch.rand(6, 1, 1, generator=generator),
            "per_sample": True,
            "heaviside": softcm.Sigmoid(),
        },
        "table": {"heaviside": table},
    }
    for options, (target, ce_weight) in itertools.product(
        own.values(), ((labels, 0.0), (labels, 0.3), (t, 0.3))
    ):
        options = {**options, "from_logits": True, "ce_weight": ce_weight}
        if target is t and "weight" in options:
            options["weight"] = options["weight"][:, 0]
        with WithoutFloat64():
            loss = LOSSES[name](z, target, backend="reference", **options)
            (gradient,) = torch.autograd.grad(loss, z)
        assert loss.dtype == torch.float32
        exact = LOSSES[name](z, target, backend="reference", **options)
        (exact_gradient,) = torch.autograd.grad(exact, z)
        torch.testing.assert_close(loss, exact, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient, exact_gradient, rtol=1e-2, atol=1e-5)


def test_counts_without_float64():
    p, y = torch.rand(50, 3), (torch.rand(50, 3) < 0.3).float()
    with WithoutFloat64():
        soft = softcm.soft_confusion_matrix(p, y, threshold=[0.3, 0.6], backend="reference")
        hard = softcm.confusion_matrix(p, y, backend="reference")
        h = softcm.heaviside(p, 0.4)
    torch.testing.assert_close(
        torch.stack(soft), torch.stack(softcm.soft_confusion_matrix(p, y, threshold=[0.3, 0.6]))
    )
    assert torch.stack(hard).double().equal(torch.stack(softcm.confusion_matrix(p, y)))
    torch.testing.assert_close(h, softcm.heaviside(p, 0.4))


# Gradients and compiled code.

OF_SAMPLES = {
    "per sample": {"per_sample": True},
    "per sample, present": {"per_sample": True, "average": "present"},
    "per sample, none": {"per_sample": True, "average": "none", "ce_weight": 0.3},
    "classes": {"class_weight": torch.tensor([0.5, 2.0, 0.0]), "average": "present"},
    "thresholds": {"threshold": torch.tensor([[0.3, 0.5], [0.2, 0.6], [0.4, 0.7]])},
    "missing": {"ignore_index": NAN, "ce_weight": 0.3},
    "softmax": {"ce_weight": 0.3, "indices": True},
    "ignored class": {"ce_weight": 0.3, "indices": True, "ignore_index": 1},
    "multiclass": {"average": "multiclass", "indices": True, "membership": "gated"},
}


def sample_batch(name, dtype=torch.float64):
    generator = torch.Generator().manual_seed(10)
    z = torch.randn(4, 3, 6, generator=generator, dtype=dtype)
    t = torch.randint(0, 3, (4, 6), generator=generator)
    options = dict(OF_SAMPLES[name])
    y = one_hot(t, 3)
    if name == "missing":
        y[:, :, 2] = NAN
    return z, t if options.pop("indices", False) else y, {**options, "from_logits": True}


@each_backend
@pytest.mark.parametrize("name", OF_SAMPLES)
@pytest.mark.parametrize("loss", [softcm.f1_loss, softcm.mcc_loss])
def test_gradcheck(loss, name, backend):
    z, target, options = sample_batch(name)
    if name == "multiclass" and loss is softcm.f1_loss:
        loss = softcm.accuracy_loss

    def of_logits(z, *threshold):
        given = {"threshold": threshold[0]} if threshold else {}
        return loss(z, target, backend=backend, **{**options, **given})

    z.requires_grad_()
    assert torch.autograd.gradcheck(of_logits, z)
    assert torch.autograd.gradgradcheck(of_logits, z)
    of_classes = torch.tensor([[0.31], [0.42], [0.63]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(of_logits, (z, of_classes))


@each_backend
@pytest.mark.parametrize("name", OF_SAMPLES)
def test_compiled(name, backend):
    z, target, options = sample_batch(name, torch.float32)
    z.requires_grad_()
    torch._dynamo.reset()

    def loss(z):
        value = softcm.mcc_loss(z, target, backend=backend, **options)
        return value.sum()

    expected = loss(z)
    got = torch.compile(loss, fullgraph=True, backend="aot_eager")(z)
    close(got, expected.detach(), 1e-5)
    pair = [torch.autograd.grad(x, z)[0] for x in (got, expected)]
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-6)
