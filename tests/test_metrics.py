"""Metrics and hard confusion matrices against scikit-learn, and laws that hold for all counts."""

import math
from functools import partial

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from cases import OPERATING_POINTS
from hypothesis import given, settings
from hypothesis import strategies as st

import softcm
from softcm import ConfusionMatrix, LinearFractional, metrics

BACKENDS = softcm.available_backends("cpu")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_weighting = pytest.mark.parametrize("weighted", [False, True])
close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-13)


def expect(got, value):
    close(got, torch.as_tensor(np.asarray(value), dtype=got.dtype))


def batch(weighted, shape=(60,), classes=None, seed=0):
    """Probabilities on a grid of tenths, so that many equal a threshold; labels; weights."""
    rng = np.random.default_rng(seed)
    p = rng.integers(0, 11, shape) / 10
    y = rng.integers(0, 2, shape) if classes is None else rng.integers(0, classes, shape[0])
    w = rng.integers(0, 4, shape[0]) / 2 if weighted else None  # zeros among them
    return p, y, w


def tensors(p, y, w):
    column = (-1, *[1] * (np.ndim(y) - 1))  # a weight of each sample, whatever its labels
    weight = None if w is None else torch.from_numpy(w).reshape(column)
    return torch.from_numpy(p), torch.from_numpy(y), weight


def sk_specificity(y, predicted, **options):
    return sk.recall_score(1 - y, 1 - predicted, **options)


def sk_gmean(y, predicted, **options):
    recall = sk.recall_score(y, predicted, **options)
    return math.sqrt(recall * sk_specificity(y, predicted, **options))


def sk_informedness(y, predicted, **options):
    return sk.balanced_accuracy_score(y, predicted, adjusted=True, **options)


BINARY = {
    "f1": ({}, sk.f1_score),
    "fbeta": ({"beta": 0.5}, partial(sk.fbeta_score, beta=0.5)),
    "accuracy": ({}, sk.accuracy_score),
    "balanced_accuracy": ({}, sk.balanced_accuracy_score),
    "precision": ({}, sk.precision_score),
    "recall": ({}, sk.recall_score),
    "specificity": ({}, sk_specificity),
    "jaccard": ({}, sk.jaccard_score),
    "mcc": ({}, sk.matthews_corrcoef),
    "gmean": ({}, sk_gmean),
    "informedness": ({}, sk_informedness),
    "kappa": ({}, sk.cohen_kappa_score),
}


@each_weighting
@each_backend
@pytest.mark.parametrize("name", BINARY)
def test_binary_metrics_against_sklearn(name, weighted, backend):
    options, reference = BINARY[name]
    p, y, w = batch(weighted)
    x, target, weight = tensors(p, y, w)
    taus = [0.2, 0.5, 0.7]
    cm = softcm.confusion_matrix(x, target, threshold=taus, weight=weight, backend=backend)
    got = getattr(metrics, name)(cm, **options)
    expect(got, [reference(y, (p >= tau).astype(int), sample_weight=w) for tau in taus])


@each_weighting
@each_backend
def test_counts_against_sklearn(weighted, backend):
    p, y, w = batch(weighted)
    x, target, weight = tensors(p, y, w)
    cm = softcm.confusion_matrix(x, target, threshold=0.4, weight=weight, backend=backend)
    (tn, fp), (fn, tp) = sk.confusion_matrix(y, p >= 0.4, sample_weight=w)
    expect(torch.stack(cm), [tp, fn, fp, tn])


def one_vs_rest(cm):
    """Counts (C,) in the form of sklearn's multilabel_confusion_matrix, (C, 2, 2)."""
    return torch.stack((cm.tn, cm.fp, cm.fn, cm.tp), dim=-1).reshape(-1, 2, 2)


@each_weighting
@each_backend
def test_counts_of_classes_against_sklearn(weighted, backend):
    options = {"threshold": 0.6, "backend": backend}
    p, y, w = batch(weighted, (40, 3))
    x, target, weight = tensors(p, y, w)
    cm = softcm.confusion_matrix(x, target, weight=weight, **options)
    expect(one_vs_rest(cm), sk.multilabel_confusion_matrix(y, p >= 0.6, sample_weight=w))

    p, y, w = batch(weighted, (40, 3), classes=3)
    x, target, weight = tensors(p, y, w)
    cm = softcm.confusion_matrix(x, target, weight=weight, **options)
    one_hot = np.eye(3)[y]
    expect(one_vs_rest(cm), sk.multilabel_confusion_matrix(one_hot, p >= 0.6, sample_weight=w))


