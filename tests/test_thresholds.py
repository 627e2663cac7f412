"""tune_threshold against brute force, hand-worked tables, scikit-learn and the hard twin."""

from contextlib import contextmanager
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

import softcm
from softcm import backends, tune_threshold

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NAMES = (
    *("f1", "accuracy", "balanced_accuracy", "precision", "recall", "specificity", "jaccard"),
    *("mcc", "gmean", "informedness", "kappa"),
)
PAPER_GRID = [i / 10 for i in range(1, 10)]
BELOW_ONE = {
    torch.float16: 1 - 2.0**-11,
    torch.bfloat16: 1 - 2.0**-8,
    torch.float32: 1 - 2.0**-24,
    torch.float64: 1 - 2.0**-53,
}

# Scores: .1 -, .35 +, .4 -, .6 +, .8 +
P = torch.tensor([0.6, 0.1, 0.4, 0.8, 0.35])
Y = torch.tensor([1, 0, 0, 1, 1])


@contextmanager
def served_by(backend):
    """What backend="auto" means in here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "select_backend", lambda *_, **__: backend)
        yield


def next_above(x, dtype):
    """The next number of a dtype; torch.nextafter knows no float16."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    return (torch.tensor(x, dtype=dtype).view(bits) + 1).view(dtype).item()


def brute_force(p, y, metric, w=None, maximize=True, digits=None, pos_weight=None):
    """(threshold, score, maximizers) from the hard twin at every candidate, one at a time."""
    counted = p if w is None else p[w > 0]
    labels = y if w is None else y[w > 0]
    scores = {min(s, BELOW_ONE[p.dtype]) for s in counted.tolist()}
    above = next_above(max(scores), p.dtype)
    candidates = [s for s in {*scores, above} if 0 < s < 1]

    def twin(t):
        return softcm.confusion_matrix(p, y, threshold=t, weight=w, pos_weight=pos_weight)

    score = {t: getattr(softcm.metrics, metric)(twin(t)).item() for t in candidates}
    compared = {t: (s if maximize else -s) for t, s in score.items()}
    if digits is not None:
        step = Decimal(1).scaleb(-digits)
        compared = {t: Decimal(repr(s)).quantize(step, ROUND_DOWN) + 0 for t, s in compared.items()}
    best = max(compared.values())
    tied = [t for t in candidates if compared[t] == best]
    if not (labels > 0).any():
        return max(tied), score[max(tied)], len(tied)
    threshold = min(tied, key=lambda t: abs(Fraction(t) - Fraction(1, 2)))
    if threshold > 0.5:
        rivals = [t for t in tied if t <= 0.5 and 0.5 - t <= threshold - 0.5 + 1e-6]
        threshold = max(rivals, default=threshold)
    return threshold, score[threshold], len(tied)


def values(result):
    return tuple(x.tolist() for x in result)


@st.composite
def batches(draw):
    """Few samples with many ties, and weights and labels whose sums are exact."""
    n = draw(st.integers(1, 12))
    column = lambda pool: draw(st.lists(st.sampled_from(pool), min_size=n, max_size=n))  # noqa: E731
    p = torch.tensor(
        column([0.0, 2.0**-10, 0.25, 0.375, 0.5, 0.625, 0.7, 0.75, BELOW_ONE[torch.float32], 1.0]),
        dtype=draw(st.sampled_from(DTYPES)),
    )
    y = torch.tensor(column(draw(st.sampled_from([[0, 1], [0.0, 0.25, 0.5, 1.0]]))))
    weights = torch.tensor([1.0, *column([0.0, 0.5, 1.0, 3.0])[1:]])
    return p, y, draw(st.sampled_from([None, weights])), draw(st.sampled_from([None, 0.5, 4.0]))


@pytest.mark.parametrize("backend", softcm.available_backends("cpu"))
@settings(max_examples=150, deadline=None)
@given(
    batch=batches(),
    metric=st.sampled_from(NAMES),
    maximize=st.booleans(),
    digits=st.sampled_from([None, 0, 1, 2]),
)
def test_exact_sweep_is_brute_force(backend, batch, metric, maximize, digits):
    p, y, w, pos_weight = batch
    with served_by(backend):
        result = tune_threshold(
            p, y, metric, weight=w, pos_weight=pos_weight, maximize=maximize, digits=digits
        )
        assert values(result) == brute_force(p, y, metric, w, maximize, digits, pos_weight)
        cm = softcm.confusion_matrix(
            p, y, threshold=result.threshold, weight=w, pos_weight=pos_weight
        )
    assert getattr(softcm.metrics, metric)(cm).equal(result.score)


