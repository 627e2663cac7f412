// From counts to the loss of a metric and its gradient in the counts.
//
// Two steps, each over the classes first, first + step, ...: accumulate(), whose results are to be
// added up over all classes, and finish(). So one thread can run them, or a block of a GPU.
#pragma once

#include <cstdint>

#include "composite.h"

namespace softcm {

enum class Average { kMacro, kMicro, kWeighted, kNone, kPresent };

struct NoMetric {};

template <class Metric>
struct LossRuleOf {
  Metric metric;
  bool maximize;
  Average average;
  double zero_division;
  double ce_weight;
  // The cross-entropy is that of a softmax over the classes, -log p of the class of each sample,
  // whose mean is taken over the positive rows.
  bool softmax;
  const double* class_weight;  // (C), or null: all 1

  template <class Other>
  SOFTCM_HD LossRuleOf<Other> with(const Other& other) const {
    return {other, maximize, average, zero_division, ce_weight, softmax, class_weight};
  }
};

using LossRule = LossRuleOf<LinearFractional>;

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

// Over classes: their shares in the mean, how much of the batch is in classes that have a metric,
// and the cross-entropy with the weight that its mean is taken over.
struct LossSums {
  double shares = 0, losses = 0, weight = 0, cross_entropy = 0, entropy_weight = 0;
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

// The weight that the mean cross-entropy of a class is taken over.
template <class Metric>
SOFTCM_HD double entropy_weight(const LossRuleOf<Metric>& rule, const ClassTotals& totals) {
  return rule.softmax ? totals.positives : totals.weight;
}

// dL/dcross_entropy.
template <class Metric>
SOFTCM_HD double entropy_share(const LossRuleOf<Metric>& rule, double weight) {
  return weight > 0 ? rule.ce_weight / weight : 0;
}

// The loss where there is nothing to take the metric of.
template <class Metric>
SOFTCM_HD double empty_loss(const LossRuleOf<Metric>& rule) {
  return rule.maximize ? 1 - rule.zero_division : rule.zero_division;
}

// The share of a class in the mean, before division by their sum; 0 where it has no metric.
template <class Metric>
SOFTCM_HD double class_share(const LossRuleOf<Metric>& rule, const ClassTotals& totals, int64_t c) {
  if (!rule.metric.is_defined(totals)) return 0;
  const double weight = rule.class_weight == nullptr ? 1 : rule.class_weight[c];
  switch (rule.average) {
    case Average::kWeighted:
      return totals.positives;
    case Average::kPresent:
      return totals.positives > 0 ? weight : 0;
    case Average::kMacro:
      return weight;
    case Average::kMicro:
    case Average::kNone:
      return 1;
  }
  return 0;
}

template <class Metric>
SOFTCM_HD LossSums accumulate(const LossRuleOf<Metric>& rule, const LossArrays& x, int64_t first,
                              int64_t step) {
  LossSums sums;
  for (int64_t c = first; c < x.classes; c += step) {
    const ClassTotals& totals = x.totals[c];
    const int64_t at = c * x.thresholds;
    // The loss of a class without a metric is a constant, even where a sample of weight 0 is NaN.
    const bool defined = rule.metric.is_defined(totals);
    double of_class = empty_loss(rule);
    if (defined) {
      of_class = class_loss(rule, x.counts + at, x.thresholds, x.grad_counts + at);
    } else {
      // NaN among samples that count always shows.
      const double zero = totals.weight > 0 ? 0 * x.counts[at].tp : 0;
      of_class += zero;
      for (int64_t t = 0; t < x.thresholds; ++t) x.grad_counts[at + t] = {zero, zero, zero, zero};
    }
    if (rule.average == Average::kNone) {
      const double share = entropy_share(rule, entropy_weight(rule, totals));
      x.grad_entropy[c] = share;
      x.loss.store(c, of_class + share * totals.cross_entropy);
      continue;
    }
    const double share = class_share(rule, totals, c);
    sums.shares += share;
    sums.losses += share * of_class;  // with a share of 0, too: NaN shows
    sums.weight += defined ? totals.weight : 0;
    sums.entropy_weight += entropy_weight(rule, totals);
    sums.cross_entropy += totals.cross_entropy;
  }
  return sums;
}

// From the sums over all classes.
template <class Metric>
SOFTCM_HD void finish(const LossRuleOf<Metric>& rule, const LossArrays& x, const LossSums& sums,
                      int64_t first, int64_t step) {
  if (rule.average == Average::kNone) return;
  const double of_entropy = entropy_share(rule, sums.entropy_weight);
  for (int64_t c = first; c < x.classes; c += step) {
    const double share = sums.shares > 0 ? class_share(rule, x.totals[c], c) / sums.shares : 0;
    for (int64_t t = 0; t < x.thresholds; ++t) {
      Counts& g = x.grad_counts[c * x.thresholds + t];
      g = scaled(g, share);
    }
    x.grad_entropy[c] = of_entropy;
  }
  if (first != 0) return;
  // "weighted" without any positive is a ratio with denominator 0; other means without a class are
  // 0.
  const bool weighted = rule.average == Average::kWeighted;
  const double empty = weighted && sums.weight > 0 ? empty_loss(rule) : 0;
  // A NaN share stays NaN; losses without a share sum up to 0, or to NaN.
  const double mean = sums.shares == 0 ? empty + sums.losses : sums.losses / sums.shares;
  x.loss.store(0, mean + of_entropy * sums.cross_entropy);
}

}  // namespace softcm
