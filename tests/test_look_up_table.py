"""The quantised approximation: the paper's example, entries by hand, the bounds of its error."""

import copy
import itertools
import pickle

import pytest
import torch

import softcm
from softcm import Linear, Sigmoid, Table

BACKENDS = softcm.available_backends("cpu")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
TABLES = (
    Table(),
    Table(Sigmoid()),
    Table(Sigmoid(50.0), decimals=3, dtype=torch.float16),
    Table(Linear(0.3), decimals=1, threshold_step=0.25, dtype=torch.float32),
    Table(Linear(0.01), thresholds=(0.333, 0.5, 0.005)),
)
each_table = pytest.mark.parametrize("table", TABLES, ids=str)


def test_the_papers_example():
    """Section 4: an interval of 0.1, two decimals and 8 bits are 1,000 elements and 1 kB."""
    table = Table()
    assert table.numel == 1000
    assert table.nbytes == 1000
    assert table.values.shape == (100, 10)
    assert table.values.dtype == torch.uint8
    assert table.thresholds == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    # Threshold 0 is there, but a loss has its thresholds in (0, 1).
    for threshold in table.thresholds[1:]:
        softcm.f1_loss(torch.rand(4), torch.ones(4), threshold=threshold, heaviside=table)
    with pytest.raises(ValueError, match="threshold must lie in"):
        softcm.f1_loss(torch.rand(4), torch.ones(4), threshold=0.0, heaviside=table)


def test_entries_by_hand():
    """Eq. (5) with delta = 0.1 at tau = 0.5: h(0.25) = 0.1, h(0.5) = 0.5, h(0.99) = 0.996."""
    column = Table(dtype=torch.float32).values[:, 5]
    expected = [0.0, 0.1 * 0.1 / 0.25, 0.1, 0.5, 0.9, 1 - 0.4 * 0.01]
    assert column[[0, 10, 25, 50, 75, 99]].tolist() == pytest.approx(expected, abs=1e-7)
    # In 255ths, to the nearest: 0.04, 0.08, 0.34, 0.66, 0.996.
    assert Table().values[[0, 10, 20, 40, 60, 99], 5].tolist() == [0, 10, 20, 87, 168, 254]
    slopes = Table().derivatives[[0, 24, 25, 50, 75, 76, 99], 5].tolist()
    assert slopes == pytest.approx([0.4, 0.4, 1.6, 1.6, 1.6, 0.4, 0.4])
    # The limit of eq. (5) at threshold 0: 1/2 at p = 0, from there 1 - delta (1 - p).
    assert Table(dtype=torch.float32).values[[0, 50], 0].tolist() == pytest.approx([0.5, 0.95])


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_truncation(backend, dtype):
    """p is cut off after two decimals; a number that only rounding keeps below one is not."""
    table = Table(dtype=torch.float32)
    column = table.values[:, 5].double()
    hundredths = torch.tensor([i / 100 for i in range(100)], dtype=dtype)
    for p, level in (
        (hundredths, range(100)),
        (hundredths + 0.0099, range(100)),
        (torch.tensor([1.0, 0.999, 0.289999, 0.285], dtype=dtype), (99, 99, 28, 28)),
    ):
        expected = column[list(level)]
        h = softcm.heaviside(p, 0.5, table)
        assert h.dtype == dtype
        torch.testing.assert_close(h.double(), expected)
        one_by_one = [
            softcm.soft_confusion_matrix(
                x.reshape(1), torch.ones(1), heaviside=table, membership="gated", backend=backend
            ).tp.item()
            for x in p
        ]
        assert one_by_one == pytest.approx(expected.tolist(), rel=1e-6)


@each_table
def test_errors_bound_the_elementwise_function(table):
    p = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    for tau, error in zip(table.thresholds, table.errors.tolist(), strict=True):
        if tau == 0:
            continue
        away = softcm.heaviside(p, tau, table) - softcm.heaviside(p, tau, table.approximation)
        assert away.abs().max() <= error + 1e-6
        assert away.abs().max() >= 0.9 * error  # no wider than it must be