@pytest.mark.parametrize("backend", softcm.available_backends("cpu"))
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 900),
    layout=st.sampled_from(["(N,)", "(N, 2)", "(N, 2) transposed", "(N, 2, 3)"]),
    weighted=st.booleans(),
)
def test_threshold_of_logits_is_exact(backend, dtype, seed, n, layout, weighted):
    """The candidate is a score, so one wrong last bit of a sigmoid would move a sample across."""
    generator = torch.Generator().manual_seed(seed)
    n -= n % 3 if layout == "(N, 2, 3)" and n > 2 else 0
    classes = 1 if layout == "(N,)" or n < 3 else 2
    # Distinct and so far apart that no rounding of a sigmoid changes their order.
    most, step = (127, 16) if dtype == torch.bfloat16 else (511, 64)
    n = min(n, most // 3 * 3)
    ranks = torch.stack([torch.randperm(2 * most, generator=generator)[:n] for _ in range(classes)])
    y = (torch.rand(classes, n, generator=generator) * 2 * most < ranks).to(torch.int64)
    y[:, 0] = 1
    w = torch.rand(classes, n, generator=generator) + 0.01 if weighted else torch.ones(classes, n)

    def arranged(x):  # from (C, N)
        if classes == 1:
            return x[0]
        if layout == "(N, 2, 3)":
            return x.reshape(2, n // 3, 3).movedim(0, 1).contiguous()
        return x.t() if layout == "(N, 2) transposed" else x.t().contiguous()

    z = arranged((ranks - most).to(dtype) / step)
    options = {"weight": arranged(w) if weighted else None, "from_logits": True}
    with served_by(backend):
        result = tune_threshold(z, arranged(y), **options)
        cm = softcm.confusion_matrix(z, arranged(y), threshold=result.threshold, **options)
    scores = torch.atleast_1d(result.score)
    assert softcm.metrics.f1(cm).reshape(classes).equal(scores)

    # All decisions that a threshold can make, from the ranks of the logits alone.
    order = ranks.argsort(1, descending=True)
    tp, fp = ((w * x).gather(1, order).double().cumsum(1) for x in (y, 1 - y))
    best = (2 * tp / (tp + fp + tp[:, -1:])).amax(1)
    torch.testing.assert_close(scores, best, rtol=1e-6 if weighted else 0, atol=0)


@pytest.mark.parametrize("backend", softcm.available_backends("cpu"))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["f1", "mcc", "balanced_accuracy"])
def test_hard_twin_reproduces_weighted_scores(backend, dtype, metric):
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(20_000, generator=generator, dtype=torch.float64).to(dtype)
    y = (torch.rand(20_000, generator=generator) < p).to(torch.float32)
    w = torch.rand(20_000, generator=generator, dtype=torch.float64)
    with served_by(backend):
        result = tune_threshold(p, y, metric, weight=w)
        cm = softcm.confusion_matrix(p, y, threshold=result.threshold, weight=w)
    assert getattr(softcm.metrics, metric)(cm).equal(result.score)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("f1", (0.35, 6 / 7, 1)),  # TP 3, FN 0, FP 1
        ("accuracy", (0.6, 4 / 5, 2)),  # also at .35, which is further from .5
        ("precision", (0.6, 1.0, 2)),  # also at .8
        ("recall", (0.35, 1.0, 2)),  # also at .1
        ("specificity", (0.6, 1.0, 3)),  # also at .8 and above it
        ("balanced_accuracy", (0.6, 5 / 6, 1)),
        ("informedness", (0.6, 2 / 3, 1)),
        ("jaccard", (0.35, 3 / 4, 1)),
        ("gmean", (0.6, (2 / 3) ** 0.5, 1)),
        ("mcc", (0.6, 2 / 3, 1)),  # (2 * 2 - 0 * 1) / sqrt(2 * 3 * 2 * 3)
        ("kappa", (0.6, 2 * (2 * 2) / (2 * 2 + 3 * 3), 1)),
    ],
)
def test_hand_worked(metric, expected):
    result = tune_threshold(P, Y, metric)
    assert result.threshold.item() == pytest.approx(expected[0], abs=1e-7)
    assert result.score.item() == pytest.approx(expected[1], rel=1e-12)
    assert result.maximizers.item() == expected[2]


