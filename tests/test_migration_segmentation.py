"""Segmentation losses of MONAI and segmentation-models-pytorch, and the calls that are the same.

Each row of a table has a loss of theirs and the call of softcm with the same value and gradient,
which is what the README promises to those who change over.
"""

import importlib

import pytest
import smp
import torch
from test_migration import block
from torch.nn.functional import cross_entropy, one_hot

import softcm
from softcm import confusion_loss, dice_loss, jaccard_loss, tversky_loss

readme = block("def smoothed")
smoothed, soft = readme.smoothed, readme.soft
CLASSES, VOID = 4, 255
SIZES = (5, 6), (3, 4, 5)
TVERSKY = {"alpha": 0.3, "beta": 0.7}  # of false positives, of false negatives
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0])
FOREGROUND = torch.tensor([0.0, 1.0, 1.0, 1.0])


def dice(x, y, **options):
    """The loss of MONAI's DiceLoss, but for batch=True and without an activation."""
    options = {"smooth": 1e-5, "per_sample": True, "from_logits": True} | options
    return dice_loss(x, y, **options)


def own(metric, **more):
    def loss(x, y, **options):
        return confusion_loss(x, y, metric, **soft, **more, **options)

    return loss


def generalized_dice(first=0, power=2, smooth=1e-5):
    """The metric of MONAI's GeneralizedDiceLoss: one ratio of all classes from the first one on.

    A class weighs one over its positives to this power: 2, or 1 for w_type="simple".
    """

    def metric(cm):
        tp, fn, fp = (x.unflatten(0, (-1, CLASSES))[:, first:] for x in (cm.tp, cm.fn, cm.fp))
        w = (tp + fn).detach().pow(-power)
        # An absent class has the largest weight of the others.
        w = w.where(w.isfinite(), w.nan_to_num(posinf=0.0).amax(1, keepdim=True))
        top = 2 * (w * tp).sum(1, keepdim=True) + smooth
        ratio = top / ((w * (2 * tp + fp + fn)).sum(1, keepdim=True) + smooth)
        return ratio.expand(-1, CLASSES, -1).flatten(0, 1)

    return metric


def batch_of(target, size):
    """Logits (2, C, *) and a target: "indices" (2, *), "labels" (2, C, *) or "one label" (2, 1, *).

    The others are indices: a third to be ignored in "void", all of the second sample in "half
    void"; in "absent" two classes nowhere occur, in "rare" one is only in the first sample.
    """
    generator = torch.Generator().manual_seed(0)
    classes = 1 if target == "one label" else CLASSES
    x = 2 * torch.randn(2, classes, *size, generator=generator)
    if target in ("labels", "one label"):
        return x, (torch.rand(x.shape, generator=generator) < 0.3).long()
    y = torch.randint(0, CLASSES, (2, *size), generator=generator)
    if target == "void":
        y[torch.rand(y.shape, generator=generator) < 0.3] = VOID
    if target == "half void":
        y[1] = VOID
    if target == "absent":
        y[y >= 2] = 0
    if target == "rare":
        y[1][y[1] == 2] = 0
    return x, y


def assert_same(ours, theirs, target):
    """Value and gradient, of pictures and of volumes."""
    for size in SIZES:
        results = []
        for loss in (ours, theirs):
            x, y = batch_of(target, size)
            x.requires_grad_()
            value = loss(x, y)
            results.append((value.detach(), torch.autograd.grad(value, x)[0]))
        (value, gradient), (value_of_theirs, gradient_of_theirs) = results
        exact = {"rtol": 0, "atol": 1e-5, "check_dtype": False}
        torch.testing.assert_close(value, value_of_theirs, **exact)
        largest = gradient.abs().max()
        assert largest > 0
        torch.testing.assert_close(gradient / largest, gradient_of_theirs / largest, **exact)


@pytest.fixture
def monai():
    """A loss by name, with the activation that the target asks for, in the shapes of softcm."""
    losses = pytest.importorskip(
        "monai.losses", reason="monai is not installed: pip install '.[recipes]'"
    )

    def make(name, target, **options):
        if target in ("labels", "one label"):
            return getattr(losses, name)(**({"sigmoid": True} | options))
        loss = getattr(losses, name)(**({"softmax": True, "to_onehot_y": True} | options))
        return lambda x, y: loss(x, y.unsqueeze(1))

    return make


@pytest.fixture
def smp_losses(monkeypatch):
    smp.provide_losses(monkeypatch)
    return importlib.import_module("segmentation_models_pytorch.losses")


