"""The Triton kernels: sums over the samples with the loss of their counts, and the gradient.

A program takes a tile of samples and classes, (S, C), with C = 1 where the samples of a class lie
side by side. They are rows of ``length`` samples each, or with DIVIDE one row that runs over N and
L. softcm/triton_ops.py fills in all of this.
"""

import torch
import triton
import triton.language as tl

from .triton_math import is_below, make_heaviside, other, slope, slope_threshold
from .triton_metric import finish_loss, load_counts
from .triton_samples import (
    check_values,
    cross_entropy,
    load_pos_weight,
    load_samples,
    locate,
)

ARITHMETIC = {torch.float32: tl.float32, torch.float64: tl.float64}
# Classes and thresholds of the tile in which the last program finds the loss.
TILE_C = tl.constexpr(16)
TILE_T = tl.constexpr(16)


@triton.jit
def soft_counts_kernel(
    batch,
    steps,  # thresholds (T,), the approximation's parameter, (table, levels) or None, T
    partial,  # (parts of the samples, sums), see sum_rows
    ticket,
    sums,  # counts, totals, cross-entropies
    loss,  # metric, (zero_division, bce_weight), loss, gradients in counts and cross-entropies
    rows,  # samples of a row, parts of a row, samples of a part
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    CLASS_INDICES: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    DIVIDE: tl.constexpr,
    T: tl.constexpr,
    WITH_CROSS_ENTROPY: tl.constexpr,
    AVERAGE: tl.constexpr,  # None: without a loss
    MAXIMIZE: tl.constexpr,
    S: tl.constexpr,
    C: tl.constexpr,
    GROUP: tl.constexpr,  # thresholds of a program
    TERMS: tl.constexpr,  # that a lane adds up before float64 takes over
    ROWS: tl.constexpr,  # and columns of the tile in which the last program adds up
    COLUMNS: tl.constexpr,
):
    """Grid: (parts of the samples, tiles of classes, groups of thresholds).

    Each program writes its sums to ``partial``. The last one to do so adds them up in a fixed
    order, and goes on to the loss.
    """
    classes, thresholds = batch[6], steps[3]
    of_tile = (tl.program_id(1) * C + tl.arange(0, C)).to(tl.int64)
    first_threshold = tl.program_id(2) * GROUP
    heavisides = make_group(steps, first_threshold, KIND, T, GROUP)
    of_part = sum_part(
        *(batch, heavisides, rows, of_tile[None, :]),
        *(KIND, GATED, CLASS_INDICES, FROM_LOGITS, DIVIDE, T),
        *(WITH_CROSS_ENTROPY, S, C, GROUP, TERMS),
    )
    known = of_tile < classes
    size = tl.cast(classes, tl.int64) * (4 * thresholds + 3)
    at = partial + tl.program_id(0).to(tl.int64) * size
    for g in tl.static_range(GROUP):
        t = first_threshold + g
        for i in tl.static_range(4):
            place = at + (of_tile * thresholds + t) * 4 + i
            tl.store(place, of_part[3 + 4 * g + i], known & (t < thresholds))
    at += tl.cast(classes, tl.int64) * thresholds * 4
    known &= first_threshold == 0
    tl.store(at + of_tile * 2, of_part[0], known)
    tl.store(at + of_tile * 2 + 1, of_part[1], known)
    tl.store(at + classes * 2 + of_tile, of_part[2], known)

    # All threads have stored before one of them draws the ticket, which publishes the stores.
    tl.debug_barrier()
    programs = tl.num_programs(0) * tl.num_programs(1) * tl.num_programs(2)
    if tl.atomic_add(ticket, 1, sem="acq_rel", scope="gpu") == programs - 1:
        tl.store(ticket, 0)  # for the next launch
        sum_rows(partial, tl.num_programs(0), size, sums, classes, thresholds, ROWS, COLUMNS)
        if AVERAGE is not None:
            tl.debug_barrier()
            finish_loss(
                *(sums, loss, classes, thresholds),
                *(AVERAGE, MAXIMIZE, TILE_C, TILE_T),
            )


