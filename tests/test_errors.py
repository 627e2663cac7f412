"""Every bad call: its exception, and a message that names the argument, what was given, and what
is allowed."""

import inspect
import math
from functools import partial

import pytest
import torch
from cases import OPERATING_POINTS

import softcm

BACKENDS = softcm.available_backends("cpu")
NAN, INF = math.nan, math.inf
P = torch.tensor([0.2, 0.7, 0.6, 0.1])
Y = torch.tensor([0, 1, 0, 1])
P3 = torch.tensor([[0.2, 0.7, 0.6], [0.1, 0.5, 0.9]])
Y3 = torch.tensor([[0, 1, 0], [1, 1, 0]])


def floats(*values, **options):
    return torch.tensor(values, **options)


def classes(*labels):
    """Two samples of three classes with these class indices."""
    return {"input": P3, "target": torch.tensor(labels)}


def meta(*shape):
    return torch.ones(shape, device="meta")


PROBABILITY = ["input", "[0, 1]", "from_logits=True"]
MULTI_LABEL = {"input": P3, "target": Y3}
P222 = torch.full((2, 3, 5), 0.5)
SWAPPED = "are input and target swapped? predictions come first"
NOT_A_MEMBER = torch.distributed.GroupMember.NON_GROUP_MEMBER
WRONG_TYPE = (TypeError, ValueError)  # of the dtypes that decide what a shape means

