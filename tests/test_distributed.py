"""process_group: the loss of the batches of several processes as one, with gloo and real processes.

The yardstick is a single process with the concatenated batch.
"""

import copy
import itertools
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from cases import AVERAGES, LOSSES
from processes import Processes
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import softcm

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch.distributed, gloo"
)
BACKENDS = softcm.available_backends()
each_backend = pytest.mark.parametrize("backend", BACKENDS)
FEATURES, CLASSES = 4, 3


@pytest.fixture(scope="module", params=[2, 3])
def processes(request, tmp_path_factory):
    processes = Processes(request.param, tmp_path_factory.mktemp("processes"))
    yield processes
    processes.stop()


def miss_rate(cm):
    return cm.fn / (cm.tp + cm.fn + 1)


def function_named(name):
    # The callable of the shared list is a lambda, which does not travel; this one would.
    return (softcm.confusion_loss, {"metric": miss_rate}) if name == "callable" else LOSSES[name]


def batch(sizes, seed=0):
    """A batch, and its parts of these sizes: features, labels, class indices, weights."""
    generator = torch.Generator().manual_seed(seed)
    size = sum(sizes)
    whole = (
        torch.randn(size, FEATURES, generator=generator, dtype=torch.float64),
        (torch.rand(size, CLASSES, generator=generator) < 0.4).float(),
        torch.randint(0, CLASSES, (size,), generator=generator),
        0.1 + torch.rand(size, 1, generator=generator),
    )
    return whole, list(zip(*(x.split(sizes) for x in whole), strict=True))


def uneven(world):
    return (37, 12, 21)[:world]


OPTIONS = {
    "labels": {},
    "weights": {"weighted": True, "ce_weight": 0.3, "pos_weight": 2.0},
    "indices": {"indices": True, "ce_weight": 0.3},
    "ignored": {"indices": True, "ignore_index": 2, "average": "micro"},
    "gated": {"membership": "gated", "average": "weighted"},
    "none": {"average": "none", "ce_weight": 0.3},
    "thresholds": {"threshold": (0.3, 0.6), "heaviside": softcm.Sigmoid(5.0)},
    "classes": {"average": "present", "class_weight": torch.linspace(0, 2, CLASSES)},
    "samples": {"per_sample": True, "ce_weight": 0.3},
    "samples of indices": {"per_sample": True, "indices": True, "ce_weight": 0.3},
    "samples, none": {"per_sample": True, "average": "none", "weighted": True},
}


def losses_and_gradients(part, calls, in_group):
    """Of every call: the loss of a linear model, the gradients in its weights and the threshold."""
    features, labels, indices, weights = part
    results = []
    for name, options, backend in calls:
        function, arguments = function_named(name)
        options = {**arguments, **options, "from_logits": True, "backend": backend}
        target = indices if options.pop("indices", False) else labels
        if options.pop("weighted", False):
            options["weight"] = weights
        if in_group:
            options["process_group"] = dist.group.WORLD
        linear = torch.linspace(-1, 1, FEATURES * CLASSES, dtype=torch.float64)
        linear = linear.reshape(FEATURES, CLASSES).requires_grad_()
        loss = function(features @ linear, target, **options)
        tau = options.get("threshold", 0.45)
        tau = torch.tensor(tau, dtype=torch.float64).requires_grad_()
        learned = function(features @ linear, target, **{**options, "threshold": tau})
        total = loss.sum() + learned.sum()
        gradients = torch.autograd.grad(total, (linear, tau))
        results.append([loss.detach(), learned.detach(), *gradients])
    return results


