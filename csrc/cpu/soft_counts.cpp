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
#include "element.h"
#include "lookup_table.h"
#include "many_thresholds.h"
#include "passes.h"

namespace softcm {
namespace {

// The numbers of an array (rows, count) on the CPU.
std::vector<double> numbers(const Array& x, int64_t rows, int64_t count) {
  std::vector<double> values;
  with_element_type(x.dtype, [&](auto element) {
    const auto* data = static_cast<const decltype(element)*>(x.data);
    for (int64_t i = 0; i < rows * count; ++i) {
      const auto value = data[i / count * x.stride.c + i % count * x.stride.l];
      values.push_back(static_cast<double>(value));
    }
  });
  return values;
}

template <template <class> class H, class T>
Direct<T, H<T>> direct(const std::vector<double>& thresholds, double parameter) {
  Direct<T, H<T>> method;
  for (const double tau : thresholds) method.heavisides.push_back(H<T>::make(tau, parameter));
  return method;
}

// Whether buckets pay: they cost about as much as kFewest thresholds one by one (measured, Zen 4),
// and their set-up for a threshold as much as kSetUp samples at one.
bool many_thresholds(const Batch& batch) {
  constexpr int64_t kFewest = 14, kSetUp = 100;
  return batch.samples() * (batch.thresholds - kFewest) > kSetUp * batch.thresholds;
}

// Calls f with the Methods of a batch: make(thresholds, row) gives that of a row of thresholds.
template <class Make, class F>
auto with_methods_of(const Batch& batch, const Make& make, const F& f) {
  const int64_t rows = batch.threshold_rows();
  const std::vector<double> all = numbers(batch.threshold, rows, batch.thresholds);
  Methods<decltype(make(all, 0))> methods;
  for (int64_t row = 0; row < rows; ++row) {
    const auto first = all.begin() + row * batch.thresholds;
    const std::vector<double> thresholds(first, first + batch.thresholds);
    for (const double tau : thresholds) {
      STD_TORCH_CHECK(tau > 0 && tau < 1, "softcm: threshold must lie in (0, 1), got ", tau);
    }
    methods.methods.push_back(make(thresholds, row));
  }
  if (batch.pos_weight.data != nullptr) {
    methods.pos_weight = numbers(batch.pos_weight, 1, batch.classes);
    for (const double w : methods.pos_weight) {
      STD_TORCH_CHECK(w >= 0 && w <= std::numeric_limits<double>::max(),
                      "softcm: pos_weight must be finite and >= 0, got ", w);
    }
  }
  return f(methods);
}

// The same for the approximation of the batch, in the arithmetic type T.
template <class T, class F>
auto with_methods(const Batch& batch, bool threshold_grad, const F& f) {
  using Thresholds = std::vector<double>;
  const bool buckets = !threshold_grad && many_thresholds(batch);
  const double parameter = batch.parameter;
  const auto with = [&](const auto& make) { return with_methods_of(batch, make, f); };
  switch (batch.kind) {
    case Kind::kLinear:
      if (buckets) {
        return with([&](const Thresholds& t, int64_t) { return LinearBuckets<T>(t, parameter); });
      }
      return with([&](const Thresholds& t, int64_t) { return direct<Linear, T>(t, parameter); });
    case Kind::kSigmoid:
      if (batch.thresholds > 1 && parameter <= SigmoidOfPower<T>::kMost) {
        return with([&](const Thresholds& t, int64_t) { return SigmoidPowers<T>(t, parameter); });
      }
      return with([&](const Thresholds& t, int64_t) { return direct<Sigmoid, T>(t, parameter); });
    case Kind::kStep:
      if (buckets) return with([&](const Thresholds& t, int64_t) { return StepBuckets<T>(t); });
      return with([&](const Thresholds& t, int64_t) { return direct<Step, T>(t, parameter); });
    case Kind::kTable: {
      const int64_t levels = static_cast<int64_t>(parameter);
      const int64_t entries = batch.threshold_rows() * batch.thresholds * levels;
      return with([&](const Thresholds& t, int64_t row) {
        const float* h = batch.table + row * batch.thresholds * levels;
        return LookupTable<T>(t, h, h + entries, levels);
      });
    }
  }
  STD_TORCH_CHECK(false, "softcm: unknown heaviside");
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

void check(const Batch& batch, const Totals& totals) {
  // A NaN probability is no error: it reaches the loss.
  check_range(totals.input, 1, true, batch.input.dtype, "input must lie in [0, 1]",
              "; pass from_logits=True if these are logits");
  if (batch.class_indices) {
    const std::string last = std::to_string(batch.classes - 1);
    check_range(totals.target, static_cast<double>(batch.classes - 1), false, ScalarType::Double,
                "target must hold class indices in 0 ... " + last + " or ignore_index");
  } else {
    check_range(totals.target, 1, false, batch.target.dtype, "target must lie in [0, 1]");
  }
  if (batch.weight.data != nullptr) {
    check_range(totals.sample_weight, std::numeric_limits<double>::max(), false, batch.weight.dtype,
                "weight must be finite and >= 0");
  }
}

template <class T>
BatchSums sum_samples_as(const Batch& batch, bool with_cross_entropy) {
  return with_methods<T>(batch, false, [&](const auto& methods) {
    GroupSums groups = sum_pass<T>(batch, methods, with_cross_entropy);
    BatchSums result;
    for (int64_t g = 0; g < batch.groups; ++g) {
      Totals& totals = groups.totals[g];
      check(batch, totals);
      const auto& method = methods.of(batch.class_of(g));
      for (const Sums& sums : method.evaluate(&groups.sums[g * methods.size()])) {
        totals.positives = sums.weight1_below + sums.weight1_above;
        totals.negatives = sums.weight0_below + sums.weight0_above;
        result.counts.push_back(counts(sums, batch.gated));
      }
      result.totals.push_back(totals);
    }
    return result;
  });
}

}  // namespace

BatchSums sum_samples(const Batch& batch, bool with_cross_entropy) {
  return batch.float64() ? sum_samples_as<double>(batch, with_cross_entropy)
                         : sum_samples_as<float>(batch, with_cross_entropy);
}

std::vector<double> write_gradient(const Batch& batch, const Gradients& gradients,
                                   bool threshold_grad, const Tensor& grad_input) {
  const auto write = [&](auto arithmetic, auto element) {
    using T = decltype(arithmetic);
    auto* out = grad_input.mutable_data_ptr<decltype(element)>();
    return with_methods<T>(batch, threshold_grad, [&](const auto& methods) {
      return gradient_pass<T>(batch, methods, gradients, threshold_grad, out);
    });
  };
  switch (batch.input.dtype) {
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

std::tuple<Tensor, Tensor, Tensor> soft_counts(const Arguments& arguments,
                                               bool with_cross_entropy) {
  const Prepared prepared = prepare(arguments);
  const Batch& batch = prepared.batch;
  const BatchSums sums = sum_samples(batch, with_cross_entropy);
  const Tensor& input = arguments.input;
  Tensor counts = empty({batch.groups, batch.thresholds, 4}, ScalarType::Double, input);
  Tensor totals = empty({batch.groups, 3}, ScalarType::Double, input);
  Tensor cross_entropy = empty({batch.groups}, ScalarType::Double, input);
  std::copy(sums.counts.begin(), sums.counts.end(),
            reinterpret_cast<Counts*>(counts.mutable_data_ptr<double>()));
  double* to = totals.mutable_data_ptr<double>();
  for (int64_t g = 0; g < batch.groups; ++g) {
    const ClassTotals& of_group = sums.totals[g];
    *to++ = of_group.weight;
    *to++ = of_group.positives;
    *to++ = of_group.negatives;
    cross_entropy.mutable_data_ptr<double>()[g] = of_group.cross_entropy;
  }
  return {counts, totals, cross_entropy};
}

// Gradients in counts and cross-entropies, times those in the loss, of which there is one or one a
// group.
Gradients scaled_gradients(const Batch& batch, const Tensor& grad_counts,
                           const Tensor& grad_cross_entropy,
                           const std::optional<Tensor>& grad_loss) {
  const std::vector<double> counts = to_doubles(grad_counts);
  Gradients all{{}, to_doubles(grad_cross_entropy)};
  const std::vector<double> scale = grad_loss ? to_doubles(*grad_loss) : std::vector<double>{1};
  for (int64_t g = 0; g < batch.groups; ++g) {
    const double s = scale[scale.size() == 1 ? 0 : g];
    all.cross_entropy[g] *= s;
    for (int64_t t = 0; t < batch.thresholds; ++t) {
      const double* v = &counts[4 * (g * batch.thresholds + t)];
      all.counts.push_back({s * v[0], s * v[1], s * v[2], s * v[3]});
    }
  }
  return all;
}

std::tuple<Tensor, Tensor> soft_counts_backward(const Arguments& arguments, Tensor grad_counts,
                                                Tensor grad_cross_entropy,
                                                std::optional<Tensor> grad_loss,
                                                bool threshold_grad) {
  const Prepared prepared = prepare(arguments);
  const Batch& batch = prepared.batch;
  check_gradients(batch, grad_counts, grad_cross_entropy, grad_loss, threshold_grad);
  const Gradients gradients = scaled_gradients(batch, grad_counts, grad_cross_entropy, grad_loss);
  Tensor grad_input = empty_contiguous_like(arguments.input);
  const std::vector<double> of_threshold =
      write_gradient(batch, gradients, threshold_grad, grad_input);
  Tensor grad_threshold = threshold_grad ? empty_float64_like(arguments.threshold)
                                         : empty({0}, ScalarType::Double, arguments.input);
  std::copy(of_threshold.begin(), of_threshold.end(), grad_threshold.mutable_data_ptr<double>());
  return {grad_input, grad_threshold};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(softcm, CPU, m) {
  m.impl("soft_counts", TORCH_BOX(&Operator<&soft_counts>::call));
  m.impl("soft_counts_backward", TORCH_BOX(&Operator<&soft_counts_backward>::call));
}

}  // namespace softcm
