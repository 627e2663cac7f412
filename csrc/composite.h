// Metrics that are not linear-fractional but made of ratios that are, with their partials.
//
// As in softcm/metrics.py: a ratio whose denominator is exactly 0 has the value zero_division and
// no gradient, and where a formula has an infinite slope at a finite value the gradient is 0.
#pragma once

#include <cmath>
#include <cstdint>

#include "metric.h"

namespace softcm {

enum class CompositeKind {
  kBalancedAccuracy,
  kGMean,
  kInformedness,
  kMcc,
  kKappa,
  kAuroc,
  kAuprc,
};

SOFTCM_HD Counts scaled(const Counts& c, double factor) {
  return {factor * c.tp, factor * c.fn, factor * c.fp, factor * c.tn};
}

// v times the one plus w times the other.
SOFTCM_HD Counts combined(double v, const Counts& a, double w, const Counts& b) {
  Counts sum = scaled(a, v);
  sum += scaled(b, w);
  return sum;
}

SOFTCM_HD MetricValue precision(const Counts& c, double zero_division) {
  return LinearFractional{{1, 0, 0, 0}, 0, {1, 0, 1, 0}, 0}(c, zero_division);
}

SOFTCM_HD MetricValue recall(const Counts& c, double zero_division) {
  return LinearFractional{{1, 0, 0, 0}, 0, {1, 1, 0, 0}, 0}(c, zero_division);
}

SOFTCM_HD MetricValue specificity(const Counts& c, double zero_division) {
  return LinearFractional{{0, 0, 0, 1}, 0, {0, 0, 1, 1}, 0}(c, zero_division);
}

SOFTCM_HD MetricValue false_positive_rate(const Counts& c, double zero_division) {
  return LinearFractional{{0, 0, 1, 0}, 0, {0, 0, 1, 1}, 0}(c, zero_division);
}

SOFTCM_HD MetricValue prevalence(const Counts& c, double zero_division) {
  return LinearFractional{{1, 1, 0, 0}, 0, {1, 1, 1, 1}, 0}(c, zero_division);
}

SOFTCM_HD MetricValue gmean(const MetricValue& r, const MetricValue& s) {
  const double product = r.value * s.value;
  if (product == 0) return {0, {0, 0, 0, 0}};
  const double root = std::sqrt(product), half = 0.5 / root;
  return {root, combined(half * s.value, r.partial, half * r.value, s.partial)};
}

SOFTCM_HD MetricValue mcc(const Counts& c, double zero_division) {
  const double predicted = c.tp + c.fp, positives = c.tp + c.fn;
  const double negatives = c.tn + c.fp, rejected = c.tn + c.fn;
  const double bottom =
      std::sqrt(predicted) * std::sqrt(positives) * std::sqrt(negatives) * std::sqrt(rejected);
  if (bottom == 0) return {zero_division, {0, 0, 0, 0}};
  const double value = (c.tp * c.tn - c.fp * c.fn) / bottom, half = value / 2;
  const double of_predicted = half / predicted, of_positives = half / positives;
  const double of_negatives = half / negatives, of_rejected = half / rejected;
  return {
      value,
      {c.tn / bottom - of_predicted - of_positives, -c.fp / bottom - of_positives - of_rejected,
       -c.fn / bottom - of_predicted - of_negatives, c.tp / bottom - of_negatives - of_rejected}};
}

SOFTCM_HD MetricValue kappa(const Counts& c, double zero_division) {
  const double predicted = c.tp + c.fp, positives = c.tp + c.fn;
  const double negatives = c.tn + c.fp, rejected = c.tn + c.fn;
  const double bottom = predicted * negatives + positives * rejected;
  if (bottom == 0) return {zero_division, {0, 0, 0, 0}};
  const double value = 2 * (c.tp * c.tn - c.fn * c.fp) / bottom;
  return {value,
          {(2 * c.tn - value * (negatives + rejected)) / bottom,
           (-2 * c.fp - value * (positives + rejected)) / bottom,
           (-2 * c.fn - value * (predicted + negatives)) / bottom,
           (2 * c.tp - value * (predicted + positives)) / bottom}};
}

// balanced accuracy and informedness: share x (recall + specificity) - offset.
SOFTCM_HD MetricValue sum_of_rates(const Counts& c, double share, double offset,
                                   double zero_division) {
  const MetricValue r = recall(c, zero_division), s = specificity(c, zero_division);
  return {share * (r.value + s.value) - offset, combined(share, r.partial, share, s.partial)};
}

// The area under the points (x, y) of ascending thresholds, by the trapezoidal rule from (0, 0)
// above the highest threshold to (1, 1) below the lowest.
SOFTCM_HD double auroc(const Counts* counts, int64_t thresholds, double zero_division,
                       Counts* partials) {
  const MetricValue corner{1, {0, 0, 0, 0}};
  MetricValue x = false_positive_rate(counts[thresholds - 1], zero_division);
  MetricValue y = recall(counts[thresholds - 1], zero_division);
  double area = 0, x_above = 0, y_above = 0;
  for (int64_t t = thresholds - 1; t >= 0; --t) {
    const MetricValue x_below = t > 0 ? false_positive_rate(counts[t - 1], zero_division) : corner;
    const MetricValue y_below = t > 0 ? recall(counts[t - 1], zero_division) : corner;
    area += (x.value - x_above) * (y_above + y.value) / 2;
    partials[t] = combined((y_above - y_below.value) / 2, x.partial, (x_below.value - x_above) / 2,
                           y.partial);
    x_above = x.value;
    y_above = y.value;
    x = x_below;
    y = y_below;
  }
  return area + (1 - x_above) * (y_above + 1) / 2;
}

// Average precision by the step rule; below the lowest threshold everything is positive.
SOFTCM_HD double auprc(const Counts* counts, int64_t thresholds, double zero_division,
                       Counts* partials) {
  const MetricValue share = prevalence(counts[0], zero_division);
  MetricValue p = precision(counts[thresholds - 1], zero_division);
  double area = 0, recall_above = 0;
  for (int64_t t = thresholds - 1; t >= 0; --t) {
    const MetricValue r = recall(counts[t], zero_division);
    const MetricValue p_below = t > 0 ? precision(counts[t - 1], zero_division) : share;
    area += (r.value - recall_above) * p.value;
    partials[t] = combined(p.value - p_below.value, r.partial, r.value - recall_above, p.partial);
    recall_above = r.value;
    p = p_below;
  }
  partials[0] += scaled(share.partial, 1 - recall_above);
  return area + (1 - recall_above) * share.value;
}

struct Composite {
  CompositeKind kind;

