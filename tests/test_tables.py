"""Tables of a few samples, worked out by hand in exact fractions from the paper's equations.

Nothing here is computed by the package but what is tested: each number is written down with the
steps that lead to it, and every backend has to reproduce it in float64.
"""

import math
from fractions import Fraction as F

import pytest
import torch

import softcm
from softcm import Linear, Sigmoid, metrics

BACKENDS = softcm.available_backends("cpu")
# Slopes that end in fractions: with k = 8 ln 3, exp(-k (p - tau)) is 3^(-8 (p - tau)).
K3 = Sigmoid(k=8 * math.log(3))

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_membership = pytest.mark.parametrize("membership", ["soft", "gated"])


def tensor(values, requires_grad=False):
    """Fractions as float64; a fraction is rounded once, where it becomes a float."""
    return torch.tensor([float(x) for x in values], dtype=torch.float64).requires_grad_(
        requires_grad
    )


def check(got, expected):
    """Equal but for the rounding of a few float64 operations."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-15)


def value_and_slope(p, tau, approximation, backend):
    """h and dh/dp at one point: "gated" makes TP of one positive sample equal to h."""
    p = tensor([p], requires_grad=True)
    cm = softcm.soft_confusion_matrix(
        p,
        torch.ones(1),
        threshold=float(tau),
        heaviside=approximation,
        membership="gated",
        backend=backend,
    )
    cm.tp.backward()
    elementwise = softcm.heaviside(p.detach(), float(tau), approximation)
    check(elementwise, cm.tp.detach().reshape(1))
    return cm.tp.item(), p.grad.item()


# Eq. (5): (tau, delta, p, h, dh/dp). Points at 0, the lower breakpoint, tau, the upper breakpoint
# and 1, and between them. The slope at both breakpoints is m2.
LINEAR = [
    # tau 1/2: tm 1/2, breakpoints 1/4 and 3/4; m1 = .1/.25 = .4, m2 = .8/.5 = 1.6, m3 = .1/.25 = .4
    *[
        (F(1, 2), F(1, 10), F(*p), F(*h), F(*m))
        for p, h, m in [
            ((0, 1), (0, 1), (2, 5)),
            ((1, 8), (1, 20), (2, 5)),  # .4 / 8
            ((1, 4), (1, 10), (8, 5)),  # delta
            ((3, 8), (3, 10), (8, 5)),  # .5 - 1.6 / 8
            ((1, 2), (1, 2), (8, 5)),
            ((5, 8), (7, 10), (8, 5)),  # .5 + 1.6 / 8
            ((3, 4), (9, 10), (8, 5)),  # 1 - delta
            ((7, 8), (19, 20), (2, 5)),  # 1 - .4 / 8
            ((1, 1), (1, 1), (2, 5)),
        ]
    ],
    # tau 1/4: tm 1/4, breakpoints 1/8 and 3/8; m1 = .1/.125 = .8, m2 = .8/.25 = 3.2,
    # m3 = .1/.625 = .16
    *[
        (F(1, 4), F(1, 10), F(*p), F(*h), F(*m))
        for p, h, m in [
            ((0, 1), (0, 1), (4, 5)),
            ((1, 16), (1, 20), (4, 5)),  # .8 / 16
            ((1, 8), (1, 10), (16, 5)),
            ((3, 16), (3, 10), (16, 5)),  # .5 - 3.2 / 16
            ((1, 4), (1, 2), (16, 5)),
            ((5, 16), (7, 10), (16, 5)),  # .5 + 3.2 / 16
            ((3, 8), (9, 10), (16, 5)),
            ((5, 8), (47, 50), (4, 25)),  # 1 - .16 * 3/8 = 1 - .06
            ((1, 1), (1, 1), (4, 25)),
        ]
    ],
    # tau 3/4, delta 1/5: tm 1/4, breakpoints 5/8 and 7/8; m1 = .2/.625 = .32, m2 = .6/.25 = 2.4,
    # m3 = .2/.125 = 1.6
    *[
        (F(3, 4), F(1, 5), F(*p), F(*h), F(*m))
        for p, h, m in [
            ((0, 1), (0, 1), (8, 25)),
            ((1, 2), (4, 25), (8, 25)),  # .32 / 2
            ((5, 8), (1, 5), (12, 5)),
            ((11, 16), (7, 20), (12, 5)),  # .5 - 2.4 / 16
            ((3, 4), (1, 2), (12, 5)),
            ((13, 16), (13, 20), (12, 5)),  # .5 + 2.4 / 16
            ((7, 8), (4, 5), (12, 5)),
            ((15, 16), (9, 10), (8, 5)),  # 1 - 1.6 / 16
            ((1, 1), (1, 1), (8, 5)),
        ]
    ],
]


@each_backend
@pytest.mark.parametrize(("tau", "delta", "p", "h", "slope"), LINEAR)
def test_linear_approximation(tau, delta, p, h, slope, backend):
    got = value_and_slope(p, tau, Linear(delta=float(delta)), backend)
    assert got == pytest.approx((float(h), float(slope)), rel=1e-14, abs=1e-16)


@each_backend
@pytest.mark.parametrize("tau", [F(3, 8), F(1, 2), F(5, 8)])
# (p - tau, h): 3^(-8 d) is 9, 3, 1, 1/3, 1/27 and h = 1 / (1 + that)
@pytest.mark.parametrize(
    ("distance", "h"),
    [
        (F(-1, 4), F(1, 10)),
        (F(-1, 8), F(1, 4)),
        (F(0), F(1, 2)),
        (F(1, 8), F(3, 4)),
        (F(3, 8), F(27, 28)),
    ],
)
def test_sigmoid_approximation(tau, distance, h, backend):
    # dh/dp = k h (1 - h)
    slope = 8 * math.log(3) * float(h * (1 - h))
    got = value_and_slope(tau + distance, tau, K3, backend)
    assert got == pytest.approx((float(h), slope), rel=1e-13)


# dh/dtau by hand at tau = 1/4, where tm = tau; with delta = 1/10
# below:  h = delta p / (tau / 2)                   ->  -2 delta p / tau^2      p = 1/16: -1/5
# middle: h = 1/2 + (1 - 2 delta) (p / tau - 1)     ->  -(1 - 2 delta) p / tau^2  3/16: -12/5
# above:  h = 1 - delta (1 - p) / (1 - 3 tau / 2)   ->  -delta (1 - p) 3/2 / (5/8)^2  5/8: -18/125
# and at tau = 3/4, where tm = 1 - tau, by the symmetry h(p, tau) = 1 - h(1 - p, 1 - tau): the same.
@each_backend
@pytest.mark.parametrize(
    ("p", "slope"), [(F(1, 16), F(1, 5)), (F(3, 16), F(12, 5)), (F(5, 8), F(18, 125))]
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_linear_slope_in_threshold(p, slope, mirrored, backend):
    p, tau = (1 - p, F(3, 4)) if mirrored else (p, F(1, 4))
    threshold = tensor([tau], requires_grad=True)
    cm = softcm.soft_confusion_matrix(
        tensor([p]), torch.ones(1), threshold=threshold, membership="gated", backend=backend
    )
    cm.tp.backward(torch.ones(1, dtype=torch.float64))
    check(threshold.grad, [-float(slope)])


# Eq. (3) for one sample: rows (tp, fn, fp, tn) of membership "soft"; "gated" has 0 for the two
# counts of the other label. tau = 1/2; h by eq. (5) as in LINEAR and o = h where p < tau, 1 - h
# where p >= tau.
ROWS = [
    (F(3, 8), 1, (F(3, 10), F(7, 10), F(3, 10), F(3, 10))),  # below: h = o = .3
    (F(3, 8), 0, (F(3, 10), F(3, 10), F(3, 10), F(7, 10))),
    (F(1, 2), 1, (F(1, 2), F(1, 2), F(1, 2), F(1, 2))),  # at tau: all halves
    (F(1, 2), 0, (F(1, 2), F(1, 2), F(1, 2), F(1, 2))),
    (F(7, 8), 1, (F(19, 20), F(1, 20), F(1, 20), F(1, 20))),  # above: h = .95, o = .05
    (F(7, 8), 0, (F(1, 20), F(1, 20), F(19, 20), F(1, 20))),
    (F(0), 1, (F(0), F(1), F(0), F(0))),
    (F(1), 0, (F(0), F(0), F(1), F(0))),
]


def gated(label, row):
    tp, fn, fp, tn = row
    return (tp, fn, F(0), F(0)) if label else (F(0), F(0), fp, tn)


@each_backend
@each_membership
@pytest.mark.parametrize(("p", "label", "row"), ROWS)
def test_membership_of_one_sample(p, label, row, membership, backend):
    expected = row if membership == "soft" else gated(label, row)
    cm = softcm.soft_confusion_matrix(
        tensor([p]), torch.tensor([label]), membership=membership, backend=backend
    )
    check(torch.stack(cm), [float(x) for x in expected])


# y = 1/4 at p = 3/8, h = o = .3: a quarter of a positive's row, three quarters of a negative's.
# soft   tp .3, fn (.7 + 3 * .3) / 4 = .4, fp .3, tn (.3 + 3 * .7) / 4 = .6
# gated  tp .3/4 = .075, fn .7/4 = .175, fp 3 * .3/4 = .225, tn 3 * .7/4 = .525
# With weight 2 and pos_weight 3 the positive part counts 2 * 3 = 6 fold, the other 2 fold:
# soft   tp (6 * .3 + 2 * 3 * .3) / 4 = .9, fn (6 * .7 + 6 * .3) / 4 = 1.5, fp .9,
#        tn (6 * .3 + 6 * .7) / 4 = 1.5
# gated  tp .45, fn 1.05, fp .45, tn 1.05
@each_backend
@pytest.mark.parametrize(
    ("membership", "weighted", "expected"),
    [
        ("soft", False, (0.3, 0.4, 0.3, 0.6)),
        ("gated", False, (0.075, 0.175, 0.225, 0.525)),
        ("soft", True, (0.9, 1.5, 0.9, 1.5)),
        ("gated", True, (0.45, 1.05, 0.45, 1.05)),
    ],
)
def test_soft_label_and_weights(membership, weighted, expected, backend):
    weights = {"weight": torch.tensor([2.0]), "pos_weight": 3.0} if weighted else {}
    cm = softcm.soft_confusion_matrix(
        tensor([F(3, 8)]),
        torch.tensor([0.25]),
        membership=membership,
        backend=backend,
        **weights,
    )
    check(torch.stack(cm), expected)


# Five samples at tau = 1/2, delta = 1/10 (tp, fn, fp, tn by eq. 3):
#   p      1/16    3/8    1/2    11/16   7/8
#   y      0       1      1      0       1
#   h      1/40    12/40  20/40  32/40   38/40     .4/16; .5 - 1.6/8; .5; .5 + 1.6 * 3/16; 1 - .4/8
#   o      1/40    12/40  20/40   8/40    2/40
#   tp     1       12     20      8      38        sum  79
#   fn     1       28     20      8       2        sum  59
#   fp     1       12     20     32       2        sum  67
#   tn    39       12     20      8       2        sum  81      (all in 1/40)
# gated keeps, of positives, tp 12 + 20 + 38 = 70, fn 28 + 20 + 2 = 50;
#          of negatives, fp 1 + 32 = 33, tn 39 + 8 = 47.
P5 = [F(1, 16), F(3, 8), F(1, 2), F(11, 16), F(7, 8)]
Y5 = torch.tensor([0, 1, 1, 0, 1])
COUNTS5 = {"soft": (79, 59, 67, 81), "gated": (70, 50, 33, 47)}


@each_backend
@each_membership
def test_counts_of_linear(membership, backend):
    cm = softcm.soft_confusion_matrix(tensor(P5), Y5, membership=membership, backend=backend)
    check(torch.stack(cm), [count / 40 for count in COUNTS5[membership]])


# Five samples at tau = 1/2 with k = 8 ln 3:
#   p      1/4    3/8    1/2    7/8     1
#   y      0      1      1      0       1
#   h      1/10   1/4    1/2    27/28   81/82      1/(1+9), 1/(1+3), 1/2, 1/(1+1/27), 1/(1+1/81)
# soft  TP = 1/10 + 1/4 + 1/2 + 1/28  + 81/82     gated  TP = 1/4 + 1/2 + 81/82
#       FN = 1/10 + 3/4 + 1/2 + 1/28  + 1/82             FN = 3/4 + 1/2 + 1/82
#       FP = 1/10 + 1/4 + 1/2 + 27/28 + 1/82             FP = 1/10 + 27/28
#       TN = 9/10 + 1/4 + 1/2 + 1/28  + 1/82             TN = 9/10 + 1/28
@each_backend
@pytest.mark.parametrize(
    ("membership", "expected"),
    [
        (
            "soft",
            [
                F(1, 10) + F(1, 4) + F(1, 2) + F(1, 28) + F(81, 82),
                F(1, 10) + F(3, 4) + F(1, 2) + F(1, 28) + F(1, 82),
                F(1, 10) + F(1, 4) + F(1, 2) + F(27, 28) + F(1, 82),
                F(9, 10) + F(1, 4) + F(1, 2) + F(1, 28) + F(1, 82),
            ],
        ),
        (
            "gated",
            [
                F(1, 4) + F(1, 2) + F(81, 82),
                F(3, 4) + F(1, 2) + F(1, 82),
                F(1, 10) + F(27, 28),
                F(9, 10) + F(1, 28),
            ],
        ),
    ],
)
def test_counts_of_sigmoid(membership, expected, backend):
    p = tensor([F(1, 4), F(3, 8), F(1, 2), F(7, 8), F(1)])
    cm = softcm.soft_confusion_matrix(
        p, torch.tensor([0, 1, 1, 0, 1]), heaviside=K3, membership=membership, backend=backend
    )
    check(torch.stack(cm), [float(x) for x in expected])


# Metrics of the five samples; the factor 1/40 cancels. Margins of soft: TP + FP = 146,
# TP + FN = 138, TN + FP = 148, TN + FN = 140, all 286; of gated: 103, 120, 80, 97, 200.
# Name, metric, loss, options of both, (soft, gated).
COSTS = {"tp": 1.0, "fn": 5.0, "fp": 2.0}
TABLE = [
    # 2 TP / (2 TP + FN + FP) = 158 / (158 + 126);  140 / (140 + 83)
    ("f1", {}, F(158, 284), F(140, 223)),
    # 5 TP / (5 TP + 4 FN + FP) = 395 / (395 + 236 + 67);  350 / (350 + 200 + 33)
    ("fbeta", {"beta": 2.0}, F(395, 698), F(350, 583)),
    # (TP + TN) / all
    ("accuracy", {}, F(160, 286), F(117, 200)),
    ("precision", {}, F(79, 146), F(70, 103)),
    ("recall", {}, F(79, 138), F(70, 120)),
    ("specificity", {}, F(81, 148), F(47, 80)),
    ("balanced_accuracy", {}, (F(79, 138) + F(81, 148)) / 2, (F(70, 120) + F(47, 80)) / 2),
    ("informedness", {}, F(79, 138) + F(81, 148) - 1, F(70, 120) + F(47, 80) - 1),
    ("gmean", {}, math.sqrt(F(79, 138) * F(81, 148)), math.sqrt(F(70, 120) * F(47, 80))),
    # TP / (TP + FN + FP)
    ("jaccard", {}, F(79, 205), F(70, 153)),
    # TP / (TP + 1/4 FP + 3/4 FN) = 79 / (79 + 16.75 + 44.25);  70 / (70 + 8.25 + 37.5)
    ("tversky", {"alpha": 0.25, "beta": 0.75}, F(79, 140), F(280, 463)),
    # TP TN - FP FN = 6399 - 3953 = 2446;  3290 - 1650 = 1640
    ("mcc", {}, 2446 / math.sqrt(146 * 138 * 148 * 140), 1640 / math.sqrt(103 * 120 * 80 * 97)),
    # (po - pe) / (1 - pe) with po = 160/286, pe = (146 * 138 + 148 * 140) / 286^2 = 40868 / 81796:
    # (45760 - 40868) / (81796 - 40868);  po = 117/200, pe = (12360 + 7760) / 40000
    ("kappa", {}, F(4892, 40928), F(23400 - 20120, 40000 - 20120)),
    # (1 TP + 5 FN + 2 FP) / all = (79 + 295 + 134) / 286;  (70 + 250 + 66) / 200
    ("cost", {"costs": COSTS}, F(508, 286), F(386, 200)),
]


@each_membership
@pytest.mark.parametrize(("name", "options", "soft", "gated"), TABLE, ids=[t[0] for t in TABLE])
def test_metric(name, options, soft, gated, membership):
    cm = softcm.ConfusionMatrix(*(tensor([count])[0] for count in COUNTS5[membership]))
    expected = float(soft if membership == "soft" else gated)
    check(getattr(metrics, name)(cm, **options), expected)


@each_backend
@each_membership
@pytest.mark.parametrize(("name", "options", "soft", "gated"), TABLE, ids=[t[0] for t in TABLE])
def test_loss(name, options, soft, gated, membership, backend):
    metric = float(soft if membership == "soft" else gated)
    loss = getattr(softcm, f"{name}_loss")(
        tensor(P5), Y5, membership=membership, backend=backend, **options
    )
    check(loss, metric if name == "cost" else 1 - metric)


@each_backend
def test_confusion_loss(backend):
    # false positives per true positive of "soft": 67 / 79, smaller is better
    ratio = softcm.LinearFractional((0, 0, 1, 0), (1, 0, 0, 0))
    # (TP + 1) / (TN + 2) = (79/40 + 1) / (81/40 + 2) = 119 / 161
    shifted = softcm.LinearFractional((1, 0, 0, 0), (0, 0, 0, 1), 1.0, 2.0)
    options = {"backend": backend, "maximize": False}
    check(softcm.confusion_loss(tensor(P5), Y5, ratio, **options), 67 / 79)
    check(softcm.confusion_loss(tensor(P5), Y5, lambda cm: cm.fp / cm.tp, **options), 67 / 79)
    check(softcm.confusion_loss(tensor(P5), Y5, shifted, backend=backend), 1 - 119 / 161)


# The gradient of 1 - F1 ("soft", above), counts in units of 1/40: D = 2 TP + FN + FP = 284,
# R = FN + FP = 126, dF1 = 40 (2 D dTP - 2 TP dD) / D^2, dD = 2 dTP + dFN + dFP; h' is the slope:
#   y = 0, p < tau:   (dTP, dFN, dFP) = (+, +, +) h'   2 (R - 2 TP) h' / D^2 = 2 (-32) h' / D^2
#   y = 1, p < tau:                     (+, -, +) h'   2 R h' / D^2
#   y = 1, p >= tau:                    (+, -, -) h'   2 h' / D
#   y = 0, p >= tau:                    (-, -, +) h'   -2 R h' / D^2
# Gated: D = 223, TP = 70, R = 83; y = 1: (+, -, 0) h', dD = h', 2 (D - TP) h' / D^2;
#        y = 0: (0, 0, +) h', -2 TP h' / D^2.
@each_backend
@pytest.mark.parametrize(
    ("membership", "gradient"),
    [
        (
            "soft",
            [
                -2 * -32 * 40 * F(2, 5) / F(284) ** 2,
                -2 * 126 * 40 * F(8, 5) / F(284) ** 2,
                -2 * 40 * F(8, 5) / F(284),
                2 * 126 * 40 * F(8, 5) / F(284) ** 2,
                -2 * 40 * F(2, 5) / F(284),
            ],
        ),
        (
            "gated",
            [
                2 * 70 * 40 * F(2, 5) / F(223) ** 2,
                -2 * 153 * 40 * F(8, 5) / F(223) ** 2,
                -2 * 153 * 40 * F(8, 5) / F(223) ** 2,
                2 * 70 * 40 * F(8, 5) / F(223) ** 2,
                -2 * 153 * 40 * F(2, 5) / F(223) ** 2,
            ],
        ),
    ],
)
def test_gradient_of_f1(membership, gradient, backend):
    p = tensor(P5, requires_grad=True)
    softcm.f1_loss(p, Y5, membership=membership, backend=backend).backward()
    check(p.grad, [float(x) for x in gradient])


# Four samples at tau = 1/4, 1/2, 3/4, delta = 1/10, gated. h by eq. (5), slopes as in LINEAR and,
# at tau = 3/4, m1 = .16, m2 = 3.2, m3 = .8:
#   p          1/8   3/8   5/8   7/8
#   y          0     1     0     1       TP     FP     TPR    FPR
#   tau = 1/4  .1    .9    .94   .98     1.88   1.04   .94    .52
#   tau = 1/2  .05   .3    .7    .95     1.25   .75    .625   .375
#   tau = 3/4  .02   .06   .1    .9      .96    .12    .48    .06
# AUROC through (0, 0), (.06, .48), (.375, .625), (.52, .94), (1, 1), by trapezoids:
#   .06 * .48 / 2 + .315 * (.48 + .625) / 2 + .145 * (.625 + .94) / 2 + .48 * (.94 + 1) / 2 = .7675
# Average precision, steps in recall times precision: .48 * .96/1.08 + .145 * 1.25/2
#   + .315 * 1.88/2.92, and from recall .94 to 1 at the share of positives: .06 * 1/2
@each_backend
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auroc", F(7675, 10000)),
        ("auprc", F(48, 108) * F(96, 100) + F(145, 1600) + F(315, 1000) * F(188, 292) + F(3, 100)),
    ],
)
def test_areas(name, expected, backend):
    p, y = tensor([F(1, 8), F(3, 8), F(5, 8), F(7, 8)]), torch.tensor([0, 1, 0, 1])
    options = {"threshold": (0.25, 0.5, 0.75), "membership": "gated", "backend": backend}
    cm = softcm.soft_confusion_matrix(p, y, **options)
    check(cm.tp, [1.88, 1.25, 0.96])
    check(cm.fp, [1.04, 0.75, 0.12])
    check(getattr(metrics, name)(cm), float(expected))
    check(getattr(softcm, f"{name}_loss")(p, y, **options), 1 - float(expected))


@each_backend
def test_mean_over_thresholds(backend):
    # Recall of the four samples above is .94, .625 and .48: the loss is 1 minus the mean of them.
    p, y = tensor([F(1, 8), F(3, 8), F(5, 8), F(7, 8)]), torch.tensor([0, 1, 0, 1])
    loss = softcm.recall_loss(
        p, y, threshold=[0.25, 0.5, 0.75], membership="gated", backend=backend
    )
    check(loss, 1 - (0.94 + 0.625 + 0.48) / 3)


@each_backend
def test_cross_entropy_term(backend):
    # p = 1/2, 1/4, 3/4 with y = 1, 0, 1: -ln(1/2), -ln(3/4), -ln(3/4); weights 1, 1, 2 (sum 4).
    # Gated recall: h = .5, .1, .9 (breakpoints of tau = 1/2), weighted TP = .5 + 2 * .9, of 3.
    p = tensor([F(1, 2), F(1, 4), F(3, 4)])
    loss = softcm.recall_loss(
        p,
        torch.tensor([1, 0, 1]),
        weight=torch.tensor([1.0, 1.0, 2.0]),
        membership="gated",
        ce_weight=0.3,
        backend=backend,
    )
    check(loss, 1 - 2.3 / 3 + 0.3 * (math.log(2) + 3 * math.log(4 / 3)) / 4)


@each_backend
def test_hard_counts(backend):
    # Eq. (1) at tau = 1/2: positive are 1/2 (at tau), 11/16 and 7/8; the labels are Y5.
    cm = softcm.confusion_matrix(tensor(P5), Y5, backend=backend)
    check(torch.stack(cm), [2, 1, 1, 1])