@triton.jit
def make_group(steps, first, KIND: tl.constexpr, T: tl.constexpr, GROUP: tl.constexpr):
    """The approximations at thresholds first, first + 1, ...; past the last, that one again."""
    threshold, thresholds = steps[0], steps[3]
    heavisides = ()
    for g in tl.static_range(GROUP):
        t = tl.minimum(first + g, thresholds - 1)
        tau = tl.load(threshold + t)
        tl.device_assert((tau > 0.0) & (tau < 1.0), "softcm: threshold must lie in (0, 1)")
        heavisides += (make_heaviside(KIND, steps, t, T),)
    return heavisides


@triton.jit
def sum_part(
    batch,
    heavisides,
    rows,
    classes,
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    CLASS_INDICES: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    DIVIDE: tl.constexpr,
    T: tl.constexpr,
    WITH_CROSS_ENTROPY: tl.constexpr,
    S: tl.constexpr,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Of a program's samples: weight, weight of the positives, entropy, and counts by threshold."""
    length, parts_of_row, part_length = rows
    part = tl.program_id(0).to(tl.int64)
    row, first = part // parts_of_row, part % parts_of_row * part_length
    last = tl.minimum(first + part_length, length)
    samples = tl.arange(0, S)[:, None]
    known = classes < batch[6]
    if batch[3] is not None:
        pos_weight = load_pos_weight(batch[3], classes, known, T)
        fit = (pos_weight >= 0.0) & (pos_weight < float("inf"))
        tl.device_assert(fit, "softcm: pos_weight must be finite and >= 0")

    faults = tl.zeros((S, C), tl.int32)
    sums = ()
    for _ in tl.static_range(3 + 4 * GROUP):
        sums += (tl.zeros((C,), tl.float64),)
    for begin in range(first, last, TERMS * S):
        lanes = ()
        for _ in tl.static_range(3 + 4 * GROUP):
            lanes += (tl.zeros((S, C), T),)
        for start in range(begin, tl.minimum(begin + TERMS * S, last), S):
            mask = (samples < last - start) & known
            _counted, z, p, q, w, w1, w0, bad = load_samples(
                batch, row, start, samples, classes, mask, CLASS_INDICES, FROM_LOGITS, DIVIDE, T
            )
            faults |= bad
            entropy = lanes[2]
            if WITH_CROSS_ENTROPY:
                entropy += cross_entropy(z, p, q, w1, w0, FROM_LOGITS)
            added = (lanes[0] + w, lanes[1] + w1, entropy)
            for g in tl.static_range(GROUP):
                of_threshold = lanes[3 + 4 * g : 7 + 4 * g]
                added += add_counts(of_threshold, KIND, heavisides[g], p, q, w1, w0, GATED)
            lanes = added
        total = ()
        for i in tl.static_range(3 + 4 * GROUP):
            total += (sums[i] + tl.sum(lanes[i].to(tl.float64), axis=0),)
        sums = total
    check_values(faults, FROM_LOGITS)
    return sums


@triton.jit
def add_counts(counts, KIND: tl.constexpr, h, p, q, w1, w0, GATED: tl.constexpr):
    """Eq. (3), added to the four counts. All terms are nonnegative: nothing cancels."""
    tp, fn, fp, tn = counts
    o = other(KIND, h, p, q)
    below = is_below(KIND, h, p)
    of_label = tl.where(below, o, 1.0 - o)
    against = tl.where(below, 1.0 - o, o)
    tp += w1 * of_label
    fn += w1 * against
    fp += w0 * of_label
    tn += w0 * against
    if not GATED:
        o1, o0 = w1 * o, w0 * o
        tp += o0
        fn += o0
        fp += o1
        tn += o1
    return tp, fn, fp, tn


@triton.jit
def sum_rows(
    source, rows, size, sums, classes, thresholds, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Sums of the rows of source (rows, size): counts (C, T, 4), totals (C, 2), entropies (C,)."""
    counts, totals, cross_entropies = sums
    before_totals = tl.cast(classes, tl.int64) * thresholds * 4
    before_entropies = before_totals + classes * 2
    for begin in range(0, size, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        lanes = tl.zeros((ROWS, COLUMNS), tl.float64)
        for first in range(0, rows, ROWS):
            row = (first + tl.arange(0, ROWS)).to(tl.int64)
            mask = (row < rows)[:, None] & (column < size)[None, :]
            at = source + row[:, None] * size + column[None, :]
            # From the second-level cache: the first level does not see other processors' stores.
            lanes += tl.load(at, mask, other=0.0, cache_modifier=".cg")
        total = tl.sum(lanes, axis=0)
        of_totals = (column >= before_totals) & (column < before_entropies)
        of_entropies = (column >= before_entropies) & (column < size)
        tl.store(counts + column, total, column < before_totals)
        tl.store(totals + (column - before_totals), total, of_totals)
        tl.store(cross_entropies + (column - before_entropies), total, of_entropies)


@triton.jit
def soft_counts_backward_kernel(
    batch,
    steps,
    grads,  # in counts and cross-entropies, and (gradient in the loss, stride of C) or None
    grad_input,
    grad_threshold,  # (programs, T), or None
    rows,  # samples of a row, parts of a row
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    CLASS_INDICES: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    DIVIDE: tl.constexpr,
    T: tl.constexpr,
    S: tl.constexpr,
    C: tl.constexpr,
):
    """dL/dinput; dL/dthreshold of each program's tile. Grid: (parts, tiles of classes)."""
    inner, classes = batch[5], batch[6]
    thresholds = steps[3]
    grad_counts, grad_cross_entropy, grad_loss = grads
    length, parts_of_row = rows
    part = tl.program_id(0).to(tl.int64)
    row, begin = part // parts_of_row, part % parts_of_row * S
    samples = tl.arange(0, S)[:, None]
    tile = (tl.program_id(1) * C + tl.arange(0, C)).to(tl.int64)[None, :]
    known = tile < classes
    mask = (samples < length - begin) & known
    counted, _, p, q, _, w1, w0, _ = load_samples(
        batch, row, begin, samples, tile, mask, CLASS_INDICES, FROM_LOGITS, DIVIDE, T
    )
    scale = tl.full((1, C), 1.0, tl.float64)
    if grad_loss is not None:
        scale = tl.load(grad_loss[0] + tile * grad_loss[1], known, other=0.0).to(tl.float64)

    of_counts = tl.zeros((S, C), T)
    for t in range(thresholds):
        h = make_heaviside(KIND, steps, t, T)
        g = load_counts(grad_counts, (tile * thresholds + t) * 4, known)
        below = is_below(KIND, h, p)
        of_row = row_slope(g, scale, below, w1, w0, GATED, T)
        of_counts += slope(KIND, h, p, q) * of_row
        if grad_threshold is not None:
            value = (slope_threshold(KIND, h, p, q) * of_row).to(tl.float64)
            program = part * tl.num_programs(1) + tl.program_id(1)
            tl.store(grad_threshold + program * thresholds + t, tl.sum(value))

    variance = p * q
    of_entropy = (scale * tl.load(grad_cross_entropy + tile, known, other=0.0)).to(T)
    residual = of_entropy * (w0 * p - w1 * q)
    if FROM_LOGITS:
        of_counts *= variance
    else:
        residual = residual / tl.where(variance < 1e-12, 1e-12, variance)
    grad = of_counts + tl.where(of_entropy == 0.0, 0.0, residual)
    grad = tl.where(counted, grad, 0.0)
    tl.store(locate(grad_input, row, begin, inner, samples, tile, DIVIDE), grad, mask)


@triton.jit
def row_slope(g, scale, below, w1, w0, GATED: tl.constexpr, T: tl.constexpr):
    """csrc/membership.h: what dh/dp is multiplied by, from g = dL/d(tp, fn, fp, tn)."""
    tp, fn, fp, tn = g[0] * scale, g[1] * scale, g[2] * scale, g[3] * scale
    positive, negative = tp - fn, fp - tn
    if GATED:
        return w1 * positive.to(T) + w0 * negative.to(T)
    else:
        other1, other0 = fp + tn, tp + fn
        of_positive = tl.where(below, (positive + other1).to(T), (positive - other1).to(T))
        of_negative = tl.where(below, (negative + other0).to(T), (negative - other0).to(T))
        return w1 * of_positive + w0 * of_negative
