"""Modules: each is its functional form with the options kept, and a well-behaved nn.Module."""

import copy
import inspect
import pickle
import pydoc

import pytest
import torch

import softcm

TWINS = {
    "f1_loss": softcm.F1Loss,
    "fbeta_loss": softcm.FBetaLoss,
    "accuracy_loss": softcm.AccuracyLoss,
    "balanced_accuracy_loss": softcm.BalancedAccuracyLoss,
    "precision_loss": softcm.PrecisionLoss,
    "recall_loss": softcm.RecallLoss,
    "specificity_loss": softcm.SpecificityLoss,
    "jaccard_loss": softcm.JaccardLoss,
    "tversky_loss": softcm.TverskyLoss,
    "mcc_loss": softcm.MCCLoss,
    "gmean_loss": softcm.GMeanLoss,
    "informedness_loss": softcm.InformednessLoss,
    "kappa_loss": softcm.KappaLoss,
    "cost_loss": softcm.CostLoss,
    "dice_loss": softcm.DiceLoss,
    "focal_tversky_loss": softcm.FocalTverskyLoss,
    "auroc_loss": softcm.AUROCLoss,
    "auprc_loss": softcm.AUPRCLoss,
    "confusion_loss": softcm.ConfusionLoss,
}

# Of tests/test_operating_point_losses.py.
CHOOSING = {
    "recall_at_fixed_precision_loss": softcm.RecallAtFixedPrecisionLoss,
    "precision_at_fixed_recall_loss": softcm.PrecisionAtFixedRecallLoss,
    "sensitivity_at_specificity_loss": softcm.SensitivityAtSpecificityLoss,
    "specificity_at_sensitivity_loss": softcm.SpecificityAtSensitivityLoss,
}


def miss_rate(cm):
    return cm.fn / (cm.tp + cm.fn + 1)


# What a loss takes beside the shared options: a good call, and another that changes the loss.
OWN = {
    "fbeta_loss": ({}, {"beta": 0.5}),
    "tversky_loss": ({}, {"alpha": 0.2, "beta": 0.9}),
    "cost_loss": ({"costs": {"fn": 5.0, "fp": 1.0}}, {"costs": (0.0, 1.0, 7.0, 0.5)}),
    "dice_loss": ({}, {"smooth": 2.0}),
    "focal_tversky_loss": ({}, {"alpha": 0.2, "beta": 0.9, "gamma": 2.0}),
    "auroc_loss": ({}, {"max_fpr": 0.3}),
    "confusion_loss": (
        {"metric": miss_rate, "maximize": False},
        {"metric": softcm.LinearFractional((1, 0, 0, 0), (1, 1, 1, 0))},
    ),
}
# One value of every shared option that is not its default.
OPTIONS = {
    "threshold": [0.3, 0.6],
    "heaviside": softcm.Sigmoid(k=5.0),
    "membership": "gated",
    "pos_weight": torch.tensor([1.0, 0.5, 3.0]),
    "class_weight": torch.tensor([1.0, 2.0, 0.0]),
    "ignore_index": 0,
    "average": "present",
    "per_sample": True,
    "zero_division": 0.75,
    "ce_weight": 0.3,
    "from_logits": True,
    "backend": "reference",
}
# What the functional forms are to take, and by default.
DEFAULTS = {
    "threshold": 0.5,
    "heaviside": softcm.Linear(delta=0.1),
    "membership": "soft",
    "weight": None,
    "pos_weight": None,
    "class_weight": None,
    "ignore_index": None,
    "average": "macro",
    "per_sample": False,
    "zero_division": 0.0,
    "ce_weight": 0.0,
    "from_logits": False,
    "backend": "auto",
    "process_group": None,
}

# Where they differ.
DICE = {"membership": "gated", "heaviside": softcm.Linear(delta=0.25)}
TENTHS = tuple(i / 10 for i in range(1, 10))
OWN_DEFAULTS = {
    "cost_loss": {"membership": "gated"},
    "dice_loss": DICE,
    "focal_tversky_loss": DICE,
    "auroc_loss": {"threshold": TENTHS},
    "auprc_loss": {"threshold": TENTHS},
}