# (arguments that differ from a good call, exception, words of the message)
ROWS = [
    # input
    ({"input": [0.2, 0.7]}, TypeError, ["input", "Tensor", "list"]),
    ({"input": Y}, TypeError, ["input", "float32", "int64"]),
    ({"input": Y.bool()}, TypeError, ["input", "float32", "bool"]),
    ({"input": P.to(torch.complex64)}, TypeError, ["input", "float32", "complex64"]),
    ({"input": P[0], "target": Y[0]}, ValueError, ["input", "one dimension", "()"]),
    ({"input": P[:0], "target": Y[:0]}, ValueError, ["input", "one sample", "(0,)"]),
    ({"input": P3[:, :0], "target": P3[:, :0]}, ValueError, ["input", "(2, 0)"]),
    ({"input": floats(0.2, 1.5, 0.6, 0.1)}, ValueError, [*PROBABILITY, "1.5"]),
    ({"input": floats(0.2, -3.5, 0.6, 0.1)}, ValueError, [*PROBABILITY, "-3.5"]),
    ({"input": floats(0.2, INF, 0.6, 0.1)}, ValueError, [*PROBABILITY, "inf"]),
    ({"input": floats(0.2, -INF, 0.6, 0.1).double()}, ValueError, [*PROBABILITY, "-inf"]),
    # The value that is wrong is shown, even beside NaN, which is allowed, and to enough digits.
    ({"input": floats(NAN, 2.5, 0.6, 0.1)}, ValueError, [*PROBABILITY, "2.5"]),
    ({"input": floats(0.2, 1.0000002, 0.6, 0.1)}, ValueError, [*PROBABILITY, "1.000000"]),
    ({**classes(0, 2), "input": P3 + floats(0.0, 0.0, 0.75)}, ValueError, [*PROBABILITY, "1.65"]),
    # target
    ({"target": [0, 1, 0, 1]}, TypeError, ["target", "Tensor", "list"]),
    ({"target": Y.to(torch.complex64)}, TypeError, ["target", "bool", "complex64"]),
    ({"target": Y[:3]}, ValueError, ["target", "(4,)", "(3,)"]),
    ({"target": Y[:, None].expand(4, 2)}, ValueError, ["target", "(4,)", "(4, 2)"]),
    ({"input": P3, "target": Y3.t()}, ValueError, ["target", "(2, 3)", "(3, 2)"]),
    ({"input": P3, "target": Y}, ValueError, ["target", "(2,)", "(4,)"]),
    ({"input": P3[..., None], "target": Y3[..., None, None]}, ValueError, ["target", "(2, 3, 1)"]),
    ({"input": P3, "target": floats(0.0, 1.0)}, WRONG_TYPE, ["target", "class indices", "float32"]),
    ({"input": P3, "target": Y3[:, 0].bool()}, WRONG_TYPE, ["target", "class indices", "bool"]),
    ({"target": torch.tensor([0, 2, 0, 1])}, ValueError, ["target", "[0, 1]", "2"]),
    ({"target": torch.tensor([0, -1, 0, 1])}, ValueError, ["target", "[0, 1]", "-1"]),
    ({"target": floats(0.0, 1.5, 0.0, 1.0)}, ValueError, ["target", "[0, 1]", "1.5"]),
    ({"target": floats(0.0, -0.5, 0.0, 1.0)}, ValueError, ["target", "[0, 1]", "-0.5"]),
    ({"target": floats(0.0, INF, 0.0, 1.0)}, ValueError, ["target", "[0, 1]", "inf"]),
    ({"target": floats(0.0, NAN, 0.0, 1.0)}, ValueError, ["target", "[0, 1]", "NaN"]),
    ({"target": floats(0.0, 1.0 + 1e-9, 0.0, 1.0, dtype=torch.float64)}, ValueError, ["target"]),
    ({"target": torch.tensor([0, 1, 0, -100])}, ValueError, ["target", "[0, 1]", "-100"]),
    ({"target": torch.tensor([0, 1, 0, -100]), "ignore_index": -1}, ValueError, ["target", "-100"]),
    ({"target": (Y * 255).byte(), "ignore_index": -1}, ValueError, ["target", "255"]),
    # One more or less than what is ignored, of which float32 makes the same number.
    ({"target": Y.long() * (2**24 + 1), "ignore_index": 2**24}, ValueError, ["target", "16777217"]),
    ({"target": Y.int() * -(2**24 + 1), "ignore_index": -(2**24)}, ValueError, ["-16777217"]),
    (classes(0, 3), ValueError, ["target", "class indices", "0 ... 2", "3"]),
    (classes(0, -1), ValueError, ["target", "class indices", "0 ... 2", "-1"]),
    ({**classes(0, -100), "ignore_index": -1}, ValueError, ["target", "0 ... 2", "-100"]),
    ({"target": Y.float().requires_grad_()}, ValueError, ["target", "requires grad", "detach"]),
    ({"target": meta(4)}, ValueError, ["target", "meta", "cpu"]),
    # threshold
    *[
        ({"threshold": threshold}, ValueError, ["threshold", "(0, 1)", value])
        for threshold, value in [
            (0, "0"), (1, "1"), (0.0, "0"), (1.0, "1"), (-0.5, "-0.5"), (1.5, "1.5"),
            (NAN, "nan"), (INF, "inf"), ([0.5, 1.25], "1.25"), ((-0.25, 0.5), "-0.25"),
            ([0.5, NAN], "nan"), (floats(0.5, 1.0), "1"), (floats(0.0, 0.5), "0"),
            (floats(-0.5), "-0.5"), (torch.tensor(1.5), "1.5"),
        ]
    ],
    ({"threshold": floats(0.5, NAN)}, ValueError, ["threshold", "(0, 1)"]),
    ({"threshold": []}, ValueError, ["threshold", "at least one", "empty"]),
    ({"threshold": torch.empty(0)}, ValueError, ["threshold", "(T,)", "(0,)"]),
    ({"threshold": torch.full((2, 2), 0.5)}, ValueError, ["threshold", "(T,)", "(2, 2)"]),
    ({"threshold": torch.tensor([1, 1])}, TypeError, ["threshold", "floating point", "int64"]),
    ({"threshold": "0.5"}, TypeError, ["threshold", "number", "'0.5'"]),
    ({"threshold": [0.5, "0.7"]}, TypeError, ["threshold", "number", "'0.7'"]),
    ({"threshold": None}, TypeError, ["threshold", "number", "None"]),
    ({"threshold": True}, TypeError, ["threshold", "number", "True"]),
    ({"threshold": 0.5j}, TypeError, ["threshold", "number", "0.5j"]),
    ({"threshold": {0.5}}, TypeError, ["threshold", "number", "{0.5}"]),
    ({"threshold": meta(2)}, ValueError, ["threshold", "meta", "cpu"]),
    # options
    ({"heaviside": "linear"}, TypeError, ["heaviside", "softcm.Linear", "'linear'"]),
    ({"heaviside": softcm.Linear}, TypeError, ["heaviside", "softcm.Linear", "type"]),
    ({"heaviside": 0.1}, TypeError, ["heaviside", "softcm.Sigmoid", "0.1"]),
    ({"heaviside": None}, TypeError, ["heaviside", "softcm.Sigmoid", "None"]),
    ({"membership": "hard"}, ValueError, ["membership", "'soft', 'gated'", "'hard'"]),
    ({"membership": None}, ValueError, ["membership", "'soft', 'gated'", "None"]),
    ({"average": "mean"}, ValueError, ["average", "'macro', 'micro', 'weighted'", "'mean'"]),
    ({"average": None}, ValueError, ["average", "'none'", "None"]),
    ({"backend": "cuda"}, ValueError, ["backend", "'auto'", "'native'", "'reference'", "'cuda'"]),
    ({"backend": None}, ValueError, ["backend", "'auto'", "None"]),
    ({"zero_division": "warn"}, TypeError, ["zero_division", "number", "'warn'"]),
    ({"zero_division": None}, TypeError, ["zero_division", "number", "None"]),
    ({"ce_weight": -0.25}, ValueError, ["ce_weight", ">= 0", "-0.25"]),
    ({"ce_weight": NAN}, ValueError, ["ce_weight", "finite", "nan"]),
    ({"ce_weight": INF}, ValueError, ["ce_weight", "finite", "inf"]),
    ({"ce_weight": "0.3"}, TypeError, ["ce_weight", "number", "'0.3'"]),
    ({"from_logits": "no"}, TypeError, ["from_logits", "True or False", "'no'"]),
    ({"from_logits": 1}, TypeError, ["from_logits", "True or False", "1"]),
    ({"from_logits": None}, TypeError, ["from_logits", "True or False", "None"]),
    ({"ignore_index": 1.5}, TypeError, ["ignore_index", "int", "1.5"]),
    ({"ignore_index": "x"}, TypeError, ["ignore_index", "int", "'x'"]),
    ({"ignore_index": True}, TypeError, ["ignore_index", "int", "True"]),
    ({"process_group": "gloo"}, TypeError, ["process_group", "group.WORLD", "'gloo'"]),
    ({"process_group": 0}, TypeError, ["process_group", "ProcessGroup", "0"]),
    ({"process_group": NOT_A_MEMBER}, ValueError, ["process_group", "this process belongs"]),
    ({"tau": 0.5}, TypeError, ["tau"]),
    ({"maximize": False}, TypeError, ["maximize"]),
    ({"metric": softcm.LinearFractional((1, 0, 0, 0), (1, 1, 0, 0))}, TypeError, ["metric"]),
    # hints for what is seen often
    ({"input": Y, "target": P}, TypeError, ["input", "int64", SWAPPED]),
    ({"input": Y.bool(), "target": P}, TypeError, ["input", "bool", SWAPPED]),
    ({"input": Y, "target": P3}, TypeError, ["input", "int64", SWAPPED]),
    ({"input": Y.float(), "target": P * 9 - 4}, ValueError, ["target", "[0, 1]", SWAPPED]),
    (
        {"input": Y.float(), "target": P * 9 - 4, "from_logits": True},
        ValueError,
        ["target", "[0, 1]", SWAPPED],
    ),
    (
        {"input": Y.float(), "target": P.clone().requires_grad_()},
        ValueError,
        ["target", "requires grad", "detach", SWAPPED],
    ),
    ({"input": P.numpy()}, TypeError, ["input", "ndarray", "torch.as_tensor(input)"]),
    ({"target": [0] * 60}, TypeError, ["target", " ... of type list", "torch.as_tensor(target)"]),
    ({"target": 2 * Y - 1}, ValueError, ["target", "-1", "1", "target == 1"]),
    ({"target": Y + 1.0}, ValueError, ["target", "labels 1 and 2", "target == 2"]),
    ({"target": (Y * 255).byte()}, ValueError, ["target", "255", "target == 255"]),
    ({"target": torch.tensor([0, 1, -100, 1])}, ValueError, ["-100", "ignore_index=-100"]),
    ({"target": torch.tensor([0, 0, -1, -1])}, ValueError, ["-1", "ignore_index=-1"]),
    ({"target": torch.tensor([0, 1, 255, 1])}, ValueError, ["255", "ignore_index=255"]),
    ({"target": torch.tensor([0, 1, 2, 3])}, ValueError, ["3", "class indices", "(N, C)"]),
    (classes(1, 3), ValueError, ["target", "0 ... 2", "target - 1"]),
    (classes(1, -100), ValueError, ["target", "-100", "ignore_index=-100"]),
    ({"input": P3, "target": Y3[:, :1]}, ValueError, ["(2, 1)", "target.squeeze(1)"]),
    ({"input": P3[:, None], "target": Y3}, ValueError, ["(2, 3)", "target.unsqueeze(1)"]),
    ({"input": P222, "target": torch.zeros(2, 5, 3)}, ValueError, ["(2, 5, 3)", "movedim(-1, 1)"]),
    ({"input": P3, "target": floats(0.0, 1.0)}, WRONG_TYPE, ["float32", "target.long()"]),
    ({"threshold": P.numpy()}, TypeError, ["threshold", "sequence", "ndarray"]),
    ({"pos_weight": [1.0]}, TypeError, ["pos_weight", "tensor (C,)", "list"]),
    ({**MULTI_LABEL, "weight": torch.ones(2)}, ValueError, ["weight", "weight.reshape((2, 1))"]),
    # weight
    ({"weight": 2.0}, TypeError, ["weight", "Tensor", "2.0"]),
    ({"weight": [1.0] * 4}, TypeError, ["weight", "Tensor", "list"]),
    ({"weight": P.to(torch.complex64)}, TypeError, ["weight", "floating point", "complex64"]),
    ({"weight": torch.ones(3)}, ValueError, ["weight", "broadcastable", "(4,)", "(3,)"]),
    ({"weight": torch.ones(1, 4)}, ValueError, ["weight", "broadcastable", "(4,)", "(1, 4)"]),
    ({**MULTI_LABEL, "weight": torch.ones(2)}, ValueError, ["weight", "(2, 3)", "(2,)"]),
    ({**classes(0, 1), "weight": torch.ones(2, 3)}, ValueError, ["weight", "(2,)", "(2, 3)"]),
    ({"weight": torch.ones(4).requires_grad_()}, ValueError, ["weight", "requires grad"]),
    ({"weight": floats(1.0, -0.5, 1.0, 1.0)}, ValueError, ["weight", ">= 0", "-0.5"]),
    ({"weight": torch.tensor([1, -2, 1, 1])}, ValueError, ["weight", ">= 0", "-2"]),
    ({"weight": floats(1.0, NAN, 1.0, 1.0)}, ValueError, ["weight", ">= 0", "NaN"]),
    ({"weight": floats(1.0, INF, 1.0, 1.0)}, ValueError, ["weight", "finite", "inf"]),
    ({"weight": meta(4)}, ValueError, ["weight", "meta", "cpu"]),
    # pos_weight
    ({"pos_weight": -1.5}, ValueError, ["pos_weight", ">= 0", "-1.5"]),
    ({"pos_weight": NAN}, ValueError, ["pos_weight", "finite", "nan"]),
    ({"pos_weight": INF}, ValueError, ["pos_weight", "finite", "inf"]),
    ({"pos_weight": "2"}, TypeError, ["pos_weight", "number", "'2'"]),
    ({"pos_weight": floats(-1.5)}, ValueError, ["pos_weight", ">= 0", "-1.5"]),
    ({"pos_weight": floats(NAN)}, ValueError, ["pos_weight", ">= 0"]),
    ({"pos_weight": floats(INF)}, ValueError, ["pos_weight", "finite", "inf"]),
    ({"pos_weight": floats(1.0, 2.0)}, ValueError, ["pos_weight", "(1,)", "(2,)"]),
    ({**MULTI_LABEL, "pos_weight": floats(1.0, 2.0)}, ValueError, ["pos_weight", "(3,)", "(2,)"]),
    ({**MULTI_LABEL, "pos_weight": torch.ones(1, 3)}, ValueError, ["pos_weight", "(3,)", "(1, 3)"]),
    ({"pos_weight": torch.ones(1, dtype=torch.complex64)}, TypeError, ["pos_weight", "complex64"]),
    ({"pos_weight": torch.ones(1).requires_grad_()}, ValueError, ["pos_weight", "requires grad"]),
    ({"pos_weight": meta(1)}, ValueError, ["pos_weight", "meta", "cpu"]),
]  # fmt: skip


