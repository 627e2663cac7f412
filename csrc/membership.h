// Eq. (3): from the soft step to the four counts, and back from their gradients.
//
// With o = min(h, 1 - h), a row of eq. (3) is, for a positive (y = 1),
//     p <  tau:  tp = o      fn = 1 - o  fp = o      tn = o
//     p >= tau:  tp = 1 - o  fn = o      fp = o      tn = o
// and for a negative the same with (fp, tn) in the place of (tp, fn). "gated" leaves out the o of
// the other label. So the sums of o and of the weights, by label and side, give the four counts of
// either membership. As o <= 1/2, the differences lose no more than one bit.
#pragma once

#include "elementary.h"

namespace softcm {

// Sums over samples. 1: with the weight of the positive row, 0: of the negative row; below: those
// with p < tau, above: the others.
struct Sums {
  double other1_below = 0, other1_above = 0, other0_below = 0, other0_above = 0;
  double weight1_below = 0, weight1_above = 0, weight0_below = 0, weight0_above = 0;

  SOFTCM_HD Sums& operator+=(const Sums& s) {
    other1_below += s.other1_below;
    other1_above += s.other1_above;
    other0_below += s.other0_below;
    other0_above += s.other0_above;
    weight1_below += s.weight1_below;
    weight1_above += s.weight1_above;
    weight0_below += s.weight0_below;
    weight0_above += s.weight0_above;
    return *this;
  }

  SOFTCM_HD void weigh_positives(double pos_weight) {
    other1_below *= pos_weight;
    other1_above *= pos_weight;
    weight1_below *= pos_weight;
    weight1_above *= pos_weight;
  }
};

struct Counts {
  double tp, fn, fp, tn;

  SOFTCM_HD Counts& operator+=(const Counts& c) {
    tp += c.tp;
    fn += c.fn;
    fp += c.fp;
    tn += c.tn;
    return *this;
  }
};

// What a class has beside its counts.
struct ClassTotals {
  double weight = 0;         // of the counted samples
  double positives = 0;      // weight of the positive rows
  double negatives = 0;      // weight of the negative rows
  double cross_entropy = 0;  // weighted sum

  SOFTCM_HD ClassTotals& operator+=(const ClassTotals& other) {
    weight += other.weight;
    positives += other.positives;
    negatives += other.negatives;
    cross_entropy += other.cross_entropy;
    return *this;
  }
};

SOFTCM_HD Counts counts(const Sums& s, bool gated) {
  const double of_negatives = gated ? 0 : s.other0_below + s.other0_above;
  const double of_positives = gated ? 0 : s.other1_below + s.other1_above;
  return {s.other1_below + (s.weight1_above - s.other1_above) + of_negatives,
          s.other1_above + (s.weight1_below - s.other1_below) + of_negatives,
          s.other0_below + (s.weight0_above - s.other0_above) + of_positives,
          s.other0_above + (s.weight0_below - s.other0_below) + of_positives};
}

// What dh/dp is multiplied by to give dL/dp, for a sample of weight 1.
template <class T>
struct Slopes {
  T positive_below, positive_above, negative_below, negative_above;

  // For a sample with the weights w1 of the positive row and w0 of the negative row.
  SOFTCM_HD T operator()(bool below, T w1, T w0) const {
    const T positive = below ? positive_below : positive_above;
    const T negative = below ? negative_below : negative_above;
    return w1 * positive + w0 * negative;
  }
};

// From g = dL/d(tp, fn, fp, tn); do/dh is +1 where p < tau and -1 where p >= tau.
template <class T>
SOFTCM_HD Slopes<T> slopes(const Counts& g, bool gated) {
  const double positive = g.tp - g.fn, negative = g.fp - g.tn;
  const double other1 = gated ? 0 : g.fp + g.tn, other0 = gated ? 0 : g.tp + g.fn;
  return {T(positive + other1), T(positive - other1), T(negative + other0), T(negative - other0)};
}

}  // namespace softcm
