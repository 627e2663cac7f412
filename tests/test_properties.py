"""Laws that hold for every batch, and native kernels against the reference, on random problems."""

import pytest
import torch
from cases import lay_out
from hypothesis import given, settings
from hypothesis import strategies as st

import softcm
from softcm import Linear, Sigmoid, Table

BACKENDS = softcm.available_backends("cpu")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
examples = settings(max_examples=30, deadline=None, derandomize=True)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LABELS = (torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16)
# Numerator and denominator are linear in the counts, so that their scale cancels; the last is not.
SCALE_FREE = (softcm.f1_loss, softcm.accuracy_loss, softcm.kappa_loss, softcm.mcc_loss)
AVERAGES = ("macro", "micro", "weighted")

shapes = st.one_of(
    st.tuples(st.sampled_from((1, 2, 15, 16, 17, 300, 513, 1030))),
    st.lists(st.sampled_from((1, 2, 3, 7, 17)), min_size=2, max_size=3).map(tuple),
)
approximations = st.one_of(
    st.floats(0.01, 0.49).map(Linear),
    st.floats(0.5, 60.0).map(Sigmoid),
)


@st.composite
def problems(draw, dtypes=DTYPES, soft_labels=True, tables=False):
    """Input, target and the options of soft_confusion_matrix."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def layout(x):
        names = ["contiguous", "step", "offset", "transposed", "expanded"]
        return lay_out(x, draw(st.sampled_from(names)))

    shape, dtype, from_logits = draw(shapes), draw(st.sampled_from(dtypes)), draw(st.booleans())
    input = layout(((8 * rand(*shape) - 4) if from_logits else rand(*shape)).to(dtype))
    if draw(st.booleans()) and soft_labels:
        target = rand(*shape).to(dtype)
    else:
        target = (rand(*shape) < draw(st.sampled_from((0.0, 0.1, 0.5)))).to(
            draw(st.sampled_from(LABELS))
        )
    ignore_index = draw(st.sampled_from((None, None, 2)))
    if ignore_index is not None and target.dtype != torch.bool:
        target = target.masked_fill(rand(*shape) < 0.2, ignore_index)
    count = draw(st.sampled_from((1, 1, 3, 25)))
    heaviside = draw(approximations)
    threshold = (0.02 + 0.96 * rand(count)).tolist()
    if tables and draw(st.booleans()):
        heaviside, threshold = Table(heaviside), [i / 10 for i in range(1, 10)][: max(1, count % 9)]
    classes = shape[1] if len(shape) > 1 else 1
    options = {
        "threshold": threshold,
        "heaviside": heaviside,
        "membership": draw(st.sampled_from(("soft", "gated"))),
        "weight": layout(2 * rand(*shape)).to(dtype) if draw(st.booleans()) else None,
        "pos_weight": draw(st.sampled_from((None, 2.5, 4 * rand(classes)))),
        "ignore_index": ignore_index,
        "from_logits": from_logits,
    }
    return input, layout(target), options


def counts(input, target, options, **more):
    """Counts (C, T, 4), or without the dimensions of size 1."""
    return torch.stack(softcm.soft_confusion_matrix(input, target, **options | more), -1)


def close(got, expected, rtol=1e-6):
    scale = expected.detach().abs().max().item() if expected.numel() else 0
    torch.testing.assert_close(got, expected, rtol=0, atol=rtol * scale + 1e-12)


def parts(x, *indices):
    return None if x is None else x[indices]


@pytest.mark.skipif("native" not in BACKENDS, reason="needs the compiled extension")
@examples
@given(
    problems(tables=True),
    st.sampled_from((softcm.f1_loss, softcm.mcc_loss, softcm.auroc_loss)),
    st.sampled_from((*AVERAGES, "none")),
    st.sampled_from((0.0, 0.3)),
)
def test_native_against_the_reference_in_float64(problem, loss, average, ce_weight):
    input, target, options = problem
    results = []
    for x, backend in ((input, "native"), (input.double(), "reference")):
        given = options | {"backend": backend}
        x = x.detach().requires_grad_()
        value = loss(x, target, **given, average=average, ce_weight=ce_weight)
        grad = torch.autograd.grad(value.sum(), x)[0]
        hard = torch.stack(softcm.confusion_matrix(x, target, **given))
        results.append((value.detach(), grad, counts(x, target, given).detach(), hard))
    (value, grad, soft, hard), expected = results
    # Sums are correct to 1e-6. A metric takes differences of them; a gradient is rounded to the
    # dtype of the input.
    close(value.double(), expected[0], 1e-5)
    close(grad.double(), expected[1], max(1e-4, torch.finfo(input.dtype).eps))
    close(soft.double(), expected[2])
    close(hard, expected[3])


@each_backend
@examples
@given(problems(), st.integers(0, 2**32))
def test_order_of_samples_does_not_matter(backend, problem, seed):
    input, target, options = problem
    order = torch.randperm(len(input), generator=torch.Generator().manual_seed(seed))
    shuffled = options | {"weight": parts(options["weight"], order)}
    expected = counts(input, target, options, backend=backend)
    close(counts(input[order], target[order], shuffled, backend=backend), expected)


@each_backend
@examples
@given(problems(), st.floats(0, 1))
def test_counts_of_parts_add_up(backend, problem, where):
    input, target, options = problem
    cut = max(1, min(len(input) - 1, round(where * len(input))))
    whole = counts(input, target, options, backend=backend)
    if cut == len(input):
        return
    first, second = (
        counts(input[s], target[s], options | {"weight": parts(options["weight"], s)})
        for s in (slice(None, cut), slice(cut, None))
    )
    close(first + second, whole)


@each_backend
@examples
@given(problems(), st.integers(0, 2**20))
def test_weight_two_is_a_sample_twice(backend, problem, index):
    input, target, options = problem
    index %= len(input)
    weight = torch.ones(target.shape) if options["weight"] is None else options["weight"].float()
    twice = weight.clone()
    twice[index] *= 2
    again = torch.cat((torch.arange(len(input)), torch.tensor([index])))
    close(
        counts(input[again], target[again], options | {"weight": weight[again]}, backend=backend),
        counts(input, target, options | {"weight": twice}, backend=backend),
    )


@each_backend
@examples
@given(problems(dtypes=(torch.float64,)))
def test_other_label_at_the_mirrored_score(backend, problem):
    """p, y and tau to 1 - p, 1 - y and 1 - tau: what was a true positive is a true negative."""
    input, target, options = problem
    labels = target.double()
    ignored = labels == (2 if options["ignore_index"] == 2 else -1)
    mirrored = torch.where(ignored, 2.0, 1 - labels)
    flipped = -input if options["from_logits"] else 1 - input
    options = options | {"pos_weight": None}
    other = options | {"threshold": [1 - tau for tau in options["threshold"]]}
    tp, fn, fp, tn = counts(input, labels, options, backend=backend).unbind(-1)
    close(
        counts(flipped, mirrored, other, backend=backend),
        torch.stack((tn, fp, fn, tp), -1),
        1e-9,
    )


@each_backend
@examples
@given(problems(), st.sampled_from(AVERAGES), st.sampled_from((0.0, 0.3)))
def test_scale_of_weights_cancels(backend, problem, average, ce_weight):
    input, target, options = problem
    weight = torch.ones(target.shape) if options["weight"] is None else options["weight"].float()
    options = options | {"average": average, "ce_weight": ce_weight, "backend": backend}
    for loss in SCALE_FREE:
        results = []
        for scale in (1.0, 4.0):  # a power of two, which no rounding changes
            x = input.detach().double().requires_grad_()
            value = loss(x, target, **options | {"weight": scale * weight})
            results.append((value.detach(), torch.autograd.grad(value, x)[0]))
        close(results[1][0], results[0][0], 1e-12)
        close(results[1][1], results[0][1], 1e-9)


@each_backend
@examples
@given(problems())
def test_gated_counts_sum_to_the_weight(backend, problem):
    input, target, options = problem
    counted = target.double() != (2 if options["ignore_index"] == 2 else -1)
    weight = torch.ones(target.shape) if options["weight"] is None else options["weight"]
    total = torch.where(counted, weight.double(), 0.0)
    total = total.sum() if input.dim() == 1 else total.movedim(1, 0).flatten(1).sum(1)
    gated = options | {"membership": "gated", "pos_weight": None}
    sums = counts(input, target, gated, backend=backend).double().sum(-1)
    close(sums, total.reshape(sums.shape[:-1]).unsqueeze(-1).expand_as(sums))