def test_result_has_the_documented_form():
    result = tune_threshold(P, Y)
    assert isinstance(result, softcm.TunedThreshold)
    assert result._fields == ("threshold", "score", "maximizers")
    assert [x.dtype for x in result] == [torch.float64, torch.float64, torch.int64]
    assert all(x.shape == () and x.device == P.device for x in result)
    assert softcm.f1_loss(P, Y, threshold=result.threshold).isfinite()


def test_paper_grid_with_two_decimals():
    """Accuracies .98, .985, .985, .99, .99, .995, .995, .995, .99 at 0.1 ... 0.9."""
    p = torch.tensor([0.05] * 195 + [0.15, 0.35, 0.55] + [0.01, 0.85], dtype=torch.float64)
    y = torch.tensor([0] * 198 + [1, 1])
    assert values(tune_threshold(p, y, "accuracy", PAPER_GRID)) == (0.6, 0.995, 3)
    assert values(tune_threshold(p, y, "accuracy", PAPER_GRID, digits=2)) == (0.5, 0.99, 6)
    assert values(tune_threshold(p, y, "accuracy", PAPER_GRID, digits=1)) == (0.5, 0.99, 9)


def test_truncation_does_not_cut_below_a_decimal():
    """0.29 * 100 is less than 29 in floating point; 0.29 and 0.28 must stay apart."""
    p = torch.tensor([0.1] * 28 + [0.4] + [0.1] * 71)
    y = torch.tensor([0] * 29 + [1] * 71)
    assert values(tune_threshold(p, y, "accuracy", [0.3, 0.6], digits=2)) == (0.6, 0.29, 1)


def test_grid_counts_distinct_thresholds_in_any_order():
    result = tune_threshold(P, Y, "accuracy", [0.7, 0.55, 0.5, 0.55, 0.5, 0.38])
    assert values(result) == (0.5, 4 / 5, 2)


@pytest.mark.parametrize("metric", ["f1", "mcc", "gmean"])
def test_many_candidates_are_brute_force(metric):
    """Counts of 999 thresholds in one pass over the samples, and one threshold at a time."""
    generator = torch.Generator().manual_seed(2)
    p = torch.rand(5000, generator=generator)
    p[::3] = (p[::3] * 1000).round() / 1000  # on a candidate
    y = torch.rand(5000, generator=generator) < p**3
    grid = [i / 1000 for i in range(1, 1000)]
    twin = {t: softcm.confusion_matrix(p, y, threshold=t) for t in grid}
    score = {t: getattr(softcm.metrics, metric)(cm).item() for t, cm in twin.items()}
    best = max(score.values())
    tied = [t for t in grid if score[t] == best]
    result = tune_threshold(p, y, metric, grid)
    assert result.score.item() == best
    assert result.maximizers.item() == len(tied)
    assert result.threshold.item() == min(tied, key=lambda t: abs(t - 0.5))


@pytest.mark.parametrize("grid", [[0.3, 0.7], [0.7, 0.3], torch.tensor([0.3, 0.7])])
def test_of_two_equally_close_the_smaller(grid):
    p, y = torch.tensor([0.2, 0.8]), torch.tensor([0, 1])
    assert tune_threshold(p, y, thresholds=grid).threshold.item() == pytest.approx(0.3, abs=1e-7)


@pytest.mark.parametrize(("lower", "expected"), [(0.25, 0.625), (0.375, 0.375), (0.4375, 0.4375)])
def test_ties_go_to_the_value_closest_to_half(lower, expected):
    """Recall is 1 at every score up to that of the only positive."""
    p = torch.tensor([0.125, lower, 0.625, 0.625])
    assert values(tune_threshold(p, torch.tensor([0, 0, 0, 1]), "recall")) == (expected, 1.0, 3)