def assert_whole(actual, expected):
    """Losses of each process, and the mean of gradients, against those of one process."""
    for of_processes, (loss, learned, *gradients) in zip(
        zip(*actual, strict=True), expected, strict=True
    ):
        for ours, ours_learned, *_ in of_processes:
            torch.testing.assert_close(ours, loss, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(ours_learned, learned, rtol=1e-12, atol=1e-12)
        for i, gradient in enumerate(gradients):
            mean = torch.stack([result[2 + i] for result in of_processes]).mean(0)
            torch.testing.assert_close(mean, gradient, rtol=1e-10, atol=1e-13)
            assert gradient.isfinite().all()


@each_backend
def test_loss_and_gradient_of_the_concatenated_batch(processes, backend):
    whole, parts = batch(uneven(processes.world))
    calls = [(name, {}, backend) for name in LOSSES]
    calls += [(name, o, backend) for name, o in itertools.product(("f1", "mcc"), OPTIONS.values())]
    calls.append(("mcc", {"average": "multiclass", "indices": True, "ce_weight": 0.3}, backend))
    expected = losses_and_gradients(whole, calls, in_group=False)
    actual = processes.run(losses_and_gradients, calls, True, of_rank=parts)
    assert_whole(actual, expected)
    assert all(gradients[0].any() for _, _, *gradients in expected)


IGNORED = -100
DEGENERATE = [
    (name, {"ignore_index": IGNORED, "ce_weight": 0.3, "indices": indices})
    for name in ("f1", "mcc", "auprc", "callable")
    for indices in (True, False)
]


@each_backend
@pytest.mark.parametrize("average", AVERAGES)
def test_parts_that_lack_something(processes, average, backend):
    """One without a class, an empty one, and one in which no sample counts: the batch may have it.

    Two processes have the last two: a batch in which nothing counts.
    """
    whole, parts = batch((30, 0, 25)[-processes.world :])
    _, labels, indices, _ = whole  # of which the parts are views
    indices[indices == 2] = 0
    labels[:, 2] = 0
    labels[-25:] = indices[-25:] = IGNORED
    calls = [(name, options | {"average": average}, backend) for name, options in DEGENERATE]
    expected = losses_and_gradients(whole, calls, in_group=False)
    assert_whole(processes.run(losses_and_gradients, calls, True, of_rank=parts), expected)


@each_backend
def test_empty_parts_alone(processes, backend):
    """As a batch in which no sample counts."""
    _, parts = batch((0,) * processes.world)
    for average, loss in (("macro", torch.tensor(0.0)), ("none", torch.ones(CLASSES))):
        calls = [(name, options | {"average": average}, backend) for name, options in DEGENERATE]
        for results in processes.run(losses_and_gradients, calls, True, of_rank=parts):
            for fixed, learned, *gradients in results:
                assert torch.equal(fixed, loss.double())
                assert torch.equal(learned, fixed)
                assert not any(gradient.any() for gradient in gradients)


def confusion_matrices(part, backend, in_group):
    features, labels, _, _ = part
    process_group = dist.group.WORLD if in_group else None
    p = features[:, :CLASSES].sigmoid()
    options = {"threshold": (0.3, 0.6), "backend": backend, "process_group": process_group}
    hard = softcm.confusion_matrix(p, labels, **options)
    return [*hard, *softcm.soft_confusion_matrix(p, labels, **options)]


@each_backend
def test_confusion_matrices(processes, backend):
    whole, parts = batch(uneven(processes.world))
    expected = confusion_matrices(whole, backend, in_group=False)
    for actual in processes.run(confusion_matrices, backend, True, of_rank=parts):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


# Training, end to end.


def model_and_loss(process_group):
    torch.manual_seed(0)
    layers = torch.nn.Linear(FEATURES, 8), torch.nn.Tanh(), torch.nn.Linear(8, CLASSES)
    threshold = torch.nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
    loss = softcm.F1Loss(
        threshold=threshold, from_logits=True, ce_weight=0.3, process_group=process_group
    )
    return torch.nn.Sequential(*layers).double(), loss


class WithLoss(torch.nn.Module):
    """A model whose output is its loss, so that the threshold is one of its parameters."""

    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, features, labels):
        return self.loss(self.model(features), labels)


def train(model, part, steps=4):
    features, labels, *_ = part
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(features, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [getattr(p, "full_tensor", p.detach)().detach() for p in model.parameters()]


def train_with_ddp(part):
    return train(DistributedDataParallel(WithLoss(*model_and_loss(dist.group.WORLD))), part)


def train_with_fsdp(part):
    model, loss = model_and_loss(dist.group.WORLD)
    loss.threshold.requires_grad_(False)  # FSDP shards no scalars
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)

    def step(features, labels):
        return loss(model(features), labels)

    step.parameters = model.parameters
    return train(step, part)


