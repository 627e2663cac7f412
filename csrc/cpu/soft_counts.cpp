#include "soft_counts.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <charconv>
#include <iterator>
#include <tuple>

#include "../heaviside.h"
#include "direct.h"
#include "lookup_table.h"
#include "many_thresholds.h"
#include "passes.h"

namespace softcm {
namespace {

template <template <class> class H, class T>
Direct<T, H<T>> direct(const Problem& problem) {
  Direct<T, H<T>> method;
  for (const double tau : problem.threshold) {
    method.heavisides.push_back(H<T>::make(tau, problem.parameter));
  }
  return method;
}

// Whether buckets pay: they cost about as much as kFewest thresholds one by one (measured, Zen 4),
// and their set-up for a threshold as much as kSetUp samples at one.
bool many_thresholds(const Problem& problem) {
  constexpr int64_t kFewest = 14, kSetUp = 100;
  const int64_t thresholds = static_cast<int64_t>(problem.threshold.size());
  return problem.samples() * (thresholds - kFewest) > kSetUp * thresholds;
}

// Calls f with the method for the problem, in the arithmetic type T.
template <class T, class F>
auto with_method(const Problem& problem, bool threshold_grad, const F& f) {
  const bool buckets = !threshold_grad && many_thresholds(problem);
  switch (problem.kind) {
    case Kind::kLinear:
      return buckets ? f(LinearBuckets<T>(problem.threshold, problem.parameter))
                     : f(direct<Linear, T>(problem));
    case Kind::kSigmoid:
      return problem.threshold.size() > 1 && problem.parameter <= SigmoidOfPower<T>::kMost
                 ? f(SigmoidPowers<T>(problem.threshold, problem.parameter))
                 : f(direct<Sigmoid, T>(problem));
    case Kind::kTable:
      return f(LookupTable<T>(problem.threshold, problem.table->const_data_ptr<float>(),
                              problem.table->size(2)));
    default:
      return buckets ? f(StepBuckets<T>(problem.threshold)) : f(direct<Step, T>(problem));
  }
}

// The shortest text that tells a number from its neighbours in its own type.
std::string text(double number, ScalarType dtype) {
  char buffer[32];
  const auto written = dtype == ScalarType::Double
                           ? std::to_chars(buffer, std::end(buffer), number)
                           : std::to_chars(buffer, std::end(buffer), static_cast<float>(number));
  return {buffer, written.ptr};
}

void check_range(const Range& range, double high, bool nan_allowed, ScalarType dtype,
                 const std::string& rule, const std::string& hint = "") {
  const bool empty = range.low > range.high;
  if ((empty || (range.low >= 0 && range.high <= high)) && (nan_allowed || !range.nan)) return;
  const std::string values =
      "values in [" + text(range.low, dtype) + ", " + text(range.high, dtype) + "]";
  STD_TORCH_CHECK(false, "softcm: ", rule, ", got ", empty ? "" : values,
                  range.nan && !empty ? " and " : "", range.nan ? "NaN" : "", hint);
}

void check(const Problem& problem, const Totals& totals) {
  // A NaN probability is no error: it reaches the loss.
  check_range(totals.input, 1, true, problem.input.dtype, "input must lie in [0, 1]",
              "; pass from_logits=True if these are logits");
  if (problem.class_indices) {
    const std::string last = std::to_string(problem.classes - 1);
    check_range(totals.target, static_cast<double>(problem.classes - 1), false, ScalarType::Double,
                "target must hold class indices in 0 ... " + last + " or ignore_index");
  } else {
    check_range(totals.target, 1, false, problem.target.dtype, "target must lie in [0, 1]");
  }
  if (problem.weight) {
    check_range(totals.sample_weight, std::numeric_limits<double>::max(), false,
                problem.weight->dtype, "weight must be finite and >= 0");
  }
}

template <class T>
BatchSums sum_samples_as(const Problem& problem, bool with_cross_entropy) {
  return with_method<T>(problem, false, [&](const auto& method) {
    ClassSums classes = sum_pass<T>(problem, method, with_cross_entropy);
    BatchSums result;
    for (int64_t c = 0; c < problem.classes; ++c) {
      Totals& totals = classes.totals[c];
      check(problem, totals);
      for (const Sums& sums : method.evaluate(&classes.sums[c * method.size()])) {
        totals.positives = sums.weight1_below + sums.weight1_above;
        result.counts.push_back(counts(sums, problem.gated));
      }
      result.totals.push_back(totals);
    }
    return result;
  });
}

std::vector<Counts> to_counts(const Tensor& tensor) {
  const std::vector<double> values = to_doubles(tensor);
  std::vector<Counts> counts;
  for (size_t i = 0; i + 3 < values.size(); i += 4) {
    counts.push_back({values[i], values[i + 1], values[i + 2], values[i + 3]});
  }
  return counts;
}

}  // namespace

BatchSums sum_samples(const Problem& problem, bool with_cross_entropy) {
  return problem.float64() ? sum_samples_as<double>(problem, with_cross_entropy)
                           : sum_samples_as<float>(problem, with_cross_entropy);
}

std::vector<double> write_gradient(const Problem& problem, const std::vector<Counts>& grad_counts,
                                   const std::vector<double>& grad_cross_entropy,
                                   bool threshold_grad, const Tensor& grad_input) {
  const auto write = [&](auto arithmetic, auto element) {
    using T = decltype(arithmetic);
    auto* out = grad_input.mutable_data_ptr<decltype(element)>();
    return with_method<T>(problem, threshold_grad, [&](const auto& method) {
      return gradient_pass<T>(problem, method, grad_counts, grad_cross_entropy, threshold_grad,
                              out);
    });
  };
  switch (problem.input.dtype) {
    case ScalarType::Double:
      return write(double(), double());
    case ScalarType::Half:
      return write(float(), torch::headeronly::Half());
    case ScalarType::BFloat16:
      return write(float(), torch::headeronly::BFloat16());
    default:
      return write(float(), float());
  }
}

namespace {

std::tuple<Tensor, Tensor, Tensor> soft_counts(
    const Tensor& input, const Tensor& target, const Tensor& threshold,
    std::optional<Tensor> weight, std::optional<Tensor> pos_weight, std::optional<Tensor> table,
    std::optional<int64_t> ignore_index, std::string heaviside, double parameter,
    std::string membership, bool from_logits, bool with_cross_entropy) {
  const Problem problem = make_problem(input, target, threshold, weight, pos_weight, table,
                                       ignore_index, heaviside, parameter, membership, from_logits);
  const BatchSums sums = sum_samples(problem, with_cross_entropy);
  const int64_t thresholds = static_cast<int64_t>(problem.threshold.size());
  Tensor counts = empty({problem.classes, thresholds, 4}, ScalarType::Double, input);
  Tensor totals = empty({problem.classes, 2}, ScalarType::Double, input);
  Tensor cross_entropy = empty({problem.classes}, ScalarType::Double, input);
  std::copy(sums.counts.begin(), sums.counts.end(),
            reinterpret_cast<Counts*>(counts.mutable_data_ptr<double>()));
  for (int64_t c = 0; c < problem.classes; ++c) {
    totals.mutable_data_ptr<double>()[2 * c] = sums.totals[c].weight;
    totals.mutable_data_ptr<double>()[2 * c + 1] = sums.totals[c].positives;
    cross_entropy.mutable_data_ptr<double>()[c] = sums.totals[c].cross_entropy;
  }
  return {counts, totals, cross_entropy};
}

std::tuple<Tensor, Tensor> soft_counts_backward(
    const Tensor& grad_counts, const Tensor& grad_cross_entropy, std::optional<Tensor> grad_loss,
    const Tensor& input, const Tensor& target, const Tensor& threshold,
    std::optional<Tensor> weight, std::optional<Tensor> pos_weight, std::optional<Tensor> table,
    std::optional<int64_t> ignore_index, std::string heaviside, double parameter,
    std::string membership, bool from_logits, bool threshold_grad) {
  const Problem problem = make_problem(input, target, threshold, weight, pos_weight, table,
                                       ignore_index, heaviside, parameter, membership, from_logits);
  const int64_t thresholds = static_cast<int64_t>(problem.threshold.size());
  check_gradients(problem, thresholds, grad_counts, grad_cross_entropy, grad_loss, threshold_grad);
  std::vector<Counts> of_counts = to_counts(grad_counts);
  std::vector<double> of_entropy = to_doubles(grad_cross_entropy);
  if (grad_loss) {
    const std::vector<double> scale = to_doubles(*grad_loss);
    for (int64_t c = 0; c < problem.classes; ++c) {
      const double s = scale.size() == 1 ? scale[0] : scale[c];
      of_entropy[c] *= s;
      for (int64_t t = 0; t < thresholds; ++t) {
        Counts& g = of_counts[c * thresholds + t];
        g = {s * g.tp, s * g.fn, s * g.fp, s * g.tn};
      }
    }
  }
  Tensor grad_input = empty_contiguous_like(input);
  const std::vector<double> of_threshold =
      write_gradient(problem, of_counts, of_entropy, threshold_grad, grad_input);
  Tensor grad_threshold =
      empty({static_cast<int64_t>(of_threshold.size())}, ScalarType::Double, input);
  std::copy(of_threshold.begin(), of_threshold.end(), grad_threshold.mutable_data_ptr<double>());
  return {grad_input, grad_threshold};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(softcm, CPU, m) {
  m.impl("soft_counts", TORCH_BOX(&soft_counts));
  m.impl("soft_counts_backward", TORCH_BOX(&soft_counts_backward));
}

}  // namespace softcm
