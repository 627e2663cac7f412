"""The Triton kernels: sums over the samples with the loss of their counts, and the gradient.

A program takes a tile of samples and groups, (S, C), with C = 1 where the samples of a group lie
side by side. A group is a class, or with PER_SAMPLE a class of one sample of (N, C, *). The samples
are rows of ``length`` each, or with DIVIDE one row that runs over N and L. softcm/triton_ops.py
fills in all of this.
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
    rows_and_classes,
)

ARITHMETIC = {torch.float32: tl.float32, torch.float64: tl.float64}
# Classes and thresholds of the tile in which the last program finds the loss.
TILE_C = tl.constexpr(16)
TILE_T = tl.constexpr(16)


@triton.jit
def soft_counts_kernel(
    batch,
    steps,  # of make_heaviside; T; True where classes have their own thresholds, otherwise None
    partial,  # (parts of the samples, sums), see sum_rows
    ticket,
    sums,  # counts, totals, cross-entropies
    # Metric, (zero_division, ce_weight), weights of the classes or None, loss, gradients in counts
    # and cross-entropies.
    loss,
    rows,  # samples of a row, parts of a row, samples of a part
    grid,  # parts of the samples, tiles of groups
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    CLASS_INDICES: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    PER_SAMPLE: tl.constexpr,
    DIVIDE: tl.constexpr,
    T: tl.constexpr,
    WITH_CROSS_ENTROPY: tl.constexpr,
    AVERAGE: tl.constexpr,  # None: without a loss
    MAXIMIZE: tl.constexpr,
    S: tl.constexpr,
    C: tl.constexpr,
    THRESHOLDS: tl.constexpr,  # of a program
    TERMS: tl.constexpr,  # that a lane adds up before float64 takes over
    ROWS: tl.constexpr,  # and columns of the tile in which the last program adds up
    COLUMNS: tl.constexpr,
):
    """Grid: parts of the samples x tiles of groups x ranges of thresholds, in one dimension, as
    the others of a GPU end at 65,535.

    Each program writes its sums to ``partial``. The last one to do so adds them up in a fixed
    order, and goes on to the loss.
    """
    groups, thresholds = tl.cast(batch[8], tl.int64), steps[4]
    parts, tiles = grid
    program = tl.program_id(0)
    part = (program % parts).to(tl.int64)
    of_tile = (program // parts % tiles).to(tl.int64) * C + tl.arange(0, C)
    first_threshold = program // parts // tiles * THRESHOLDS
    of_part = sum_part(
        *(batch, steps, first_threshold, rows, part, of_tile[None, :]),
        *(KIND, GATED, CLASS_INDICES, FROM_LOGITS, PER_SAMPLE, DIVIDE, T),
        *(WITH_CROSS_ENTROPY, S, C, THRESHOLDS, TERMS),
    )
    known = of_tile < groups
    size = groups * (4 * thresholds + 4)
    at = partial + part * size
    for g in tl.static_range(THRESHOLDS):
        t = first_threshold + g
        for i in tl.static_range(4):
            place = at + (of_tile * thresholds + t) * 4 + i
            tl.store(place, of_part[4 + 4 * g + i], known & (t < thresholds))
    at += groups * thresholds * 4
    known &= first_threshold == 0
    for i in tl.static_range(3):
        tl.store(at + of_tile * 3 + i, of_part[i], known)
    tl.store(at + groups * 3 + of_tile, of_part[3], known)

    # All threads have stored before one of them draws the ticket, which publishes the stores.
    tl.debug_barrier()
    programs = tl.num_programs(0)
    if tl.atomic_add(ticket, 1, sem="acq_rel", scope="gpu") == programs - 1:
        tl.store(ticket, 0)  # for the next launch
        sum_rows(partial, parts, size, sums, groups, thresholds, ROWS, COLUMNS)
        if AVERAGE is not None:
            tl.debug_barrier()
            finish_loss(
                *(sums, loss, batch[8], thresholds),
                *(AVERAGE, MAXIMIZE, CLASS_INDICES, TILE_C, TILE_T),
            )


@triton.jit
def entry_of(steps, t, classes, class_number):
    """The entry of a threshold: one for all classes, or one for each of classes (1, C)."""
    if steps[5] is None:
        return t
    else:
        return tl.minimum(classes, class_number - 1) * steps[4] + t


@triton.jit
def sum_part(
    batch,
    steps,
    first_threshold,
    rows,
    part,
    groups,
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    CLASS_INDICES: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    PER_SAMPLE: tl.constexpr,
    DIVIDE: tl.constexpr,
    T: tl.constexpr,
    WITH_CROSS_ENTROPY: tl.constexpr,
    S: tl.constexpr,
    C: tl.constexpr,
    THRESHOLDS: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Of a program's samples: weights of all and of positive and negative rows, entropy, and counts
    by threshold."""
    length, parts_of_row, part_length = rows
    first = part % parts_of_row * part_length
    last = tl.minimum(first + part_length, length)
    samples = tl.arange(0, S)[:, None]
    row, classes = rows_and_classes(part // parts_of_row, groups, batch[7], PER_SAMPLE)
    known = groups < batch[8]
    heavisides = ()
    for g in tl.static_range(THRESHOLDS):
        # Past the last threshold, that one again.
        t = tl.minimum(first_threshold + g, steps[4] - 1)
        entry = entry_of(steps, t, classes, batch[7])
        tau = tl.load(steps[0] + entry)
        tl.device_assert((tau > 0.0) & (tau < 1.0), "softcm: threshold must lie in (0, 1)")
        heavisides += (make_heaviside(KIND, steps[:4], entry, T),)
    if batch[3] is not None:
        pos_weight = load_pos_weight(batch[3], classes, known, T)
        fit = (pos_weight >= 0.0) & (pos_weight < float("inf"))
        tl.device_assert(fit, "softcm: pos_weight must be finite and >= 0")

    faults = tl.zeros((S, C), tl.int32)
    sums = ()
    for _ in tl.static_range(4 + 4 * THRESHOLDS):
        sums += (tl.zeros((C,), tl.float64),)
    for begin in range(first, last, TERMS * S):
        lanes = ()
        for _ in tl.static_range(4 + 4 * THRESHOLDS):
            lanes += (tl.zeros((S, C), T),)
        for start in range(begin, tl.minimum(begin + TERMS * S, last), S):
            mask = (samples < last - start) & known
            _counted, z, p, q, w, w1, w0, bad = load_samples(
                batch, row, start, samples, classes, mask, CLASS_INDICES, FROM_LOGITS, DIVIDE, T
            )
            faults |= bad
            entropy = lanes[3]
            if WITH_CROSS_ENTROPY:
                negatives = of_negatives(w0, CLASS_INDICES)
                entropy += cross_entropy(z, p, q, w1, negatives, FROM_LOGITS)
            added = (lanes[0] + w, lanes[1] + w1, lanes[2] + w0, entropy)
            for g in tl.static_range(THRESHOLDS):
                of_threshold = lanes[4 + 4 * g : 8 + 4 * g]
                added += add_counts(of_threshold, KIND, heavisides[g], p, q, w1, w0, GATED)
            lanes = added
        total = ()
        for i in tl.static_range(4 + 4 * THRESHOLDS):
            total += (sums[i] + tl.sum(lanes[i].to(tl.float64), axis=0),)
        sums = total
    check_values(faults, FROM_LOGITS)
    return sums


@triton.jit
def of_negatives(w0, CLASS_INDICES: tl.constexpr):
    """The weights of negative rows in the cross-entropy: a softmax has that of a sample's class."""
    if CLASS_INDICES:
        return tl.zeros_like(w0)
    else:
        return w0


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
    source, rows, size, sums, groups, thresholds, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Sums of the rows of source (rows, size): counts (G, T, 4), totals (G, 3), entropies (G,)."""
    counts, totals, cross_entropies = sums
    before_totals = groups * thresholds * 4
    before_entropies = before_totals + groups * 3
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
    grad_threshold,  # (programs, T), or (parts, G, T) where classes have their own, or None
    rows,  # samples of a row, parts of a row
    grid,  # parts of the samples, tiles of groups
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    CLASS_INDICES: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    PER_SAMPLE: tl.constexpr,
    DIVIDE: tl.constexpr,
    T: tl.constexpr,
    S: tl.constexpr,
    C: tl.constexpr,
):
    """dL/dinput; dL/dthreshold of each program's tile. Grid: parts x tiles of groups."""
    inner, class_number, groups = batch[6], batch[7], batch[8]
    thresholds = steps[4]
    grad_counts, grad_cross_entropy, grad_loss = grads
    length, parts_of_row = rows
    program = tl.program_id(0)
    part = (program % grid[0]).to(tl.int64)
    begin = part % parts_of_row * S
    samples = tl.arange(0, S)[:, None]
    tile = ((program // grid[0]).to(tl.int64) * C + tl.arange(0, C))[None, :]
    row, classes = rows_and_classes(part // parts_of_row, tile, class_number, PER_SAMPLE)
    known = tile < groups
    mask = (samples < length - begin) & known
    counted, _, p, q, _, w1, w0, _ = load_samples(
        batch, row, begin, samples, classes, mask, CLASS_INDICES, FROM_LOGITS, DIVIDE, T
    )
    scale = tl.full((1, C), 1.0, tl.float64)
    if grad_loss is not None:
        scale = tl.load(grad_loss[0] + tile * grad_loss[1], known, other=0.0).to(tl.float64)

    of_counts = tl.zeros((S, C), T)
    for t in range(thresholds):
        h = make_heaviside(KIND, steps[:4], entry_of(steps, t, classes, class_number), T)
        g = load_counts(grad_counts, (tile * thresholds + t) * 4, known)
        below = is_below(KIND, h, p)
        of_row = row_slope(g, scale, below, w1, w0, GATED, T)
        of_counts += slope(KIND, h, p, q) * of_row
        if grad_threshold is not None:
            value = (slope_threshold(KIND, h, p, q) * of_row).to(tl.float64)
            if steps[5] is None:
                place = grad_threshold + program.to(tl.int64) * thresholds + t
                tl.store(place, tl.sum(value))
            else:
                place = grad_threshold + (part * groups + tile) * thresholds + t
                tl.store(place, tl.sum(value, axis=0)[None, :], known)

    variance = p * q
    of_entropy = (scale * tl.load(grad_cross_entropy + tile, known, other=0.0)).to(T)
    residual = of_entropy * (of_negatives(w0, CLASS_INDICES) * p - w1 * q)
    if FROM_LOGITS:
        of_counts *= variance
    else:
        residual = residual / tl.where(variance < 1e-12, 1e-12, variance)
    grad = of_counts + tl.where(of_entropy == 0.0, 0.0, residual)
    grad = tl.where(counted, grad, 0.0)
    tl.store(locate(grad_input, row, begin, inner, samples, classes, DIVIDE), grad, mask)


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
