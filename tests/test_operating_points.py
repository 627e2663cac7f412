"""Operating points: a table by hand, torchmetrics, gradients, and what is refused."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import softcm
from softcm import ConfusionMatrix, metrics

close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-13)
NAMES = {
    "recall_at_fixed_precision": "min_precision",
    "precision_at_fixed_recall": "min_recall",
    "sensitivity_at_specificity": "min_specificity",
    "specificity_at_sensitivity": "min_sensitivity",
}
each_name = pytest.mark.parametrize("name", NAMES)


def test_table_of_operating_points():
    assert list(metrics.OPERATING_POINTS) == list(NAMES)
    for name, (objective, constraint) in metrics.OPERATING_POINTS.items():
        assert callable(getattr(metrics, name))
        assert all(isinstance(m, softcm.LinearFractional) for m in (objective, constraint))


# By hand, of 4 positives and 6 negatives:
#   recall       1    .75  .75  .25
#   precision    .4   .5   .75  1
#   specificity  0    .5   5/6  1
TP, FP = [4.0, 3.0, 3.0, 1.0], [6.0, 3.0, 1.0, 0.0]
BY_HAND = {
    "recall_at_fixed_precision": [(0, 1), (0.4, 1), (0.5, 0.75), (0.75, 0.75), (0.8, 0.25)],
    "precision_at_fixed_recall": [(0, 1), (0.25, 1), (0.5, 0.75), (0.75, 0.75), (0.8, 0.4)],
    "sensitivity_at_specificity": [(0, 1), (0.5, 0.75), (0.8, 0.75), (0.9, 0.25), (1, 0.25)],
    "specificity_at_sensitivity": [(0, 1), (0.25, 1), (0.75, 5 / 6), (0.8, 0), (1, 0)],
}


def sweep(order=(0, 1, 2, 3), dtype=torch.float64):
    tp, fp = (torch.tensor(x, dtype=dtype)[list(order)] for x in (TP, FP))
    return ConfusionMatrix(tp, 4 - tp, fp, 6 - fp)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
@each_name
def test_by_hand(name, order, dtype):
    for minimum, expected in BY_HAND[name]:
        got = getattr(metrics, name)(sweep(order, dtype), **{NAMES[name]: minimum})
        assert got.shape == ()
        assert got.dtype == (torch.float32 if dtype == torch.float32 else torch.float64)
        close(got, torch.tensor(expected, dtype=got.dtype), rtol=1e-6)


@each_name
def test_leading_dimensions(name):
    function = partial(getattr(metrics, name), **{NAMES[name]: 0.6})
    torch.manual_seed(0)
    cm = ConfusionMatrix(*torch.randint(1, 9, (4, 2, 3, 5)).double())
    got = function(cm)
    assert got.shape == (2, 3)
    for index in np.ndindex(2, 3):
        close(got[index], function(ConfusionMatrix(*(x[index] for x in cm))))
    one = ConfusionMatrix(*torch.tensor([4.0, 1.0, 1.0, 4.0], dtype=torch.float64))
    close(function(one), torch.tensor(0.8, dtype=torch.float64))  # a number is one threshold


# torchmetrics.


def theirs(name, p, y, minimum, thresholds=None):
    reason = "torchmetrics is not installed: pip install '.[recipes]'"
    pytest.importorskip("torchmetrics", reason=reason)
    module = pytest.importorskip("torchmetrics.functional.classification")
    function = getattr(module, f"binary_{name}")
    return function(p, y, minimum, thresholds=thresholds)[0]


def problem(seed):
    """Scores with many ties, of a ranking that is not perfect."""
    rng = np.random.default_rng(seed)
    y = np.append(rng.integers(0, 2, rng.integers(8, 60)), [0, 1])
    p = np.clip(np.round((rng.normal(0.4 + 0.2 * y, 0.2)) * 16) / 16, 0.0625, 0.9375)
    return torch.from_numpy(p), torch.from_numpy(y)


def assert_theirs(name, p, y, minimum, thresholds=None):
    taus = p.unique() if thresholds is None else torch.tensor(thresholds, dtype=p.dtype)
    cm = softcm.confusion_matrix(p, y, threshold=taus)
    got = getattr(metrics, name)(cm, **{NAMES[name]: minimum})
    expected = theirs(name, p, y, minimum, thresholds)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6, check_dtype=False)
    return got


# Besides 1/2 and 3/4 no ratio of so few samples: torchmetrics takes 1 - 2/3 for less than 1/3.
MINIMA = (0.0, 0.1234, 0.37, 0.5, 0.6789, 0.75, 0.8765, 0.9543, 1.0)


@pytest.mark.parametrize("seed", range(20))
@each_name
def test_exact_curves_of_torchmetrics(name, seed):
    p, y = problem(seed)
    values = [assert_theirs(name, p, y, minimum) for minimum in MINIMA]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("seed", range(5))
@each_name
def test_binned_curves_of_torchmetrics(name, seed):
    # A minimum of 0 aside: there, torchmetrics leaves out the end that nothing is positive.
    p, y = problem(seed)
    for minimum in MINIMA[1:]:
        assert_theirs(name, p, y, minimum, thresholds=[0.3, 0.4375, 0.6, 0.8, 0.99])


@pytest.mark.parametrize("with_nothing", [True, False])
@each_name
def test_no_threshold_reaches_the_minimum(name, with_nothing):
    # No recall is 1, no precision or specificity 0.9: torchmetrics gives 0.
    p = torch.tensor([0.25, 0.5, 0.75, 0.5, 0.75, 0.75, 0.75], dtype=torch.float64)
    y = torch.tensor([1, 1, 1, 0, 0, 0, 0])
    taus = [0.5, 0.75] + [0.875] * with_nothing
    minimum = 1.0 if NAMES[name] in ("min_recall", "min_sensitivity") else 0.9
    assert assert_theirs(name, p, y, minimum, taus) == 0
    if name in ("recall_at_fixed_precision", "sensitivity_at_specificity"):  # all scores do not
        assert assert_theirs(name, p, y, minimum) == 0


# Degenerate counts.


@pytest.mark.parametrize("zero_division", [0.0, 0.25, 1.0])
def test_without_positives_or_negatives(zero_division):
    zero, two = torch.zeros(3), torch.full((3,), 2.0)
    negatives, positives = (zero, zero, two, two), (two, two, zero, zero)
    # The objective is undefined, the constraint reached.
    for name, counts in [
        ("sensitivity_at_specificity", negatives),
        ("specificity_at_sensitivity", positives),
    ]:
        got = getattr(metrics, name)(counts, 0.5, zero_division=zero_division)
        assert got == zero_division
    # The constraint is undefined, and reached if zero_division is large enough.
    for name, counts, expected in [
        ("sensitivity_at_specificity", positives, 0.5),
        ("specificity_at_sensitivity", negatives, 1.0),  # where nothing is positive
    ]:
        got = getattr(metrics, name)(counts, 0.5, zero_division=zero_division)
        assert got == (expected if zero_division >= 0.5 else 0)
    for name in NAMES:
        got = getattr(metrics, name)((zero,) * 4, 0.5, zero_division=zero_division)
        assert got == (zero_division if zero_division >= 0.5 else 0)


def test_zero_division_is_the_ratio_of_nothing_predicted():
    # Precision 1 at recall 0, the end of the curve that scikit-learn draws.
    cm = ConfusionMatrix(*torch.tensor([[2.0], [2.0], [2.0], [2.0]]))
    assert metrics.precision_at_fixed_recall(cm, 0.0) == 0.5
    assert metrics.precision_at_fixed_recall(cm, 0.0, zero_division=1.0) == 1
    assert metrics.recall_at_fixed_precision(cm, 0.9, zero_division=1.0) == 0


@pytest.mark.parametrize("count", ["tp", "fn", "fp"])
@each_name
def test_nan_stays(name, count):
    cm = sweep()
    getattr(cm, count)[0] = math.nan
    objective, constraint = metrics.OPERATING_POINTS[name]
    assert (objective(cm) + constraint(cm))[0].isnan()
    assert getattr(metrics, name)(cm, **{NAMES[name]: 0.7}).isnan()


# Gradients.


@each_name
def test_gradients(name):
    torch.manual_seed(0)
    counts = (1 + 8 * torch.rand(4, 3, 5, dtype=torch.float64)).requires_grad_()
    function = partial(getattr(metrics, name), **{NAMES[name]: 0.45})
    assert torch.autograd.gradcheck(lambda c: function(ConfusionMatrix(*c)), counts)
    assert torch.autograd.gradgradcheck(lambda c: function(ConfusionMatrix(*c)), counts)


@each_name
def test_gradient_is_that_of_the_best_threshold(name):
    objective, _ = metrics.OPERATING_POINTS[name]
    counts = torch.stack(sweep()).requires_grad_()
    minimum = {"recall_at_fixed_precision": 0.7, "precision_at_fixed_recall": 0.7}.get(name, 0.6)
    value = getattr(metrics, name)(ConfusionMatrix(*counts), **{NAMES[name]: minimum})
    (got,) = torch.autograd.grad(value, counts)
    (expected,) = torch.autograd.grad(objective(ConfusionMatrix(*counts))[2], counts)
    close(got, expected)
    close(value, objective(ConfusionMatrix(*counts))[2])


@each_name
def test_no_gradient_where_no_threshold_reaches_the_minimum(name):
    counts = torch.full((4, 3), 2.0, dtype=torch.float64, requires_grad=True)
    value = getattr(metrics, name)(ConfusionMatrix(*counts), **{NAMES[name]: 0.75})
    assert value == 0
    assert not torch.autograd.grad(value, counts)[0].any()


def test_soft_counts():
    torch.manual_seed(0)
    p, y = torch.rand(40, 3, dtype=torch.float64), torch.randint(0, 2, (40, 3))

    def value(p):
        cm = softcm.soft_confusion_matrix(
            p, y, threshold=[0.2, 0.4, 0.6], heaviside=softcm.Sigmoid(), membership="gated"
        )
        return metrics.sensitivity_at_specificity(cm, 0.4)

    assert value(p).shape == (3,)
    (grad,) = torch.autograd.grad(value(p.requires_grad_()).sum(), p)
    assert grad.isfinite().all()
    assert grad.any()


# Pairs of metrics, and what is refused.


def test_pairs():
    cm = sweep()
    for name, (objective, constraint) in metrics.OPERATING_POINTS.items():
        named = metrics.operating_point(cm, name, 0.6)
        close(named, getattr(metrics, name)(cm, 0.6))
        close(named, metrics.operating_point(cm, (objective, constraint), 0.6))
    # F1: 4/7, .6, .75, .4
    f1_at_recall = metrics.operating_point(cm, (metrics.f1, metrics.recall), 0.8)
    close(f1_at_recall, torch.tensor(4 / 7, dtype=torch.float64))
    # A callable sees names; informedness may be below 0.
    negative = metrics.operating_point(
        sweep(), (lambda c, _: -c.fp - c.tp - 1, lambda c, _: c.tp / 4), 0.75
    )
    close(negative, torch.tensor(-5.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (1.5, ValueError, ["[0, 1]", "1.5"]),
        (-0.1, ValueError, ["[0, 1]", "-0.1"]),
        (math.nan, ValueError, ["[0, 1]", "nan"]),
        ("0.5", TypeError, ["number", "'0.5'"]),
        (None, TypeError, ["number", "None"]),
        (True, TypeError, ["number", "True"]),
        (torch.tensor(0.5), TypeError, ["number", "tensor"]),
    ],
)
@each_name
def test_minimum_is_refused(name, value, error, words):
    with pytest.raises(error) as caught:
        getattr(metrics, name)(sweep(), value)
    assert [word for word in (NAMES[name], *words) if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("pair", "error", "words"),
    [
        ("recall_at_precision", ValueError, ["metrics", *NAMES, "'recall_at_precision'"]),
        ((metrics.f1,), TypeError, ["metrics", "pair"]),
        ((metrics.f1, "recall"), TypeError, ["metrics", "pair", "'recall'"]),
        (metrics.f1, TypeError, ["metrics", "pair"]),
        (None, TypeError, ["metrics", "None"]),
    ],
)
def test_pair_is_refused(pair, error, words):
    with pytest.raises(error) as caught:
        metrics.operating_point(sweep(), pair, 0.5)
    assert [word for word in words if word not in str(caught.value)] == []


@each_name
def test_counts_are_refused(name):
    function = getattr(metrics, name)
    with pytest.raises(TypeError, match="ConfusionMatrix"):
        function(torch.zeros(4), 0.5)
    with pytest.raises(TypeError, match="zero_division"):
        function(sweep(), 0.5, zero_division="1")
    with pytest.raises(ValueError, match=r"at least one threshold, got shape \(2, 0\)"):
        function(ConfusionMatrix(*torch.zeros(4, 2, 0)), 0.5)