@pytest.mark.parametrize("from_logits", [False, True])
def test_best_f1_of_scikit_learn(from_logits):
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(500, generator=generator, dtype=torch.float64).round(decimals=1) * 2
    y = (torch.rand(500, generator=generator) < torch.sigmoid(z - 1)).to(torch.int64)
    precision, recall, thresholds = precision_recall_curve(y, torch.sigmoid(z))
    f1 = 2 * precision * recall / (precision + recall)
    best = f1[:-1].argmax()
    result = tune_threshold(z if from_logits else torch.sigmoid(z), y, from_logits=from_logits)
    assert result.score.item() == pytest.approx(f1[best], rel=1e-12)
    assert result.threshold.item() == pytest.approx(thresholds[best], rel=1e-12)
    assert result.maximizers == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_positive_can_be_best(dtype):
    """Imbalanced, and the highest score is a negative's: accuracy wants no positives at all."""
    p = torch.tensor([0.125, 0.25, 0.5, 0.625, 0.75], dtype=dtype)
    y = torch.tensor([0, 1, 0, 0, 0])
    result = tune_threshold(p, y, "accuracy")
    assert values(result) == (next_above(0.75, dtype), 4 / 5, 1)
    assert softcm.confusion_matrix(p, y, threshold=result.threshold).fn == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_zero_and_one(dtype):
    below_one = BELOW_ONE[dtype]
    y = torch.tensor([0, 1])
    # The score of 1 has the largest float below it; that of 0 and "nothing" have no candidate.
    assert values(tune_threshold(torch.tensor([0, 1], dtype=dtype), y)) == (below_one, 1.0, 1)
    assert values(tune_threshold(torch.ones(2, dtype=dtype), y)) == (below_one, 2 / 3, 1)
    # No threshold in (0, 1) makes a score of 0 positive.
    result = tune_threshold(torch.zeros(2, dtype=dtype), y, "accuracy")
    assert values(result)[1:] == (0.5, 1)
    assert result.threshold.item() == next_above(0.0, dtype)


def test_infinite_logits_are_scores_of_zero_and_one():
    z = torch.tensor([-torch.inf, torch.inf, 0.0])
    result = tune_threshold(z, torch.tensor([0, 1, 0]), from_logits=True)
    assert values(result) == (BELOW_ONE[torch.float32], 1.0, 1)


def test_weights_change_the_optimum():
    assert tune_threshold(P, Y, "accuracy").score.item() == 4 / 5
    heavy = torch.tensor([1.0, 1.0, 6.0, 1.0, 1.0])  # the negative at .4
    result = tune_threshold(P, Y, weight=heavy)
    assert values(result) == (pytest.approx(0.6), pytest.approx(4 / 5), 1)
    result = tune_threshold(P, Y, "accuracy", pos_weight=3.0)  # .35: (9 + 1) / 11
    assert values(result) == (pytest.approx(0.35), pytest.approx(10 / 11), 1)
    # Without weight, a sample is neither counted nor a candidate.
    result = tune_threshold(P, Y, "specificity", weight=torch.tensor([1, 1, 1, 0, 1]))
    assert values(result) == (pytest.approx(0.6), 1.0, 2)


def test_soft_labels_mix_the_two_rows():
    p, y = torch.tensor([0.75, 0.25]), torch.tensor([0.75, 0.5])
    # .75: TP .75, FP .25, FN .5 -> 1.5 / 2.25; .25: TP 1.25, FP .75 -> 2.5 / 3.25.
    assert values(tune_threshold(p, y)) == (0.25, 2.5 / 3.25, 1)


def test_ignored_samples_are_no_candidates():
    p = torch.cat((P, torch.tensor([0.45, torch.nan])))
    y = torch.cat((Y, torch.tensor([-1, -1])))
    for metric in ("f1", "recall"):
        assert values(tune_threshold(p, y, metric, ignore_index=-1)) == values(
            tune_threshold(P, Y, metric)
        )
    assert values(tune_threshold(p, y, thresholds=PAPER_GRID, ignore_index=-1)) == values(
        tune_threshold(P, Y, thresholds=PAPER_GRID)
    )


@pytest.fixture
def several():
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(40, 3, 7, generator=generator)
    labels = torch.randint(0, 2, (40, 3, 7), generator=generator)
    classes = torch.randint(0, 3, (40, 7), generator=generator)
    return logits, labels, classes, torch.tensor([1.0, 2.0, 0.5])


