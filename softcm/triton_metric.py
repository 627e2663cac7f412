"""The loss of a linear-fractional metric from the counts, and its gradients in them.

What csrc/loss.h does; here a single program, which goes through classes and
thresholds in tiles (C, TILE_T).
"""

import triton
import triton.language as tl


@triton.jit
def metric_value(metric, counts, zero_division):
    """csrc/metric.h: a linear-fractional metric and its four partials."""
    tp, fn, fp, tn = counts
    a_tp, a_fn = tl.load(metric), tl.load(metric + 1)
    a_fp, a_tn, a0 = tl.load(metric + 2), tl.load(metric + 3), tl.load(metric + 4)
    b_tp, b_fn = tl.load(metric + 5), tl.load(metric + 6)
    b_fp, b_tn, b0 = tl.load(metric + 7), tl.load(metric + 8), tl.load(metric + 9)
    top = a_tp * tp + a_fn * fn + a_fp * fp + a_tn * tn + a0
    bottom = b_tp * tp + b_fn * fn + b_fp * fp + b_tn * tn + b0
    defined = bottom != 0.0
    divisor = tl.where(defined, bottom, 1.0)
    value = tl.where(defined, top / divisor, zero_division)
    partials = (
        tl.where(defined, (a_tp - value * b_tp) / divisor, 0.0),
        tl.where(defined, (a_fn - value * b_fn) / divisor, 0.0),
        tl.where(defined, (a_fp - value * b_fp) / divisor, 0.0),
        tl.where(defined, (a_tn - value * b_tn) / divisor, 0.0),
    )
    return value, partials


@triton.jit
def load_counts(counts, index, mask):
    return (
        tl.load(counts + index, mask, other=0.0),
        tl.load(counts + index + 1, mask, other=0.0),
        tl.load(counts + index + 2, mask, other=0.0),
        tl.load(counts + index + 3, mask, other=0.0),
    )


@triton.jit
def class_totals(
    sums, class_weight, c, classes, AVERAGE: tl.constexpr, CLASS_INDICES: tl.constexpr
):
    """Of classes (C,): weight of the counted samples, share in the mean (not normed), entropy, and
    the weight that its mean is taken over: of a softmax, that of the positives."""
    _, totals, cross_entropies = sums
    known = c < classes
    weight = tl.load(totals + 3 * c, known, other=0.0)
    positives = tl.load(totals + 3 * c + 1, known, other=0.0)
    share = tl.where(weight > 0.0, 1.0, 0.0).to(tl.float64)
    if AVERAGE == "weighted":
        share *= positives
    elif AVERAGE == "present":
        share = tl.where(positives > 0.0, share, 0.0)
    if class_weight is not None:
        share *= tl.load(class_weight + c, known, other=0.0)
    entropy = tl.load(cross_entropies + c, known, other=0.0)
    return weight, share, entropy, positives if CLASS_INDICES else weight


@triton.jit
def finish_loss(
    sums,
    loss,
    classes,
    thresholds,
    AVERAGE: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    CLASS_INDICES: tl.constexpr,
    C: tl.constexpr,
    TILE_T: tl.constexpr,
):
    """From counts, totals and cross-entropies to the loss; ``loss`` as in soft_counts_kernel."""
    counts = sums[0]
    metric, loss_rule, class_weight, output, grad_counts, grad_cross_entropy = loss
    zero_division, ce_weight = tl.load(loss_rule), tl.load(loss_rule + 1)
    sign: tl.constexpr = -1.0 if MAXIMIZE else 1.0
    empty = 1.0 - zero_division if MAXIMIZE else zero_division
    sign_of_mean = sign / tl.cast(thresholds, tl.float64)

    all_weight = tl.zeros((C,), tl.float64)
    all_shares = tl.zeros((C,), tl.float64)
    all_entropy = tl.zeros((C,), tl.float64)
    all_entropy_weight = tl.zeros((C,), tl.float64)
    for first in range(0, classes, C):
        c = first + tl.arange(0, C)
        weight, share, entropy, entropy_weight = class_totals(
            sums, class_weight, c, classes, AVERAGE, CLASS_INDICES
        )
        all_weight += weight
        all_shares += share
        all_entropy += entropy
        all_entropy_weight += entropy_weight
    weight_sum, share_sum = tl.sum(all_weight), tl.sum(all_shares)
    entropy_weight_sum = tl.sum(all_entropy_weight)
    entropy_share = tl.where(entropy_weight_sum > 0.0, ce_weight / entropy_weight_sum, 0.0)

    if AVERAGE == "micro":
        value = micro_metric(
            *(counts, metric, grad_counts, zero_division, sign_of_mean),
            *(weight_sum > 0.0, classes, thresholds, C, TILE_T),
        )
        of_counts = 1.0 - value if MAXIMIZE else value
        of_counts = tl.where(weight_sum > 0.0, of_counts, 0.0)
    else:
        of_counts = tl.zeros((C,), tl.float64)

    for first in range(0, classes, C):
        c = first + tl.arange(0, C)
        weight, share, entropy, _ = class_totals(
            sums, class_weight, c, classes, AVERAGE, CLASS_INDICES
        )
        of_class = entropy_share
        if AVERAGE == "none":
            share = tl.full((C,), 1.0, tl.float64)
            of_class = tl.where(weight > 0.0, ce_weight / weight, 0.0)
        elif AVERAGE != "micro":
            share = tl.where(share_sum > 0.0, share / share_sum, 0.0)
        if AVERAGE != "micro":
            value = class_metric(
                *(counts, metric, grad_counts, zero_division, sign_of_mean * share),
                *(weight > 0.0, c, classes, thresholds, C, TILE_T),
            )
            value = 1.0 - value if MAXIMIZE else value
            if AVERAGE == "none":
                value = tl.where(weight > 0.0, value, empty) + of_class * entropy
                tl.store(output + c, value, c < classes)
            else:
                of_counts += share * tl.where(weight > 0.0, value, 0.0)
        tl.store(grad_cross_entropy + c, tl.zeros((C,), tl.float64) + of_class, c < classes)
    if AVERAGE == "micro":
        tl.store(output, of_counts + entropy_share * tl.sum(all_entropy))
    elif AVERAGE != "none":
        mean = tl.sum(of_counts)
        if AVERAGE == "weighted":  # without any positive it is a ratio with denominator 0
            mean += tl.where((share_sum == 0.0) & (weight_sum > 0.0), empty, 0.0)
        tl.store(output, mean + entropy_share * tl.sum(all_entropy))


