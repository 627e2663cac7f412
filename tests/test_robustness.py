"""Tensors of every kind, unusual numbers, and calls from threads, forks and workers."""

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import softcm
from softcm import inputs

BACKENDS = softcm.available_backends("cpu")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
P = torch.tensor([[0.2, 0.7, 0.6], [0.1, 0.4, 0.9], [0.8, 0.3, 0.5], [0.0, 1.0, 0.2]])
Y = torch.tensor([[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 1]])
W = torch.tensor([[1.0], [2.0], [0.5], [3.0]])
CALLS = {
    "f1_loss": softcm.f1_loss,
    "mcc_loss": softcm.mcc_loss,
    "soft_confusion_matrix": softcm.soft_confusion_matrix,
    "confusion_matrix": softcm.confusion_matrix,
    "tune_threshold": softcm.tune_threshold,
}


def step(input, target, ce_weight=0.3, **options):
    """A loss, its gradient, soft counts and hard counts."""
    loss = softcm.f1_loss(input, target, **options, ce_weight=ce_weight)
    (grad,) = torch.autograd.grad(loss, input)
    soft = softcm.soft_confusion_matrix(input, target, **options)
    hard = softcm.confusion_matrix(input, target, **options)
    return [x.detach() for x in (loss, grad, *soft, *hard)]


def expect_same(results, expected):
    for a, b in zip(results, expected, strict=True):
        assert torch.equal(a, b)


# Tensors without memory that strides describe.


def nested(layout):
    return torch.nested.nested_tensor([P[0], P[0, :2]], layout=layout)


NOT_DENSE = {
    "sparse": lambda: P.to_sparse(),
    "csr": lambda: P.to_sparse_csr(),
    "mkldnn": lambda: P.to_mkldnn(),
    "nested": lambda: nested(torch.strided),
    "jagged": lambda: nested(torch.jagged),
    "masked": lambda: torch.masked.masked_tensor(P, P > 0.2),
}
REAL = {
    "complex": lambda: P.to(torch.complex64),
    "quantized": lambda: torch.quantize_per_tensor(P, 0.01, 0, torch.quint8),
    "float8": lambda: P.to(torch.float8_e4m3fn),
}


@pytest.mark.filterwarnings("ignore:.*(beta|prototype|deprecated):UserWarning")
@pytest.mark.parametrize("argument", ["input", "target", "weight", "pos_weight", "threshold"])
@pytest.mark.parametrize("kind", [*NOT_DENSE, *REAL])
@pytest.mark.parametrize("name", CALLS)
def test_kinds_of_tensors_that_are_refused(name, kind, argument):
    words = {"input": P, "target": Y} | {argument: {**NOT_DENSE, **REAL}[kind]()}
    allowed = "dense tensor" if kind in NOT_DENSE else "floating point|float32"
    if name == "tune_threshold":
        words = {k if k != "threshold" else "thresholds": v for k, v in words.items()}
        argument = argument if argument != "threshold" else "thresholds"
    with pytest.raises(TypeError, match=f"^{argument} must be .*({allowed})"):
        CALLS[name](**words)


def test_constants_of_a_captured_graph_are_kept(monkeypatch):
    class OnGpu(torch.Tensor):
        is_cuda = True

    x = torch.zeros(1, dtype=torch.float64).as_subclass(OnGpu)
    for capturing in (False, True):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda now=capturing: now)
        monkeypatch.setattr(inputs, "_captured", {})
        assert inputs._kept(x) is x
        assert list(inputs._captured.values()) == ([x] if capturing else [])


# Tensors that are read like any other.


class Plain(torch.Tensor):
    """A subclass without behaviour of its own."""


def negated(x):
    """The same values as a lazy negation."""
    view = torch.complex(x, -x).conj().imag
    assert view.is_neg()
    return view


def overlapping(x):
    """Rows that share memory: each begins where the one before has its second element."""
    return x.flatten().as_strided(x.shape, (1, 1))


KINDS = {
    "parameter": lambda x: torch.nn.Parameter(x.clone()),
    "subclass": lambda x: x.clone().as_subclass(Plain).requires_grad_(),
    "negated": lambda x: negated(x).requires_grad_(),
    "expanded": lambda x: x[:1].expand(x.shape).requires_grad_(),
    "overlapping": lambda x: overlapping(x).requires_grad_(),
    "no gradient behind": lambda x: x.clone().requires_grad_() * 1,
}


@each_backend
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_input(kind, backend):
    input = KINDS[kind](P)
    copy = input.detach().clone(memory_format=torch.contiguous_format).as_subclass(torch.Tensor)
    results = step(input, Y, weight=W, backend=backend)
    expect_same(results, step(copy.requires_grad_(), Y, weight=W, backend=backend))


@each_backend
@pytest.mark.parametrize("kind", ["subclass", "negated", "expanded", "overlapping"])
def test_kinds_of_target_and_weight(kind, backend):
    target, weight = (KINDS[kind](x.expand(P.shape)).detach() for x in (Y.float(), W))
    copies = [x.clone(memory_format=torch.contiguous_format) for x in (target, weight)]
    input = P.clone().requires_grad_()
    results = step(input, target, weight=weight, backend=backend)
    expect_same(results, step(input, copies[0], weight=copies[1], backend=backend))


