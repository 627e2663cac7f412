"""AUROC and average precision over many thresholds, beside scikit-learn's of the scores themselves.

With thresholds i / (T + 1), gated membership and a sigmoid of steepness T, whose rise is about as
wide as the distance of two thresholds, both losses approach 1 - what scikit-learn computes.
"""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import cross_val_predict

import softcm
from softcm import Linear, Sigmoid, Table

each_backend = pytest.mark.parametrize("backend", softcm.available_backends())


@pytest.fixture(scope="module")
def scores():
    """Cross-validated probabilities of a digit against the rest, from a blunt classifier."""
    X, digit = load_digits(return_X_y=True)
    y = digit == 8
    model = LogisticRegression(C=1e-4, max_iter=1000)
    p = cross_val_predict(model, X, y, method="predict_proba")[:, 1]
    return torch.tensor(p), torch.tensor(y)


def grid(count):
    return tuple(i / (count + 1) for i in range(1, count + 1))


def distances(scores, count, backend="auto", **options):
    """How far 1 - auroc_loss and 1 - auprc_loss are from scikit-learn's values."""
    p, y = scores
    options = {"threshold": grid(count), "backend": backend, **options}
    auroc = 1 - softcm.auroc_loss(p.float(), y, **options).item()
    auprc = 1 - softcm.auprc_loss(p.float(), y, **options).item()
    exact = roc_auc_score(y, p), average_precision_score(y, p)
    return abs(auroc - exact[0]), abs(auprc - exact[1])


@each_backend
def test_approaches_scikit_learn(scores, backend):
    options = {"membership": "gated", "backend": backend}
    ten, hundred = (
        distances(scores, count, heaviside=Sigmoid(float(count)), **options) for count in (10, 100)
    )
    for few, many in zip(ten, hundred, strict=True):
        assert many < few / 10
    assert hundred[0] < 0.01


def test_a_thousand_thresholds(scores):
    auroc, auprc = distances(scores, 999, heaviside=Sigmoid(999.0), membership="gated")
    assert auroc < 1e-4
    assert auprc < 2e-3


def test_membership_of_the_paper_takes_more_steepness(scores):
    """Under eq. (3) a sample counts, by min(h, 1 - h), among those of the other label too."""
    once, tenfold = (distances(scores, 999, heaviside=Sigmoid(k)) for k in (999.0, 9990.0))
    assert tenfold[0] < once[0] / 5
    assert tenfold[0] < 0.02
    assert tenfold[1] < 0.01


def test_a_table_of_a_thousand_levels(scores):
    table = Table(Sigmoid(100.0), decimals=3, threshold_step=1 / 100)
    exact = distances(scores, 99, heaviside=Sigmoid(100.0), membership="gated")
    found = distances(scores, 99, heaviside=table, membership="gated")
    assert found == pytest.approx(exact, abs=0.001)


def test_the_linear_approximation_keeps_a_distance(scores):
    """However many the thresholds, its middle segment stays as wide as min(tau, 1 - tau)."""
    options = {"heaviside": Linear(0.01), "membership": "gated"}
    few, many = (distances(scores, count, **options) for count in (99, 999))
    assert many == pytest.approx(few, abs=0.01)
    assert min(many) > 0.03


def test_hard_counts_at_a_thousand_thresholds(scores):
    p, y = scores
    cm = softcm.confusion_matrix(p, y, threshold=grid(999))
    assert softcm.metrics.auroc(cm).item() == pytest.approx(roc_auc_score(y, p), abs=0.002)
    ap = average_precision_score(y, p)
    assert softcm.metrics.auprc(cm).item() == pytest.approx(ap, abs=0.005)


@each_backend
def test_training_on_auroc_ranks(backend):
    """Gradient steps on the loss itself raise the AUROC that scikit-learn sees."""
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(400, generator=generator) < 0.2
    z = (torch.randn(400, generator=generator) + y).requires_grad_()
    optimizer = torch.optim.SGD([z], lr=20.0)
    before = roc_auc_score(y, z.detach())
    for _ in range(20):
        optimizer.zero_grad()
        options = {"threshold": grid(99), "heaviside": Sigmoid(20.0), "membership": "gated"}
        softcm.auroc_loss(z, y, from_logits=True, backend=backend, **options).backward()
        optimizer.step()
    assert roc_auc_score(y, z.detach()) > before + 0.1
