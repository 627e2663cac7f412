"""Warnings about the state of training: when they are issued, what they say, and when not."""

import copy
import pickle
import warnings

import pytest
import torch

import softcm
from softcm import demo, demo_data, diagnosis

P = torch.tensor([0.45, 0.41, 0.48, 0.499, 0.7, 0.45, 0.3, 0.44])
Y = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0])
PILE = [
    "100 % of the positives and 75 % of the negatives",
    "[0.4, 0.5)",
    "spurious optimum",
    'membership="gated"',
    "ce_weight=0.3",
]
P8 = torch.cat((P, torch.tensor([0.42])))  # a pile: 6 of 8 negatives, and the positive
Y8 = torch.cat((Y, torch.tensor([0])))
# Ten of each label, of which the lowest is 0.6 and the highest 0.98.
P20 = torch.linspace(0.6, 0.98, 20)
Y20 = torch.arange(20) % 2
ALL = ["all of the 20 samples are predicted positive, of which 10 are not", "ce_weight=0.3"]
NONE = ["none of the 20 samples is predicted positive, of which 10 are", "F1"]
SAMPLER = ["batch", "recall", "larger batches", "WeightedRandomSampler"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, [PILE]),
        ({"membership": "gated"}, []),
        ({"threshold": torch.tensor([0.5])}, [PILE]),
        ({"threshold": (0.5, 0.6)}, []),
        ({"threshold": 0.4}, []),  # above it, not below
        ({"threshold": 0.6}, []),  # too far below: the band begins at 0.52
        ({"input": P8 / 5, "threshold": 0.1}, [["positives", "[0.08, 0.1)"]]),
        ({"input": 0.8 + P8 / 5, "threshold": 0.9}, [["positives", "[0.88, 0.9)"]]),
        ({"weight": torch.where(P8 > 0.6, 2.0, 1.0)}, []),  # two thirds of the negatives' weight
        ({"target": torch.where(P8 == 0.7, -1, Y8), "ignore_index": -1}, [["86 % of the neg"]]),
        ({"input": P8.half()}, [PILE]),
        ({"input": torch.logit(P8), "from_logits": True}, [PILE]),
        ({"input": P8[:, None], "target": Y8[:, None]}, [PILE]),
        (
            {"input": torch.stack((P8, P8), 1), "target": torch.stack((Y8, 0 * Y8), 1)},
            [["100 % of the pos", "76 % of the neg"]],
        ),
        ({"target": 0 * Y8}, [["none of the 9 samples is positive", *SAMPLER]]),
        ({"target": 0 * Y8 - 1, "ignore_index": -1}, []),  # nothing is counted
        ({"target": 0 * Y8 + 1}, []),
        (
            {"input": P8 + 0.2, "from_logits": True},
            [["logits", "[0.5, 0.9]", "sigmoid", "leave from_logits out"]],
        ),
        ({"input": P8 * 9 - 4.4, "from_logits": True}, []),
        ({"input": P20, "target": Y20}, [ALL]),
        ({"input": P20, "target": Y20, "membership": "gated"}, [ALL]),
        ({"input": P20, "target": Y20, "threshold": 0.6}, [ALL]),  # one at the threshold
        ({"input": P20, "target": Y20, "threshold": 0.61}, []),
        ({"input": P20, "target": Y20, "threshold": (0.5, 0.6)}, []),
        ({"input": P20[1:], "target": Y20[1:]}, []),  # nine negatives
        ({"input": 1 - P20, "target": Y20}, [NONE]),
        ({"input": 1 - P20, "target": Y20, "threshold": 0.39}, []),
        ({"input": 1 - P20[:-1], "target": Y20[:-1]}, []),  # nine positives
        # Piled up below the threshold: this is said alone.
        ({"input": 0.4 + P20 / 100, "target": Y20}, [["spurious optimum"]]),
    ],
)  # fmt: skip
def test_signs_of_a_batch(changed, words):
    found = softcm.diagnose(**{"input": P8, "target": Y8, **changed})
    assert len(found) == len(words), found
    for text, of_text in zip(found, words, strict=True):
        assert [word for word in of_text if word not in text] == [], text


def test_the_pile_is_that_of_both_labels():
    target = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0])  # the positive lies above the threshold
    assert softcm.diagnose(P, target) == ()


@pytest.fixture
def every_third(monkeypatch):
    """The modules look at every third batch, as each look is tested and not how many there are."""
    monkeypatch.setattr(diagnosis, "EVERY", 3)


