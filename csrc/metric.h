// The linear-fractional metric (a . c + a0) / (b . c + b0) of the counts c, and its four partials.
#pragma once

#include "membership.h"

namespace softcm {

struct MetricValue {
  double value;
  Counts partial;  // d value / d (tp, fn, fp, tn)
};

struct LinearFractional {
  Counts a;
  double a0;
  Counts b;
  double b0;

  // Whether a class has this metric: it needs a sample that counts.
  SOFTCM_HD bool is_defined(const ClassTotals& totals) const { return totals.weight > 0; }

  // A denominator of exactly 0 gives zero_division, without a gradient.
  SOFTCM_HD MetricValue operator()(const Counts& c, double zero_division) const {
    const double top = a.tp * c.tp + a.fn * c.fn + a.fp * c.fp + a.tn * c.tn + a0;
    const double bottom = b.tp * c.tp + b.fn * c.fn + b.fp * c.fp + b.tn * c.tn + b0;
    if (bottom == 0) return {zero_division, {0, 0, 0, 0}};
    const double value = top / bottom;
    return {value,
            {(a.tp - value * b.tp) / bottom, (a.fn - value * b.fn) / bottom,
             (a.fp - value * b.fp) / bottom, (a.tn - value * b.tn) / bottom}};
  }
};

}  // namespace softcm
