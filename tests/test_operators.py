"""The operators as PyTorch sees them (schemas, fake kernels, torch.compile), and their bits."""

import hashlib
import io
import itertools
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import AVERAGES, CASES, LOSSES, Case
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode

import softcm
from softcm import Linear, Sigmoid, Table

BACKENDS = softcm.available_backends("cpu")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
needs_extension = pytest.mark.skipif(
    "native" not in BACKENDS, reason="needs the compiled extension"
)
ROOT = Path(__file__).resolve().parent.parent


# Schemas and fake kernels.

OPERATORS = (
    "soft_counts",
    "soft_counts_backward",
    "fractional_loss",
    "composite_loss",
    "one_vs_rest_logits",
    "one_vs_rest_logits_backward",
)
ARGUMENT_CASES = {
    "one class": Case("a", (20,), target="float"),
    "column": Case("b", (20, 1), target="bool", heaviside=Sigmoid()),
    "classes": Case("c", (20, 3), target="uint8", threshold=(0.3, 0.6), weight="sample"),
    "indices": Case("d", (6, 4, 3), values="logits", target="index", pos_weight="classes"),
    "strides": Case("e", (3, 2, 4, 5), layout="channels last", target_layout="transposed"),
    "table": Case("g", (20,), target="float", threshold=(0.3, 0.6), heaviside=Table()),
    "samples": Case("h", (4, 3, 5), target="bool", per_sample=True, threshold=0.4),
    "thresholds of classes": Case(
        "i", (20, 3), threshold=(0.3, 0.4, 0.6, 0.7, 0.2, 0.5), of_classes=True, class_weight=True
    ),
    "missing": Case("j", (20, 2), target="float", ignore_index=math.nan),
    "not dense": Case("f", (9, 4), layout="step", membership="gated", ignore_index=0),
}
each_call = pytest.mark.parametrize(
    ("operator", "case"),
    [
        (operator, case)
        for operator, case in itertools.product(OPERATORS, ARGUMENT_CASES)
        if ARGUMENT_CASES[case].classes > 1 or not operator.startswith("one_vs_rest")
    ],
)
each_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)


# With numbers in tensors, for compiled code in which they change.
OVERLOADS = OPERATORS[:4]


def in_tensors(values):
    return [torch.tensor(x, dtype=torch.float64) if isinstance(x, float) else x for x in values]


def arguments(operator, case, dtype, last):
    """What the library hands to an operator for a case; ``last`` is the operator's last flag."""
    example = case.build(dtype=dtype)
    if operator.startswith("one_vs_rest"):
        z = example.input.to(torch.promote_types(dtype, torch.float32))
        return (z,) if operator == "one_vs_rest_logits" else (z.flip(0), z, z.neg())
    pos_weight = example.options["pos_weight"]
    ignored = example.options["ignore_index"]
    ignore_nan = ignored is not None and math.isnan(ignored)
    per_sample = case.per_sample and operator.startswith("soft_counts")
    rule = (
        None if ignore_nan else ignored,
        ignore_nan,
        case.heaviside.kind,
        case.heaviside.parameter,
        case.membership,
        per_sample,
        case.from_logits,
    )
    weight = example.options["weight"]
    weight = None if weight is None else weight.expand(example.target.shape)
    tau = torch.tensor(case.thresholds, dtype=torch.float64)
    table = None
    if isinstance(case.heaviside, Table):
        tau, table = case.heaviside.look_up(tau)
        last = last and operator != "soft_counts_backward"  # no gradient in its thresholds
    tau = tau.reshape(case.classes, -1) if case.of_classes else tau
    batch = (example.input, example.target, tau, weight, pos_weight, table)
    groups = case.classes * (case.shape[0] if per_sample else 1)
    sizes = (groups, tau.shape[-1], 4)
    if operator == "soft_counts":
        return (*batch, *rule, last)
    if operator == "soft_counts_backward":
        of_counts = torch.linspace(-1, 1, math.prod(sizes), dtype=torch.float64).reshape(sizes)
        of_entropy = torch.ones(groups, dtype=torch.float64)
        return (*batch, *rule, of_counts, of_entropy, torch.tensor(3.7), last)
    f1 = torch.tensor([2.0, 0, 0, 0, 0, 2, 1, 1, 0, 0], dtype=torch.float64)
    metric = "auprc" if operator == "composite_loss" else f1
    average = "none" if case.threshold == 0.5 and not case.class_indices else "macro"
    class_weight = None
    if case.class_weight:
        class_weight = torch.linspace(0, 2, case.classes, dtype=torch.float64)
    return (*batch, *rule, class_weight, True, average, 0.0, 0.3, metric, last)