AVERAGED = {
    "f1": ({}, sk.f1_score),
    "fbeta": ({"beta": 2.0}, partial(sk.fbeta_score, beta=2.0)),
    "precision": ({}, sk.precision_score),
    "recall": ({}, sk.recall_score),
    "jaccard": ({}, sk.jaccard_score),
}


@pytest.mark.parametrize("membership", ["soft", "gated"])
@each_weighting
@each_backend
@pytest.mark.parametrize("zero_division", [0.0, 1.0])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "none"])
@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_averages_against_sklearn(kind, average, zero_division, weighted, backend, membership):
    # At probabilities 0 and 1 the linear approximation is the step: a loss is 1 - metric. Class 3
    # has neither positives nor predicted ones, class 4 only predicted, class 5 only positives.
    rng = np.random.default_rng(1)
    w = rng.integers(0, 4, 50) / 2 if weighted else None
    if kind == "multilabel":
        y, predicted = rng.integers(0, 2, (2, 50, 6))
        y[:, [3, 4]] = predicted[:, [3, 5]] = 0
        target, column = y, (-1, 1)
    else:
        target, labels = rng.choice([0, 1, 2, 5], 50), rng.choice([0, 1, 2, 4], 50)
        y, predicted, column = np.eye(6, dtype=int)[target], np.eye(6, dtype=int)[labels], (-1,)
    for name, (options, reference) in AVERAGED.items():
        expected = reference(
            y,
            predicted,
            average=None if average == "none" else average,
            zero_division=zero_division,
            sample_weight=w,
        )
        loss = getattr(softcm, f"{name}_loss")(
            torch.from_numpy(predicted).double(),
            torch.from_numpy(target),
            weight=None if w is None else torch.from_numpy(w).reshape(column),
            average=average,
            zero_division=zero_division,
            membership=membership,
            backend=backend,
            **options,
        )
        expect(loss, 1 - expected)


@each_weighting
@each_backend
def test_areas_against_sklearn(weighted, backend):
    # Hard counts at every distinct score hold the whole curves; at threshold 0 and beyond 1, which
    # thresholds may not be, everything or nothing is positive, as the end points have it.
    p, y, w = batch(weighted)
    p = 0.1 + 0.8 * p
    x, target, weight = tensors(p, y, w)
    taus = torch.from_numpy(np.unique(p))
    cm = softcm.confusion_matrix(x, target, threshold=taus, weight=weight, backend=backend)
    expect(metrics.auroc(cm), sk.roc_auc_score(y, p, sample_weight=w))
    expect(metrics.auprc(cm), sk.average_precision_score(y, p, sample_weight=w))


@pytest.mark.parametrize("max_fpr", [1e-3, 0.05, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.999, 1, None])
@each_weighting
@pytest.mark.parametrize("seed", range(5))
def test_partial_areas_against_sklearn(seed, weighted, max_fpr):
    # Sixty samples of eleven scores: ties make slanted pieces.
    p, y, w = batch(weighted, seed=seed)
    p = 0.1 + 0.8 * p
    x, target, weight = tensors(p, y, w)
    cm = softcm.confusion_matrix(x, target, threshold=np.unique(p).tolist(), weight=weight)
    expected = sk.roc_auc_score(y, p, sample_weight=w, max_fpr=max_fpr)
    expect(metrics.auroc(cm, max_fpr=max_fpr), expected)


def test_partial_areas_without_ties_against_sklearn():
    # Each piece is vertical or horizontal; with a limit at, just below and just above a step.
    rng = np.random.default_rng(0)
    y = np.append(rng.integers(0, 2, 40), [0, 1] * 5)
    p = rng.permutation(50) / 51 + 0.01
    cm = softcm.confusion_matrix(*tensors(p, y, None)[:2], threshold=np.sort(p).tolist())
    negatives = int((y == 0).sum())
    for step in (1, 7, negatives - 1):
        for max_fpr in (step / negatives + np.array([-1e-6, 0, 1e-6])).tolist():
            expect(metrics.auroc(cm, max_fpr=max_fpr), sk.roc_auc_score(y, p, max_fpr=max_fpr))


