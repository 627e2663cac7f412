"""What the README says to those who come from elsewhere, against the packages they come from.

Losses, gradients, counts and metrics are compared with what the blocks of the README define. Losses
of segmentation: test_migration_segmentation.py.
"""

import importlib
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.nn.functional import one_hot

import softcm

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
SECTION = re.search(r"^### Coming from elsewhere\n(.*?)^## ", README, re.M | re.S)[1]
CLASSES = 3
SHAPE = (5, CLASSES, 8, 9)

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(SHAPE, generator=GENERATOR)
LABELS = (torch.rand(SHAPE, generator=GENERATOR) < 0.3).long()
INDICES = torch.randint(0, CLASSES, (SHAPE[0], *SHAPE[2:]), generator=GENERATOR)
IGNORED = torch.rand(INDICES.shape, generator=GENERATOR) < 0.2
WEIGHT = 0.1 + torch.rand(SHAPE, generator=GENERATOR)


def block(text):
    """What the one block of the README's section defines that contains this text."""
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", SECTION, re.S) if text in code)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    return SimpleNamespace(**names)


def installed(name):
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[recipes]'")


def assert_same(ours, theirs):
    """The same to the rounding of their sums in float32."""
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6, check_dtype=False)


# Cross-entropy.


def test_added_cross_entropy_is_that_of_pytorch():
    readme = block("both = ")
    difference = readme.both(readme.logits, readme.target) - readme.f1(readme.logits, readme.target)
    theirs = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))
    assert_same(difference, 0.3 * theirs(readme.logits.squeeze(1), readme.target.float()))


def test_mean_of_cross_entropy_is_over_the_sum_of_weights():
    options = {"from_logits": True, "weight": WEIGHT}
    plain = softcm.f1_loss(LOGITS, LABELS, **options)
    difference = softcm.f1_loss(LOGITS, LABELS, ce_weight=1.0, **options) - plain
    theirs = torch.nn.BCEWithLogitsLoss(weight=WEIGHT)(LOGITS, LABELS.float())
    assert_same(difference, theirs * WEIGHT.numel() / WEIGHT.sum())


def test_cross_entropy_of_class_indices_is_that_of_pytorch():
    ignored = INDICES.masked_fill(IGNORED, -100)
    with pytest.raises(ValueError, match="must hold class indices"):
        softcm.f1_loss(LOGITS, ignored, from_logits=True)
    weight = torch.tensor([1.0, 2.0, 0.5])
    options = {"from_logits": True, "ignore_index": -100, "pos_weight": weight}
    plain = softcm.f1_loss(LOGITS, ignored, **options)
    difference = softcm.f1_loss(LOGITS, ignored, ce_weight=1.0, **options) - plain
    assert_same(difference, torch.nn.CrossEntropyLoss(weight=weight)(LOGITS, ignored))


# torch-btg.