def train(loss, input, target, steps):
    """The warnings of so many steps on one batch."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(steps):
            loss(input, target)
    assert all(warning.category is softcm.SoftcmWarning for warning in told)
    return told


@pytest.mark.parametrize("make", [softcm.F1Loss, softcm.MCCLoss, lambda: softcm.TverskyLoss()])
def test_a_module_warns_once_of_each_sign(make):
    loss = make()
    input = P8.clone().requires_grad_()
    assert train(loss, input, Y8, 8 * 50 - 1) == []
    (told,) = train(loss, input, Y8, 1)
    assert told.filename == __file__
    text = str(told.message)
    expected = [*PILE, "8 of the last 8 looks", f"this {type(loss).__name__}", "every 50th batch"]
    assert [word for word in expected if word not in text] == [], text
    assert train(loss, input, Y8, 20 * 50) == []
    (told,) = train(loss, input, 0 * Y8, 20 * 50)
    assert "none of the 9 samples is positive" in str(told.message)
    assert "8 of the last 10 looks" in str(told.message)


def test_seven_of_ten_looks_are_not_enough(every_third):
    loss, input = softcm.F1Loss(), P8.clone().requires_grad_()
    for _ in range(3):
        assert train(loss, input, Y8, 7 * 3) == []
        assert train(loss, 1 - input, Y8, 3 * 3) == []


@pytest.mark.parametrize(
    "make",
    [
        softcm.AccuracyLoss,
        softcm.SpecificityLoss,
        lambda **options: softcm.CostLoss({"fn": 2.0, "fp": 1.0}, **options),
        lambda **options: softcm.ConfusionLoss(softcm.metrics.f1, **options),
    ],
)
def test_means_over_samples_need_no_positives(make, every_third):
    loss = make(membership="gated")
    assert train(loss, P8.clone().requires_grad_(), 0 * Y8, 20 * 3) == []


def test_no_look_where_nothing_is_trained(every_third):
    loss = softcm.F1Loss()
    train(loss, P8, Y8, 3)  # validation: the input requires no grad
    accumulation, input = softcm.GradientAccumulation(loss), P8.clone().requires_grad_()
    accumulation.count(P8, Y8)
    for _ in range(3):
        accumulation.loss(input, Y8)
    assert loss._watch.batches == 0
    for _ in range(3):  # whatever is not on the CPU stands for a GPU
        loss._watch.step(loss, input.to("meta"), Y8.to("meta"), None)
        loss._watch.step(loss, input[:0], Y8[:0], None)  # a process may have no samples
    assert loss._watch.batches == 6
    assert len(loss._watch.looks) == 0


def test_compiled_modules_do_not_look():
    loss, input = softcm.F1Loss(), P8.clone().requires_grad_()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert train(compiled, input, Y8, 3) == []
    torch.testing.assert_close(compiled(input, Y8), loss(input, Y8))
    assert loss._watch.batches == 1


def test_copies_remember_what_was_told(every_third):
    loss, input = softcm.F1Loss(), P8.clone().requires_grad_()
    assert len(train(loss, input, Y8, 8 * 3)) == 1
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert train(twin, input, Y8, 12 * 3) == []


def test_a_look_changes_neither_loss_nor_gradient(every_third):
    loss, input = softcm.F1Loss(), P8.clone().requires_grad_()
    for _ in range(3):  # the last of them is looked at
        value = loss(input, Y8)
    (grad,) = torch.autograd.grad(value, input)
    expected = softcm.f1_loss(input, Y8)
    assert torch.equal(value, expected)
    assert torch.equal(grad, torch.autograd.grad(expected, input)[0])
    assert len(loss._watch.looks) == 1


def fit(loss, X, y, batch_size, lr, steps=450):
    """The warnings of a training of the demo's network."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.manual_seed(0)
        network = demo.make_network(X.shape[1])
        optimizer = torch.optim.Adam(network.parameters(), lr=lr, fused=True)
        while loss._watch.batches < steps:
            for rows in torch.randperm(len(y)).split(batch_size):
                optimizer.zero_grad()
                loss(network(X[rows]), y[rows]).backward()
                optimizer.step()
    torch.set_num_threads(threads)
    return [str(warning.message) for warning in told]


