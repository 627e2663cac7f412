// Eq. (3): from the soft step to the four counts, and back from their gradients.
//
// With o = min(h, 1 - h) and u = 1 - 2 o, a row of eq. (3) is, for a positive (y = 1),
//     p <  tau:  tp = o      fn = o + u  fp = o      tn = o
//     p >= tau:  tp = o + u  fn = o      fp = o      tn = o
// and for a negative the same with (fp, tn) in the place of (tp, fn). So six sums of nonnegative
// terms give all four counts of either membership without a subtraction. "gated" leaves out the o
// of the other label.
#pragma once

#include "elementary.h"

namespace softcm {

// Sums over samples; 1: weighted by the positive row's weight, 0: by the negative row's.
struct Sums {
  double other1 = 0, other0 = 0;  // of o
  double above1 = 0, above0 = 0;  // of u where p >= tau
  double below1 = 0, below0 = 0;  // of u where p < tau

  Sums& operator+=(const Sums& s) {
    other1 += s.other1;
    other0 += s.other0;
    above1 += s.above1;
    above0 += s.above0;
    below1 += s.below1;
    below0 += s.below0;
    return *this;
  }
};

struct Counts {
  double tp, fn, fp, tn;
};

SOFTCM_HD Counts counts(const Sums& s, bool gated) {
  const double positive = gated ? s.other1 : s.other1 + s.other0;
  const double negative = gated ? s.other0 : s.other1 + s.other0;
  return {s.above1 + positive, s.below1 + positive, s.above0 + negative, s.below0 + negative};
}

// What dh/dp is multiplied by to give dL/dp, for a sample of weight 1.
template <class T>
struct Slopes {
  T positive_below, positive_above, negative_below, negative_above;
};

// From g = dL/d(tp, fn, fp, tn); do/dh is +1 where p < tau and -1 where p >= tau.
template <class T>
SOFTCM_HD Slopes<T> slopes(const Counts& g, bool gated) {
  const double positive = g.tp - g.fn, negative = g.fp - g.tn;
  const double other1 = gated ? 0 : g.fp + g.tn, other0 = gated ? 0 : g.tp + g.fn;
  return {T(positive + other1), T(positive - other1), T(negative + other0), T(negative - other0)};
}

}  // namespace softcm
