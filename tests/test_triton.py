"""The Triton backend without a GPU: interpreted in a process of its own, compiled for four GPUs."""

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import EagerAndRecordGraphs
from torch._subclasses import FakeTensorMode

import softcm
from softcm import inputs, triton_ops, triton_plan
from softcm.options import Options, TensorOptions

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
cannot_compile = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter cannot compile"
)


def python(*arguments, **variables):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT / "tests",
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


# What the interpreter runs beside a file of its own: parts of the tests of all backends.
# Each takes minutes, the first file so many that two processes of pytest-xdist share it.
INTERPRETED = [
    ("interpreted_triton.py", "test_case"),
    ("interpreted_triton.py", "not test_case"),
    ("test_errors.py", "triton and (large_batch or ignored)"),
    ("test_degenerate.py", "triton and (f1 or mcc) and not dtype"),
    ("test_operators.py", "triton and compiled and not dtypes"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "selected"), INTERPRETED)
def test_in_the_interpreter(file, selected):
    options = ["-q", "-p", "no:cacheprovider", "-k", selected]
    done = python("-m", "pytest", *options, file, TRITON_INTERPRET="1")
    summary = done.stdout.strip().splitlines()[-1:]
    print(*summary)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert " passed" in summary[0]
    assert " skipped" not in summary[0]


def test_import_leaves_triton_alone():
    code = "import sys, softcm; assert 'triton' not in sys.modules"
    assert python("-c", code).returncode == 0


def test_compiled_function_on_a_gpu_that_is_not_there():
    """torch.compile traces a step for a GPU into one graph, with the operators of this backend."""

    options = {"from_logits": True, "backend": "triton"}

    def step(z, y):
        return softcm.f1_loss(z, y, **options) + softcm.mcc_loss(z, y, **options)

    recorder = EagerAndRecordGraphs()
    # Without gradients: autograd's bookkeeping needs a torch that was built for the device.
    with FakeTensorMode(), torch.no_grad():
        z, y = torch.zeros(64, 3, device="cuda"), torch.zeros(64, 3, device="cuda")
        loss = torch.compile(step, fullgraph=True, backend=recorder)(z, y)
    assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "cuda")
    (graph,) = recorder.graphs
    called = [str(node.target) for node in graph.graph.nodes]
    for operator in ("fractional_loss", "soft_counts"):
        assert f"softcm_triton.{operator}.default" in called


# Instructions for a sample, in the loop of the forward pass (and a threshold) and in all of the
# backward pass: what the four targets need today, rounded up to the next ten.
CEILINGS = {
    "linear": (60, 90),
    "sigmoid of logits": (110, 140),
    "logits, entropy": (120, 110),
    "bfloat16": (60, 100),
    "9 thresholds": (50, 90),
    "table": (60, 110),
    "10 classes": (90, 120),
    "thresholds of classes": (90, 120),
    "per sample": (60, 80),
}


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@cannot_compile
def test_compiled_for_four_targets(benchmarks):
    """No spills, wide loads, asserts on values, and no more instructions than before."""
    import triton_on_paper

    rows = triton_on_paper.report()
    assert len(rows) == 2 * len(CEILINGS) * len(triton_on_paper.TARGETS)
    for row in rows:
        forward = row.kernel == "soft_counts_kernel"
        assert row.spilled == 0, row
        assert row.asserts == forward, row
        assert row.a_sample <= CEILINGS[row.problem][0 if forward else 1], row
        # A row of ten classes may begin anywhere.
        assert row.load_bits == 128 or row.problem.endswith("classes"), row


@cannot_compile
def test_part_of_the_report_on_paper(benchmarks, monkeypatch, capsys):
    import gpu_on_paper
    import triton_on_paper

    monkeypatch.setattr(
        triton_on_paper, "report", functools.partial(triton_on_paper.report, ["linear"])
    )
    gpu_on_paper.print_triton_part()
    lines = capsys.readouterr().out.splitlines()
    for target in triton_on_paper.TARGETS:
        kernels = [line for line in lines if line.startswith("linear") and f" {target} " in line]
        assert len(kernels) == 2, target

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    gpu_on_paper.print_triton_part()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    gpu_on_paper.print_triton_part()
    interpreted, missing = capsys.readouterr().out.splitlines()
    assert "TRITON_INTERPRET" in interpreted
    assert "not installed" in missing