@pytest.mark.parametrize("thresholds", [None, PAPER_GRID])
def test_each_class_of_multi_label_is_tuned_alone(several, thresholds):
    z, y, _, pos_weight = several
    y[:5, 1] = -100
    weight = torch.rand(40, 1, 7, generator=torch.Generator().manual_seed(6))
    options = {"thresholds": thresholds, "ignore_index": -100, "from_logits": True}
    result = tune_threshold(z, y, "mcc", weight=weight, pos_weight=pos_weight, **options)
    assert [tuple(x.shape) for x in result] == [(3, 1), (3,), (3,)]
    alone = [
        tune_threshold(
            z[:, c].reshape(-1),
            y[:, c].reshape(-1),
            "mcc",
            weight=weight.reshape(-1),
            pos_weight=pos_weight[c].item(),
            **options,
        )
        for c in range(3)
    ]
    stacked = [torch.stack(column) for column in zip(*alone, strict=True)]
    assert values(result) == values((stacked[0].unsqueeze(1), *stacked[1:]))
    # What is found is what every call takes.
    cm = softcm.confusion_matrix(
        *(z, y),
        threshold=result.threshold,
        weight=weight,
        pos_weight=pos_weight,
        ignore_index=-100,
        from_logits=True,
    )
    torch.testing.assert_close(softcm.metrics.mcc(cm)[:, 0], result.score)
    assert result.threshold.unique().numel() > 1 or thresholds  # the classes do differ


@pytest.mark.parametrize("ignore_index", [None, 0, -1])
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int8])
def test_class_indices_are_one_against_the_rest(several, from_logits, ignore_index, index_dtype):
    z, _, index, pos_weight = several
    if ignore_index == -1:
        index[:9] = -1
    x = z if from_logits else z.softmax(1)
    weight = torch.rand(40, 7, generator=torch.Generator().manual_seed(6))
    options = {"weight": weight, "pos_weight": pos_weight, "ignore_index": ignore_index}
    result = tune_threshold(x, index.to(index_dtype), from_logits=from_logits, **options)
    for c in range(3):
        if c == ignore_index:
            assert values(x[c] for x in result) == ([0.5], 0.0, 0)  # it has no sample
            continue
        kept = index != ignore_index if ignore_index is not None else index == index
        alone = tune_threshold(
            z.softmax(1)[:, c][kept],
            index[kept] == c,
            weight=weight[kept],
            pos_weight=pos_weight[c].item(),
        )
        torch.testing.assert_close(result.threshold[c, 0], alone.threshold, rtol=1e-6, atol=0)
        torch.testing.assert_close(result.score[c], alone.score, rtol=1e-6, atol=0)
        cm = softcm.confusion_matrix(
            x,
            index.to(index_dtype),
            threshold=result.threshold,
            from_logits=from_logits,
            **options,
        )
        assert softcm.metrics.f1(cm)[c, 0].equal(result.score[c])


def test_one_class_has_one_result_in_every_shape():
    expected = values(tune_threshold(P, Y))
    assert values(tune_threshold(P[:, None], Y)) == expected
    assert values(tune_threshold(P[:, None], Y[:, None])) == expected
    assert values(tune_threshold(P, Y[:, None], weight=torch.ones(5, 1))) == expected
    assert values(tune_threshold(P.repeat_interleave(2)[::2], Y)) == expected
    image = P[:, None, None].expand(5, 1, 3), Y[:, None, None].expand(5, 1, 3)
    assert values(tune_threshold(*image)) == expected


