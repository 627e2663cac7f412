// The losses whose metric is known here: counts, metric, average and gradient in one call.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

#include "../loss.h"
#include "soft_counts.h"

namespace softcm {
namespace {

LinearFractional to_metric(const Tensor& tensor) {
  const std::vector<double> v = to_doubles(tensor);
  STD_TORCH_CHECK(v.size() == 10, "softcm: metric must hold the ten numbers a, a0, b, b0");
  return {{v[0], v[1], v[2], v[3]}, v[4], {v[5], v[6], v[7], v[8]}, v[9]};
}

// For average = "micro": all classes as one.
BatchSums merged(const BatchSums& sums, int64_t thresholds) {
  BatchSums one{std::vector<Counts>(thresholds, Counts{0, 0, 0, 0}), {ClassTotals()}};
  for (size_t i = 0; i < sums.counts.size(); ++i) one.counts[i % thresholds] += sums.counts[i];
  for (const ClassTotals& total : sums.totals) one.totals[0] += total;
  return one;
}

// Writes the loss and its partials, those of one class for average = "micro" again for each class.
template <class Metric>
void evaluate(const LossRuleOf<Metric>& rule, const BatchSums& sums, int64_t thresholds,
              LossOutput loss, Counts* grad_counts, double* grad_entropy) {
  const int64_t classes = static_cast<int64_t>(sums.totals.size());
  const bool micro = rule.average == Average::kMicro;
  const BatchSums one = micro ? merged(sums, thresholds) : BatchSums();
  const BatchSums& s = micro ? one : sums;
  const LossArrays arrays{micro ? 1 : classes, thresholds,  s.counts.data(), s.totals.data(), loss,
                          grad_counts,         grad_entropy};
  finish(rule, arrays, accumulate(rule, arrays, 0, 1), 0, 1);
  for (int64_t c = 1; micro && c < classes; ++c) {
    std::copy_n(grad_counts, thresholds, grad_counts + c * thresholds);
    grad_entropy[c] = grad_entropy[0];
  }
}

using Result = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <class Metric>
Result loss_of(const LossArguments& loss_arguments, const Arguments& arguments,
               const Metric& metric, bool with_grad) {
  const Tensor& input = arguments.input;
  const Prepared prepared = prepare(arguments);
  const Batch& batch = prepared.batch;
  const PreparedRule prepared_rule = prepare_rule(loss_arguments, input, batch);
  const LossRuleOf<Metric> rule = prepared_rule.rule.with(metric);
  const BatchSums sums = sum_samples(batch, rule.ce_weight != 0);
  Tensor loss = empty_loss_of(batch, rule.average, input);
  Tensor grad_counts = empty({batch.classes, batch.thresholds, 4}, ScalarType::Double, input);
  Tensor grad_entropy = empty({batch.classes}, ScalarType::Double, input);
  Counts* of_counts = reinterpret_cast<Counts*>(grad_counts.mutable_data_ptr<double>());
  double* of_entropy = grad_entropy.mutable_data_ptr<double>();
  evaluate(rule, sums, batch.thresholds, {loss.mutable_data_ptr(), batch.float64()}, of_counts,
           of_entropy);
  Tensor grad_input =
      with_grad ? empty_contiguous_like(input) : empty({0}, input.scalar_type(), input);
  if (with_grad) {
    const Gradients gradients{{of_counts, of_counts + batch.classes * batch.thresholds},
                              {of_entropy, of_entropy + batch.classes}};
    write_gradient(batch, gradients, false, grad_input);
  }
  return {loss, grad_counts, grad_entropy, grad_input};
}

Result fractional_loss(const LossArguments& loss_arguments, const Arguments& arguments,
                       Tensor metric, bool with_grad) {
  return loss_of(loss_arguments, arguments, to_metric(metric), with_grad);
}

Result composite_loss(const LossArguments& loss_arguments, const Arguments& arguments,
                      std::string metric, bool with_grad) {
  return loss_of(loss_arguments, arguments, Composite{to_composite(metric)}, with_grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(softcm, CPU, m) {
  m.impl("fractional_loss", TORCH_BOX(&Operator<&fractional_loss>::call));
  m.impl("composite_loss", TORCH_BOX(&Operator<&composite_loss>::call));
}

}  // namespace softcm