each_twin = pytest.mark.parametrize("name", TWINS)


def own(name):
    return OWN.get(name, ({}, {}))[0]


def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 3, generator=generator)
    # The third class has no positives.
    y = (torch.rand(20, 3, generator=generator) < torch.tensor([0.5, 0.3, 0.0])).long()
    return x, y


def result(loss, *arguments, **options):
    """The loss, and its gradient in the input."""
    x, *rest = arguments
    x = x.clone().requires_grad_()
    value = loss(x, *rest, **options)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def same(got, expected):
    return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_every_loss_has_a_twin():
    twins = {**TWINS, **CHOOSING}
    assert {name for name in dir(softcm) if name.endswith("_loss")} == set(twins)
    modules = {name for name in dir(softcm) if name.endswith("Loss")}
    assert modules == {module.__name__ for module in twins.values()}
    for name, module in twins.items():
        # CamelCase, but for the acronyms, which stay capitals
        assert module.__name__.lower() == name.replace("_", "")
        assert issubclass(module, torch.nn.Module)


@pytest.mark.parametrize("option", [None, "weight", *OPTIONS])
@each_twin
def test_module_is_the_functional_form(name, option):
    x, y = batch()
    function, options = getattr(softcm, name), own(name)
    if option == "weight":
        weight = torch.rand(20, 1)
        got = result(TWINS[name](**options), x, y, weight)
        assert same(got, result(function, x, y, weight=weight, **options))
        assert same(got, result(TWINS[name](**options), x, y, weight=weight))
    else:
        chosen = {} if option is None else {option: OPTIONS[option]}
        got = result(TWINS[name](**options, **chosen), x, y)
        assert same(got, result(function, x, y, **options, **chosen))


@pytest.mark.parametrize("option", sorted(OPTIONS.keys() - {"backend"}))
def test_option_of_a_module_has_an_effect(option):
    # Otherwise the test above would not notice an option that both forms forget.
    x, y = batch()
    if option == "zero_division":  # without positives, and without o, there is nothing to find
        x, y = x * 0, y * 0
    chosen = {"membership": "gated"} if option == "zero_division" else {}
    default, changed = softcm.F1Loss(**chosen), softcm.F1Loss(**chosen, **{option: OPTIONS[option]})
    assert not torch.equal(default(x, y), changed(x, y))


@pytest.mark.parametrize("name", OWN)
def test_own_options_of_a_module(name):
    x, y = batch()
    default, changed = ({**OWN[name][0]}, OWN[name][1])
    got = result(TWINS[name](**changed), x, y)
    assert same(got, result(getattr(softcm, name), x, y, **changed))
    assert not torch.equal(got[0], TWINS[name](**default)(x, y))


@each_twin
def test_all_options_together(name):
    x, y = batch()
    options = {**OWN.get(name, ({}, {}))[1], **OPTIONS, "ignore_index": -100}
    y[0, 0] = -100
    weight = torch.rand(20, 3)
    got = result(TWINS[name](**options), x, y, weight)
    assert same(got, result(getattr(softcm, name), x, y, weight=weight, **options))


@each_twin
def test_repr_names_the_options(name):
    module = TWINS[name](
        threshold=0.25, heaviside=softcm.Sigmoid(k=7.5), average="micro", **own(name)
    )
    text = repr(module)
    assert text.startswith(f"{TWINS[name].__name__}(")
    for part in ("threshold=0.25", "heaviside=Sigmoid(k=7.5)", "average='micro'", *own(name)):
        assert part in text
    for value in own(name).values():
        assert repr(value) in text


def test_repr_of_tensors():
    text = repr(softcm.F1Loss(threshold=torch.tensor([0.25]), pos_weight=torch.tensor([2.0])))
    assert "0.25" in text
    assert "pos_weight=tensor([2.])" in text


@each_twin
def test_threshold_can_be_a_parameter(name):
    x, y = batch()
    module = TWINS[name](threshold=torch.nn.Parameter(torch.tensor([0.3, 0.6])), **own(name))
    assert [key for key, _ in module.named_parameters()] == ["threshold"]
    module(x, y).backward()
    threshold = torch.tensor([0.3, 0.6], requires_grad=True)
    getattr(softcm, name)(x, y, threshold=threshold, **own(name)).backward()
    assert torch.equal(module.threshold.grad, threshold.grad)
    assert module.threshold.grad.count_nonzero() == 2