@pytest.mark.parametrize("wrapper", [train_with_ddp, train_with_fsdp])
def test_training_equals_that_of_one_process(processes, wrapper):
    whole, parts = batch(uneven(processes.world))
    model, loss = model_and_loss(None)
    if wrapper is train_with_fsdp:
        loss.threshold.requires_grad_(False)
    alone = WithLoss(model, loss)
    expected = train(alone, whole)
    assert expected[0][-1] < expected[0][0]
    for losses, parameters in processes.run(wrapper, of_rank=parts):
        assert losses == pytest.approx(expected[0], rel=1e-9)
        trained = expected[1]
        if wrapper is train_with_fsdp:
            trained = [p for name, p in alone.named_parameters() if "threshold" not in name]
        for a, b in zip(parameters, trained, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def train_with_accumulation(part_and_number):
    """Every process with a number of micro-batches of its own."""
    part, number = part_and_number
    model, loss = model_and_loss(dist.group.WORLD)
    model = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    micro_batches = list(zip(*(x.tensor_split(number) for x in part[:2]), strict=True))
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        accumulation = softcm.GradientAccumulation(loss)
        with torch.no_grad():
            for x, y in micro_batches:
                accumulation.count(model(x), y)
        for i, (x, y) in enumerate(micro_batches):
            with model.no_sync() if i < number - 1 else nullcontext():
                value = accumulation.loss(model(x), y)
                value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses, [p.detach() for p in model.parameters()]


def test_accumulation_in_several_processes(processes):
    whole, parts = batch(uneven(processes.world))
    numbers = [(3, 1, 2)[rank] for rank in range(processes.world)]
    model, loss = model_and_loss(None)
    loss.threshold.requires_grad_(False)
    losses, _ = train(WithLoss(model, loss), whole)
    of_rank = list(zip(parts, numbers, strict=True))
    for actual, parameters in processes.run(train_with_accumulation, of_rank=of_rank):
        assert actual == pytest.approx(losses, rel=1e-9)
        torch.testing.assert_close(parameters, [*model.parameters()], rtol=1e-8, atol=1e-10)


def compiled_loss_and_gradient(part):
    features, labels, *_ = part
    results = []
    for name, dynamic in (("f1", False), ("mcc", True)):

        def step(p, y, function=LOSSES[name][0]):
            return function(p, y, process_group=dist.group.WORLD)

        torch._dynamo.reset()
        fast = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for f in (fast, step):
            p = features[:, :CLASSES].sigmoid().requires_grad_()
            loss = f(p, labels)
            results.append((loss.detach(), *torch.autograd.grad(loss, p)))
    return results


def test_compiled_equals_eager(processes):
    _, parts = batch(uneven(processes.world))
    for results in processes.run(compiled_loss_and_gradient, of_rank=parts):
        for fast, eager in zip(results[::2], results[1::2], strict=True):
            torch.testing.assert_close(fast, eager)
            assert eager[1].any()


# What it costs, and what it refuses.


class Collectives(TorchDispatchMode):
    """The collectives that were called, each with its number of bytes."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "c10d":
            self.calls.append((function.name(), sum(x.nbytes for x in args[0])))
        return function(*args, **(kwargs or {}))


def collectives_of_a_step(part, name, thresholds):
    features, labels, *_ = part
    p = features[:, :CLASSES].sigmoid().requires_grad_()
    with Collectives() as collectives:
        function, _ = LOSSES[name]
        options = {"threshold": thresholds, "process_group": dist.group.WORLD}
        function(p, labels, ce_weight=0.3, **options).backward()
    return collectives.calls


@pytest.mark.parametrize("thresholds", [0.5, (0.2, 0.4, 0.6)])
@pytest.mark.parametrize("name", ["f1", "mcc"])
def test_one_collective_of_a_few_floats(processes, name, thresholds):
    _, parts = batch(uneven(processes.world))
    numbers = CLASSES * (4 * (1 if thresholds == 0.5 else len(thresholds)) + 4)
    for calls in processes.run(collectives_of_a_step, name, thresholds, of_rank=parts):
        assert calls == [("c10d::allreduce_", 8 * numbers)]


def in_groups_of_their_own(part):
    """The ranks but the last in one group; the last in another."""
    features, labels, *_ = part
    last = dist.get_world_size() - 1
    members = list(range(last)), [last]
    groups = [dist.new_group(ranks) for ranks in members]
    mine = dist.get_rank() == last
    p = features[:, :CLASSES].sigmoid()
    loss = softcm.f1_loss(p, labels, process_group=groups[mine])
    with pytest.raises(ValueError, match="process_group must be a group to which this process"):
        softcm.f1_loss(p, labels, process_group=groups[not mine])
    return loss


def test_groups(processes):
    (features, labels, *_), parts = batch(uneven(processes.world))
    p, size = features[:, :CLASSES].sigmoid(), len(parts[-1][0])
    *first, last = processes.run(in_groups_of_their_own, of_rank=parts)
    for loss in first:
        torch.testing.assert_close(loss, softcm.f1_loss(p[:-size], labels[:-size]))
    torch.testing.assert_close(last, softcm.f1_loss(p[-size:], labels[-size:]))


def refusals(part):
    features, labels, *_ = part
    p = features[:, :CLASSES].sigmoid().requires_grad_()
    loss = softcm.f1_loss(p, labels, process_group=dist.group.WORLD)
    (gradient,) = torch.autograd.grad(loss, p, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    with pytest.raises(ValueError, match="input must have at least one dimension"):
        softcm.f1_loss(p[:, :0], labels[:, :0], process_group=dist.group.WORLD)
    with pytest.raises(ValueError, match="input must have at least one dimension"):
        softcm.f1_loss(p[:0], labels[:0])


def test_refusals(processes):
    _, parts = batch(uneven(processes.world))
    processes.run(refusals, of_rank=parts)


def copied_module(part):
    features, labels, *_ = part
    module = softcm.F1Loss(process_group=dist.group.WORLD, pos_weight=torch.tensor(2.0))
    twin = copy.deepcopy(module)
    assert twin.options["process_group"] is dist.group.WORLD
    assert twin.pos_weight is not module.pos_weight
    p = features[:, :CLASSES].sigmoid()
    assert torch.equal(twin(p, labels), module(p, labels))


def test_deepcopy_of_a_module_shares_the_group(processes):
    _, parts = batch(uneven(processes.world))
    processes.run(copied_module, of_rank=parts)
