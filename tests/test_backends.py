"""Every backend against the float64 reference, on the one list of cases.

What is asked (u: rounding unit): counts within 1e-6 relative, each by itself, gradients within 1e-5
of the largest, losses within 1e-6; in float64 all within 1e-12; half types no worse than plain
PyTorch at that dtype. The oracle sees the very same rounded inputs.
"""

import math
from operator import attrgetter

import pytest
import torch
from cases import AVERAGES, CASES, LOSSES, Case, Example
from hypothesis import given, settings
from hypothesis import strategies as st

import softcm
from softcm import Linear, LinearFractional, Sigmoid
from softcm.backends import select_backend

BACKENDS = [name for name in softcm.available_backends("cpu") if name != "reference"]
HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALF)
by_id = {case.id: case for case in CASES}
get_id = attrgetter("id")
every_case = pytest.mark.parametrize("case", CASES, ids=get_id)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a busy machine small operations wait for their second thread for most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counts_of(example, backend):
    matrix = softcm.soft_confusion_matrix(
        example.input, example.target, backend=backend, **example.options
    )
    return torch.stack(matrix, dim=-1)


def loss_of(example, name, backend):
    """A loss and the gradient of its sum in the input."""
    function, arguments = LOSSES[name]
    input = example.input.detach().requires_grad_()
    options = example.options | example.loss_options | arguments
    loss = function(input, example.target, backend=backend, **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), input)[0]


def assert_counts(actual, exact, relative, of_total=0.0):
    # The oracle itself forms 1 - h and so loses what is below u = 1e-16 of the whole.
    floor = (of_total + 1e-15) * exact.sum(-1, keepdim=True)
    error = (actual.double() - exact).abs() - floor
    assert (error <= relative * exact).all(), f"{(error / exact).max():.2e} relative"


def assert_gradient(actual, exact, relative, largest):
    # A gradient above 1 is that of the cross-entropy near p = 0 or 1. It may be 1e12, relative to
    # which nothing else would be looked at: so it is judged by itself, the others relative to 1.
    # 1e-15: where the true gradient is 0, as that of TP / (TP + FP) where all p < tau, the oracle
    # returns the rounding errors of terms that cancel.
    bound = relative * torch.maximum(exact.abs(), largest.clamp(max=1)) + 1e-15
    if actual.dtype in HALF:
        # A half type cannot hold more than its rounding of the exact gradient, which may be
        # infinite, or a multiple of the smallest subnormal.
        limits = torch.finfo(actual.dtype)
        bound = bound + limits.eps / 2 * (exact.abs() + limits.tiny)
        infinite = exact.to(actual.dtype).isinf()
        assert torch.equal(actual[infinite].double(), exact.sign()[infinite] * math.inf)
        actual, exact = actual.masked_fill(infinite, 0), exact.masked_fill(infinite, 0)
    error = (actual.double() - exact).abs()
    assert (error <= bound).all(), f"{(error.max() / largest):.2e} of the largest"


def gradient_of_probabilities(case, example, name):
    """dL/dp of a case of logits, and p."""
    z = example.input.double()
    p = z.softmax(1) if case.class_indices else z.sigmoid()
    options = example.options | {"from_logits": False}
    return loss_of(example._replace(input=p, options=options), name, "reference")[1], p


def largest_gradient(case, example, name, gradient):
    """The largest gradient, or where a softmax follows, the largest term of those it adds.

    A softmax takes the mean off dL/dp. Where dL/dp is nearly the same in all classes, as on one
    segment of eq. (5), what is left is far smaller than the terms, which float32 holds to 1e-7.
    """
    if not (case.from_logits and case.class_indices):
        return gradient.abs().max()
    of_p, p = gradient_of_probabilities(case, example, name)
    return (of_p * p).abs().max()