def as_module(module, **arguments):
    call = {k: arguments.pop(k) for k in ("input", "target", "weight") if k in arguments}
    return module(**arguments)(**call)


# A loss in one pass, one in two steps, the counts, and a module.
CALLS = {
    "f1_loss": softcm.f1_loss,
    "recall_loss": softcm.recall_loss,
    "mcc_loss": softcm.mcc_loss,
    "F1Loss": partial(as_module, softcm.F1Loss),
    "MCCLoss": partial(as_module, softcm.MCCLoss),
    "soft_confusion_matrix": softcm.soft_confusion_matrix,
    "confusion_matrix": softcm.confusion_matrix,
}
OF_LOSSES_ONLY = {"average", "zero_division", "ce_weight"}


def identify(row):
    return "-".join(f"{k}={v}" if not isinstance(v, torch.Tensor) else k for k, v in row.items())


def expect_error(error, words, call, **arguments):
    with pytest.raises(error) as caught:
        call(**arguments)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: identify(row[0]))
@pytest.mark.parametrize("name", CALLS)
def test_bad_argument(name, row, backend):
    changed, error, words = row
    if name.endswith("matrix") and OF_LOSSES_ONLY & set(changed):
        error, words = TypeError, list(changed)  # there is no such argument
    arguments = {"input": P, "target": Y, "backend": backend, **changed}
    expect_error(error, words, CALLS[name], **arguments)