def partial_area(x, y, limit):
    """The integral along a path, piece by piece, with a point where a piece crosses the limit."""
    area = 0.0
    for x0, x1, y0, y1 in zip(x, x[1:], y, y[1:], strict=False):
        if (x0 - limit) * (x1 - limit) < 0:
            y_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x0, x1, y0, y1 = (x0, limit, y0, y_limit) if x0 < limit else (limit, x1, y_limit, y1)
        if max(x0, x1) <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
    return 0.5 * (1 + (area - limit**2 / 2) / (limit - limit**2 / 2))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_partial_areas_of_rates_that_fall(shape):
    torch.manual_seed(0)
    rates = torch.rand(2, *shape, dtype=torch.float64)
    rates[0, ..., 1] = rates[0, ..., 0]  # a vertical piece
    cm = ConfusionMatrix(rates[1], 1 - rates[1], rates[0], 1 - rates[0])
    ends = torch.ones(2, *shape[:-1], 1), torch.zeros(2, *shape[:-1], 1)
    x, y = torch.cat((ends[0], rates, ends[1]), dim=-1).flip(-1).reshape(2, -1, shape[-1] + 2)
    for max_fpr in (0.2, rates[0].flatten()[2].item(), 0.7):
        got = metrics.auroc(cm, max_fpr=max_fpr)
        expected = [partial_area(*row, max_fpr) for row in zip(x.tolist(), y.tolist(), strict=True)]
        expect(got, np.reshape(expected, shape[:-1]))
    expect(metrics.auroc(cm, max_fpr=1), metrics.auroc(cm))


def test_partial_area_by_hand():
    # Rates (0, 0), (0, 1/2), (1/2, 1), (1, 1). Up to 1/4: 1/4 x (1/2 + 3/4) / 2 = 5/32, of
    # low 1/32 and high 8/32: (1 + 4/7) / 2.
    cm = ConfusionMatrix(*torch.tensor([[2, 1], [0, 1], [2, 0], [2, 4]]))
    expect(metrics.auroc(cm, max_fpr=0.25), 11 / 14)
    expect(metrics.auroc(cm), 7 / 8)
    perfect, chance = ConfusionMatrix(*torch.tensor([[2], [0], [0], [2]])), (torch.ones(1),) * 4
    expect(metrics.auroc(perfect, max_fpr=0.1), 1)
    expect(metrics.auroc(chance, max_fpr=0.25), 0.5)


def test_gradients_of_partial_areas():
    torch.manual_seed(0)
    counts = torch.rand(4, 3, 6, dtype=torch.float64).requires_grad_()
    for max_fpr in (0.15, 0.5, 0.8):
        area = partial(metrics.auroc, max_fpr=max_fpr)
        assert torch.autograd.gradcheck(lambda c, area=area: area(ConfusionMatrix(*c)), counts)
        assert torch.autograd.gradgradcheck(lambda c, area=area: area(ConfusionMatrix(*c)), counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_partial_areas_are_finite(dtype):
    # Pieces without a width, and of one whose share of the rise for its width is infinite.
    tiny = torch.finfo(dtype).smallest_normal / 4
    for false_rate in ([0.5, 0.5, 0.5], [tiny, 0, 0], [0.9, 0.9, 0.9], [1, 1, tiny], [0, 0, 0]):
        counts = torch.tensor([[0.9, 0.6, 0.3], [0.1, 0.4, 0.7], false_rate, [0, 0, 0]])
        counts = counts.to(dtype)
        counts[3] = 1 - counts[2]
        counts.requires_grad_()
        value = metrics.auroc(ConfusionMatrix(*counts), max_fpr=0.5)
        assert 0 <= value <= 1
        assert torch.autograd.grad(value, counts)[0].isfinite().all()


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (0, ValueError, ["(0, 1]", "0"]),
        (1.5, ValueError, ["(0, 1]", "1.5"]),
        (math.nan, ValueError, ["(0, 1]", "nan"]),
        ("0.1", TypeError, ["number", "'0.1'"]),
        (True, TypeError, ["number", "True"]),
    ],
)
def test_max_fpr_is_refused(value, error, words):
    with pytest.raises(error) as caught:
        metrics.auroc(ConfusionMatrix(*torch.ones(4, 3)), max_fpr=value)
    assert [word for word in ("max_fpr", *words) if word not in str(caught.value)] == []