def assert_loss(case, example, name, backend):
    exact, exact_gradient = loss_of(example.in_float64(), name, "reference")
    loss, gradient = loss_of(example, name, backend)
    double = example.input.dtype == torch.float64
    assert loss.dtype == (torch.float64 if double else torch.float32)
    assert gradient.dtype == example.input.dtype
    assert gradient.shape == example.input.shape
    # A relative error e of the counts moves no metric by more than 4 e, and those of the four
    # counts are not all at their bound: losses are held to the bound of a count itself.
    relative = 1e-12 if double else 1e-6
    torch.testing.assert_close(loss.double(), exact, rtol=relative, atol=relative)
    largest = largest_gradient(case, example, name, exact_gradient)
    assert_gradient(gradient, exact_gradient, 1e-12 if double else 1e-5, largest)


# For the GPU kernels; tests/test_gradients.py has more of it for the other backends.
UPSTREAM = [
    Case(f"upstream-{values}-{size}", shape, values, target="float", average=average, ce_weight=2)
    for values in ("uniform", "logits")
    # Large enough for the backward pass to compute the gradient; one factor, and one a class.
    for size, shape, average in (("one", (17_000,), "macro"), ("classes", (300, 3), "none"))
]


def assert_upstream_gradient(case, backend):
    """A gradient that is multiplied by another, which is not 1, cross-entropy included."""
    example = case.build()
    factor = torch.tensor(-3.7 if case.average == "macro" else [1.0, -3.7, 0.0])

    def gradient(example, backend):
        input = example.input.detach().requires_grad_()
        options = example.options | example.loss_options | {"backend": backend}
        loss = softcm.f1_loss(input, example.target, **options)
        return torch.autograd.grad(loss, input, factor.to(loss.dtype))[0]

    exact = gradient(example.in_float64(), "reference")
    assert_gradient(gradient(example, backend), exact, 1e-5, exact.abs().max())


@every_backend
@every_dtype
@every_case
def test_counts(case, dtype, backend):
    example = case.build(dtype=dtype)
    actual = counts_of(example, backend)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = counts_of(example.in_float64(), "reference")
    # Half types are promised less, see test_half_is_no_worse_than_plain_pytorch; but their values
    # are float32 values, and only the threshold's rounding may weigh more than among those.
    relative = 1e-5 if dtype in HALF else 1e-12 if dtype == torch.float64 else 1e-6
    assert_counts(actual, exact, relative)


@every_backend
@pytest.mark.parametrize("case", [case for case in CASES if case.values == "exact"], ids=get_id)
def test_hard_counts(case, backend):
    """The hard twin, for which p = tau is a positive, counts the samples of "exact" exactly."""
    input, target, options, _ = case.build()
    matrices = [
        torch.stack(softcm.confusion_matrix(input, target, backend=name, **options))
        for name in (backend, "reference")
    ]
    assert torch.equal(*matrices)


# Of every case: a fused loss, one in two steps, and the others in turn.
TURN = [name for name in LOSSES if name not in ("f1", "mcc")]


@every_backend
@every_dtype
@pytest.mark.parametrize(
    ("case", "names"),
    [(case, ("f1", "mcc", TURN[i % len(TURN)])) for i, case in enumerate(CASES)],
    ids=lambda value: getattr(value, "id", None) or value[-1],
)
def test_loss_and_gradient(case, names, dtype, backend):
    example = case.build(dtype=dtype)
    for name in names:
        assert_loss(case, example, name, backend)


@every_backend
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "case_id",
    ["average-macro-int64-all", "linear0.1-gated-tenths", "index-33x3x7-logits", "target-soft"]
    + [f"average-{average}-index" for average in AVERAGES],
)
def test_every_loss(case_id, name, backend):
    for dtype in (torch.float32, torch.float64):
        assert_loss(by_id[case_id], by_id[case_id].build(dtype=dtype), name, backend)