@each_backend
def test_kinds_of_threshold_and_pos_weight(backend):
    input = P.clone().requires_grad_()
    plain = {"threshold": P[0].clone(), "pos_weight": torch.full((3,), 2.0), "backend": backend}
    expected = step(input, Y, **plain)
    for pos_weight in (torch.tensor([2, 2, 2]), torch.tensor([2.0]).expand(3), torch.tensor(2)):
        kinds = {"threshold": negated(P[0]), "pos_weight": pos_weight}
        expect_same(step(input, Y, **plain | kinds), expected)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 3, 2)])
def test_meta_tensors_get_meta_results_of_the_same_shapes(shape):
    target = (torch.rand(shape) < 0.3).float()
    for options in ({}, {"threshold": [0.3, 0.5]}, {"from_logits": True, "weight": target}):
        input = torch.rand(shape, requires_grad=True)
        meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        real = step(input, target, **options)
        away = step(input.detach().to("meta").requires_grad_(), target.to("meta"), **meta)
        assert all(x.is_meta for x in away)
        assert [(x.shape, x.dtype) for x in away] == [(x.shape, x.dtype) for x in real]


# Numbers.


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("from_logits", [True, False])
def test_negative_zero_is_zero(dtype, from_logits, backend):
    zeros = torch.zeros(4, 3, dtype=dtype)
    results = []
    for zero in (zeros, -zeros):
        input = torch.where(P.to(dtype) < 0.3, zero, P.to(dtype)).requires_grad_()
        target = torch.where(Y == 0, zero, 1)
        weight = torch.where(W.to(dtype) == 0.5, zero[:, :1], W.to(dtype))
        options = {"weight": weight, "from_logits": from_logits, "backend": backend}
        results.append(step(input, target, **options, threshold=[0.25, 0.5]))
        results[-1] += step(input, target, **options, threshold=[i / 40 for i in range(1, 40)])
    expect_same(results[0], results[1])


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("thresholds", [1, 40])
def test_denormal_scores_are_nearly_zero(dtype, thresholds, backend):
    tau = [i / (thresholds + 1) for i in range(1, thresholds + 1)]
    least = torch.finfo(dtype).smallest_normal / 4
    assert 0 < least < torch.finfo(dtype).smallest_normal
    results = []
    for small in (0.0, least):
        input = torch.where(P < 0.3, torch.tensor(small), P.double()).to(dtype).requires_grad_()
        results.append(step(input, Y, ce_weight=0.0, threshold=tau, backend=backend))
    for a, b in zip(*results, strict=True):
        assert b.isfinite().all()
        if dtype != torch.float16:  # whose smallest numbers are no rounding error of float32
            torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6)


# Threads and processes.


def large_batch(seed):
    """Large enough for several threads."""
    generator = torch.Generator().manual_seed(seed)
    input = torch.rand(60_000, generator=generator).requires_grad_()
    return input, torch.rand(60_000, generator=generator) < 0.2


def large_step(seed):
    input, target = large_batch(seed)
    options = [
        {"threshold": [0.3, 0.5]},
        {"threshold": [i / 50 for i in range(1, 50)], "heaviside": softcm.Linear(0.05 + seed / 99)},
        {"threshold": 0.1 + seed / 99, "heaviside": softcm.Sigmoid(5.0 + seed)},
        {"threshold": 0.5, "heaviside": softcm.Table(softcm.Sigmoid(10.0 + seed))},
    ]
    return [x for each in options for x in step(input, target, **each)]


def test_several_python_threads():
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(large_step, [i % 4 for i in range(16)]))
    alone = [large_step(seed) for seed in range(4)]
    for i, results in enumerate(together):
        expect_same(results, alone[i % 4])


class Scores(torch.utils.data.Dataset):
    """Its items are what a worker computes."""

    def __len__(self):
        return 4

    def __getitem__(self, seed):
        return large_step(seed)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_data_loader_workers():
    alone = [large_step(seed) for seed in range(4)]  # with threads, before there are workers
    loader = torch.utils.data.DataLoader(
        Scores(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=120
    )
    for results, expected in zip(loader, alone, strict=True):
        expect_same(results, expected)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
@pytest.mark.parametrize("threads_of_child", [1, 2])
def test_fork_after_use(threads_of_child):
    """With two threads the child must not hand work to those that its parent has left behind.

    Those of OpenMP do not fork: torch's own loops wait for them for ever, so the child's call here
    is made of nothing else than the kernels.
    """
    script = f"""
        import os
        import torch
        import softcm
        from test_robustness import large_batch

        def counts():
            return torch.stack(softcm.confusion_matrix(input, target))

        input, target = large_batch(1)
        torch.set_num_threads(2)
        expected = counts().tolist()
        child = os.fork()
        if child == 0:
            torch.set_num_threads({threads_of_child})
            os._exit(0 if counts().tolist() == expected else 3)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == 0, status
        assert counts().tolist() == expected
        print("same")
    """
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "same\n", done.stderr