MULTICLASS = {
    "accuracy": sk.accuracy_score,
    "mcc": sk.matthews_corrcoef,
    "kappa": sk.cohen_kappa_score,
}
each_of_classes = pytest.mark.parametrize("name", MULTICLASS)


def decided(p, y, weight=None, **options):
    """The hard counts of the most probable class."""
    best = torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).double()
    return softcm.confusion_matrix(best, y, weight=weight, **options)


@each_weighting
@pytest.mark.parametrize("classes", [2, 3, 4, 7, 12, 20])
@each_of_classes
def test_multiclass_against_sklearn(name, classes, weighted):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, classes, 50)  # of 20 classes, some may have no sample
        p = rng.random((50, classes))
        p[np.arange(50), y] += 0.5 * rng.random(50)
        w = rng.integers(0, 4, 50) / 2 if weighted else None
        x, target, weight = tensors(p, y, w)
        got = getattr(metrics, name)(decided(x, target, weight), average="multiclass")
        assert got.shape == ()
        expect(got, MULTICLASS[name](y, p.argmax(1), sample_weight=w))


def test_multiclass_by_hand():
    # Rows are the classes of 10 samples, columns those predicted: 3 1 0 / 1 2 0 / 1 0 2.
    cm = ConfusionMatrix(*torch.tensor([[3, 2, 2], [1, 1, 1], [2, 1, 0], [4, 6, 7]]))
    # c = 7, s = 10, t = (4, 3, 3), p = (5, 3, 2): sum pt = 35, pp = 38, tt = 34.
    expect(metrics.accuracy(cm, average="multiclass"), 0.7)
    expect(metrics.kappa(cm, average="multiclass"), 35 / 65)
    expect(metrics.mcc(cm, average="multiclass"), 35 / math.sqrt(62 * 66))


@each_of_classes
def test_multiclass_of_two_classes_is_binary(name):
    metric = getattr(metrics, name)
    tp, fn, fp, tn = binary = torch.tensor([7.0, 2.0, 3.0, 11.0], dtype=torch.float64)
    both = [torch.stack(pair) for pair in ((tn, tp), (fp, fn), (fn, fp), (tp, tn))]
    close(metric(both, average="multiclass"), metric(tuple(binary)))


@each_of_classes
def test_multiclass_takes_the_first_dimension(name):
    metric = partial(getattr(metrics, name), average="multiclass")
    torch.manual_seed(0)
    counts = torch.randint(1, 9, (4, 3, 5)).double()
    got = metric(ConfusionMatrix(*counts))
    assert got.shape == (5,)
    close(got, torch.stack([metric(ConfusionMatrix(*c)) for c in counts.unbind(-1)]))
    assert metric(ConfusionMatrix(*torch.ones(4, 3, 0))).shape == (0,)


@each_of_classes
def test_gradients_of_multiclass(name):
    torch.manual_seed(0)
    counts = (torch.rand(4, 5, 2, dtype=torch.float64) + 0.5).requires_grad_()

    def metric(c):
        return getattr(metrics, name)(ConfusionMatrix(*c), average="multiclass")

    assert torch.autograd.gradcheck(metric, counts)
    assert torch.autograd.gradgradcheck(metric, counts)


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        ("accuracy mcc kappa", [[0, 0], [0, 0], [0, 0], [0, 0]]),  # nothing at all
        ("mcc kappa", [[3, 0], [0, 0], [0, 0], [0, 3]]),  # one class, always found
        ("mcc", [[3, 0], [0, 2], [2, 0], [0, 3]]),  # one class predicted
        ("mcc", [[3, 0], [2, 0], [0, 2], [0, 3]]),  # one class there
        ("mcc", [[3, 2], [0, 0], [2, 3], [0, 0]]),  # soft: each sample predicts both classes
        ("mcc", [[3, 2], [0, 0], [2, 2], [0, 1]]),  # soft: sum of p^2 above s^2
    ],
)
def test_multiclass_zero_division(names, counts):
    counts = torch.tensor(counts, dtype=torch.float64).requires_grad_()
    for name in names.split():
        options = {"average": "multiclass", "zero_division": 0.25}
        value = getattr(metrics, name)(ConfusionMatrix(*counts), **options)
        assert value == 0.25
        assert not torch.autograd.grad(value, counts)[0].any()