def test_linear_fractional_callable_and_cost():
    f1 = softcm.LinearFractional((2, 0, 0, 0), (2, 1, 1, 0))
    expected = values(tune_threshold(P, Y))
    assert values(tune_threshold(P, Y, f1)) == expected
    by_hand = tune_threshold(P, Y, lambda cm: 2 * cm.tp / (2 * cm.tp + cm.fn + cm.fp))
    assert values(by_hand) == expected
    few = tune_threshold(P, Y, lambda cm: cm.fn < 2, maximize=False)  # a metric of another dtype
    assert values(few) == (pytest.approx(0.8), 0.0, 2)
    shapes = []
    tune_threshold(P, Y, lambda cm: shapes.append(cm.fn.shape) or cm.tp)
    assert shapes[0] == (1, 6)  # five scores and "nothing is positive"
    # A miss costs 1, a false alarm 10: none of the three negatives may be positive.
    cost = softcm.LinearFractional((0, 1, 10, 0), (1, 1, 1, 1))
    result = tune_threshold(P, Y, cost, maximize=False)
    assert values(result) == (pytest.approx(0.6), 1 / 5, 1)
    assert tune_threshold(P, Y, cost).score == 20 / 5


def test_candidates_without_a_value_are_left_out():
    precision = lambda cm: cm.tp / (cm.tp + cm.fp)  # noqa: E731 -- 0 / 0 for "nothing"
    assert values(tune_threshold(P, Y, precision)) == values(tune_threshold(P, Y, "precision"))
    result = tune_threshold(P, Y, lambda cm: cm.tp * torch.nan, zero_division=0.25)
    assert values(result) == (0.5, 0.25, 0)


def test_zero_division_is_the_value_of_an_empty_ratio():
    """The highest score is a negative's; only "nothing is positive" has an undefined precision."""
    p, y = torch.tensor([0.25, 0.5, 0.75]), torch.tensor([0, 1, 0])
    assert values(tune_threshold(p, y, "precision")) == (0.5, 0.5, 1)
    assert values(tune_threshold(p, y, "precision", zero_division=1.0))[1:] == (1.0, 1)


@pytest.mark.parametrize("thresholds", [None, PAPER_GRID])
@pytest.mark.parametrize("metric", ["informedness", lambda cm: cm.tp + 7])
def test_class_without_a_counted_sample(metric, thresholds):
    p = torch.stack((P, P), dim=1)
    y = torch.stack((Y, torch.full_like(Y, -1)), dim=1)
    options = {"thresholds": thresholds, "zero_division": 0.75}
    result = tune_threshold(p, y, metric, ignore_index=-1, **options)
    assert [x[1].item() for x in result] == [0.5, 0.75, 0]
    assert result.maximizers[0] > 0
    weight = torch.zeros(5)
    assert values(tune_threshold(P, Y, metric, weight=weight, **options)) == (0.5, 0.75, 0)


@pytest.mark.parametrize("thresholds", [None, PAPER_GRID])
@pytest.mark.parametrize("from_logits", [False, True])
def test_nan_is_an_error(from_logits, thresholds):
    p = P.clone()
    p[2] = torch.nan
    with pytest.raises(ValueError, match=r"input must not hold NaN.* 1 of 5 scores"):
        tune_threshold(p, Y, thresholds=thresholds, from_logits=from_logits)
    # A weight of 0 does not hide it: 0 * NaN is NaN in the hard twin.
    with pytest.raises(ValueError, match="NaN"):
        tune_threshold(p, Y, weight=torch.tensor([1, 1, 0, 1, 1]), thresholds=thresholds)


def test_inputs_are_not_modified_and_no_gradient_flows():
    tensors = {
        "input": P.clone().requires_grad_(),
        "target": Y.clone(),
        "thresholds": torch.tensor([0.7, 0.2], requires_grad=True),
        "weight": torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0]),
        "pos_weight": torch.tensor([2.0]),
    }
    before = {name: x.detach().clone() for name, x in tensors.items()}
    tracked = []
    for thresholds in (tensors["thresholds"], None):
        tensors["thresholds"] = thresholds
        for metric in ("f1", lambda cm: tracked.append(cm.tp.requires_grad) or cm.tp):
            result = tune_threshold(**tensors, metric=metric, ignore_index=7)
            assert not any(x.requires_grad for x in result)
    assert not any(tracked)
    assert len(tracked) == 4
    del tensors["thresholds"]
    assert all(x.equal(before[name]) for name, x in tensors.items())
    z, index = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, -1, 2])
    copies = z.clone(), index.clone()
    tune_threshold(z, index, from_logits=True, ignore_index=-1)
    assert z.equal(copies[0])
    assert index.equal(copies[1])
    with torch.inference_mode():
        assert values(tune_threshold(P, Y)) == values(tune_threshold(P, Y))