@each_backend
@each_table
@pytest.mark.parametrize("membership", ["soft", "gated"])
@pytest.mark.parametrize("power", [1, 8])
def test_errors_bound_counts_and_f1(power, membership, table, backend):
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(4000, generator=generator, dtype=torch.float64) ** power
    target = torch.rand(4000, generator=generator) < p
    weight = torch.rand(4000, generator=generator, dtype=torch.float64)
    options = {"membership": membership, "weight": weight, "backend": backend}
    for tau, error in zip(table.thresholds, table.errors.tolist(), strict=True):
        if tau == 0:
            continue
        options["threshold"] = tau
        cm = softcm.soft_confusion_matrix(p, target, heaviside=table, **options)
        exact = softcm.soft_confusion_matrix(p, target, heaviside=table.approximation, **options)
        total = weight.sum()
        for count, expected in zip(cm, exact, strict=True):
            assert (count - expected).abs() <= (error + 1e-6) * total
        away = softcm.metrics.f1(cm) - softcm.metrics.f1(exact)
        bottom = 2 * cm.tp + cm.fn + cm.fp
        assert away.abs() <= 2 * (error + 1e-6) * total / bottom


@each_backend
def test_finer_tables_approach_the_approximation(backend):
    generator = torch.Generator().manual_seed(1)
    p, target = torch.rand(2000, generator=generator), torch.rand(2000, generator=generator) < 0.2
    p.requires_grad_()

    def loss_and_gradient(heaviside):
        loss = softcm.f1_loss(p, target, heaviside=heaviside, backend=backend)
        return loss.detach(), torch.autograd.grad(loss, p)[0]

    exact, exact_gradient = loss_and_gradient(Sigmoid())
    away = []
    for decimals in (1, 2, 3, 4):
        loss, gradient = loss_and_gradient(Table(Sigmoid(), decimals, dtype=torch.float32))
        largest = (gradient - exact_gradient).abs().max() / exact_gradient.abs().max()
        away.append(((loss - exact).abs().item(), largest.item()))
    # Truncation halves the distance to the level above, so the error falls as the levels do.
    for coarse, fine in itertools.pairwise(away):
        assert fine[0] < coarse[0] / 5
        assert fine[1] < coarse[1] / 5


@each_backend
def test_gradient_is_the_derivative_table(backend):
    table = Table()
    p = torch.tensor([0.123, 0.25, 0.505, 0.9, 1.0], requires_grad=True)
    h = softcm.heaviside(p, 0.5, table)
    (elementwise,) = torch.autograd.grad(h.sum(), p)
    assert torch.equal(elementwise, table.derivatives[[12, 25, 50, 90, 99], 5])
    # Of positives alone, gated, TP is the sum of h.
    cm = softcm.soft_confusion_matrix(
        p, torch.ones(5), heaviside=table, membership="gated", backend=backend
    )
    assert torch.equal(torch.autograd.grad(cm.tp, p)[0], elementwise)


def test_heaviside_at_several_thresholds():
    table = Table(dtype=torch.float32)
    p = torch.tensor([[0.2], [0.6]])
    threshold = torch.tensor([0.1, 0.5, 0.9])
    expected = table.values[[20, 60]][:, [1, 5, 9]]
    assert torch.equal(softcm.heaviside(p, threshold, table), expected)


@each_backend
def test_nan_reaches_the_loss_of_its_class(backend):
    for weight in (1.0, 0.0):
        p = torch.full((40, 2), 0.3)
        p[7, 0] = torch.nan
        p.requires_grad_()
        weights = torch.ones(40, 1)
        weights[7] = weight
        loss = softcm.f1_loss(
            p, torch.ones(40, 2), heaviside=Table(), average="none", weight=weights, backend=backend
        )
        assert loss.isnan().tolist() == [True, False]
        (gradient,) = torch.autograd.grad(loss.sum(), p)
        assert gradient[:, 0].isnan().all()
        assert gradient[:, 1].isfinite().all()


@each_backend
def test_double_backward(backend):
    """The derivative table is constant between levels: no second derivative in p."""
    p = torch.rand(50, dtype=torch.float64, requires_grad=True)
    options = {"heaviside": Table(), "membership": "gated", "backend": backend}
    loss = softcm.accuracy_loss(p, torch.ones(50), **options)
    (gradient,) = torch.autograd.grad(loss, p, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), p)
    assert torch.equal(second, torch.zeros(50, dtype=torch.float64))