@pytest.mark.parametrize(
    "name", [n for n in dir(softcm) if n.endswith("_loss") and n not in OPERATING_POINTS]
)
def test_every_loss_checks_its_arguments(name):
    extra = {"cost_loss": {"costs": (0, 1, 1, 0)}, "confusion_loss": {"metric": softcm.metrics.f1}}
    loss = partial(getattr(softcm, name), **extra.get(name, {}))
    for changed, error, words in [
        ({"input": P * 3}, ValueError, ["input", "[0, 1]", "2.1", "from_logits=True"]),
        ({"target": Y * 2}, ValueError, ["target", "[0, 1]", "2"]),
        ({"target": Y[:3]}, ValueError, ["target", "(4,)", "(3,)"]),
        ({"threshold": [0.5, 1.5]}, ValueError, ["threshold", "(0, 1)", "1.5"]),
        ({"threshold": torch.tensor([0.5, 1.5])}, ValueError, ["threshold", "(0, 1)", "1.5"]),
        ({"threshold": "0.5"}, TypeError, ["threshold", "number", "'0.5'"]),
        ({"threshold": [0.5, None]}, TypeError, ["threshold", "number", "None"]),
        ({"average": "sum"}, ValueError, ["average", "'macro'", "'sum'"]),
        ({"weight": -Y}, ValueError, ["weight", ">= 0", "-1"]),
        ({"gama": 2}, TypeError, ["gama", "options", "ce_weight"]),
    ]:
        expect_error(error, words, loss, **{"input": P, "target": Y, **changed})
    if name != "confusion_loss":  # the only one that does not know which way is better
        expect_error(TypeError, ["maximize"], loss, input=P, target=Y, maximize=True)
    with pytest.raises(TypeError, match="positional"):
        getattr(softcm, name)(P, Y, *extra.get(name, {}).values(), 0.5)


# Constructors, and options of one loss: (call, exception, words).
def loss_and_module(loss, module, *rows):
    module = partial(as_module, module)
    return [(partial(f, **k), error, words) for k, error, words in rows for f in (loss, module)]


def metric_that_returns(value):
    return lambda cm: value


COSTS = ["costs", "'tp', 'fn', 'fp', 'tn'"]
SPECIFIC = [
    *loss_and_module(
        softcm.fbeta_loss,
        softcm.FBetaLoss,
        ({"beta": -1.5}, ValueError, ["beta", ">= 0", "-1.5"]),
        ({"beta": INF}, ValueError, ["beta", "finite", "inf"]),
        ({"beta": NAN}, ValueError, ["beta", "finite", "nan"]),
        ({"beta": "2"}, TypeError, ["beta", "number", "'2'"]),
        ({"beta": 1e200}, ValueError, ["beta", "1e+200"]),  # its square is not finite
    ),
    *loss_and_module(
        softcm.tversky_loss,
        softcm.TverskyLoss,
        ({"alpha": -0.5}, ValueError, ["alpha", ">= 0", "-0.5"]),
        ({"alpha": NAN}, ValueError, ["alpha", "finite", "nan"]),
        ({"beta": -0.5}, ValueError, ["beta", ">= 0", "-0.5"]),
        ({"beta": INF}, ValueError, ["beta", "finite", "inf"]),
        ({"alpha": None}, TypeError, ["alpha", "number", "None"]),
    ),
    *loss_and_module(
        softcm.cost_loss,
        softcm.CostLoss,
        ({}, TypeError, ["costs"]),
        ({"costs": {"tp": 1, "miss": 5}}, ValueError, [*COSTS, "miss"]),
        ({"costs": (0, 1, 1)}, ValueError, [*COSTS, "3"]),
        ({"costs": (0, 1, 1, 0, 0)}, ValueError, [*COSTS, "5"]),
        ({"costs": {"fn": NAN}}, ValueError, ["costs", "finite", "nan"]),
        ({"costs": (0, INF, 1, 0)}, ValueError, ["costs", "finite", "inf"]),
        ({"costs": {"fn": "5"}}, TypeError, ["costs", "number", "'5'"]),
        ({"costs": 5.0}, TypeError, [*COSTS, "5.0"]),
        ({"costs": None}, TypeError, [*COSTS, "None"]),
        ({"costs": "0110"}, TypeError, [*COSTS, "'0110'"]),
    ),
    *loss_and_module(
        softcm.confusion_loss,
        softcm.ConfusionLoss,
        ({}, TypeError, ["metric"]),
        ({"metric": "f1"}, TypeError, ["metric", "LinearFractional", "callable", "'f1'"]),
        ({"metric": None}, TypeError, ["metric", "LinearFractional", "callable", "None"]),
        ({"metric": metric_that_returns(0.5)}, ValueError, ["metric", "(1, 1)", "(1,)", "0.5"]),
        ({"metric": metric_that_returns(None)}, ValueError, ["metric", "(1, 1)", "None"]),
        ({"metric": metric_that_returns(P)}, ValueError, ["metric", "(1, 1)", "(4,)"]),
        ({"metric": metric_that_returns(P[0])}, ValueError, ["metric", "(1, 1)", "()"]),
    ),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("call", "error", "words"), SPECIFIC)
