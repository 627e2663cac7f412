// The approximations h(p, tau) of the Heaviside step and their derivatives, on raw scalars.
//
// Each is described by the smaller of h and 1 - h,
//     other(p, q) = h where p < tau, 1 - h where p >= tau,      with q = 1 - p,
// which keeps its relative precision where h is close to 0 or to 1 (q comes from the caller, who
// knows it exactly where p was computed from a logit). slope = dh/dp, slope_threshold = dh/dtau.
// All are selects between values, never branches, so that a loop over them vectorises.
#pragma once

#include "elementary.h"

namespace softcm {

// The threshold that eq. (5) takes for tau: in (0, 1) and so far from its ends that T has room for
// the breakpoints on either side, and numbers for the slopes and their derivatives.
template <class T>
SOFTCM_HD double inside(double tau) {
  // The rounding unit is written out: nvcc takes std::numeric_limits for a function of the host.
  constexpr double first = 0x1p-60, last = 1 - (sizeof(T) == sizeof(float) ? 0x1p-23 : 0x1p-52);
  return tau < first ? first : (tau > last ? last : tau);
}

// Eq. (5). Both breakpoints belong to the middle segment.
//
// The middle segment is taken from its ends, other = delta + m2 (distance from the nearer one), a
// sum of nonnegative terms. What the rounding of low and high to T loses is in end_low and
// end_high: m2 is large where tau is close to 0 or 1.
template <class T>
struct Linear {
  T tau, low, high;
  T end_low, end_high;  // other at the rounded low and high, on the middle segment
  T m1, m2, m3;         // slopes of the three segments
  T dm1, dm2, dm3;      // their derivatives with respect to tau

  SOFTCM_HD static Linear make(double threshold, double delta) {
    const double tau = inside<T>(threshold);
    const double tau_m = tau < 1 - tau ? tau : 1 - tau;
    const double low = tau - tau_m / 2, high = tau + tau_m / 2;
    const double m1 = delta / low, m2 = (1 - 2 * delta) / tau_m, m3 = delta / (1 - high);
    // d tau_m / d tau is +-1; at tau = 0.5, the kink, it is taken as 0.
    const double dtau_m = tau < 0.5 ? 1 : (tau > 0.5 ? -1 : 0);
    const double dlow = 1 - dtau_m / 2, dhigh = 1 + dtau_m / 2;
    return {T(tau),
            T(low),
            T(high),
            T(delta + m2 * (double(T(low)) - low)),
            T(delta + m2 * (high - double(T(high)))),
            T(m1),
            T(m2),
            T(m3),
            T(-m1 / low * dlow),
            T(-m2 / tau_m * dtau_m),
            T(m3 / (1 - high) * dhigh)};
  }

  SOFTCM_HD T other(T p, T q) const {
    const T below_tau = end_low + m2 * (p - low), above_tau = end_high + m2 * (high - p);
    const T below = m1 * p, above = m3 * q;
    const T middle = p < tau ? below_tau : above_tau;
    const T other = p < low ? below : middle;
    return p > high ? above : other;
  }

  SOFTCM_HD T slope(T p, T) const {
    const T slope = p < low ? m1 : m2;
    return p > high ? m3 : slope;
  }

  SOFTCM_HD T slope_threshold(T p, T q) const {
    const T middle = dm2 * (p - tau) - m2;
    const T below = dm1 * p, above = -dm3 * q;
    const T slope = p < low ? below : middle;
    return p > high ? above : slope;
  }
};

// Section 4: h = 1 / (1 + exp(-k (p - tau))).
template <class T>
struct Sigmoid {
  T tau, tau_rest;  // tau as a sum: k can be so large that the rounding of tau alone would count
  T k;

  SOFTCM_HD static Sigmoid make(double tau, double k) {
    return {T(tau), T(tau - double(T(tau))), T(k)};
  }

  SOFTCM_HD T other(T p, T) const {
    const T difference = (p - tau) - tau_rest;
    const T signed_distance = p < tau ? difference : -difference;
    const T e = exp_nonpositive(k * (signed_distance > T(0) ? T(0) : signed_distance));
    return ratio(e, T(1) + e);
  }

  SOFTCM_HD T slope(T p, T q) const {
    const T o = other(p, q);
    return k * (o * (T(1) - o));
  }

  SOFTCM_HD T slope_threshold(T p, T q) const { return -slope(p, q); }
};

// The same at many thresholds. What belongs to the sample, power(p), is computed once for all:
//     exp(k (p - tau)) = (power(p) exp(-k (tau - 1/2) / 2))^2,      power(p) = exp(k (p - 1/2) / 2)
// Around 1/2 and with half the exponent the factors stay finite for every k up to kMost; where the
// square overflows, other is 0 as it should be.
template <class T>
struct SigmoidOfPower {
  static constexpr double kMost = sizeof(T) == 8 ? 2800 : 340;

  T tau, k, factor;

  static SigmoidOfPower make(double tau, double k) {
    return {T(tau), T(k), T(std::exp(-k / 2 * (tau - 0.5)))};
  }

  SOFTCM_HD static T power(T p, double k) {
    const double exponent = k / 2 * (static_cast<double>(p) - 0.5);
    if constexpr (sizeof(T) == 8) {
      return std::exp(exponent);
    } else {
      return exp_of_double(exponent);
    }
  }

  SOFTCM_HD T other(T, T power) const {
    const T root = power * factor, odds = root * root;  // h / (1 - h)
    return (odds < T(1) ? odds : T(1)) / (T(1) + odds);
  }

  SOFTCM_HD T slope(T p, T power) const {
    const T o = other(p, power);
    return k * (o * (T(1) - o));
  }

  SOFTCM_HD T slope_threshold(T p, T power) const { return -slope(p, power); }
};

// Eq. (1): 1 where p >= tau, 0 where p < tau; NaN stays NaN.
template <class T>
struct Step {
  T tau;

  SOFTCM_HD static Step make(double tau, double) { return {T(tau)}; }

  SOFTCM_HD T other(T p, T) const { return p != p ? p : T(0); }
  SOFTCM_HD T slope(T, T) const { return T(0); }
  SOFTCM_HD T slope_threshold(T, T) const { return T(0); }
};

// From p to the level of a table: p cut off to a multiple of 1 / Q, p = 1 in the last. scale is
// larger than Q by so little that a p which is a multiple up to its own rounding stays that
// multiple (0.29f * 100 is less than 29).
template <class T>
struct Truncation {
  T scale, last;

  SOFTCM_HD static Truncation make(int64_t levels) {
    const double epsilon = sizeof(T) == 8 ? 2.220446049250313e-16 : 1.1920928955078125e-07;
    return {T(static_cast<double>(levels) * (1 + 2 * epsilon)), T(levels - 1)};
  }

  // NaN goes to level 0, and so does what is below 0.
  SOFTCM_HD int32_t operator()(T p) const {
    const T scaled = p * scale;
    const T positive = scaled > T(0) ? scaled : T(0);
    return static_cast<int32_t>(positive < last ? positive : last);
  }
};

}  // namespace softcm