# How a call is divided.


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    [
        # One class, or samples side by side: long rows of one class.
        ((1000, 1, 1), ((1, 0, 0), (1, 0, 0)), {"rows": 1, "length": 1000, "groups": 1}),
        ((4, 1, 900), ((900, 0, 1),) * 2, {"rows": 1, "length": 3600, "divide": False}),
        ((4, 3, 900), ((2700, 900, 1),) * 2, {"rows": 4, "length": 900, "groups": 1}),
        # Rows too short for a program run on into each other.
        ((90, 3, 7), ((21, 7, 1),) * 2, {"rows": 1, "length": 630, "divide": True, "groups": 1}),
        # Groups side by side, or too few samples to fill a tile: tiles of several groups.
        ((1000, 10, 1), ((10, 1, 0),) * 2, {"groups": 16, "samples": 32, "tiles": 1}),
        ((8, 999, 1), ((1, 8, 0),) * 2, {"groups": 16, "samples": 32, "tiles": 63}),
    ],
)
def test_plan(shape, strides, expected):
    plan = triton_plan.make_plan(*shape, 1, strides, False, triton_plan.Tuning())
    assert {name: getattr(plan, name) for name in expected} == expected


@pytest.mark.parametrize("samples", [1, 511, 4096, 4097, 10**8, 3 * 10**9])
@pytest.mark.parametrize("thresholds", [1, 4, 5, 9, 99])
def test_plan_covers_all_samples_and_thresholds_once(thresholds, samples):
    tuning = triton_plan.Tuning()
    plan = triton_plan.make_plan(samples, 1, 1, thresholds, ((1, 0, 0),) * 2, False, tuning)
    assert (plan.parts - 1) * plan.part < samples <= plan.parts * plan.part
    assert (plan.ranges - 1) * plan.thresholds < thresholds <= plan.ranges * plan.thresholds
    assert plan.thresholds <= tuning.most_thresholds
    assert plan.parts * plan.ranges <= max(tuning.programs, plan.ranges)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # Each class of each sample is a group: 12 of 900 elements, and 630 of 7.
        ((4, 3, 900), {"rows": 1, "length": 900, "groups": 1, "tiles": 12}),
        ((210, 3, 7), {"rows": 1, "length": 7, "divide": False, "groups": 16, "tiles": 40}),
    ],
)
def test_plan_per_sample(shape, expected):
    _, classes, inner = shape
    strides = ((classes * inner, inner, 1),) * 2
    plan = triton_plan.make_plan(*shape, 1, strides, True, triton_plan.Tuning())
    assert plan.strides[0] == strides[0]
    assert {name: getattr(plan, name) for name in expected} == expected


@cannot_compile
@pytest.mark.parametrize(
    ("shape", "thresholds", "options", "programs"),
    [
        ((1,), 200_001, {}, 100_001),  # two thresholds each
        ((70_000, 17, 1, 1), 1, {"per_sample": True}, 74_375),  # tiles of 16 groups
        ((1, 70_000, 512), 1, {}, 70_000),
    ],
)
def test_grid_has_one_dimension(shape, thresholds, options, programs, monkeypatch):
    """The others end at 65,535."""
    from triton.runtime.jit import JITFunction

    grids = []

    def record(kernel, grid):
        return lambda *args, **constants: grids.append(grid)

    # Launches stop before they compile.
    monkeypatch.setattr(JITFunction, "__getitem__", record)
    monkeypatch.setattr(triton_ops.reference, "soft_counts", lambda *_: None)
    input = torch.zeros((), dtype=torch.bfloat16).expand(shape)
    threshold = torch.full((thresholds,), 0.5)
    batch = inputs.canonical(input, input.bool(), Options(**options), TensorOptions(threshold))
    torch.ops.softcm_triton.soft_counts(*batch, False)
    assert grids == [(programs,)]