def as_tuple(outputs):
    return outputs if isinstance(outputs, (tuple, list)) else (outputs,)


@needs_extension
def test_every_operator_is_tested():
    names = torch._C._dispatch_get_all_op_names()
    assert {name for name in names if name.startswith("softcm::")} == {
        *(f"softcm::{name}" for name in OPERATORS),
        *(f"softcm::{name}.of_tensors" for name in OVERLOADS),
    }


@needs_extension
@each_call
def test_opcheck(operator, case):
    op = getattr(torch.ops.softcm, operator).default
    for last in (True, False):
        given = arguments(operator, ARGUMENT_CASES[case], torch.float32, last)
        torch.library.opcheck(op, given)
        if operator in OVERLOADS:
            of_tensors = getattr(torch.ops.softcm, operator).of_tensors
            torch.library.opcheck(of_tensors, tuple(in_tensors(given)))
            for a, b in zip(op(*given), of_tensors(*in_tensors(given)), strict=True):
                assert torch.equal(a, b)


@needs_extension
def test_gradients_that_do_not_fit():
    operator = torch.ops.softcm.soft_counts_backward.default
    *rest, counts, entropy, scale, _ = arguments(
        "soft_counts_backward", ARGUMENT_CASES["table"], torch.float32, False
    )
    with pytest.raises(RuntimeError, match=r"must have the shapes \(C, T, 4\) and \(C,\)"):
        operator(*rest, counts[:, :1], entropy, scale, False)
    with pytest.raises(RuntimeError, match=r"grad_loss must have shape \(\) or \(C,\)"):
        operator(*rest, counts, entropy, torch.ones(3), False)
    with pytest.raises(RuntimeError, match="a table has no gradient in its thresholds"):
        operator(*rest, counts, entropy, scale, True)


@needs_extension
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_sample": True}, "the losses in one operator are not per sample"),
        ({"average": "none", "class_weight": None}, "no softmax cross-entropy of a class"),
        ({"average": "micro"}, "class_weight belongs to the averages"),
        ({"class_weight": torch.ones(4)}, r"contiguous float64 of shape \(C,\)"),
        ({"threshold": torch.full((3, 2), 0.5)}, r"shape \(T,\) or \(C, T\)"),
        ({"average": "mean"}, "unknown average mean"),
        ({"heaviside": "tanh"}, "unknown heaviside tanh"),
    ],
)
def test_arguments_that_do_not_fit(change, message):
    operator = torch.ops.softcm.fractional_loss.default
    names = [argument.name for argument in operator._schema.arguments]
    case = Case("x", (6, 4, 3), values="logits", target="index", class_weight=True, threshold=0.4)
    given = dict(zip(names, arguments("fractional_loss", case, torch.float32, False), strict=True))
    operator(*given.values())
    with pytest.raises(RuntimeError, match=message):
        operator(*(given | change).values())


@needs_extension
@each_dtype
@each_call
def test_fake_kernels(operator, case, dtype):
    """Shape, dtype and strides without the data, as torch.compile will rely on."""
    op = getattr(torch.ops.softcm, operator).default
    for last in (True, False):
        real_arguments = arguments(operator, ARGUMENT_CASES[case], dtype, last)
        with FakeTensorMode() as mode:
            fake_arguments = [
                mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in real_arguments
            ]
            fakes = op(*fake_arguments)
        pairs = zip(as_tuple(fakes), as_tuple(op(*real_arguments)), strict=True)
        for fake, real in pairs:
            assert (fake.shape, fake.dtype) == (real.shape, real.dtype)
            assert (fake.stride(), fake.device) == (real.stride(), real.device)