def test_bad_option_of_one_loss(call, error, words, backend):
    expect_error(error, words, call, input=P, target=Y, backend=backend)


# Those that choose their threshold, and so have no such option.
CHOOSING = [n for n in dir(softcm) if n.lower() in {o.replace("_", "") for o in OPERATING_POINTS}]


def module_of(name):
    """A loss module with what it cannot do without."""
    arguments = {"CostLoss": ((0, 1, 1, 0),), "ConfusionLoss": (softcm.metrics.f1,)}
    return partial(getattr(softcm, name), *arguments.get(name, (0.5,) if name in CHOOSING else ()))


@pytest.mark.parametrize("name", [n for n in dir(softcm) if n.endswith("Loss")])
def test_modules_check_their_options_at_construction(name):
    for changed, error, words in [
        ({"threshold": 1.5}, ValueError, ["threshold", "(0, 1)", "1.5"]),
        ({"threshold": [0.5, None]}, TypeError, ["threshold", "number", "None"]),
        ({"heaviside": "linear"}, TypeError, ["heaviside", "softcm.Linear", "'linear'"]),
        ({"membership": "hard"}, ValueError, ["membership", "'soft', 'gated'", "'hard'"]),
        ({"average": "mean"}, ValueError, ["average", "'macro', 'micro'", "'mean'"]),
        ({"zero_division": "warn"}, TypeError, ["zero_division", "number", "'warn'"]),
        ({"ce_weight": -1.0}, ValueError, ["ce_weight", ">= 0", "-1"]),
        ({"from_logits": 1}, TypeError, ["from_logits", "True or False", "1"]),
        ({"ignore_index": 1.5}, TypeError, ["ignore_index", "int", 'float("nan")', "1.5"]),
        ({"bce_weight": 0.3}, TypeError, ["bce_weight", "ce_weight"]),
        ({"ignore_index": 2**63}, ValueError, ["ignore_index", "64 bits", str(2**63)]),
        ({"pos_weight": -1.0}, ValueError, ["pos_weight", ">= 0", "-1"]),
        ({"pos_weight": [1.0]}, TypeError, ["pos_weight", "tensor (C,)", "[1.0]"]),
        ({"backend": "cuda"}, ValueError, ["backend", "'auto'", "'cuda'"]),
        ({"process_group": "gloo"}, TypeError, ["process_group", "group.WORLD", "'gloo'"]),
        ({"gama": 2}, TypeError, ["gama", "options", "ce_weight"]),
        ({"weight": P}, TypeError, ["weight"]),  # which goes into the call
    ]:
        if name in CHOOSING and changed.keys() & {"threshold", "membership"}:
            error, words = TypeError, [*changed]
        expect_error(error, words, module_of(name), **changed)


@pytest.mark.parametrize("name", [n for n in dir(softcm) if n.endswith("Loss")])
def test_modules_check_their_call(name):
    loss = module_of(name)()
    for arguments, error, words in [
        ((Y, P), TypeError, ["input", "int64", SWAPPED]),
        ((P * 3, Y), ValueError, [*PROBABILITY, "2.1"]),
        ((P, Y[:3]), ValueError, ["target", "(4,)", "(3,)"]),
        ((P, Y, -P), ValueError, ["weight", ">= 0", "-0.1"]),
    ]:
        expect_error(error, words, partial(loss, *arguments))
    loss.options["average"] = "hard"
    expect_error(ValueError, ["average", "'hard'"], partial(loss, P, Y))


OF_MODULES = [
    (partial(softcm.FBetaLoss, beta=-1), ValueError, ["beta", ">= 0", "-1"]),
    (partial(softcm.TverskyLoss, alpha=NAN), ValueError, ["alpha", "finite", "nan"]),
    (partial(softcm.CostLoss, {"miss": 1}), ValueError, [*COSTS, "miss"]),
    (partial(softcm.CostLoss, {"fn": "5"}), TypeError, ["costs['fn']", "number", "'5'"]),
    (partial(softcm.ConfusionLoss, "f1"), TypeError, ["metric", "softcm.metrics.f1", "'f1'"]),
    (
        partial(softcm.ConfusionLoss, softcm.metrics.f1, maximize="no"),
        TypeError,
        ["maximize", "True or False", "'no'"],
    ),
]  # fmt: skip
CM = softcm.confusion_matrix(P, Y)
# Each takes a confusion matrix first, and the functions without arguments of their own no other.
OF_METRICS = {
    **{
        name: getattr(softcm.metrics, name)
        for name in (
            *("accuracy", "precision", "recall", "specificity", "fbeta", "f1", "jaccard"),
            *("tversky", "balanced_accuracy", "informedness", "gmean", "mcc", "kappa"),
            *("auroc", "auprc"),
        )
    },
    "cost": partial(softcm.metrics.cost, costs=(0, 1, 1, 0)),
    "operating_point": partial(
        softcm.metrics.operating_point, metrics="recall_at_fixed_precision", minimum=0.5
    ),
    **{
        name: partial(getattr(softcm.metrics, name), **{minimum: 0.5})
        for name, minimum in (
            ("recall_at_fixed_precision", "min_precision"),
            ("precision_at_fixed_recall", "min_recall"),
            ("sensitivity_at_specificity", "min_specificity"),
            ("specificity_at_sensitivity", "min_sensitivity"),
        )
    },
    "LinearFractional": softcm.LinearFractional((1, 0, 0, 0), (1, 1, 1, 0)),
}


