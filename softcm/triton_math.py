"""The device maths of csrc/elementary.h and csrc/heaviside.h as Triton functions of the same names.

Why each formula has the form it has is said there. A function takes and returns tensors of the
arithmetic type, float32 or float64. Where C++ relies on the compiler to keep products and sums
apart, so do the launches here (``enable_fp_fusion=False``); a series may use explicit fma.
"""

import triton
import triton.language as tl


@triton.jit
def exp_nonpositive(x):
    """exp(x) for x <= 0; in float32 at least exp(-87)."""
    if x.dtype == tl.float64:
        value = tl.exp(x)
    else:
        clamped = tl.where(x < -87.0, -87.0, x)
        shifted = tl.fma(clamped, 1.44269504, 12582912.0)
        n = shifted - 12582912.0
        r = tl.fma(n, 2.12194440e-4, clamped - n * 0.693359375)
        series = tl.fma(r, 1.98412698e-4, 1.38888889e-3)
        series = tl.fma(series, r, 8.33333333e-3)
        series = tl.fma(series, r, 4.16666667e-2)
        series = tl.fma(series, r, 1.66666667e-1)
        series = tl.fma(series, r, 0.5)
        series = tl.fma(series, r * r, r) + 1.0
        exponent = shifted.to(tl.int32, bitcast=True) - 0x4B400000
        value = series * ((exponent + 127) << 23).to(tl.float32, bitcast=True)
    return value


@triton.jit
def twice_atanh(s):
    """2 atanh(s) for 0 <= s <= 1/3 in float32."""
    square = s * s
    series = tl.fma(square, 2.0 / 17.0, 2.0 / 15.0)
    series = tl.fma(series, square, 2.0 / 13.0)
    series = tl.fma(series, square, 2.0 / 11.0)
    series = tl.fma(series, square, 2.0 / 9.0)
    series = tl.fma(series, square, 2.0 / 7.0)
    series = tl.fma(series, square, 2.0 / 5.0)
    series = tl.fma(series, square, 2.0 / 3.0)
    return tl.fma(series * square, s, s + s)


@triton.jit
def log_one_plus(x):
    """log(1 + x) for 0 <= x <= 1."""
    if x.dtype == tl.float64:
        # Triton has no log1p. What the rounding of 1 + x loses, the quotient makes good.
        u = 1.0 + x
        value = tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))
    else:
        value = twice_atanh(x / (2.0 + x))
    return value


@triton.jit
def minus_log_one_minus(x):
    """-log(1 - x) for 0 <= x <= 1/2."""
    if x.dtype == tl.float64:
        u = 1.0 - x
        value = tl.where(u == 1.0, x, -tl.log(u) * (x / tl.where(u == 1.0, 1.0, 1.0 - u)))
    else:
        value = twice_atanh(x / (2.0 - x))
    return value