@needs_extension
@each_call
def test_outputs_do_not_share_memory_with_inputs(operator, case):
    """An operator that returned its argument would break torch.compile without an error."""
    given = arguments(operator, ARGUMENT_CASES[case], torch.float32, True)
    memory = {a.untyped_storage().data_ptr() for a in given if isinstance(a, torch.Tensor)}
    for output in as_tuple(getattr(torch.ops.softcm, operator).default(*given)):
        assert output.untyped_storage().data_ptr() not in memory


# torch.compile.


class Step(torch.nn.Module):
    """A model with losses of every kind: fused, in two steps, over thresholds, a user's own."""

    def __init__(self, backend):
        super().__init__()
        torch.manual_seed(0)
        options = {"from_logits": True, "backend": backend}
        self.linear = torch.nn.Linear(5, 3)
        self.threshold = torch.nn.Parameter(torch.tensor([0.3, 0.6]))
        self.f1 = softcm.F1Loss(ce_weight=0.3, pos_weight=torch.ones(3), **options)
        self.learned = softcm.MCCLoss(threshold=self.threshold, **options)
        self.options = options

    def forward(self, features, labels, classes, weight):
        z = self.linear(features)
        options = self.options
        costs = {"fn": 5.0, "fp": 1.0}
        losses = (
            self.f1(z, labels, weight),
            self.learned(z, labels),
            softcm.f1_loss(z, classes, average="micro", **options),
            softcm.mcc_loss(z, labels, heaviside=Sigmoid(), **options),
            softcm.auroc_loss(z, labels, membership="gated", **options),
            softcm.cost_loss(z, labels, costs, threshold=(0.2, 0.7), **options),
            softcm.confusion_loss(z, labels, lambda cm: cm.tp / (cm.tp + cm.fn + 1), **options),
            softcm.fbeta_loss(z.sigmoid(), labels, backend=options["backend"]),
            softcm.accuracy_loss(z, classes, average="none", **options).sum(),
        )
        return torch.stack(losses)


def batch(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, 5, generator=generator)
    labels = (torch.rand(size, 3, generator=generator) < 0.4).float()
    classes = torch.randint(0, 3, (size,), generator=generator)
    return features, labels, classes, torch.rand(size, 1, generator=generator)


def run(step, module, inputs):
    """Losses and the gradients of all parameters."""
    module.zero_grad()
    losses = step(*inputs)
    losses.sum().backward()
    return [losses.detach(), *(p.grad.clone() for p in module.parameters())]


def compiled(module, dynamic, backend="aot_eager"):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    return torch.compile(module, fullgraph=True, dynamic=dynamic, backend=counter), counter


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("backend", "dynamic"),
    # The reference's graph is ten times as long: here for one kind of shapes, below for the other.
    [*((backend, False) for backend in BACKENDS), (BACKENDS[0], True)],
)
def test_compiled_equals_eager(dynamic, backend):
    module = Step(backend)
    step, counter = compiled(module, dynamic)
    assert_same(run(step, module, batch(64)), run(module, module, batch(64)))
    graphs = counter.frame_count
    # Other values, the same graph.
    with torch.no_grad():
        module.threshold += 0.05
    inputs = batch(64, seed=1)
    assert_same(run(step, module, inputs), run(module, module, inputs))
    assert counter.frame_count == graphs
    inputs = batch(96)
    assert_same(run(step, module, inputs), run(module, module, inputs))
    assert counter.frame_count == (graphs if dynamic else graphs + 1)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_compiled(name, dynamic):
    function, arguments = LOSSES[name]

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(5, 3)

        def forward(self, features, labels, classes, weight):
            options = {**arguments, "from_logits": True, "ce_weight": 0.3}
            return function(self.linear(features), labels, weight=weight, **options)

    torch.manual_seed(0)
    model = Model()
    step, counter = compiled(model, dynamic)
    graphs = []
    for inputs in (batch(64), batch(40 if dynamic else 64, seed=1)):
        assert_same(run(step, model, inputs), run(model, model, inputs))
        graphs.append(counter.frame_count)
    assert graphs[0] == graphs[1]


@each_backend
@pytest.mark.parametrize("index", [True, False], ids=["indices", "labels"])
def test_compiled_module_with_every_size_dynamic(index, backend):
    """Called directly, a module sees a number of classes that is a symbol too."""
    module = softcm.F1Loss(pos_weight=torch.tensor([1.0, 2.0, 3.0]), backend=backend, ce_weight=1)
    fast, _ = compiled(module, True)
    p = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = batch(20)[2 if index else 1]
    for weight in (None, torch.rand(20) if index else torch.rand(20, 1)):
        assert_same([fast(p, target, weight)], [module(p, target, weight)])