@pytest.mark.parametrize("name", OF_METRICS)
def test_bad_argument_of_a_metric(name):
    metric = OF_METRICS[name]
    for cm, error, words in [
        (P, TypeError, ["cm", "ConfusionMatrix", "Tensor", "softcm.confusion_matrix(input"]),
        (None, TypeError, ["cm", "ConfusionMatrix", "None"]),
        ((P, P, P), TypeError, ["cm", "four tensors", "tuple"]),
        ((1, 2, 3, 4), TypeError, ["cm", "four tensors", "(1, 2, 3, 4)"]),
        ((P, P, P[:3], P), ValueError, ["cm", "one shape", "(4,), (4,), (3,), (4,)"]),
    ]:
        expect_error(error, words, partial(metric, cm))
    expect_error(TypeError, ["zero_division", "'warn'"], partial(metric, CM, zero_division="warn"))


def of(function, *rows):
    """Rows of (positional arguments, keywords, exception, words) as calls."""
    return [
        (partial(function, *args, **kwargs), error, words) for args, kwargs, error, words in rows
    ]


def after(method, *arguments):
    """A call of a method of a fresh GradientAccumulation, by its name."""
    return getattr(softcm.GradientAccumulation(softcm.F1Loss()), method)(*arguments)


def counted_twice():
    accumulation = softcm.GradientAccumulation(softcm.F1Loss())
    accumulation.count(P, Y)
    accumulation.loss(P, Y)
    accumulation.count(P, Y)