# MONAI. With include_background and batch there, class_weight and per_sample here.
CONSTANTS, NONE = {"smooth_nr": 2.0, "smooth_dr": 3.0}, {"smooth_nr": 0.0, "smooth_dr": 0.0}
MONAI = {
    "Dice": ("DiceLoss", {}, dice),
    "Dice, constants": ("DiceLoss", CONSTANTS, own(smoothed(1.0, 1.5))),
    "Jaccard": ("DiceLoss", {"jaccard": True}, own(smoothed(5e-6, 5e-6, 1, 1))),
    "Tversky": ("TverskyLoss", TVERSKY, own(smoothed(1e-5, 1e-5, **TVERSKY))),
    "Tversky, constants": ("TverskyLoss", TVERSKY | CONSTANTS, own(smoothed(2.0, 3.0, **TVERSKY))),
    "Tversky, plain": (
        *("TverskyLoss", TVERSKY | NONE),
        lambda x, y, **o: tversky_loss(x, y, **TVERSKY, **soft, **o),
    ),
    "generalized Dice": (
        *("GeneralizedDiceLoss", {}),
        lambda x, y, class_weight=None, **o: confusion_loss(
            x, y, generalized_dice(0 if class_weight is None else 1), **soft, **o
        ),
    ),
}


@pytest.mark.parametrize("batch", [True, False], ids=["batch", "sample by sample"])
@pytest.mark.parametrize("background", [True, False], ids=["background", "foreground"])
@pytest.mark.parametrize("target", ["indices", "rare", "labels"])
@pytest.mark.parametrize("name", MONAI)
def test_monai(monai, name, target, background, batch):
    name, options, call = MONAI[name]
    theirs = monai(name, target, include_background=background, batch=batch, **options)
    ours = {"per_sample": not batch} | ({} if background else {"class_weight": FOREGROUND})
    assert_same(lambda x, y: call(x, y, **ours), theirs, target)


def weighted(x, y, weight=WEIGHT, of_classes=WEIGHT):
    return weight.mean() * dice(x, y, class_weight=of_classes)


BACKGROUND = {"include_background": False}
LAMBDAS = {"lambda_dice": 0.5, "lambda_ce": 0.2}
# Of the target: their loss and options, and ours.
MORE_OF_MONAI = {
    "one class": ("one label", "DiceLoss", {}, dice),
    "weight": ("indices", "DiceLoss", {"weight": WEIGHT}, weighted),
    "weight of the foreground": (
        *("indices", "DiceLoss", {"weight": WEIGHT[1:]} | BACKGROUND),
        lambda x, y: weighted(x, y, WEIGHT[1:], WEIGHT * FOREGROUND),
    ),
    "ignore_index": (
        *("void", "DiceLoss", {"ignore_index": VOID}),
        lambda x, y: dice(x, y, ignore_index=VOID),
    ),
    # A sample without anything that counts is left out here, and counts 0 there.
    "ignore_index, all of a sample": (
        *("half void", "DiceLoss", {"ignore_index": VOID}),
        lambda x, y: 0.5 * dice(x, y, ignore_index=VOID),
    ),
    "generalized Dice, simple": (
        *("rare", "GeneralizedDiceLoss", {"w_type": "simple"}),
        own(generalized_dice(power=1), per_sample=True),
    ),
    "cross-entropy": ("indices", "DiceCELoss", {}, lambda x, y: dice(x, y, ce_weight=1.0)),
    # The cross-entropy is that of all classes.
    "cross-entropy, foreground": (
        *("indices", "DiceCELoss", BACKGROUND),
        lambda x, y: dice(x, y, class_weight=FOREGROUND, ce_weight=1.0),
    ),
    "cross-entropy, lambda": (
        *("indices", "DiceCELoss", LAMBDAS),
        lambda x, y: 0.5 * dice(x, y, ce_weight=0.2 / 0.5),
    ),
    "cross-entropy, one class": (
        *("one label", "DiceCELoss", {}),
        lambda x, y: dice(x, y, ce_weight=1.0),
    ),
    # Not one call: a softmax cross-entropy beside the Dice of sigmoids, and one with class weights.
    "cross-entropy, sigmoid": (
        *("labels", "DiceCELoss", {}),
        lambda x, y: dice(x, y) + cross_entropy(x, y.float()),
    ),
    "cross-entropy, weight": (
        *("indices", "DiceCELoss", {"weight": WEIGHT}),
        lambda x, y: weighted(x, y) + cross_entropy(x, y, weight=WEIGHT),
    ),
}


@pytest.mark.parametrize("name", MORE_OF_MONAI)
def test_options_of_monai(monai, name):
    target, loss, options, ours = MORE_OF_MONAI[name]
    assert_same(ours, monai(loss, target, **options), target)