@needs_extension
@pytest.mark.slow
def test_compiled_by_inductor_equals_eager():
    def step(z, y):
        loss = softcm.f1_loss(z, y, from_logits=True, ce_weight=0.3, backend="native")
        return loss + softcm.mcc_loss(z.sigmoid(), y, backend="native")

    z = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    fast, _ = compiled(step, False, "inductor")
    assert_same(*(torch.autograd.grad(f(z, batch(40)[1]), z) for f in (fast, step)))


@each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_compiled_with_other_dtypes(dtype, backend):
    def step(z, y):
        loss = softcm.jaccard_loss(z, y, from_logits=True, average="none", backend=backend)
        return loss.sum() + softcm.gmean_loss(z.sigmoid(), y, backend=backend)

    z = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    y = batch(40)[1]
    fast, _ = compiled(step, False)
    (expected,) = torch.autograd.grad(step(z, y), z)
    (actual,) = torch.autograd.grad(fast(z, y), z)
    torch.testing.assert_close(actual, expected)


@needs_extension
def test_compiled_code_refuses_bad_values():
    fast, _ = compiled(lambda p, y: softcm.f1_loss(p, y, backend="native"), False)
    y = torch.ones(16)
    assert fast(torch.full((16,), 0.5), y).isfinite()
    with pytest.raises((RuntimeError, ValueError), match="input must lie in"):
        fast(torch.full((16,), 1.5), y)