@triton.jit
def class_metric(
    counts,
    metric,
    grad_counts,
    zero_division,
    scale,
    counted,
    c,
    classes,
    thresholds,
    C: tl.constexpr,
    TILE_T: tl.constexpr,
):
    """The mean over thresholds of the metric of classes c (C,); writes scale x its partials, 0 for
    a class without a sample, even where one of weight 0 is NaN."""
    value_sum = tl.zeros((C,), tl.float64)
    for first in range(0, thresholds, TILE_T):
        t = first + tl.arange(0, TILE_T)
        mask = (c < classes)[:, None] & (t < thresholds)[None, :]
        index = (c.to(tl.int64)[:, None] * thresholds + t[None, :]) * 4
        value, partials = metric_value(metric, load_counts(counts, index, mask), zero_division)
        value_sum += tl.sum(tl.where(mask, value, 0.0), axis=1)
        for i in tl.static_range(4):
            of_class = tl.where(counted[:, None], scale[:, None] * partials[i], 0.0)
            tl.store(grad_counts + index + i, of_class, mask)
    return value_sum / tl.cast(thresholds, tl.float64)


@triton.jit
def micro_metric(
    counts,
    metric,
    grad_counts,
    zero_division,
    scale,
    counted,
    classes,
    thresholds,
    C: tl.constexpr,
    TILE_T: tl.constexpr,
):
    """The same of the counts of all classes together, whose partials every class gets."""
    value_sum = tl.zeros((TILE_T,), tl.float64)
    for first in range(0, thresholds, TILE_T):
        t = first + tl.arange(0, TILE_T)
        zero = tl.zeros((TILE_T,), tl.float64)
        tp, fn, fp, tn = zero, zero, zero, zero
        for first_class in range(0, classes, C):
            c = first_class + tl.arange(0, C)
            mask = (c < classes)[:, None] & (t < thresholds)[None, :]
            index = (c.to(tl.int64)[:, None] * thresholds + t[None, :]) * 4
            of_tile = load_counts(counts, index, mask)
            tp += tl.sum(of_tile[0], axis=0)
            fn += tl.sum(of_tile[1], axis=0)
            fp += tl.sum(of_tile[2], axis=0)
            tn += tl.sum(of_tile[3], axis=0)
        value, partials = metric_value(metric, (tp, fn, fp, tn), zero_division)
        value_sum += tl.where(t < thresholds, value, 0.0)
        for first_class in range(0, classes, C):
            c = first_class + tl.arange(0, C)
            mask = (c < classes)[:, None] & (t < thresholds)[None, :]
            index = (c.to(tl.int64)[:, None] * thresholds + t[None, :]) * 4
            for i in tl.static_range(4):
                of_class = tl.where(counted, scale * partials[i], 0.0)[None, :]
                of_class += tl.zeros((C, TILE_T), tl.float64)
                tl.store(grad_counts + index + i, of_class, mask)
    return tl.sum(value_sum) / tl.cast(thresholds, tl.float64)