def logarithm(cm):
    return -softcm.metrics.f1(cm).clamp(min=1e-7).log()


MODES = {"binary": "one label", "multiclass": "indices", "multilabel": "labels"}
SMP = {
    "Dice": ("DiceLoss", {}, lambda x, y, **o: dice_loss(x, y, from_logits=True, **o)),
    "Dice, smooth": (
        *("DiceLoss", {"smooth": 4.0}),
        lambda x, y, **o: dice_loss(x, y, smooth=8.0, from_logits=True, **o),
    ),
    "Dice, log_loss": ("DiceLoss", {"log_loss": True}, own(logarithm, maximize=False)),
    "Jaccard": ("JaccardLoss", {}, lambda x, y, **o: jaccard_loss(x, y, **soft, **o)),
    "Jaccard, smooth": ("JaccardLoss", {"smooth": 4.0}, own(smoothed(4.0, 4.0, 1, 1))),
    "Tversky": ("TverskyLoss", TVERSKY, MONAI["Tversky, plain"][2]),
    "Tversky, smooth": (
        *("TverskyLoss", {"smooth": 4.0} | TVERSKY),
        own(smoothed(4.0, 4.0, **TVERSKY)),
    ),
    "Tversky, gamma": (
        *("TverskyLoss", {"gamma": 0.75} | TVERSKY),
        lambda x, y: tversky_loss(x, y, **TVERSKY, **soft) ** 0.75,
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SMP)
def test_smp(smp_losses, name, mode):
    loss, options, ours = SMP[name]
    assert_same(ours, getattr(smp_losses, loss)(mode, **options), MODES[mode])


def present(y):
    return one_hot(y, CLASSES).flatten(0, -2).amax(0).float()


# Of the target: their options, ours, and the factor of the whole.
OPTIONS_OF_SMP = {
    "ignore_index": ("void", {"ignore_index": VOID}, {"ignore_index": VOID}, lambda y: 1.0),
    "ignore_index of a class": (
        "indices",
        {"ignore_index": 0},
        {"ignore_index": 0},
        lambda y: 0.75,
    ),
    "classes": ("indices", {"classes": [1, 2, 3]}, {"class_weight": FOREGROUND}, lambda y: 1.0),
    "weights": ("indices", {"class_weights": WEIGHT}, {"class_weight": WEIGHT}, lambda y: 1.0),
    # An absent class counts 0 there: it is in the number of classes, but in no sum.
    "absent": ("absent", {}, {"average": "present"}, lambda y: present(y).mean()),
    "absent, weights": (
        *("absent", {"class_weights": WEIGHT}, {"average": "present", "class_weight": WEIGHT}),
        lambda y: present(y) @ WEIGHT / WEIGHT.sum(),
    ),
}


@pytest.mark.parametrize("option", OPTIONS_OF_SMP)
@pytest.mark.parametrize("name", [name for name in SMP if "gamma" not in name])
def test_options_of_smp(smp_losses, name, option):
    loss, options, call = SMP[name]
    target, of_theirs, of_ours, factor = OPTIONS_OF_SMP[option]
    theirs = getattr(smp_losses, loss)("multiclass", **options, **of_theirs)
    assert_same(lambda x, y: factor(y) * call(x, y, **of_ours), theirs, target)


def test_power_of_smp_is_of_the_mean_over_classes(smp_losses):
    options = {"gamma": 0.75} | TVERSKY

    def ours(x, y):
        return softcm.focal_tversky_loss(x, y, from_logits=True, **options)

    assert_same(ours, smp_losses.TverskyLoss("binary", **options), "one label")
    x, y = batch_of("labels", SIZES[0])
    assert ours(x, y) < smp_losses.TverskyLoss("multilabel", **options)(x, y)


def test_squares_and_soft_labels(monai, smp_losses):
    """No twin: of soft labels theirs take min(p, y), here and in MONAI by default it is p y."""
    x, y = batch_of("labels", SIZES[0])
    ours = dice(x, y)
    assert (ours - monai("DiceLoss", "labels", squared_pred=True)(x, y.float())).abs() > 0.01
    assert_same(
        lambda x, y: dice(x, 0.1 + 0.8 * y),
        lambda x, y: monai("DiceLoss", "labels")(x, 0.1 + 0.8 * y),
        "labels",
    )
    y = 0.1 + 0.8 * y
    assert (dice(x, y) - monai("DiceLoss", "labels", soft_label=True)(x, y)).abs() > 0.01
    ours = dice_loss(x, y, from_logits=True)
    assert (ours - smp_losses.DiceLoss("multilabel")(x, y)).abs() > 0.01