def hard_task(share=0.05):
    """Of which an F1 of 0.3 can be reached."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(2000, generator=generator) < share).float()
    X = torch.randn(2000, 10, generator=generator)
    X[:, 0] += 0.7 * y
    return X, y


def test_training_that_drifts_to_the_spurious_optimum():
    (told,) = fit(softcm.F1Loss(from_logits=True), *hard_task(), 256, lr=0.005, steps=600)
    assert "spurious optimum" in told


def slopes(loss, p, share, **options):
    """dL/dp of a positive and of a negative, where all predictions are p."""
    input = torch.full((1000,), p, dtype=torch.float64, requires_grad=True)
    target = torch.arange(1000) < 1000 * share
    (grad,) = torch.autograd.grad(loss(input, target, **options), input)
    return grad[0].item(), grad[-1].item()


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_everything_positive_is_an_optimum_of_f_beta_above_a_share_of_positives(beta):
    for share in (0.02, 0.1, 0.12, 0.24, 0.26, 0.5, 0.9):
        of_positive, of_negative = slopes(softcm.fbeta_loss, 0.999, share, beta=beta)
        assert of_positive < 0
        assert (of_negative < 0) == (share > 1 / beta**2)
        options = {"beta": beta, "membership": "gated"}
        assert slopes(softcm.fbeta_loss, 0.999, share, **options)[1] > 0


@pytest.mark.parametrize(("p", "low", "high"), [(0.02, -1, -0.8), (0.1, -1, -0.7), (0.9, 0.9, 1)])
def test_unequal_costs_do_little_in_eq_3(p, low, high):
    costs = {"costs": {"fn": 50.0, "fp": 1.0}}
    of_positive, of_negative = slopes(softcm.cost_loss, p, 0.05, membership="soft", **costs)
    assert of_positive < 0
    assert low < of_negative / of_positive < high
    of_positive, of_negative = slopes(softcm.cost_loss, p, 0.05, **costs)
    assert of_negative / of_positive == pytest.approx(-1 / 50)


def test_training_on_a_cost():
    costs = {"fn": 50.0, "fp": 1.0}
    blind = softcm.CostLoss(costs, from_logits=True, membership="soft")
    (told,) = fit(blind, *hard_task(), 256, lr=0.005)
    assert 'For unequal costs pass membership="gated"' in told
    told = fit(softcm.CostLoss(costs, from_logits=True), *hard_task(), 256, lr=0.005)
    assert not any("predicted positive, of which" in text for text in told)


def test_training_that_ends_with_one_prediction_for_all():
    beta2 = {"beta": 2.0, "from_logits": True}
    (told,) = fit(softcm.FBetaLoss(**beta2), *hard_task(share=0.3), 256, lr=0.005)
    assert "samples are predicted positive" in told
    for mended in ({"membership": "gated"}, {"ce_weight": 0.3}):
        assert fit(softcm.FBetaLoss(**beta2, **mended), *hard_task(share=0.3), 256, 0.005) == []
    (told,) = fit(softcm.AccuracyLoss(from_logits=True), *hard_task(), 256, lr=0.005)
    assert "samples is predicted positive" in told
    assert fit(softcm.F1Loss(from_logits=True, membership="gated"), *hard_task(), 256, 0.005) == []


@pytest.mark.parametrize("mended", [{"membership": "gated"}, {"ce_weight": 0.3}])
def test_the_advice_helps(mended):
    loss = softcm.F1Loss(from_logits=True, **mended)
    assert fit(loss, *hard_task(), 256, lr=0.005) == []
    assert len(loss._watch.looks) >= 9


def test_training_on_batches_without_positives():
    loss = softcm.F1Loss(from_logits=True, membership="gated")
    (told,) = fit(loss, *hard_task(share=0.005), 16, lr=0.001)
    assert [word for word in SAMPLER if word not in told] == [], told


@pytest.mark.parametrize("batch_size", [1024, 128])
def test_healthy_training_goes_without_a_warning(batch_size):
    """The demo's: its data, network and rate."""
    pytest.importorskip("sklearn", reason="the demo's data are scikit-learn's")
    X, y = demo_data.split(demo_data.load_digits(), seed=0).training
    loss = softcm.F1Loss(from_logits=True)
    assert fit(loss, X, y, batch_size, lr=0.001) == []
    assert len(loss._watch.looks) >= 9


def masks_of_one_class():
    """Four pictures of 64 x 64 with a square of 10 x 10, found nearly perfectly."""
    y = torch.zeros(4, 64, 64)
    y[:, 20:30, 30:40] = 1
    z = 12 * y - 6
    z[:, 20, 30] = -6
    return z, y


def test_masks_that_are_taken_for_classes():
    z, y = masks_of_one_class()
    options = {"from_logits": True, "membership": "gated"}
    as_rows = softcm.f1_loss(z, y, **options).item()
    as_one = softcm.f1_loss(z.unsqueeze(1), y.unsqueeze(1), **options).item()
    assert as_rows > 0.8
    assert as_one < 0.1
    (told,) = softcm.diagnose(z, y, from_logits=True)
    for words in ("54 of 64 classes have no positive", "(4, 64, 64)", "input.unsqueeze(1)"):
        assert words in told
    assert softcm.diagnose(z.unsqueeze(1), y.unsqueeze(1), from_logits=True) == ()
    # Sequences (N, T) of one class.
    (told,) = softcm.diagnose(z[:, :, 35], y[:, :, 35], from_logits=True)
    assert "54 of 64 classes" in told
    # Classes of which most are there, and few classes, are nothing to tell of.
    labels = torch.eye(8).repeat(4, 1)
    assert softcm.diagnose(labels * 8 - 4, labels, from_logits=True) == ()
    few = torch.zeros(32, 3)
    few[:8, 0] = 1
    assert softcm.diagnose(few * 8 - 4, few, from_logits=True) == ()