@each_of_classes
def test_multiclass_nan_stays(name):
    counts = torch.ones(4, 3)
    counts[0, 1] = math.nan
    assert getattr(metrics, name)(ConfusionMatrix(*counts), average="multiclass").isnan()


@each_of_classes
def test_multiclass_is_refused(name):
    metric = getattr(metrics, name)
    for average in ("micro", "none", 1):
        with pytest.raises(ValueError, match=f"average must be None or 'multiclass'.*{average}"):
            metric(ConfusionMatrix(*torch.ones(4, 3)), average=average)
    for shape in [(), (1,), (0,), (1, 5)]:
        with pytest.raises(ValueError, match="class dimension") as caught:
            metric(ConfusionMatrix(*torch.ones(4, *shape)), average="multiclass")
        assert str(shape) in str(caught.value)


INTEGERS = {torch.float16: torch.int16, torch.bfloat16: torch.int16}
INTEGERS |= {torch.float32: torch.int32, torch.float64: torch.int64}


@each_backend
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("tau", [0.5, 0.3, 0.1])
def test_hard_twin_counts_the_threshold_as_positive(tau, dtype, backend):
    # Eq. (1): H >= tau, for a threshold among the values of the input and its two neighbours.
    bits = torch.tensor(tau, dtype=dtype).view(INTEGERS[dtype]) + torch.tensor([-1, 0, 1])
    p = bits.to(INTEGERS[dtype]).view(dtype)
    for label, expected in [(1, (2, 1, 0, 0)), (0, (0, 0, 2, 1))]:
        y = torch.full((3,), label)
        cm = softcm.confusion_matrix(p, y, threshold=p[1].item(), backend=backend)
        expect(torch.stack(cm), expected)


@each_backend
def test_hard_twin_takes_the_call_of_the_soft_one(backend):
    x = torch.tensor([[2.0, -1.0, 0.0], [-3.0, 0.5, 1.0]], requires_grad=True)
    options = {
        "threshold": torch.tensor([0.5, 0.25], requires_grad=True),
        "heaviside": softcm.Sigmoid(k=3),
        "membership": "gated",
        "weight": torch.tensor([[2.0], [1.0]]),
        "pos_weight": torch.tensor([1.0, 3.0, 1.0]),
        "ignore_index": -1,
        "from_logits": True,
        "backend": backend,
    }
    y = torch.tensor([[1, 1, -1], [0, 1, 0]])
    soft = softcm.soft_confusion_matrix(x, y, **options)
    hard = softcm.confusion_matrix(x, y, **options)
    assert soft.tp.shape == hard.tp.shape == (3, 2)
    assert soft.tp.requires_grad
    assert not hard.tp.requires_grad
    # sigmoid(-1) = .27 reaches .25 but not .5; sample weights 2 and 1, positives of class 1 tripled
    expect(hard.tp, [[2, 2], [3, 9], [0, 0]])
    expect(hard.fn, [[0, 0], [6, 0], [0, 0]])
    expect(hard.fp, [[0, 0], [0, 0], [1, 1]])
    expect(hard.tn, [[1, 1], [0, 0], [0, 0]])


ELEMENTWISE = [*BINARY, "tversky", "cost"]
ARGUMENTS = {"cost": {"costs": (0.0, 3.0, 1.0, -0.5)}, "tversky": {"alpha": 0.3, "beta": 0.7}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 0), (2, 3, 2)])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_metrics_are_elementwise(name, shape, dtype):
    # Each element is what the metric says of that element alone, zeros among them.
    metric = partial(getattr(metrics, name), zero_division=0.25, **ARGUMENTS.get(name, {}))
    torch.manual_seed(0)
    cm = ConfusionMatrix(*torch.randint(0, 3, (4, *shape)).to(dtype))
    got = metric(cm)
    assert got.shape == shape
    singles = [metric(ConfusionMatrix(*c)) for c in torch.stack(cm, -1).reshape(-1, 4)]
    expected = torch.stack(singles) if singles else torch.empty(0, dtype=got.dtype)
    torch.testing.assert_close(got.reshape(-1), expected)