@pytest.mark.parametrize(
    # Of that case plain formulas lose everything: 1 - p is as small as the rounding of p.
    "case",
    [case for case in CASES if case.id != "many-large-sure"],
    ids=get_id,
)
def test_reference_at_float32(case):
    """The reference, being plain formulas, also has the rounding of 1 - h and of 1 - p."""
    example = case.build()
    exact = counts_of(example.in_float64(), "reference")
    assert_counts(counts_of(example, "reference"), exact, 1e-6, of_total=2**-24)
    exact_loss, exact_gradient = loss_of(example.in_float64(), "f1", "reference")
    loss, gradient = loss_of(example, "f1", "reference")
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-6, atol=1e-6)
    largest = largest_gradient(case, example, "f1", exact_gradient)
    if case.from_logits:
        of_p, _ = gradient_of_probabilities(case, example, "f1")
        largest = largest + 2**-23 / 1e-5 * of_p.abs().max()
    assert_gradient(gradient, exact_gradient, 1e-5, largest)


def plain_f1_loss(example):
    """What a user would write: eq. (3) and (5) in the dtype of the input, autograd for the rest."""
    tau, heaviside = example.options["threshold"], example.options["heaviside"]
    x = example.input.detach().requires_grad_()
    p = x.sigmoid() if example.options["from_logits"] else x
    y = example.target.to(p.dtype)
    if isinstance(heaviside, Sigmoid):
        h = torch.sigmoid(heaviside.k * (p - tau))
    else:
        half, delta = min(tau, 1 - tau) / 2, heaviside.delta
        low, high = tau - half, tau + half
        middle = 0.5 + (0.5 - delta) / half * (p - tau)
        above = 1 - delta / (1 - high) * (1 - p)
        h = torch.where(p < low, delta / low * p, torch.where(p > high, above, middle))
    other = torch.where(p < tau, h, 1 - h) if example.options["membership"] == "soft" else 0 * h
    tp = (y * h + (1 - y) * other).sum()
    fn = (y * (1 - h) + (1 - y) * other).sum()
    fp = (y * other + (1 - y) * h).sum()
    loss = 1 - 2 * tp / (2 * tp + fn + fp)
    return loss.detach(), torch.autograd.grad(loss, x)[0]


@pytest.mark.parametrize("dtype", HALF, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("backend", softcm.available_backends("cpu"))
@pytest.mark.parametrize("size", [255, 1000, 16385])
@pytest.mark.parametrize("values", ["uniform", "logits", "skewed"])
@pytest.mark.parametrize("heaviside", [Linear(), Sigmoid()], ids=["linear", "sigmoid"])
@pytest.mark.parametrize("membership", ["soft", "gated"])
def test_half_is_no_worse_than_plain_pytorch(membership, heaviside, values, size, backend, dtype):
    case = Case("half", (size,), values, target="float", heaviside=heaviside, membership=membership)
    example = case.build(dtype=dtype)
    exact_loss, exact = loss_of(example.in_float64(), "f1", "reference")
    plain_loss, plain = plain_f1_loss(example)
    loss, gradient = loss_of(example, "f1", backend)
    assert abs(loss.double() - exact_loss) <= abs(plain_loss.double() - exact_loss)
    assert (gradient.double() - exact).abs().max() <= (plain.double() - exact).abs().max()


@every_backend
@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("membership", ["soft", "gated"])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=["float32", "float64"])
def test_fused_equals_two_steps(dtype, membership, average, backend):
    """A LinearFractional goes the fused way; the same formula as a callable cannot."""

    def as_callable(cm):
        return (2 * cm.tp - cm.fn + 0.25) / (2 * cm.tp + cm.fn + 0.5 * cm.fp + cm.tn + 3)

    fused = LinearFractional((2, -1, 0, 0), (2, 1, 0.5, 1), 0.25, 3)
    case = by_id["average-macro-int64-all"]
    example = case.build(dtype=dtype)
    for maximize in (True, False):
        results = []
        for metric in (fused, as_callable):
            input = example.input.detach().requires_grad_()
            options = example.options | {"membership": membership, "average": average}
            loss = softcm.confusion_loss(
                input, example.target, metric, maximize=maximize, ce_weight=0.3, **options
            )
            results.append((loss.detach(), torch.autograd.grad(loss.sum(), input)[0]))
        # Both take the same counts through float64 arithmetic, and so agree to the last bits.
        (loss, gradient), (other_loss, other_gradient) = results
        u = torch.finfo(dtype).eps
        torch.testing.assert_close(loss, other_loss, rtol=2 * u, atol=2 * u)
        atol = 2 * u * float(gradient.abs().max())
        torch.testing.assert_close(gradient, other_gradient, rtol=0, atol=atol)


