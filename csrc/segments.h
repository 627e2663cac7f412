// Eq. (5) at one of many thresholds, from sums over buckets, and back from gradients.
//
// Between the breakpoints of all thresholds the piecewise-linear h is linear in p at each of them.
// So the sums of the samples between two neighbours, a bucket, of weights and of weighted p, give
// every threshold's sums exactly, and the gradient of a sample depends on its bucket and label
// alone.
#pragma once

#include <cstdint>

#include "heaviside.h"
#include "membership.h"

namespace softcm {

// Running sums over the buckets of one label: from 0 up to a bucket, and from a bucket up to 1. In
// each direction that which is summed, p or 1 - p, is small where the sum begins, so that neither a
// sum nor a difference of two of them loses the digits of what is close to its end.
struct RunningSums {
  // Of the buckets below b, and of b and those above, for b = 0 ... the number of buckets.
  const double *weight_below, *p_below, *weight_above, *q_above;

  // Of the buckets first ... last - 1: the weight, and the weighted sum of p - tau.
  SOFTCM_HD double weight(double tau, int64_t first, int64_t last) const {
    return tau <= 0.5 ? weight_below[last] - weight_below[first]
                      : weight_above[first] - weight_above[last];
  }
  SOFTCM_HD double distance(double tau, int64_t first, int64_t last) const {
    const double sum = weight(tau, first, last);
    return tau <= 0.5 ? (p_below[last] - p_below[first]) - tau * sum
                      : (1 - tau) * sum - (q_above[first] - q_above[last]);
  }
};

// By how much the gradient of a sample changes from one bucket to the next, where it does.
struct SlopeChanges {
  double at_zero, at_low, at_tau, at_high;
};

struct Segments {
  Linear<double> h;
  int64_t low, tau, high;  // buckets in which the second, the upper half of it, the third begin

  SOFTCM_HD Sums sums(const RunningSums& positive, const RunningSums& negative) const {
    return {other_below(positive),      other_above(positive),      other_below(negative),
            other_above(negative),      positive.weight_below[tau], positive.weight_above[tau],
            negative.weight_below[tau], negative.weight_above[tau]};
  }

  // below, above: what dh/dp is multiplied by on either side of tau.
  SOFTCM_HD SlopeChanges changes(double below, double above) const {
    return {h.m1 * below, (h.m2 - h.m1) * below, h.m2 * (above - below), (h.m3 - h.m2) * above};
  }

 private:
  // In the middle segment other = 1/2 - m2 |p - tau|.
  SOFTCM_HD double other_below(const RunningSums& x) const {
    return h.m1 * x.p_below[low] + 0.5 * x.weight(h.tau, low, tau) +
           h.m2 * x.distance(h.tau, low, tau);
  }
  SOFTCM_HD double other_above(const RunningSums& x) const {
    return 0.5 * x.weight(h.tau, tau, high) - h.m2 * x.distance(h.tau, tau, high) +
           h.m3 * x.q_above[high];
  }
};

// The upper breakpoint belongs to the segment below it: the third one begins at the next number.
SOFTCM_HD float next(float x) { return float_from_bits(float_bits(x) + 1); }
SOFTCM_HD double next(double x) { return double_from_bits(double_bits(x) + 1); }

}  // namespace softcm