@triton.jit
def minus_log(x):
    """-log(x) for 0 <= x <= 1/2, at most 100."""
    if x.dtype == tl.float64:
        value = -tl.log(tl.where(x == 0.0, 1.0, x))
    else:
        subnormal = x < 1.17549435e-38
        normal = tl.where(subnormal, x * 16777216.0, x)
        offset = normal.to(tl.int32, bitcast=True) - 0x3F3504F3
        m = ((offset & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True)
        # Signed, where twice_atanh is an odd function.
        s = (m - 1.0) / (m + 1.0)
        n = (offset >> 23).to(tl.float32) - tl.where(subnormal, 24.0, 0.0)
        value = -(n * 0.693359375 + (twice_atanh(s) - n * 2.12194440e-4))
    bounded = tl.where(value > 100.0, 100.0, value)
    at_zero = tl.where(x == 0.0, 100.0, bounded)
    return tl.where(x != x, x, at_zero)


# An approximation at one threshold is a tuple h of scalars, or of tensors (1, C), which begins with
# tau in the arithmetic type T (but see table_make). tau and parameter come in float64.


@triton.jit
def linear_make(tau, delta, T: tl.constexpr):
    last: tl.constexpr = 1.0 - 2.0**-52 if tl.float64 == T else 1.0 - 2.0**-23
    tau = tl.minimum(tl.maximum(tau, 2.0**-60), last)
    tau_m = tl.where(tau < 1.0 - tau, tau, 1.0 - tau)
    low, high = tau - 0.5 * tau_m, tau + 0.5 * tau_m
    m1 = delta.to(T) / low.to(T)
    m2 = (1.0 - 2.0 * delta).to(T) / tau_m.to(T)
    m3 = delta.to(T) / (1.0 - high).to(T)
    end_low = (delta + m2.to(tl.float64) * (low.to(T).to(tl.float64) - low)).to(T)
    end_high = (delta + m2.to(tl.float64) * (high - high.to(T).to(tl.float64))).to(T)
    dtau_m = tl.where(tau < 0.5, 1.0, tl.where(tau > 0.5, -1.0, 0.0)).to(T)
    dm1 = -m1 / low.to(T) * (1.0 - 0.5 * dtau_m)
    dm2 = -m2 / tau_m.to(T) * dtau_m
    dm3 = m3 / (1.0 - high).to(T) * (1.0 + 0.5 * dtau_m)
    return tau.to(T), low.to(T), high.to(T), end_low, end_high, m1, m2, m3, dm1, dm2, dm3


@triton.jit
def linear_other(h, p, q):
    tau, low, high, end_low, end_high, m1, m2, m3, _, _, _ = h
    middle = tl.where(p < tau, end_low + m2 * (p - low), end_high + m2 * (high - p))
    return tl.where(p > high, m3 * q, tl.where(p < low, m1 * p, middle))


@triton.jit
def linear_slope(h, p, q):
    _, low, high, _, _, m1, m2, m3, _, _, _ = h
    return tl.where(p > high, m3, tl.where(p < low, m1, m2))


@triton.jit
def linear_slope_threshold(h, p, q):
    tau, low, high, _, _, _, m2, _, dm1, dm2, dm3 = h
    middle = dm2 * (p - tau) - m2
    return tl.where(p > high, -dm3 * q, tl.where(p < low, dm1 * p, middle))


@triton.jit
def sigmoid_make(tau, k, T: tl.constexpr):
    return tau.to(T), (tau - tau.to(T).to(tl.float64)).to(T), k.to(T)


@triton.jit
def sigmoid_other(h, p, q):
    tau, tau_rest, k = h
    difference = (p - tau) - tau_rest
    signed_distance = tl.where(p < tau, difference, -difference)
    e = exp_nonpositive(k * tl.where(signed_distance > 0.0, 0.0, signed_distance))
    return e / (1.0 + e)


@triton.jit
def sigmoid_slope(h, p, q):
    o = sigmoid_other(h, p, q)
    return h[2] * (o * (1.0 - o))


@triton.jit
def table_make(tau, table, entry, entries, T: tl.constexpr):
    """The first level at or above tau, the rows of h and dh/dp, and the numbers of truncate."""
    pointer, levels = table
    number = tl.cast(levels, tl.float64)
    b = tl.floor(tau * number) - 1.0
    for _ in tl.static_range(3):
        b += tl.where(b / number < tau, 1.0, 0.0)
    epsilon: tl.constexpr = 2.220446049250313e-16 if tl.float64 == T else 1.1920928955078125e-07
    scale = (number * (1.0 + 2.0 * epsilon)).to(T)
    row = pointer + entry * levels
    return b.to(tl.int32), row, row + entries * levels, scale, levels - 1


@triton.jit
def truncate(h, p):
    """The level of p; NaN goes to level 0."""
    scaled = p * h[3]
    last = tl.cast(h[4], p.dtype)
    positive = tl.where(scaled > 0.0, scaled, 0.0)
    return tl.where(positive < last, positive, last).to(tl.int32)


@triton.jit
def make_heaviside(KIND: tl.constexpr, steps, entry, T: tl.constexpr):
    """The approximation at an entry of steps: (thresholds, parameter, table, number of entries).

    An entry may be a tensor (1, C): each class has a threshold of its own.
    """
    threshold, parameter, table, entries = steps
    tau = tl.load(threshold + entry).to(tl.float64)
    if KIND == "linear":
        h = linear_make(tau, tl.load(parameter), T)
    elif KIND == "sigmoid":
        h = sigmoid_make(tau, tl.load(parameter), T)
    elif KIND == "table":
        h = table_make(tau, table, entry, entries, T)
    else:
        h = (tau.to(T),)
    return h


@triton.jit
def is_below(KIND: tl.constexpr, h, p):
    """Whether p < tau; of a table, its level."""
    if KIND == "table":
        below = truncate(h, p) < h[0]
    else:
        below = p < h[0]
    return below


@triton.jit
def other(KIND: tl.constexpr, h, p, q):
    """The smaller of h and 1 - h: h where p < tau, 1 - h where p >= tau."""
    if KIND == "linear":
        o = linear_other(h, p, q)
    elif KIND == "sigmoid":
        o = sigmoid_other(h, p, q)
    elif KIND == "table":
        of_level = tl.load(h[1] + truncate(h, p)).to(p.dtype)
        o = tl.where(p != p, p, tl.where(is_below(KIND, h, p), of_level, 1.0 - of_level))
    else:
        o = tl.where(p != p, p, 0.0)
    return o


@triton.jit
def slope(KIND: tl.constexpr, h, p, q):
    """dh/dp."""
    if KIND == "linear":
        d = linear_slope(h, p, q)
    elif KIND == "sigmoid":
        d = sigmoid_slope(h, p, q)
    elif KIND == "table":
        d = tl.load(h[2] + truncate(h, p)).to(p.dtype)
    else:
        d = tl.zeros_like(p)
    return d


@triton.jit
def slope_threshold(KIND: tl.constexpr, h, p, q):
    """dh/dtau; a table has none."""
    if KIND == "linear":
        d = linear_slope_threshold(h, p, q)
    elif KIND == "sigmoid":
        d = -sigmoid_slope(h, p, q)
    else:
        d = tl.zeros_like(p)
    return d