  // Whether a class has this metric. A ranking needs samples of both labels.
  SOFTCM_HD bool is_defined(const ClassTotals& totals) const {
    const bool ranking = kind == CompositeKind::kAuroc || kind == CompositeKind::kAuprc;
    const bool both = totals.positives > 0 && totals.negatives > 0;
    return totals.weight > 0 && (both || !ranking);
  }

  // The metric of a class, the mean over thresholds but for an area over them, and its partials.
  SOFTCM_HD double operator()(const Counts* counts, int64_t thresholds, double zero_division,
                              Counts* partials) const {
    switch (kind) {
      case CompositeKind::kBalancedAccuracy:
        return mean(counts, thresholds, partials,
                    [=](const Counts& c) { return sum_of_rates(c, 0.5, 0, zero_division); });
      case CompositeKind::kGMean:
        return mean(counts, thresholds, partials, [=](const Counts& c) {
          return gmean(recall(c, zero_division), specificity(c, zero_division));
        });
      case CompositeKind::kInformedness:
        return mean(counts, thresholds, partials,
                    [=](const Counts& c) { return sum_of_rates(c, 1, 1, zero_division); });
      case CompositeKind::kMcc:
        return mean(counts, thresholds, partials,
                    [=](const Counts& c) { return mcc(c, zero_division); });
      case CompositeKind::kKappa:
        return mean(counts, thresholds, partials,
                    [=](const Counts& c) { return kappa(c, zero_division); });
      case CompositeKind::kAuroc:
        return auroc(counts, thresholds, zero_division, partials);
      case CompositeKind::kAuprc:
        return auprc(counts, thresholds, zero_division, partials);
    }
    return 0;
  }

 private:
  template <class F>
  SOFTCM_HD static double mean(const Counts* counts, int64_t thresholds, Counts* partials,
                               const F& metric) {
    double sum = 0;
    for (int64_t t = 0; t < thresholds; ++t) {
      const MetricValue value = metric(counts[t]);
      sum += value.value;
      partials[t] = scaled(value.partial, 1 / static_cast<double>(thresholds));
    }
    return sum / static_cast<double>(thresholds);
  }
};

}  // namespace softcm