FOUR = "'tp', 'fn', 'fp', 'tn'"
REST = [
    *of(
        softcm.LinearFractional,
        (((1, 0, 0), (1, 1, 1, 1)), {}, ValueError, ["numerator", FOUR, "3"]),
        ((5, (1, 1, 1, 1)), {}, TypeError, ["numerator", FOUR, "5"]),
        ((P, (1, 1, 1, 1)), {}, TypeError, ["numerator", FOUR, "Tensor"]),
        (((1, 0, 0, 0), (1, 1, 1, "x")), {}, TypeError, ["denominator[3]", "number", "'x'"]),
        (((1, NAN, 0, 0), (1, 1, 1, 1)), {}, ValueError, ["numerator[1]", "finite", "nan"]),
        (((1, 0, 0, 0), (1, 1, 1, 1), "a"), {}, TypeError, ["numerator_constant", "number", "'a'"]),
        (((1, 0, 0, 0), (1, 1, 1, 1), 0, INF), {}, ValueError, ["denominator_constant", "inf"]),
    ),
    *of(softcm.metrics.fbeta, ((CM, -1), {}, ValueError, ["beta", ">= 0", "-1"])),
    *of(softcm.metrics.tversky, ((CM, "a"), {}, TypeError, ["alpha", "number", "'a'"])),
    *of(
        softcm.metrics.cost,
        ((CM, {"miss": 1}), {}, ValueError, ["costs", FOUR, "miss"]),
        ((CM, (0, 1, "5", 0)), {}, TypeError, ["costs[2]", "number", "'5'"]),
    ),
    *of(
        softcm.Table,
        (("linear",), {}, TypeError, ["approximation", "softcm.Linear", "'linear'"]),
        ((), {"decimals": 5}, ValueError, ["decimals", "1 ... 4", "5"]),
        ((), {"decimals": 2.0}, TypeError, ["decimals", "int", "2.0"]),
        ((), {"thresholds": (0.1, 1.0)}, ValueError, ["thresholds", "[0, 1)", "1.0"]),
        ((), {"thresholds": ()}, ValueError, ["thresholds", "[0, 1)", "()"]),
        ((), {"thresholds": (0.1, 0.1)}, ValueError, ["thresholds", "distinct", "(0.1, 0.1)"]),
        ((), {"thresholds": (0.1, "a")}, TypeError, ["thresholds[1]", "number", "'a'"]),
        ((), {"thresholds": 0.1}, TypeError, ["thresholds", "sequence", "0.1"]),
        ((), {"thresholds": P}, TypeError, ["thresholds", "Tensor", "thresholds.tolist()"]),
        ((), {"threshold_step": 0.3}, ValueError, ["threshold_step", "1 / n", "0.3"]),
        (
            (),
            {"threshold_step": 0.1, "thresholds": (0.1,)},
            ValueError,
            ["thresholds", "threshold_step", "both"],
        ),
        ((), {"dtype": torch.int8}, ValueError, ["dtype", "torch.uint8", "torch.int8"]),
    ),
    *of(
        softcm.tune_threshold,
        ((Y, P), {}, TypeError, ["input", "int64", SWAPPED]),
        ((P * 9 - 4, Y), {}, ValueError, [*PROBABILITY, "-3.1"]),
        ((P, Y, "auc"), {}, ValueError, ["metric", "'f1'", "'auc'"]),
        ((P, Y, 3), {}, TypeError, ["metric", "callable", "3"]),
        ((P, Y, lambda cm: 0.5), {}, ValueError, ["metric", "shape of the counts", "0.5"]),
        ((P, Y), {"thresholds": 0.5}, TypeError, ["thresholds", "sequence", "0.5"]),
        ((P, Y), {"thresholds": (0.5, 1.0)}, ValueError, ["thresholds", "(0, 1)", "1.0"]),
        ((P, Y), {"thresholds": []}, ValueError, ["thresholds", "T >= 1", "(0,)"]),
        ((P, Y), {"digits": 2.0}, TypeError, ["digits", "int", "2.0"]),
        ((P, Y), {"digits": 99}, ValueError, ["digits", "0 ... 15", "99"]),
        ((P, Y), {"maximize": 1}, TypeError, ["maximize", "True or False", "1"]),
        ((P, Y), {"zero_division": "x"}, TypeError, ["zero_division", "number", "'x'"]),
        ((floats(0.1, NAN, 0.2, 0.3), Y), {}, ValueError, ["input", "NaN", "1 of 4"]),
    ),
    *of(
        softcm.value_and_grad,
        (("f1",), {}, TypeError, ["loss", "softcm.f1_loss", "'f1'"]),
        ((softcm.F1Loss,), {}, TypeError, ["loss", "softcm.F1Loss()", "type"]),
    ),
    *of(softcm.value_and_grad(softcm.f1_loss), ((Y, P), {}, TypeError, ["input", SWAPPED])),
    *of(
        softcm.value_and_grad(lambda input, target: 0.5),
        ((P, Y), {}, ValueError, ["loss", "depends on its first argument", "0.5"]),
    ),
    *of(
        softcm.value_and_grad(lambda input, target: target.sum()),
        ((P, Y), {}, ValueError, ["loss", "depends on its first argument", "tensor(2)"]),
    ),
    *of(
        softcm.GradientAccumulation,
        ((softcm.f1_loss,), {}, TypeError, ["loss", "softcm.F1Loss()", "function"]),
        ((softcm.F1Loss,), {}, TypeError, ["loss", "softcm.F1Loss()", "type"]),
    ),
    *of(
        after,
        (("loss", P, Y), {}, RuntimeError, ["loss", "before count"]),
        (("count", Y, P), {}, TypeError, ["input", SWAPPED]),
    ),
    *of(counted_twice, ((), {}, RuntimeError, ["count", "after loss", "for each batch"])),
    *of(softcm.UnitInterval(), ((0.3,), {}, TypeError, ["threshold", "Tensor", "0.3"])),
    *of(softcm.UnitInterval(), ((Y,), {}, TypeError, ["threshold", "float32", "int64"])),
    *of(
        softcm.UnitInterval().right_inverse,
        ((floats(1.5),), {}, ValueError, ["threshold", "(0, 1)", "got 1.5"]),
        ((0.5,), {}, TypeError, ["threshold", "Tensor", "0.5"]),
        ((Y,), {}, TypeError, ["threshold", "float32", "int64"]),
    ),
    *of(
        softcm.available_backends,
        ((3,), {}, TypeError, ["device_type", "string", "3"]),
        (("gpu",), {}, ValueError, ["device_type", "'cuda'", "'gpu'"]),
        (("cuda:0",), {}, ValueError, ["device_type", "'cuda'", "'cuda:0'"]),
    ),
    *of(
        softcm.diagnose,
        ((Y, P), {}, TypeError, ["input", "int64", SWAPPED]),
        ((P * 3, Y), {}, ValueError, [*PROBABILITY, "2.1"]),
        ((P, Y), {"threshold": 1.5}, ValueError, ["threshold", "(0, 1)", "1.5"]),
        ((P, Y), {"threshold": floats(1.5)}, ValueError, ["threshold", "(0, 1)", "1.5"]),
        ((P, Y), {"threshold": None}, TypeError, ["threshold", "number", "None"]),
        ((P, Y), {"membership": "hard"}, ValueError, ["membership", "'soft', 'gated'", "'hard'"]),
        ((P, Y), {"from_logits": 1}, TypeError, ["from_logits", "True or False", "1"]),
        ((P, Y), {"weight": -P}, ValueError, ["weight", ">= 0", "-0.1"]),
        ((P, Y), {"ignore_index": "x"}, TypeError, ["ignore_index", "int", "'x'"]),
    ),
    *[
        row
        for draw in (
            softcm.plot.metric_by_threshold,
            softcm.plot.confusion_matrices,
            softcm.plot.reliability_diagram,
        )
        for row in of(
            draw,
            (([0.2], Y), {}, TypeError, ["input", "Tensor", "torch.as_tensor(input)"]),
            ((P3, Y3), {}, ValueError, ["input", "one class", "(2, 3)", "input[:, 0]"]),
            ((Y, P), {}, TypeError, ["input", "int64", SWAPPED]),
            ((P * 3, Y), {}, ValueError, [*PROBABILITY, "2.1"]),
            ((P, Y[:3]), {}, ValueError, ["target", "(4,)", "(3,)"]),
            ((P, Y), {"from_logits": 1}, TypeError, ["from_logits", "True or False", "1"]),
        )
    ],
    *of(
        softcm.plot.metric_by_threshold,
        ((P, Y), {"metric": "auc"}, ValueError, ["metric", "'f1'", "'auc'"]),
        ((P, Y), {"thresholds": 0.5}, TypeError, ["thresholds", "sequence", "0.5"]),
        ((P, Y), {"thresholds": (0.5, 1.5)}, ValueError, ["thresholds", "(0, 1)", "1.5"]),
        ((P, Y), {"zero_division": None}, TypeError, ["zero_division", "number", "None"]),
        ((P, Y), {"membership": "hard"}, ValueError, ["membership", "'hard'"]),
        ((P, Y), {"heaviside": 3}, TypeError, ["heaviside", "softcm.Linear", "3"]),
        ((P, Y), {"heaviside": softcm.Table()}, ValueError, ["threshold", "table's", "0.01"]),
    ),
    *of(
        softcm.plot.confusion_matrices,
        ((P, Y), {"threshold": (0.2, 0.5)}, ValueError, ["threshold", "single", "(0.2, 0.5)"]),
        ((P, Y), {"threshold": 1.5}, ValueError, ["threshold", "(0, 1)", "1.5"]),
    ),
    *of(
        softcm.plot.reliability_diagram,
        ((P, Y), {"bins": 0}, ValueError, ["bins", ">= 1", "0"]),
        ((P, Y), {"bins": 2.5}, TypeError, ["bins", "int", "2.5"]),
        ((P, Y), {"strategy": "log"}, ValueError, ["strategy", "'uniform'", "'log'"]),
        ((P, P), {}, ValueError, ["target", "0 and 1 only", "0.2"]),
        ((P, Y * 0 - 1), {"ignore_index": -1}, ValueError, ["target", "not ignored", "none"]),
        ((floats(NAN, 0.1, 0.2, 0.3), Y), {}, ValueError, ["input", "NaN", "1 of 4"]),
    ),
    *of(
        softcm.plot.metric_curves,
        (((0.1, 0.2), P), {}, TypeError, ["curves", "name", "Tensor"]),
        (((0.1, 0.2), {"a": P}), {}, ValueError, ["curves['a']", "T = 2", "(4,)"]),
        (((0.1, 0.2), {"a": P3[:0, :2]}), {}, ValueError, ["curves['a']", "(0, 2)"]),
    ),
    *[
        row
        for draw in (softcm.plot.approximations, softcm.plot.derivatives)
        for row in of(
            draw,
            (("linear",), {}, TypeError, ["heaviside", "softcm.Linear", "'linear'"]),
            (([],), {}, ValueError, ["heaviside", "at least one", "[]"]),
            ((), {"threshold": 1.5}, ValueError, ["threshold", "(0, 1)", "1.5"]),
            ((), {"threshold": "0.5"}, TypeError, ["threshold", "number", "'0.5'"]),
            ((), {"threshold": ()}, ValueError, ["threshold", "at least one", "()"]),
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), [*OF_MODULES, *REST])
def test_bad_argument_elsewhere(call, error, words):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    pytest.importorskip("sklearn", reason="the reliability diagram needs scikit-learn")
    expect_error(error, words, call)


def test_every_public_name_is_in_a_table():
    called = [call.func for call, _, _ in (*OTHERS, *REST)]
    tested = {getattr(f, "__name__", type(f).__name__) for f in called}
    tested |= {*CALLS, *OF_METRICS, "metrics", "plot"}
    # Losses and their modules have tests of their own; the others take no arguments to be wrong.
    others = {"ConfusionMatrix", "TunedThreshold", "SoftcmWarning"}
    names = {name for name in softcm.__all__ if not name.lower().endswith("loss")} - others
    for module in (softcm.plot, softcm.metrics):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                names.add(name)
    # By what they serve: cost, fbeta and tversky; the area and the operating points.
    makers = {"cost_metric", "fbeta_metric", "tversky_metric"}
    makers |= {"check_max_fpr", "check_minimum", "needs_both_labels"}
    assert names - makers - tested == set()


OTHERS = [
    *[
        (partial(softcm.Linear, delta), ValueError, ["delta", "(0, 0.5)", str(delta)])
        for delta in (0, 0.5, -0.1, 0.75, NAN, INF)
    ],
    *[
        (partial(softcm.Sigmoid, k), ValueError, ["k must", "finite", "> 0", str(k)])
        for k in (0, -10.0, NAN, INF)
    ],
    (partial(softcm.Linear, "0.1"), TypeError, ["delta", "number", "'0.1'"]),
    (partial(softcm.Sigmoid, None), TypeError, ["k must", "number", "None"]),
    (partial(softcm.Sigmoid, torch.ones(2)), TypeError, ["k must", "number"]),
    *[
        (partial(softcm.heaviside, *arguments), error, words)
        for arguments, error, words in [
            ((0.5,), TypeError, ["input", "Tensor", "0.5"]),
            ((Y,), TypeError, ["input", "float32", "int64"]),
            ((P * 3,), ValueError, ["input", "[0, 1]", "2.1", "from_logits=True"]),
            ((P, 1.0), ValueError, ["threshold", "(0, 1)", "1"]),
            ((P, floats(0.5, NAN, 0.5, 0.5)), ValueError, ["threshold", "(0, 1)"]),
            ((P, "0.5"), TypeError, ["threshold", "number", "'0.5'"]),
            ((P, Y), TypeError, ["threshold", "float32", "int64"]),
            ((P, meta(4)), ValueError, ["threshold", "meta", "cpu"]),
            ((P, torch.full((3,), 0.5)), ValueError, ["threshold", "(4,)", "(3,)"]),
            ((P, 0.5, "sigmoid"), TypeError, ["heaviside", "softcm.Sigmoid", "'sigmoid'"]),
        ]
    ],
]


@pytest.mark.parametrize(("call", "error", "words"), OTHERS)
def test_bad_approximation(call, error, words):
    expect_error(error, words, call)


@pytest.mark.parametrize("name", CALLS)
def test_backend_that_cannot_serve(name):
    words = ["native", "meta", "auto"]
    expect_error(RuntimeError, words, CALLS[name], input=meta(4), target=meta(4), backend="native")


@pytest.mark.parametrize("name", CALLS)
def test_process_group_without_torch_distributed(name, monkeypatch):
    def expect(*words):
        group = torch.distributed.ProcessGroup(0, 1)
        words = ["process_group", *words]
        expect_error(RuntimeError, words, CALLS[name], input=P, target=Y, process_group=group)

    expect("not initialized", "init_process_group")
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    expect("this build of PyTorch")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("position", [0, 15, 511, 512, 33_000, -1])
@pytest.mark.parametrize("argument", ["input", "target", "weight"])
def test_bad_value_anywhere_in_a_large_batch(argument, position, backend):
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.rand(40_000, generator=generator) for name in ("input", "target")}
    if argument == "weight":
        tensors["weight"] = torch.rand(40_000, generator=generator)
    softcm.f1_loss(**tensors, backend=backend)
    tensors[argument][position] = -0.125
    expect_error(ValueError, [argument, "-0.125"], softcm.f1_loss, **tensors, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weight", [-1.0, NAN])
def test_weight_of_an_ignored_sample_counts_nowhere(weight, backend):
    # "Such targets count nowhere", on every backend: neither does what is wrong about them.
    options = {"ignore_index": -1, "backend": backend}
    target, weights = torch.tensor([0, 1, 0, -1]), floats(1.0, 1.0, 2.0, weight)
    loss = softcm.f1_loss(P, target, weight=weights, **options)
    torch.testing.assert_close(
        loss, softcm.f1_loss(P[:3], target[:3], weight=weights[:3], **options)
    )
