// The loss of a linear-fractional metric: counts, metric, average and gradient in one call.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

#include "../metric.h"
#include "soft_counts.h"

namespace softcm {
namespace {

struct LossRule {
  LinearFractional metric;
  bool maximize;
  std::string average;
  double zero_division;
  double bce_weight;
};

struct LossAndPartials {
  std::vector<double> loss;           // one, or one a class for average = "none"
  std::vector<Counts> counts;         // dL/dcounts (C, T)
  std::vector<double> cross_entropy;  // dL/dcross_entropy (C)
};

LinearFractional to_metric(const Tensor& tensor) {
  const std::vector<double> v = to_doubles(tensor);
  STD_TORCH_CHECK(v.size() == 10, "softcm: metric must hold the ten numbers a, a0, b, b0");
  return {{v[0], v[1], v[2], v[3]}, v[4], {v[5], v[6], v[7], v[8]}, v[9]};
}

// The classes' loss and its partials, the mean over thresholds.
double class_loss(const LossRule& rule, const Counts* counts, int64_t thresholds,
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

// The share of each class in the mean; 0 for one without a counted sample.
std::vector<double> class_shares(const std::string& average, const std::vector<Totals>& totals) {
  std::vector<double> shares;
  double sum = 0;
  for (const Totals& total : totals) {
    const double share = average == "weighted" ? total.positives : 1;
    shares.push_back(total.weight > 0 ? share : 0);
    sum += shares.back();
  }
  for (double& share : shares) share = sum > 0 ? share / sum : 0;
  return shares;
}

// For average = "micro": all classes as one.
BatchSums merged(const BatchSums& sums, int64_t thresholds) {
  BatchSums one{std::vector<Counts>(thresholds, Counts{0, 0, 0, 0}), {Totals()}};
  for (size_t i = 0; i < sums.counts.size(); ++i) {
    Counts& c = one.counts[i % thresholds];
    const Counts& d = sums.counts[i];
    c = {c.tp + d.tp, c.fn + d.fn, c.fp + d.fp, c.tn + d.tn};
  }
  for (const Totals& total : sums.totals) one.totals[0] += total;
  return one;
}

// dL/dcross_entropy: bce_weight over the weight that the mean is taken over.
double entropy_share(const LossRule& rule, double weight) {
  return weight > 0 ? rule.bce_weight / weight : 0;
}

LossAndPartials evaluate(const LossRule& rule, const BatchSums& sums, int64_t thresholds) {
  const int64_t classes = static_cast<int64_t>(sums.totals.size());
  const double empty = rule.maximize ? 1 - rule.zero_division : rule.zero_division;
  const std::vector<double> shares = class_shares(rule.average, sums.totals);
  const bool none = rule.average == "none";
  LossAndPartials result{{}, std::vector<Counts>(sums.counts.size()), {}};
  Totals all;
  double loss = 0, share_sum = 0;
  for (int64_t c = 0; c < classes; ++c) {
    const Totals& total = sums.totals[c];
    Counts* partials = &result.counts[c * thresholds];
    double of_class = class_loss(rule, &sums.counts[c * thresholds], thresholds, partials);
    if (!(total.weight > 0)) of_class = none ? empty : 0;
    all += total;
    share_sum += shares[c];
    if (none) {
      const double share = entropy_share(rule, total.weight);
      result.cross_entropy.push_back(share);
      result.loss.push_back(of_class + share * total.cross_entropy);
      continue;
    }
    loss += shares[c] * of_class;
    for (int64_t t = 0; t < thresholds; ++t) {
      Counts& g = partials[t];
      g = {shares[c] * g.tp, shares[c] * g.fn, shares[c] * g.fp, shares[c] * g.tn};
    }
  }
  if (none) return result;
  // "weighted" without any positive is a ratio with denominator 0.
  if (share_sum == 0 && all.weight > 0) loss = empty;
  const double share = entropy_share(rule, all.weight);
  result.cross_entropy.assign(classes, share);
  result.loss.push_back(loss + share * all.cross_entropy);
  return result;
}

LossAndPartials evaluate_average(const LossRule& rule, const BatchSums& sums, int64_t thresholds) {
  if (rule.average != "micro") return evaluate(rule, sums, thresholds);
  LossAndPartials one = evaluate(rule, merged(sums, thresholds), thresholds);
  LossAndPartials result{one.loss, {}, {}};
  for (size_t c = 0; c < sums.totals.size(); ++c) {
    result.counts.insert(result.counts.end(), one.counts.begin(), one.counts.end());
    result.cross_entropy.push_back(one.cross_entropy[0]);
  }
  return result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> fractional_loss(
    const Tensor& input, const Tensor& target, const Tensor& threshold,
    std::optional<Tensor> weight, std::optional<Tensor> pos_weight, std::optional<Tensor> table,
    std::optional<int64_t> ignore_index, std::string heaviside, double parameter,
    std::string membership, bool from_logits, const Tensor& metric, bool maximize,
    std::string average, double zero_division, double bce_weight, bool with_grad) {
  STD_TORCH_CHECK(
      average == "macro" || average == "micro" || average == "weighted" || average == "none",
      "softcm: unknown average ", average);
  const Problem problem = make_problem(input, target, threshold, weight, pos_weight, table,
                                       ignore_index, heaviside, parameter, membership, from_logits);
  const LossRule rule{to_metric(metric), maximize, average, zero_division, bce_weight};
  const int64_t thresholds = static_cast<int64_t>(problem.threshold.size());
  const BatchSums sums = sum_samples(problem, bce_weight != 0);
  const LossAndPartials result = evaluate_average(rule, sums, thresholds);

  const ScalarType dtype = problem.float64() ? ScalarType::Double : ScalarType::Float;
  const bool scalar = average != "none";
  Tensor loss =
      empty(scalar ? std::vector<int64_t>{} : std::vector<int64_t>{problem.classes}, dtype, input);
  for (size_t i = 0; i < result.loss.size(); ++i) {
    if (problem.float64()) {
      loss.mutable_data_ptr<double>()[i] = result.loss[i];
    } else {
      loss.mutable_data_ptr<float>()[i] = static_cast<float>(result.loss[i]);
    }
  }
  Tensor grad_counts = empty({problem.classes, thresholds, 4}, ScalarType::Double, input);
  std::copy(result.counts.begin(), result.counts.end(),
            reinterpret_cast<Counts*>(grad_counts.mutable_data_ptr<double>()));
  Tensor grad_entropy = empty({problem.classes}, ScalarType::Double, input);
  std::copy(result.cross_entropy.begin(), result.cross_entropy.end(),
            grad_entropy.mutable_data_ptr<double>());
  Tensor grad_input =
      with_grad ? empty_contiguous_like(input) : empty({0}, input.scalar_type(), input);
  if (with_grad) {
    write_gradient(problem, result.counts, result.cross_entropy, false, grad_input);
  }
  return {loss, grad_counts, grad_entropy, grad_input};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(softcm, CPU, m) {
  m.impl("fractional_loss", TORCH_BOX(&fractional_loss));
}

}  // namespace softcm