@pytest.fixture
def btg(monkeypatch):
    """The package, which calls .cuda(), on the CPU."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.range is deprecated")
        installed("torch_btg.loss")
    return importlib.import_module("torch_btg")


def flat():
    return LOGITS.sigmoid().flatten(), LABELS.flatten()


def test_accuracy_of_btg_at_one_half(btg):
    p, y = flat()
    theirs = btg.loss.accuracy_loss(thresholds=torch.tensor([0.5]))
    x, z = (p.clone().requires_grad_() for _ in range(2))
    ours, value = block("accuracy_of_btg").accuracy_of_btg(x, y), theirs(z, y)[0]
    assert_same(ours, value)
    ours.backward()
    value.backward()
    assert_same(x.grad * len(p), z.grad * len(p))


def test_counts_of_btg_are_the_same_at_one_half_only(btg):
    """Off it, a positive is no longer shared between TP and FN."""
    p, y = flat()
    thresholds = torch.arange(0.1, 1, 0.1)  # those of fb_loss
    options = {"membership": "gated", "heaviside": softcm.Linear(delta=0.2)}
    ours = torch.stack(softcm.soft_confusion_matrix(p, y, threshold=thresholds, **options))
    approximation = btg.confusion.linear_approx()
    theirs = torch.stack(btg.confusion.confusion(y, p, thresholds, approximation))
    assert_same(ours[:, 4], theirs[:, 4])
    assert_same(ours[:2].sum(0), y.sum().expand(9).float())
    other = [i for i in range(9) if i != 4]
    assert ((theirs[:2].sum(0) - y.sum())[other].abs() > 0.1).all()
    f1 = btg.loss.fb_loss(thresholds=torch.tensor([0.5]))(p, y)[0]
    assert_same(f1, btg.loss.fb_loss()(p, y)[0])  # whatever thresholds it is given
    assert (f1 - softcm.fbeta_loss(p, y, beta=1.0, threshold=thresholds, **options)).abs() > 1e-3


def test_class_weights_of_btg(btg):
    p, y = flat()
    thresholds, w0, w1 = torch.arange(0.1, 1, 0.1), torch.tensor(1.0), torch.tensor(3.0)
    approximation = btg.confusion.linear_approx()
    theirs = btg.confusion.confusion(y, p, thresholds, approximation, class_weight=(w0, w1))
    options = {"membership": "gated", "heaviside": softcm.Linear(delta=0.2)}
    ours = softcm.soft_confusion_matrix(p, y, weight=torch.where(y == 0, w0, w1), **options)
    assert_same(torch.stack(ours), torch.stack(theirs)[:, 4])


# torchmetrics.


@pytest.fixture
def classification():
    return installed("torchmetrics.classification")


@pytest.mark.parametrize("average", ["none", "macro", "weighted", "micro"])
def test_averages_of_torchmetrics(classification, average):
    readme = block("strict = ")
    theirs = classification.MultilabelF1Score(num_labels=3, average=average)
    for p, y in zip(readme.p.split(40), readme.y.split(40), strict=True):
        theirs.update(p, y.long())
    assert_same(getattr(readme, "f1" if average == "none" else average), theirs.compute())


METRICS = {
    "Accuracy": softcm.metrics.accuracy,
    "F1Score": softcm.metrics.f1,
    "JaccardIndex": softcm.metrics.jaccard,
    "Precision": softcm.metrics.precision,
    "Recall": softcm.metrics.recall,
    "Specificity": softcm.metrics.specificity,
    "MatthewsCorrCoef": softcm.metrics.mcc,
    "CohenKappa": softcm.metrics.kappa,
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_torchmetrics(classification, name):
    p, y = flat()
    theirs = getattr(classification, f"Binary{name}")()(p, y)
    assert_same(METRICS[name](softcm.confusion_matrix(p, y)), theirs)


def test_scores_at_the_threshold(classification):
    above = block("strict = ").above
    p = torch.tensor([0.2, 0.5, 0.5, 0.5, 0.9])
    y = torch.tensor([0, 1, 1, 0, 1])
    tn, fp, fn, tp = classification.BinaryStatScores()(p, y)[[2, 1, 3, 0]]
    assert torch.stack(softcm.confusion_matrix(p, y)).tolist() == [3, 0, 1, 1]
    strict = softcm.confusion_matrix(p, y, threshold=above)
    assert [x.item() for x in strict] == [tp, fn, fp, tn] == [1, 2, 0, 2]


def test_logits_are_never_guessed(classification):
    p, y = flat()
    logits = p.logit()
    theirs = classification.BinaryF1Score()(logits, y)
    assert_same(softcm.metrics.f1(softcm.confusion_matrix(logits, y, from_logits=True)), theirs)
    with pytest.raises(ValueError, match="from_logits=True"):
        softcm.confusion_matrix(logits, y)


def test_several_classes_of_torchmetrics(classification):
    """By the largest score; a class that nowhere occurs is no part of their mean."""
    scores, y = LOGITS.movedim(1, -1).reshape(-1, CLASSES), INDICES.flatten()
    decided = one_hot(scores.argmax(dim=1), CLASSES).float()
    f1 = softcm.metrics.f1(softcm.confusion_matrix(decided, y))
    assert_same(f1.mean(), classification.MulticlassF1Score(num_classes=CLASSES)(scores, y))
    wider = torch.cat((scores, scores.new_full((len(scores), 1), -99.0)), dim=1)
    decided = one_hot(wider.argmax(dim=1), CLASSES + 1).float()
    more = softcm.metrics.f1(softcm.confusion_matrix(decided, y))
    assert_same(more.mean(), f1.sum() / (CLASSES + 1))
    assert_same(f1.mean(), classification.MulticlassF1Score(num_classes=CLASSES + 1)(wider, y))


@pytest.mark.parametrize("name", ["MatthewsCorrCoef", "CohenKappa"])
def test_multiclass_metrics_of_torchmetrics(classification, name):
    scores, y = LOGITS.movedim(1, -1).reshape(-1, CLASSES), INDICES.flatten()
    counts = softcm.confusion_matrix(one_hot(scores.argmax(dim=1), CLASSES).float(), y)
    theirs = getattr(classification, f"Multiclass{name}")(num_classes=CLASSES)(scores, y)
    assert_same(METRICS[name](counts, average="multiclass"), theirs)


def test_operating_point_of_torchmetrics(classification):
    p, y = flat()
    p = (p + 0.3 * y) / 1.3
    counts = softcm.confusion_matrix(p, y, threshold=p.unique())
    theirs, _ = classification.BinaryRecallAtFixedPrecision(min_precision=0.9)(p, y)
    assert 0 < theirs < 1
    assert_same(softcm.metrics.recall_at_fixed_precision(counts, 0.9), theirs)


# LibAUC.


def test_areas():
    p, y = flat()
    p = (p + 0.3 * y) / 1.3  # better than by chance
    auroc = block("auroc = ").auroc
    assert 1 - auroc(p, y).item() == pytest.approx(roc_auc_score(y, p), abs=0.01)
    options = {name: auroc.options[name] for name in ("heaviside", "membership")}
    auprc = softcm.auprc_loss(p, y, threshold=auroc.threshold, **options)
    assert 1 - auprc.item() == pytest.approx(average_precision_score(y, p), abs=0.03)


def test_aucm_of_libauc_is_a_loss_of_pairs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        losses = pytest.importorskip(
            "libauc.losses", reason="libauc is not installed: pip install --no-deps 'libauc==2.0.*'"
        )
    p, y = flat()
    aucm, share = losses.AUCMLoss(margin=1.0, device="cpu"), y.float().mean()
    positives, negatives = p[y == 1], p[y == 0]
    with torch.no_grad():
        aucm.a.fill_(positives.mean())
        aucm.b.fill_(negatives.mean())
        aucm.alpha.fill_(1.0 + negatives.mean() - positives.mean())
        theirs = aucm(p.unsqueeze(1), y.unsqueeze(1)).squeeze()
    pairs = (1.0 - (positives.unsqueeze(1) - negatives)).square().mean()
    assert_same(share * (1 - share) * pairs, theirs)