# Long sums. Equal terms are the worst for a running sum: its roundings all go one way.


def repeated(p, positives, negatives, **options):
    """Counts of equal probabilities, and what they are: a multiple of one sample's."""
    input = torch.full((positives + negatives,), p)
    target = (torch.arange(input.numel()) < positives).float()
    actual = torch.stack(softcm.soft_confusion_matrix(input, target, **options))
    options["backend"] = "reference"
    rows = [
        torch.stack(softcm.soft_confusion_matrix(input[:1].double(), y, **options))
        for y in (torch.ones(1), torch.zeros(1))
    ]
    return actual, positives * rows[0] + negatives * rows[1]


@every_backend
def test_sum_of_2_to_the_24_equal_probabilities(backend):
    for heaviside in (Linear(), Sigmoid()):
        options = {"heaviside": heaviside, "membership": "gated", "backend": backend}
        assert_counts(*repeated(0.1, 2**22, 2**24 - 2**22, **options), 1e-6)


@every_backend
@pytest.mark.parametrize("heaviside", [Linear(), Linear(0.3), Sigmoid()], ids=str)
def test_sums_of_equal_probabilities(heaviside, backend):
    generator = torch.Generator().manual_seed(0)
    constants = torch.rand(500, generator=generator).tolist()
    # Below a power of two by a little, and those that a search found to be the worst.
    constants += [1 - 2**-24, 0.5 - 2**-25, 1 / 3, 0.1, 0.5181677937507629, 0.982695460319519]
    for p in constants:
        options = {"heaviside": heaviside, "membership": "gated", "backend": backend}
        assert_counts(*repeated(p, 512, 512, **options), 1e-6)


@every_backend
@pytest.mark.parametrize("from_logits", [False, True])
def test_cross_entropy_of_equal_samples(from_logits, backend):
    """Sums of weights and of cross-entropies are long sums as well."""
    constants = torch.rand(60, generator=torch.Generator().manual_seed(5)).tolist()
    for p in [*constants, 0.1, 1 / 3]:
        input = torch.full((8192,), p)
        options = {"weight": torch.full((8192,), p / 3), "from_logits": from_logits}
        example = Example(input, torch.ones(8192), options, {"ce_weight": 1000.0})
        loss, _ = loss_of(example, "f1", backend)
        exact, _ = loss_of(example.in_float64(), "f1", "reference")
        torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)


def assert_counts_of(input, target, backend, **options):
    example = Example(input, target, {"membership": "gated", **options}, {})
    exact = counts_of(example.in_float64(), "reference")
    assert_counts(counts_of(example, backend), exact, 1e-6)
    return example


