// From counts to the loss of a metric and its gradient in the counts.
//
// Two steps, each over the classes first, first + step, ...: accumulate(), whose results are to be
// added up over all classes, and finish(). So one thread can run them, or a block of a GPU.
#pragma once

#include <cstdint>

#include "composite.h"

namespace softcm {

enum class Average { kMacro, kMicro, kWeighted, kNone };

template <class Metric>
struct LossRuleOf {
  Metric metric;
  bool maximize;
  Average average;
  double zero_division;
  double bce_weight;
};

using LossRule = LossRuleOf<LinearFractional>;

// What a class has beside its counts.
struct ClassTotals {
  double weight = 0;         // of the counted samples
  double positives = 0;      // weight of the positive rows
  double cross_entropy = 0;  // weighted sum

  SOFTCM_HD ClassTotals& operator+=(const ClassTotals& other) {
    weight += other.weight;
    positives += other.positives;
    cross_entropy += other.cross_entropy;
    return *this;
  }
};

// Where the loss goes: numbers of the accumulation dtype.
struct LossOutput {
  void* data;
  bool float64;

  SOFTCM_HD void store(int64_t i, double loss) const {
    if (float64) {
      static_cast<double*>(data)[i] = loss;
    } else {
      static_cast<float*>(data)[i] = static_cast<float>(loss);
    }
  }
};

// The counts of a batch, and where the loss and its partials go. For average = "micro" the caller
// has made one class of all.
struct LossArrays {
  int64_t classes, thresholds;
  const Counts* counts;       // (C, T)
  const ClassTotals* totals;  // (C)
  LossOutput loss;            // one, or one a class for average = "none"
  Counts* grad_counts;        // dL/dcounts (C, T)
  double* grad_entropy;       // dL/dcross_entropy (C)
};

// Over classes; shares are those of the classes in the mean.
struct LossSums {
  double shares = 0, losses = 0, weight = 0, cross_entropy = 0;
};

// A class's loss and its partials.
template <class Metric>
SOFTCM_HD double class_loss(const LossRuleOf<Metric>& rule, const Counts* counts,
                            int64_t thresholds, Counts* partials) {
  const double value = rule.metric(counts, thresholds, rule.zero_division, partials);
  if (!rule.maximize) return value;
  for (int64_t t = 0; t < thresholds; ++t) partials[t] = scaled(partials[t], -1);
  return 1 - value;
}

// The mean over thresholds, in one loop.
SOFTCM_HD double class_loss(const LossRule& rule, const Counts* counts, int64_t thresholds,
                            Counts* partials) {
  const double sign = rule.maximize ? -1 : 1, share = sign / static_cast<double>(thresholds);
  double sum = 0;
  for (int64_t t = 0; t < thresholds; ++t) {
    const MetricValue metric = rule.metric(counts[t], rule.zero_division);
    const Counts& d = metric.partial;
    sum += metric.value;
    partials[t] = {share * d.tp, share * d.fn, share * d.fp, share * d.tn};
  }
  const double mean = sum / static_cast<double>(thresholds);
  return rule.maximize ? 1 - mean : mean;
}

// dL/dcross_entropy: bce_weight over the weight that the mean is taken over.
template <class Metric>
SOFTCM_HD double entropy_share(const LossRuleOf<Metric>& rule, double weight) {
  return weight > 0 ? rule.bce_weight / weight : 0;
}

// The loss where there is nothing to take the metric of.
template <class Metric>
SOFTCM_HD double empty_loss(const LossRuleOf<Metric>& rule) {
  return rule.maximize ? 1 - rule.zero_division : rule.zero_division;
}

// The share of a class in the mean, before division by their sum; 0 without a counted sample.
template <class Metric>
SOFTCM_HD double class_share(const LossRuleOf<Metric>& rule, const ClassTotals& totals) {
  const double share = rule.average == Average::kWeighted ? totals.positives : 1;
  return totals.weight > 0 ? share : 0;
}

template <class Metric>
SOFTCM_HD LossSums accumulate(const LossRuleOf<Metric>& rule, const LossArrays& x, int64_t first,
                              int64_t step) {
  LossSums sums;
  for (int64_t c = first; c < x.classes; c += step) {
    const ClassTotals& totals = x.totals[c];
    const int64_t at = c * x.thresholds;
    // The loss of a class without a sample is a constant, even where a sample of weight 0 is NaN.
    const bool counted = totals.weight > 0;
    double of_class = empty_loss(rule);
    if (counted) {
      of_class = class_loss(rule, x.counts + at, x.thresholds, x.grad_counts + at);
    } else {
      for (int64_t t = 0; t < x.thresholds; ++t) x.grad_counts[at + t] = {0, 0, 0, 0};
    }
    if (rule.average == Average::kNone) {
      const double share = entropy_share(rule, totals.weight);
      x.grad_entropy[c] = share;
      x.loss.store(c, of_class + share * totals.cross_entropy);
      continue;
    }
    const double share = class_share(rule, totals);
    sums.shares += share;
    sums.losses += counted ? share * of_class : 0;
    sums.weight += totals.weight;
    sums.cross_entropy += totals.cross_entropy;
  }
  return sums;
}

// From the sums over all classes.
template <class Metric>
SOFTCM_HD void finish(const LossRuleOf<Metric>& rule, const LossArrays& x, const LossSums& sums,
                      int64_t first, int64_t step) {
  if (rule.average == Average::kNone) return;
  const double of_entropy = entropy_share(rule, sums.weight);
  for (int64_t c = first; c < x.classes; c += step) {
    const double share = sums.shares > 0 ? class_share(rule, x.totals[c]) / sums.shares : 0;
    for (int64_t t = 0; t < x.thresholds; ++t) {
      Counts& g = x.grad_counts[c * x.thresholds + t];
      g = {share * g.tp, share * g.fn, share * g.fp, share * g.tn};
    }
    x.grad_entropy[c] = of_entropy;
  }
  if (first != 0) return;
  // "weighted" without any positive is a ratio with denominator 0.
  const double empty = sums.weight > 0 ? empty_loss(rule) : 0;
  // A NaN share stays NaN; losses without a share sum up to 0, or to NaN.
  const double mean = sums.shares == 0 ? empty + sums.losses : sums.losses / sums.shares;
  x.loss.store(0, mean + of_entropy * sums.cross_entropy);
}

}  // namespace softcm