@pytest.mark.parametrize("name", ["auroc", "auprc"])
def test_areas_take_the_last_dimension(name):
    area = getattr(metrics, name)
    tp = torch.tensor([[5.0, 4.0, 1.0], [5.0, 3.0, 0.0]])
    fp = torch.tensor([[4.0, 2.0, 1.0], [5.0, 1.0, 0.0]])
    cm = ConfusionMatrix(tp, 5 - tp, fp, 5 - fp)
    rows = [area(ConfusionMatrix(*(x[i] for x in cm))) for i in range(2)]
    assert rows[0].shape == ()
    close(area(cm), torch.stack(rows))
    close(area(ConfusionMatrix(*(x.reshape(2, 1, 3) for x in cm))), torch.stack(rows)[:, None])


def test_metrics_of_large_counts_do_not_overflow():
    # 1e10 squared is beyond what the product of four margins may need in float32.
    cm = ConfusionMatrix(*torch.tensor([4e10, 1e10, 1e10, 4e10], dtype=torch.float32))
    for name, value in [("mcc", 0.6), ("kappa", 0.6), ("f1", 0.8), ("gmean", 0.8)]:
        torch.testing.assert_close(getattr(metrics, name)(cm), torch.tensor(value))


def every_metric():
    """Each metric of counts (C, T), classes first, as a function of these alone."""
    for name in ELEMENTWISE:
        yield name, partial(getattr(metrics, name), **ARGUMENTS.get(name, {}))
    for name in MULTICLASS:
        yield f"{name} of classes", partial(getattr(metrics, name), average="multiclass")
    yield "auroc", metrics.auroc
    yield "partial auroc", partial(metrics.auroc, max_fpr=0.3)
    yield "auprc", metrics.auprc
    for name in metrics.OPERATING_POINTS:
        yield name, partial(metrics.operating_point, metrics=name, minimum=0.3)
    yield "linear-fractional", LinearFractional((2, 0.5, 0, 1), (3, 1, 1, 1), 1, 2)


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [(torch.int64, 10**10), (torch.int32, 2**31 - 1), (torch.int16, 2**15 - 1), (torch.uint8, 255)],
    ids=str,
)
def test_counts_of_integers(dtype, largest):
    # Whose sums and products are beyond their dtype.
    torch.manual_seed(0)
    cm = ConfusionMatrix(*torch.randint(largest // 2, largest, (4, 3, 2)).to(dtype))
    for name, metric in every_metric():
        got, expected = metric(cm), metric(ConfusionMatrix(*(x.double() for x in cm)))
        assert got.dtype == torch.float64, name
        assert torch.equal(got, expected), name


def test_counts_of_bools():
    cm = ConfusionMatrix(*torch.tensor([[True, True], [False, True], [True, True], [True, False]]))
    for name, metric in every_metric():
        if "classes" not in name:
            expected = metric(ConfusionMatrix(*(x.double() for x in cm)))
            assert torch.equal(metric(cm), expected), name


@pytest.mark.parametrize(
    ("counts", "dtype"),
    [
        ((50_000, 5_000, 5_000, 50_000), torch.int32),
        ((4 * 10**9, 10**8, 2 * 10**8, 45 * 10**8), torch.int64),
    ],
)
def test_large_integers_do_not_overflow(counts, dtype):
    cm = ConfusionMatrix(*torch.tensor(counts, dtype=dtype))
    tp, fn, fp, tn = counts  # whose products Python has in full
    top = tp * tn - fp * fn
    margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    expect(metrics.mcc(cm), top / math.sqrt(margins))
    expect(metrics.kappa(cm), 2 * top / ((tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (((1, 0, 0), (1, 1, 1, 1)), ValueError, ["numerator", "four", "3"]),
        (((1, 0, 0, 0), (1, 1, 1, 1, 1)), ValueError, ["denominator", "four", "5"]),
        (((1, 0, 0, math.nan), (1, 1, 1, 1)), ValueError, ["numerator", "finite", "nan"]),
        (((1, 0, 0, 0), (1, 1, math.inf, 1)), ValueError, ["denominator", "finite", "inf"]),
        (((1, 0, 0, "0"), (1, 1, 1, 1)), TypeError, ["numerator", "number", "'0'"]),
        (((1, 0, 0, 0), None), TypeError, ["denominator", "None"]),
        (("1000", (1, 1, 1, 1)), TypeError, ["numerator", "'1000'"]),
        (((1, 0, 0, 0), (1, 1, 1, 1), math.nan), ValueError, ["numerator_constant", "nan"]),
        (((1, 0, 0, 0), (1, 1, 1, 1), 0, "x"), TypeError, ["denominator_constant", "'x'"]),
    ],
)
def test_linear_fractional_rejects(arguments, error, words):
    with pytest.raises(error) as caught:
        LinearFractional(*arguments)
    assert [word for word in words if word not in str(caught.value)] == []


def test_linear_fractional_is_a_value():
    one, same = (
        LinearFractional([1, 0, 0, 0], [1, 1, 0, 0]),
        LinearFractional((1, 0, 0, 0), (1, 1, 0, 0)),
    )
    assert one == same
    assert hash(one) == hash(same)
    with pytest.raises(AttributeError):
        one.numerator = (0, 0, 0, 0)
    cm = ConfusionMatrix(*torch.tensor([3.0, 1.0, 2.0, 4.0]))
    expect(one(cm), 0.75)
    expect(LinearFractional((0, 0, 0, 1), (0, 0, 0, 0), 1, 2)(cm), 2.5)  # (4 + 1) / 2
    expect(LinearFractional((0, 0, 0, 1), (0, 0, 0, 0))(cm, zero_division=0.7), 0.7)


counts = st.tuples(
    *[st.one_of(st.just(0.0), st.integers(1, 50).map(float), st.floats(1e-3, 1e6))] * 4
)
UNIT = ("f1", "fbeta", "accuracy", "balanced_accuracy", "precision", "recall", "specificity")
UNIT += ("jaccard", "tversky", "gmean")
SIGNED = ("mcc", "kappa", "informedness")


def matrix(values):
    return ConfusionMatrix(*torch.tensor(values, dtype=torch.float64))


@settings(deadline=None)
@given(counts, st.sampled_from([0.0, 0.25, 1.0]))
def test_ranges(values, zero_division):
    cm, slack = matrix(values), 1e-12
    for name in UNIT:
        assert -slack <= getattr(metrics, name)(cm, zero_division=zero_division) <= 1 + slack, name
    for name in SIGNED:
        assert -1 - slack <= getattr(metrics, name)(cm, zero_division=zero_division) <= 1 + slack
    costs = metrics.cost(cm, (1.0, 4.0, 2.0, 3.0))
    assert 1 - slack <= costs <= 4 + slack or sum(values) == 0


@settings(deadline=None)
@given(counts, st.sampled_from([0.0, 1.0]))
def test_identities(values, zero_division):
    cm, zero = matrix(values), {"zero_division": zero_division}
    f1, jaccard = metrics.f1(cm, **zero), metrics.jaccard(cm, **zero)
    close(metrics.tversky(cm, 0.5, 0.5, **zero), f1)
    close(metrics.fbeta(cm, 1.0, **zero), f1)
    close(metrics.fbeta(cm, 0.0, **zero), metrics.precision(cm, **zero))
    close(jaccard, f1 / (2 - f1))
    close(metrics.tversky(cm, 1.0, 1.0, **zero), jaccard)
    if sum(values):
        close(metrics.cost(cm, {"fn": 1, "fp": 1}), 1 - metrics.accuracy(cm))
    recall, specificity = metrics.recall(cm, **zero), metrics.specificity(cm, **zero)
    close(metrics.informedness(cm, **zero), recall + specificity - 1)
    close(metrics.balanced_accuracy(cm, **zero) * 2, recall + specificity)


@settings(deadline=None)
@given(counts)
def test_inequalities(values):
    cm, slack = matrix(values), 1e-12
    f1, p, r = metrics.f1(cm), metrics.precision(cm), metrics.recall(cm)
    if min(values[0] + values[2], values[0] + values[1]) > 0:  # both ratios exist
        assert min(p, r) - slack <= f1 <= (p + r) / 2 + slack
    assert metrics.jaccard(cm) <= f1 + slack
    assert metrics.gmean(cm) <= metrics.balanced_accuracy(cm) + slack
    assert abs(metrics.kappa(cm)) <= abs(metrics.mcc(cm)) + slack


@settings(deadline=None)
@given(counts, st.sampled_from([0.5, 3.0, 1e3]))
def test_symmetries(values, scale):
    cm = matrix(values)
    tp, fn, fp, tn = values
    exchanged, transposed = matrix((tn, fp, fn, tp)), matrix((tp, fp, fn, tn))
    for name in (*SIGNED, "accuracy", "balanced_accuracy", "gmean"):
        close(getattr(metrics, name)(exchanged), getattr(metrics, name)(cm))
    for name in ("f1", "jaccard", "mcc", "kappa", "accuracy"):
        close(getattr(metrics, name)(transposed), getattr(metrics, name)(cm))
    close(metrics.precision(transposed), metrics.recall(cm))
    for name in (*UNIT, *SIGNED):
        close(
            getattr(metrics, name)(matrix([scale * x for x in values])), getattr(metrics, name)(cm)
        )


LOSSES = [
    n.removesuffix("_loss")
    for n in dir(softcm)
    if n.endswith("_loss") and n not in OPERATING_POINTS
]
LOSSES.remove("confusion")


def loss_function(name, **options):
    costs = {"costs": (0, 1, 1, 0)} if name == "cost" else {}
    return partial(getattr(softcm, f"{name}_loss"), **costs, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.3])), min_size=1, max_size=7),
    st.sampled_from(["soft", "gated"]),
    st.sampled_from([softcm.Linear(), softcm.Sigmoid()]),
)
def test_ranges_of_losses(backend, samples, membership, heaviside):
    p, y = torch.tensor(samples, dtype=torch.float64).unbind(-1)
    options = {"membership": membership, "heaviside": heaviside, "backend": backend}
    for name in LOSSES:
        loss = loss_function(name, **options)(p, y)
        assert -1e-12 <= loss <= (2 if name in SIGNED else 1) + 1e-12, name