def test_is_a_value():
    """Equal, hashable, copied and pickled by what it was made of."""
    table = Table(Sigmoid(5.0), decimals=1)
    assert table == Table(Sigmoid(5.0), 1)
    assert table != Table(Sigmoid(5.0), 2)
    assert hash(table) == hash(Table(Sigmoid(5.0), 1))
    for again in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert again == table
        assert torch.equal(again.values, table.values)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"approximation": "linear"}, TypeError, "approximation must be .* got 'linear'"),
        ({"approximation": TABLES[0]}, TypeError, "approximation must be"),
        ({"decimals": 2.0}, TypeError, "decimals must be an int, got 2.0"),
        ({"decimals": 0}, ValueError, r"decimals must lie in 1 \.\.\. 4, got 0"),
        ({"decimals": 5}, ValueError, "decimals must lie in"),
        ({"threshold_step": 0.3}, ValueError, "threshold_step must be 1 / n .* got 0.3"),
        ({"threshold_step": 0.0}, ValueError, "threshold_step must be 1 / n"),
        ({"threshold_step": float("nan")}, ValueError, "threshold_step must be 1 / n"),
        ({"threshold_step": "0.1"}, TypeError, "threshold_step must be a number"),
        ({"thresholds": 0.5}, TypeError, "thresholds must be a sequence of numbers, got 0.5"),
        ({"thresholds": ()}, ValueError, "thresholds must be numbers in"),
        ({"thresholds": (0.5, 1.0)}, ValueError, "thresholds must be numbers in .* got"),
        ({"thresholds": (0.5, 0.5)}, ValueError, "thresholds must be distinct"),
        ({"thresholds": (0.5,), "threshold_step": 0.1}, ValueError, "cannot both be given"),
        ({"dtype": torch.float64}, ValueError, "dtype must be one of torch.uint8"),
    ],
    ids=str,
)
def test_bad_tables(arguments, error, message):
    with pytest.raises(error, match=message):
        Table(**arguments)


def test_bad_thresholds():
    p, target = torch.rand(8), torch.ones(8)
    message = r"threshold must be one of the table's, .* got 0.55"
    for threshold in (0.55, (0.5, 0.55), torch.tensor([0.5, 0.55], dtype=torch.float64)):
        with pytest.raises(ValueError, match=message):
            softcm.f1_loss(p, target, threshold=threshold, heaviside=Table())
    with pytest.raises(ValueError, match=message):
        softcm.heaviside(p, 0.55, Table())
    learnable = torch.tensor([0.5], requires_grad=True)
    with pytest.raises(ValueError, match="threshold requires grad, but a Table"):
        softcm.f1_loss(p, target, threshold=learnable, heaviside=Table())


def test_thresholds_as_they_come():
    """0.1 * 3, float32's 0.3 and float16's are the table's 0.3."""
    p, target = torch.rand(100), torch.rand(100) < 0.5
    expected = softcm.f1_loss(p, target, threshold=0.3, heaviside=Table())
    for threshold in (0.1 * 3, *(torch.tensor([0.3], dtype=d) for d in (torch.half, torch.float))):
        loss = softcm.f1_loss(p, target, threshold=threshold, heaviside=Table())
        assert torch.equal(loss, expected)


@each_backend
@pytest.mark.parametrize("threshold", [0.5, (0.1, 0.9), torch.tensor([0.3, 0.7])], ids=str)
def test_compiled(threshold, backend):
    p, target = torch.rand(50, requires_grad=True), torch.rand(50) < 0.3
    options = {"threshold": threshold, "heaviside": Table(), "backend": backend}

    def loss(p):
        return softcm.f1_loss(p, target, **options)

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(compiled(p), loss(p))
    (actual,), (expected,) = (torch.autograd.grad(f(p), p) for f in (compiled, loss))
    torch.testing.assert_close(actual, expected)


def test_transformed():
    p, target = torch.rand(4, 20, requires_grad=True), torch.rand(20) < 0.3
    options = {"threshold": (0.1, 0.9), "heaviside": Table()}

    def loss(p):
        return softcm.mcc_loss(p, target, **options)

    actual = torch.func.vmap(torch.func.grad(loss))(p)
    expected = torch.autograd.grad(sum(loss(row) for row in p), p)[0]
    torch.testing.assert_close(actual, expected)