@every_backend
def test_sum_of_one_large_and_many_tiny_terms(backend):
    """A sum in float32 loses each of the tiny terms; here in the orders that may be the worst."""
    for period in (64, 128, 256, 512, 1024):
        input = torch.full((2048,), 1 - 2**-24)
        input.view(-1, period)[:, : period // 32] = 0.5
        assert_counts_of(input, torch.ones(2048), backend)


@every_backend
def test_small_delta_next_to_a_breakpoint(backend):
    """Where h is near delta, 0.5 - m2 |p - tau| cancels; delta + m2 (p - low) does not."""
    for p in (0.749513090, 0.7499, 0.2504869):
        assert_counts_of(torch.full((512,), p), torch.ones(512), backend, heaviside=Linear(0.01))


@every_backend
@pytest.mark.parametrize("label", [0.01, 0.9, 0.99, 0.999])
def test_smoothed_labels_with_weights(label, backend):
    """The weight of the row of a negative is w (1 - y); w - w y cancels."""
    input = torch.rand(1000, generator=torch.Generator().manual_seed(4))
    weight = torch.full((1000,), 0.7)
    assert_counts_of(input, torch.full((1000,), label), backend, weight=weight)


@every_backend
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("heaviside", [Linear(0.01), Linear(), Sigmoid(), Sigmoid(200)], ids=str)
def test_probabilities_around_a_threshold(heaviside, threshold, backend):
    """float32 does not hold these thresholds, but knows p - tau as exactly as p."""
    generator = torch.Generator().manual_seed(1)
    input = (threshold + 0.01 * torch.randn(1000, generator=generator)).float()
    target = (torch.rand(1000, generator=generator) < 0.3).float()
    assert_counts_of(input, target, backend, threshold=threshold, heaviside=heaviside)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("number", [1, 30])  # one at a time, and by way of buckets
def test_thresholds_without_room_beside_them(number, dtype, backend):
    """Linear takes 2^-60 and 1 - eps instead, of the type in which it computes."""
    last = 1 - torch.finfo(dtype).eps
    values = [0, 2.0**-61, 2.0**-60, 1e-10, 0.5, last, (1 + last) / 2, 1]
    p = torch.tensor(values, dtype=dtype).repeat(700)
    y = torch.rand(p.shape, generator=torch.Generator().manual_seed(0)).round()
    for threshold, taken in ((1e-30, 2.0**-60), (5e-324, 2.0**-60), (1 - 2.0**-53, last)):
        results = []
        for tau in (threshold, taken):
            input = p.clone().requires_grad_()
            options = {"threshold": [tau] * number, "backend": backend}
            counts = softcm.soft_confusion_matrix(input, y, **options)
            loss = softcm.f1_loss(input, y, **options)
            results.append([*counts, *torch.autograd.grad(loss, input)])
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)
            assert b.isfinite().all()
        h = softcm.heaviside(p[:8], threshold)
        assert torch.equal(h, softcm.heaviside(p[:8], taken))
        assert (h[0], h[-1]) == (0, 1)
        assert (h.diff() >= 0).all()


@every_backend
@pytest.mark.parametrize("classes", [1000, 20_000])
def test_softmax_over_many_classes(classes, backend):
    """The sum in a softmax is a long sum too, and of equal terms where nothing has been learnt."""
    input = torch.where(torch.arange(classes) % 2 == 0, -1.2345, 0.0).repeat(8, 1)
    input[:, 3] = 2.345
    target = torch.randint(0, classes, (8,), generator=torch.Generator().manual_seed(6))
    case = Case("many", (8, classes), "logits", target="index")
    example = assert_counts_of(input, target, backend, from_logits=True)
    assert_loss(case, example._replace(loss_options={"average": "micro"}), "f1", backend)


@every_backend
@pytest.mark.parametrize("membership", ["soft", "gated"])
def test_a_single_positive_among_a_million(membership, backend):
    input = torch.rand(1_000_000, generator=torch.Generator().manual_seed(2)) ** 6
    target = (torch.arange(1_000_000) == 654_321).to(torch.uint8)
    options = {"heaviside": Sigmoid(), "membership": membership, "threshold": 0.75}
    example = assert_counts_of(input, target, backend, **options)
    for name in ("f1", "mcc"):
        assert_loss(Case("single"), example, name, backend)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_and_strides(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5), label="shape"))
    layouts = ["contiguous", "step", "offset", "expanded", "transposed"]
    layouts += ["channels last"] if len(shape) > 1 else []
    targets = ["bool", "float", "soft"] + (["index"] if len(shape) > 1 and shape[1] > 1 else [])
    case = Case(
        "any",
        shape,
        values=data.draw(st.sampled_from(["uniform", "logits", "exact"])),
        layout=data.draw(st.sampled_from(layouts)),
        target=data.draw(st.sampled_from(targets)),
        target_layout=data.draw(st.sampled_from(layouts[:-1] if len(shape) > 1 else layouts)),
        threshold=data.draw(st.sampled_from([0.5, (0.25,), (0.5, 0.75)])),
        heaviside=data.draw(st.sampled_from([Linear(0.2), Sigmoid(8.0)])),
        membership=data.draw(st.sampled_from(["soft", "gated"])),
        weight=data.draw(st.sampled_from([None, "sample", "per row", "zeros"])),
        pos_weight=data.draw(st.sampled_from([None, "classes"])),
        average=data.draw(st.sampled_from(AVERAGES)),
        ce_weight=data.draw(st.sampled_from([0.0, 0.5])),
    )
    example = case.build(dtype=torch.float64)
    for backend in BACKENDS:
        exact = counts_of(example, "reference")
        assert_counts(counts_of(example, backend), exact, 1e-12)
        for name in ("f1", "kappa"):
            assert_loss(case, example, name, backend)