@each_backend
@pytest.mark.parametrize("heaviside", [softcm.Linear(), softcm.Sigmoid(k=100.0)])
@pytest.mark.parametrize("membership", ["soft", "gated"])
def test_ranking_losses_of_perfect_and_reversed_rankings(membership, heaviside, backend):
    y = torch.tensor([0, 1, 0, 1, 1, 0])
    options = {"membership": membership, "heaviside": heaviside, "backend": backend}
    auroc, auprc = partial(softcm.auroc_loss, **options), partial(softcm.auprc_loss, **options)
    for perfect, near in [(y.double(), 1e-4), (torch.where(y == 1, 0.95, 0.05), 0.15)]:
        assert auroc(perfect, y) < near
        assert auroc(1 - perfect, y) > 1 - near
        assert auprc(perfect, y) < near
        assert auprc(1 - perfect, y) > 0.4  # no ranking is below the share of positives, here 1/2


@each_backend
@pytest.mark.parametrize("form", [list, tuple, torch.tensor])
@pytest.mark.parametrize("name", LOSSES)
def test_order_of_thresholds_does_not_matter(name, form, backend):
    loss = loss_function(name, backend=backend)
    torch.manual_seed(0)
    y = torch.randint(0, 2, (30, 2))
    ascending, order = [0.2, 0.35, 0.5, 0.8], [2, 0, 3, 1]
    results = []
    for taus in (ascending, [ascending[i] for i in order]):
        x = torch.rand(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        threshold = form(taus)
        inputs = [x.requires_grad_()]
        if form is torch.tensor:
            inputs.append(threshold.requires_grad_())
        value = loss(x, y, threshold=threshold)
        results.append((value, *torch.autograd.grad(value, inputs)))
    close(results[0][:2], results[1][:2])
    if form is torch.tensor:  # each threshold has its own gradient, wherever it stands
        close(results[0][2][order], results[1][2], rtol=1e-6, atol=1e-8)


@each_backend
def test_counts_follow_the_order_of_thresholds(backend):
    p, y = torch.tensor([0.1, 0.4, 0.9]), torch.tensor([1, 1, 1])
    cm = softcm.confusion_matrix(p, y, threshold=(0.8, 0.05, 0.3), backend=backend)
    expect(cm.tp, [1, 3, 2])
