"""Reading a tile of samples: strides, dtypes, logits, weights, class indices, ignored samples.

An operand is a tuple (pointer, strides of N, C and L), as in csrc/layout.h. A batch is (input,
target, weight, pos_weight, ignore_index, ignore_nan, inner, classes, groups), where weight,
pos_weight, ignore_index and ignore_nan may be None and pos_weight is (pointer, stride). T is the
arithmetic type.
"""

import triton
import triton.language as tl

from .triton_math import exp_nonpositive, log_one_plus, minus_log, minus_log_one_minus


@triton.jit
def rows_and_classes(row, groups, classes, PER_SAMPLE: tl.constexpr):
    """The rows and classes of groups (1, C). With PER_SAMPLE each of the N samples is a row."""
    if PER_SAMPLE:
        return groups // classes, groups % classes
    else:
        return row, groups


@triton.jit
def locate(operand, row, begin, inner, samples, classes, DIVIDE: tl.constexpr):
    """Pointers to samples begin + samples (S, 1) of a row, in classes (1, C)."""
    pointer, stride_n, stride_c, stride_l = operand
    if DIVIDE:
        ahead = (begin % inner).to(tl.int32) + samples
        n = begin // inner + ahead // inner
        return pointer + n * stride_n + (ahead % inner).to(tl.int64) * stride_l + classes * stride_c
    else:
        start = pointer + row * stride_n + begin * stride_l
        return start + samples.to(tl.int64) * stride_l + classes * stride_c


@triton.jit
def load_samples(
    batch,
    row,
    begin,
    samples,
    classes,
    mask,
    CLASS_INDICES: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    DIVIDE: tl.constexpr,
    T: tl.constexpr,
):
    """Of each sample: whether it counts, logit, p, 1 - p, weight, weights of the rows of eq. (3).

    A sample that does not count has p = 1/2 and no weight. The last item tells of bad values.
    """
    input, target, weight, pos_weight, ignore_index, ignore_nan, inner, class_number, _ = batch
    raw = tl.load(locate(target, row, begin, inner, samples, classes, DIVIDE), mask, other=0)
    # Half types before any arithmetic, integers before they meet a number they may not hold.
    if not raw.dtype.is_floating():
        label = raw.to(tl.int64)
    elif raw.dtype == tl.float64:
        label = raw
    else:
        label = raw.to(T)
    counted = mask
    if ignore_index is not None:
        counted = mask & (label != ignore_index)
    if ignore_nan is not None:
        counted = counted & (label == label)
    if CLASS_INDICES:
        good = (label >= 0) & (label < class_number)
        faults = tl.where(good | ~counted, 0, 1)
        if ignore_index is not None:  # a class that is ignored has no sample that counts
            counted = counted & (classes != ignore_index)
        y = tl.where(counted & (label == classes), 1.0, 0.0).to(T)
    else:
        good = (label >= 0) & (label <= 1)
        faults = tl.where(good | ~counted, 0, 1)
        y = tl.where(counted, label.to(T), 0.0)

    x = tl.load(locate(input, row, begin, inner, samples, classes, DIVIDE), mask, other=0).to(T)
    if FROM_LOGITS:
        z = tl.where(counted, x, 0.0)
        e = exp_nonpositive(tl.where(z < 0.0, z, -z))
        large = 1.0 / (1.0 + e)
        small = e * large
        p = tl.where(z < 0.0, small, large)
        q = tl.where(z < 0.0, large, small)
    else:
        z = x
        p = tl.where(counted, x, 0.5)
        q = 1.0 - p
        faults |= tl.where((p < 0.0) | (p > 1.0), 2, 0)  # NaN is none: it reaches the loss

    w = tl.where(counted, 1.0, 0.0).to(T)
    if weight is not None:
        given = tl.load(locate(weight, row, begin, inner, samples, classes, DIVIDE), mask, other=0)
        w = tl.where(counted, given.to(T), 0.0)
        faults |= tl.where((w >= 0.0) & (w < float("inf")), 0, 4)
    w0 = w * (1.0 - y)
    w1 = w * y
    if pos_weight is not None:
        w1 *= load_pos_weight(pos_weight, classes, classes < class_number, T)
    return counted, z, p, q, w, w1, w0, faults


@triton.jit
def load_pos_weight(pos_weight, classes, known, T: tl.constexpr):
    pointer, stride_c = pos_weight
    return tl.load(pointer + classes * stride_c, known, other=0).to(T)


@triton.jit
def check_values(faults, FROM_LOGITS: tl.constexpr):
    """Asserts on the device; once for a program, as each of them makes its threads wait."""
    tl.device_assert((faults & 1) == 0, "softcm: target must lie in [0, 1] or be a class index")
    if not FROM_LOGITS:
        tl.device_assert(
            (faults & 2) == 0,
            "softcm: input must lie in [0, 1]; pass from_logits=True if these are logits",
        )
    tl.device_assert((faults & 4) == 0, "softcm: weight must be finite and >= 0")


@triton.jit
def cross_entropy(z, p, q, w1, w0, FROM_LOGITS: tl.constexpr):
    if FROM_LOGITS:
        rest = log_one_plus(exp_nonpositive(tl.where(z < 0.0, z, -z)))
        positive = w1 * (tl.where(z < 0.0, -z, 0.0) + rest)
        negative = w0 * (tl.where(z < 0.0, 0.0, z) + rest)
        # A row without weight adds nothing, even where its logarithm is infinite.
        return tl.where(w1 == 0.0, 0.0, positive) + tl.where(w0 == 0.0, 0.0, negative)
    else:
        small = tl.where(p < q, p, q)
        of_small, of_large = minus_log(small), minus_log_one_minus(small)
        return w1 * tl.where(p < q, of_small, of_large) + w0 * tl.where(p < q, of_large, of_small)