def test_threshold_parameter_is_saved_and_trained():
    x, y = batch()
    model = torch.nn.ModuleDict(
        {"loss": softcm.F1Loss(threshold=torch.nn.Parameter(torch.tensor(0.4)))}
    )
    assert list(model.state_dict()) == ["loss.threshold"]
    before = model["loss"](x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before.backward()
    optimizer.step()
    after = model["loss"](x, y)
    assert after < before
    fresh = softcm.F1Loss(threshold=torch.nn.Parameter(torch.tensor(0.5)))
    fresh.load_state_dict(model["loss"].state_dict())
    assert torch.equal(fresh(x, y), after)


def test_tensors_among_the_options_follow_the_module():
    options = {"threshold": torch.tensor([0.25, 0.5]), "pos_weight": torch.tensor([1.0, 2.0, 3.0])}
    module = softcm.F1Loss(**options)
    assert set(dict(module.named_buffers())) == set(options)
    assert not list(module.parameters())
    # Options are not state: a checkpoint of the model fits whatever they are.
    assert not module.state_dict()
    moved = module.to("meta")
    assert {buffer.device.type for buffer in moved.buffers()} == {"meta"}
    parameter = softcm.F1Loss(threshold=torch.nn.Parameter(torch.tensor([0.5]))).double()
    assert parameter.threshold.dtype == torch.float64
    assert not dict(softcm.F1Loss(threshold=0.5, pos_weight=2.0).named_buffers())


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
}


@pytest.mark.parametrize("how", COPIES)
@each_twin
def test_copies(name, how):
    x, y = batch()
    module = TWINS[name](
        threshold=torch.nn.Parameter(torch.tensor([0.3, 0.6])),
        **{k: v for k, v in OPTIONS.items() if k != "threshold"},
        **OWN.get(name, ({}, {}))[1],
    )
    module(x, y).sum().backward()  # what a call leaves behind must not be in the way
    twin = COPIES[how](module)
    assert repr(twin) == repr(module)
    expected = module(x, y)
    assert torch.equal(twin(x, y), expected)
    with torch.no_grad():  # nothing is shared
        twin.threshold.fill_(0.9)
        twin.pos_weight.fill_(0.1)
    assert torch.equal(module(x, y), expected)
    assert not torch.equal(twin(x, y), expected)


@each_twin
def test_signature_and_help_show_every_option(name):
    function = getattr(softcm, name)
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:2] == ["input", "target"]
    shared = {key: p.default for key, p in parameters.items() if key in DEFAULTS}
    assert shared == DEFAULTS | OWN_DEFAULTS.get(name, {})
    of_module = inspect.signature(TWINS[name]).parameters
    own = [key for key in parameters if key not in ("input", "target", "weight")]
    assert {key: p.default for key, p in of_module.items()} == {
        key: parameters[key].default for key in own
    }
    names = {"input", "target", *DEFAULTS, *OWN.get(name, ({}, {}))[0], *OWN.get(name, ({}, {}))[1]}
    assert set(parameters) == names
    for key, parameter in parameters.items():
        if key in DEFAULTS:
            assert parameter.kind is parameter.KEYWORD_ONLY
    text = pydoc.render_doc(function)
    assert [key for key in names if key not in text] == []
    assert "f1_loss" in text  # where the shared options are explained
    explained = pydoc.render_doc(softcm.f1_loss)
    assert [key for key in DEFAULTS if f"{key}:" not in explained] == []


@each_twin
def test_module_rejects_unknown_options_when_made(name):
    with pytest.raises(TypeError, match="gama"):
        TWINS[name](**own(name), gama=2.0)
    with pytest.raises(TypeError, match="weight"):  # a weight belongs to a batch
        TWINS[name](**own(name), weight=torch.ones(3))
    assert "weight" in inspect.signature(TWINS[name].forward).parameters