def test_many_distinct_scores_need_no_table_of_samples_by_candidates():
    """100,000 scores at as many candidates would be 10 GB of booleans."""
    n = 100_000
    p = (torch.arange(n, dtype=torch.float64) + 1) / (n + 2)
    result = tune_threshold(p, p >= 0.7, "accuracy")
    assert values(result) == (p[p >= 0.7][0].item(), 1.0, 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"metric": "f2"}, ValueError, r"metric must be one of 'f1', .*'kappa', got 'f2'"),
        ({"metric": "fbeta"}, ValueError, "metric must be one of"),
        ({"metric": "auroc"}, ValueError, "metric must be one of"),
        ({"metric": 3}, TypeError, "metric must be .*LinearFractional .*got 3 of type int"),
        ({"metric": lambda cm: 1.0}, ValueError, r"metric must return .*\(1, 6\), got 1.0"),
        ({"metric": lambda cm: cm.tp.mean(-1)}, ValueError, r"metric must return .*got \(1,\)"),
        ({"thresholds": 0.5}, TypeError, "thresholds must be None, a sequence.*got 0.5"),
        ({"thresholds": "0.5"}, TypeError, "thresholds must be None, a sequence.*got '0.5'"),
        ({"thresholds": [0.5, "a"]}, TypeError, "thresholds must be a number, got 'a'"),
        ({"thresholds": [0.5, 1.0]}, ValueError, r"thresholds must lie in \(0, 1\), got 1.0"),
        ({"thresholds": torch.tensor([0.0])}, ValueError, r"thresholds .*\(0, 1\), got 0.0"),
        ({"thresholds": [float("nan")]}, ValueError, r"thresholds .*\(0, 1\), got nan"),
        ({"thresholds": []}, ValueError, r"thresholds must have shape \(T,\).*got shape \(0,\)"),
        ({"thresholds": torch.rand(2, 2)}, ValueError, r"thresholds .*got shape \(2, 2\)"),
        ({"thresholds": torch.tensor([1])}, TypeError, "thresholds must be float16.*got torch.int"),
        ({"thresholds": torch.rand(2, device="meta")}, ValueError, "thresholds is on meta"),
        ({"maximize": 1}, TypeError, "maximize must be True or False, got 1"),
        ({"from_logits": "yes"}, TypeError, "from_logits must be True or False, got 'yes'"),
        ({"digits": 2.0}, TypeError, "digits must be an int or None, got 2.0"),
        ({"digits": True}, TypeError, "digits must be an int or None, got True"),
        ({"digits": -1}, ValueError, r"digits must lie in 0 \.\.\. 15, got -1"),
        ({"digits": 16}, ValueError, r"digits must lie in 0 \.\.\. 15, got 16"),
        ({"zero_division": None}, TypeError, "zero_division must be a number, got None"),
        ({"ignore_index": 0.5}, TypeError, "ignore_index must be an int.* got 0.5"),
        ({"input": [0.1]}, TypeError, "input must be a torch.Tensor"),
        ({"input": torch.rand(0)}, ValueError, "input must have at least .*one sample"),
        ({"input": P * 2}, ValueError, r"input must lie in \[0, 1\].*from_logits=True"),
        ({"input": P.long()}, TypeError, "input must be float16.*got torch.int64"),
        ({"target": Y[:3]}, ValueError, r"target must have the shape of input.*\(3,\)"),
        ({"target": Y * 2}, ValueError, r"target must lie in \[0, 1\]"),
        ({"target": Y.float().requires_grad_()}, ValueError, "target requires grad"),
        ({"input": torch.rand(5, 2), "target": Y + 1}, ValueError, "class indices in 0 .* 1"),
        ({"weight": -torch.ones(5)}, ValueError, "weight must be finite and >= 0"),
        ({"weight": torch.ones(4)}, ValueError, "weight must be broadcastable"),
        ({"pos_weight": -1.0}, ValueError, "pos_weight must be finite and >= 0, got -1"),
    ],
)
@pytest.mark.parametrize("backend", softcm.available_backends("cpu"))
def test_errors_name_the_argument_and_what_is_allowed(change, error, message, backend):
    with served_by(backend), pytest.raises(error, match=message):
        tune_threshold(**{"input": P, "target": Y, **change})