# What is compiled in, what Triton serves (under TRITON_INTERPRET=1 the CPU too), what is chosen.
NATIVE, TRITON, INTERPRETED = frozenset({"cpu"}), frozenset({"cuda"}), frozenset({"cpu", "cuda"})
NATIVE_ON_GPU, NONE = frozenset({"cpu", "cuda"}), frozenset()


@pytest.mark.parametrize(
    ("requested", "device", "native_devices", "triton_devices", "expected"),
    [
        ("auto", "cpu", NATIVE, NONE, "native"),
        ("auto", "cpu", NATIVE, TRITON, "native"),
        ("auto", "cpu", NATIVE, INTERPRETED, "native"),
        ("auto", "cpu", NONE, NONE, "reference"),
        ("auto", "cpu", NONE, TRITON, "reference"),
        ("auto", "cpu", NONE, INTERPRETED, "reference"),
        ("auto", "cuda", NATIVE_ON_GPU, NONE, "native"),
        ("auto", "cuda", NATIVE_ON_GPU, TRITON, "native"),
        ("auto", "cuda", NATIVE, TRITON, "triton"),
        ("auto", "cuda", NONE, TRITON, "triton"),
        ("auto", "cuda", NATIVE, NONE, "reference"),
        ("auto", "mps", NATIVE, TRITON, "reference"),
        ("native", "cpu", NATIVE, NONE, "native"),
        ("native", "cuda", NATIVE_ON_GPU, TRITON, "native"),
        ("native", "cpu", NONE, INTERPRETED, RuntimeError),
        ("native", "cuda", NATIVE, TRITON, RuntimeError),
        ("triton", "cuda", NATIVE_ON_GPU, TRITON, "triton"),
        ("triton", "cuda", NONE, TRITON, "triton"),
        ("triton", "cpu", NATIVE, INTERPRETED, "triton"),
        ("triton", "cpu", NATIVE, TRITON, RuntimeError),
        ("triton", "cuda", NATIVE_ON_GPU, NONE, RuntimeError),
        ("triton", "mps", NATIVE, INTERPRETED, RuntimeError),
        ("reference", "cpu", NATIVE, INTERPRETED, "reference"),
        ("reference", "cuda", NATIVE_ON_GPU, TRITON, "reference"),
        ("reference", "mps", NONE, NONE, "reference"),
        ("fast", "cpu", NATIVE, TRITON, ValueError),
        (None, "cpu", NATIVE, TRITON, ValueError),
    ],
)
def test_select_backend(requested, device, native_devices, triton_devices, expected):
    devices = native_devices, triton_devices
    if isinstance(expected, str):
        assert select_backend(requested, device, *devices) == expected
        return
    with pytest.raises(expected) as caught:
        select_backend(requested, device, *devices)
    # The argument, what was given, and what would serve.
    assert "backend" in str(caught.value)
    assert repr(requested) in str(caught.value)
    assert ("auto" in str(caught.value)) or ("reference" in str(caught.value))


@pytest.mark.parametrize("requested", ["auto", "reference", "native", "triton"])
def test_only_the_reference_serves_under_a_transform(requested):
    if requested in ("native", "triton"):
        with pytest.raises(RuntimeError, match="cannot serve under a transform"):
            select_backend(requested, "cpu", INTERPRETED, INTERPRETED, True)
    else:
        assert select_backend(requested, "cpu", INTERPRETED, INTERPRETED, True) == "reference"