@each_backend
@pytest.mark.parametrize("loss", [softcm.F1Loss, softcm.MCCLoss])
@pytest.mark.parametrize("strict", [False, True])
def test_export_of_a_module_with_a_loss(strict, loss, backend):
    """For every size of a batch, and after a way through a file."""
    torch.manual_seed(0)
    options = {"from_logits": True, "ce_weight": 0.3, "backend": backend}

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(5, 3)
            self.loss = loss(threshold=torch.tensor([0.3, 0.6]), **options)

        def forward(self, features, labels):
            return self.loss(self.linear(features), labels)

    model, size = Model(), torch.export.Dim("size", min=2)
    program = torch.export.export(
        model, batch(16)[:2], dynamic_shapes=({0: size}, {0: size}), strict=strict
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for n in (16, 40, 30_000):
        assert_same([loaded(*batch(n)[:2])], [model(*batch(n)[:2])])


# Promises about bits and bytes.


def bits(examples):
    """Digests of losses and gradients."""
    digests = []
    for input, target, options, loss_options in examples:
        input = input.detach().requires_grad_()
        tau = torch.tensor(options["threshold"], dtype=torch.float64)
        tau.requires_grad_(not isinstance(options["heaviside"], Table))
        options = options | loss_options | {"backend": "native"}
        fused = softcm.f1_loss(input, target, **options)
        composite = softcm.mcc_loss(input, target, **options)
        two_steps = softcm.mcc_loss(input, target, **options | {"threshold": tau})
        parts = [fused, composite, two_steps]
        parts += torch.autograd.grad(fused.sum() + composite.sum(), input)
        wanted = (input, tau) if tau.requires_grad else (input,)
        parts += torch.autograd.grad(two_steps.sum(), wanted)
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
        digests.append(digest.hexdigest())
    return digests


def examples_for_bits():
    """Problems that take every way through the code and are divided into several tasks."""
    large = Case("bits", (70_001,), target="float", threshold=(0.3, 0.5))
    many = tuple(i / 32 for i in range(1, 32))
    cases = [
        large,
        replace(large, values="logits", heaviside=Sigmoid(), weight="sample", ce_weight=0.3),
        replace(large, shape=(20_000, 17), target="index", values="logits", pos_weight="classes"),
        replace(large, shape=(9, 5, 9999), target="uint8", layout="channels last"),
        replace(large, heaviside=Sigmoid(), membership="gated", ce_weight=0.3),
        replace(large, shape=(50_000, 3), target="soft", average="weighted", heaviside=Linear(0.3)),
        replace(large, threshold=many),
        replace(large, values="logits", heaviside=Table(), average="none"),
        replace(large, values="logits", weight="sample", threshold=many),
        replace(large, shape=(20_000, 3), threshold=many[::4], heaviside=Sigmoid()),
    ]
    dtypes = torch.float32, torch.float64, torch.float16, torch.bfloat16
    return [case.build(dtype=dtype) for case in cases for dtype in dtypes]


@pytest.fixture
def threads():
    """Sets the number of threads, for the length of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_extension
def test_same_bits_for_every_number_of_threads(threads):
    threads(1)
    examples = examples_for_bits()
    expected = bits(examples)
    for number in (1, 2, 3):
        threads(number)
        actual = bits(examples)
        assert [i for i in range(len(expected)) if actual[i] != expected[i]] == []


def instruction_set_variants(library):
    """How many functions of a shared library are chosen when it is loaded."""
    command = ["readelf", "--wide", "--relocs", "--dyn-syms", str(library)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return text.count("IRELATIV") + text.count(" IFUNC ")


@pytest.mark.install
@pytest.mark.slow
@needs_extension
@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or not shutil.which("readelf"),
    reason="kernels have variants on Linux and x86-64 only, and readelf is needed to see them",
)
@pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="needs the C++ sources")
def test_same_bits_on_every_instruction_set(tmp_path, threads):
    """The variants that this processor takes, against kernels for the oldest x86-64 alone."""
    installed = Path(sys.modules["softcm._C"].__file__)
    if instruction_set_variants(installed) == 0:
        pytest.skip("the installed extension has no variants: an old glibc, or not GCC >= 12")
    for name in ("csrc", "softcm", "setup.py", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "README.md").touch()
    (tmp_path / "LICENSE").touch()
    # There are no variants where the thread sanitizer is on, which is what the macro says.
    flags = "-march=x86-64 -D__SANITIZE_THREAD__"
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    variables = os.environ | {"CXXFLAGS": flags, "SOFTCM_BUILD_EXT": "1", "SOFTCM_BUILD_CUDA": "0"}
    subprocess.run(build, cwd=tmp_path, env=variables, check=True, capture_output=True)
    assert instruction_set_variants(tmp_path / "softcm" / "_C.abi3.so") == 0
    code = (
        "import json, sys, torch, test_operators as t; torch.set_num_threads(1);"
        "library = sys.modules['softcm._C'].__file__;"
        "json.dump([library, t.bits(t.examples_for_bits())], sys.stdout)"
    )
    variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT / "tests")])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=variables, check=True, capture_output=True)
    library, result = json.loads(done.stdout)
    assert Path(library).is_relative_to(tmp_path)
    threads(1)
    assert result == bits(examples_for_bits())


@needs_extension
@pytest.mark.parametrize("case_id", ["size-513-plain", "size-1-staged", "99-thresholds-classes"])
def test_every_byte_of_the_results_is_written(case_id):
    """Memory that a call is handed holds NaN: what it does not write stays NaN."""
    (case,) = (case for case in CASES if case.id == case_id)
    example = case.build()
    tau = torch.tensor(case.thresholds, requires_grad=True)
    options = example.options | {"threshold": tau, "backend": "native"}

    def results():
        input = example.input.detach().requires_grad_()
        counts = softcm.soft_confusion_matrix(input, example.target, **options)
        losses = []
        for name, average in itertools.product(("f1", "mcc"), AVERAGES):
            given = options | {"average": average, "ce_weight": 0.3}
            losses.append(LOSSES[name][0](input, example.target, **given).sum())
            given["threshold"] = case.threshold
            losses.append(LOSSES[name][0](input, example.target, **given).sum())
        return [*counts, *losses, *torch.autograd.grad(sum(losses), (input, tau))]

    expected = results()
    numel = example.input.numel()
    sizes = {1, 2, 4, 8, numel, 2 * numel, 99, 2 * 99, 8 * 99, 3 * 8 * 99}
    for _ in range(5):
        # More blocks of each size than a call takes, and freed, so that it is handed these.
        poison = [torch.full((size,), math.nan) for size in sizes for _ in range(20)]
        del poison
        for a, b in zip(results(), expected, strict=True):
            assert torch.equal(a, b)
