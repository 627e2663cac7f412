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
#include "chunks.h"
#include "kernels.h"

namespace softcm {
namespace {

// Sums of samples begin ... end - 1 of a class, by way of staged blocks.
template <class T, class H>
void sum_staged(const Problem& problem, const std::vector<H>& heavisides, int64_t c, int64_t begin,
                int64_t end, bool with_cross_entropy, Staged<T>& staged, Sums* sums,
                Totals& total) {
  for (; begin < end; begin += kBlock) {
    const int64_t padded = stage(problem, c, begin, std::min(kBlock, end - begin), staged, &total);
    for (size_t t = 0; t < heavisides.size(); ++t) {
      add_sums<T>(heavisides[t], staged, padded, sums[t]);
    }
    if (with_cross_entropy) {
      total.cross_entropy += cross_entropy(staged, padded, problem.from_logits);
    }
  }
}

// The same where the caller's memory can be read as it is; false where it has to be staged, since
// a value may be out of range and is to be looked at more closely.
template <class T, class H>
bool sum_plain(const Problem& problem, const std::vector<H>& heavisides, int64_t c, int64_t begin,
               int64_t count, Sums* sums, Totals& total) {
  const Plain<T> block = plain<T>(problem, c, begin);
  for (size_t t = 0; t < heavisides.size(); ++t) {
    if (!add_sums<T>(heavisides[t], block, count, sums[t])) return false;  // at t = 0 or never
  }
  total.weight += static_cast<double>(count);
  return true;
}

template <class T, class H>
void sum_chunk(const Problem& problem, const std::vector<H>& heavisides, const Chunk& chunk,
               bool with_cross_entropy, Sums* sums, Totals* totals) {
  const int64_t thresholds = static_cast<int64_t>(heavisides.size());
  const bool in_place = is_plain<T>(problem) && !with_cross_entropy;
  // A stretch is read once for each threshold: it should stay in the first cache.
  const int64_t step = in_place ? 8 * kBlock : kBlock;
  Staged<T> staged;
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += step) {
    const int64_t end = std::min(begin + step, chunk.end);
    const int64_t whole = in_place ? (end - begin) / kLanes * kLanes : 0;
    for (int64_t c = chunk.first_class; c < chunk.last_class; ++c) {
      Sums* of_class = sums + (c - chunk.first_class) * thresholds;
      Totals& total = totals[c - chunk.first_class];
      const bool done =
          whole > 0 && sum_plain<T>(problem, heavisides, c, begin, whole, of_class, total);
      sum_staged<T>(problem, heavisides, c, done ? begin + whole : begin, end, with_cross_entropy,
                    staged, of_class, total);
    }
  }
}

// Writes dL/dinput of a chunk; adds dL/dthreshold to threshold_grad (T) if it is not null.
template <class T, class H, class Out>
void gradient_chunk(const Problem& problem, const std::vector<H>& heavisides, const Chunk& chunk,
                    const std::vector<Slopes<T>>& slopes,
                    const std::vector<double>& grad_cross_entropy, double* threshold_grad,
                    Out* grad_input) {
  const int64_t thresholds = static_cast<int64_t>(heavisides.size());
  // Without staging, the gradient is written where it belongs, in one go.
  constexpr bool kSameType = std::is_same_v<T, Out>;
  bool entropy = false;
  for (const double g : grad_cross_entropy) entropy = entropy || g != 0;
  const bool plain_block = kSameType && is_plain<T>(problem) && problem.contiguous.l == 1 &&
                           !entropy && threshold_grad == nullptr;
  Staged<T> staged;
  alignas(64) T buffer[kBlock];
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += kBlock) {
    const int64_t count = std::min(kBlock, chunk.end - begin);
    for (int64_t c = chunk.first_class; c < chunk.last_class; ++c) {
      const Slopes<T>* k = slopes.data() + c * thresholds;
      const auto add_all = [&](const auto& block, int64_t length, T* grad) {
        using Block = std::decay_t<decltype(block)>;
        gradient<T, H, Block, false>(heavisides[0], k[0], block, length, grad);
        for (int64_t t = 1; t < thresholds; ++t) {
          gradient<T, H, Block, true>(heavisides[t], k[t], block, length, grad);
        }
      };
      if constexpr (kSameType) {
        if (plain_block) {
          add_all(plain<T>(problem, c, begin), count,
                  grad_input + c * problem.contiguous.c + begin);
          continue;
        }
      }
      const int64_t padded = stage<T>(problem, c, begin, count, staged, nullptr);
      add_all(staged, padded, buffer);
      for (int64_t t = 0; threshold_grad != nullptr && t < thresholds; ++t) {
        threshold_grad[t] += threshold_gradient(heavisides[t], k[t], staged, padded);
      }
      finish_gradient(staged, padded, problem.from_logits, static_cast<T>(grad_cross_entropy[c]),
                      buffer);
      for_runs(problem, problem.contiguous, c, begin, count,
               [&](int64_t offset, int64_t done, int64_t length) {
                 for (int64_t i = 0; i < length; ++i) {
                   grad_input[offset + i * problem.contiguous.l] =
                       static_cast<Out>(buffer[done + i]);
                 }
               });
    }
  }
}

template <template <class> class H, class T>
std::vector<H<T>> make_heavisides(const Problem& problem) {
  std::vector<H<T>> all;
  for (const double tau : problem.threshold) all.push_back(H<T>::make(tau, problem.parameter));
  return all;
}

// Calls f with the approximations of the problem at its thresholds, in the arithmetic type T.
template <class T, class F>
void with_heavisides(const Problem& problem, const F& f) {
  switch (problem.kind) {
    case Kind::kLinear:
      return f(make_heavisides<Linear, T>(problem));
    case Kind::kSigmoid:
      return f(make_heavisides<Sigmoid, T>(problem));
    case Kind::kStep:
      return f(make_heavisides<Step, T>(problem));
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
  const int64_t classes = problem.classes;
  const int64_t thresholds = static_cast<int64_t>(problem.threshold.size());
  const Chunks chunks(problem.samples(), classes, thresholds);
  std::vector<Sums> sums(chunks.parts() * classes * thresholds);
  std::vector<Totals> totals(chunks.parts() * classes);
  with_heavisides<T>(problem, [&](const auto& heavisides) {
    chunks.for_each_parallel([&](const Chunk& chunk) {
      const int64_t first = chunk.part * classes + chunk.first_class;
      sum_chunk<T>(problem, heavisides, chunk, with_cross_entropy, &sums[first * thresholds],
                   &totals[first]);
    });
  });
  BatchSums result;
  for (int64_t c = 0; c < classes; ++c) {
    for (int64_t part = 1; part < chunks.parts(); ++part) totals[c] += totals[part * classes + c];
    check(problem, totals[c]);
    for (int64_t t = 0; t < thresholds; ++t) {
      Sums total;
      for (int64_t part = 0; part < chunks.parts(); ++part) {
        total += sums[(part * classes + c) * thresholds + t];
      }
      totals[c].positives = total.weight1_below + total.weight1_above;
      result.counts.push_back(counts(total, problem.gated));
    }
    result.totals.push_back(totals[c]);
  }
  return result;
}

template <class T, class Out>
std::vector<double> write_gradient_as(const Problem& problem,
                                      const std::vector<Counts>& grad_counts,
                                      const std::vector<double>& grad_cross_entropy,
                                      bool threshold_grad, const Tensor& grad_input) {
  const int64_t thresholds = static_cast<int64_t>(problem.threshold.size());
  std::vector<Slopes<T>> all;
  for (const Counts& g : grad_counts) all.push_back(slopes<T>(g, problem.gated));
  const Chunks chunks(problem.samples(), problem.classes, thresholds);
  std::vector<double> partial(threshold_grad ? chunks.count() * thresholds : 0);
  Out* out = grad_input.mutable_data_ptr<Out>();
  with_heavisides<T>(problem, [&](const auto& heavisides) {
    chunks.for_each_parallel([&](const Chunk& chunk) {
      double* of_chunk = threshold_grad ? &partial[chunk.index * thresholds] : nullptr;
      gradient_chunk<T>(problem, heavisides, chunk, all, grad_cross_entropy, of_chunk, out);
    });
  });
  std::vector<double> result(threshold_grad ? thresholds : 0);
  for (size_t i = 0; i < partial.size(); ++i) result[i % thresholds] += partial[i];
  return result;
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
    return write_gradient_as<decltype(arithmetic), decltype(element)>(
        problem, grad_counts, grad_cross_entropy, threshold_grad, grad_input);
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
    std::optional<Tensor> weight, std::optional<Tensor> pos_weight,
    std::optional<int64_t> ignore_index, std::string heaviside, double parameter,
    std::string membership, bool from_logits, bool with_cross_entropy) {
  const Problem problem = make_problem(input, target, threshold, weight, pos_weight, ignore_index,
                                       heaviside, parameter, membership, from_logits);
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
    std::optional<Tensor> weight, std::optional<Tensor> pos_weight,
    std::optional<int64_t> ignore_index, std::string heaviside, double parameter,
    std::string membership, bool from_logits, bool threshold_grad) {
  const Problem problem = make_problem(input, target, threshold, weight, pos_weight, ignore_index,
                                       heaviside, parameter, membership, from_logits);
  std::vector<Counts> of_counts = to_counts(grad_counts);
  std::vector<double> of_entropy = to_doubles(grad_cross_entropy);
  const int64_t thresholds = static_cast<int64_t>(problem.threshold.size());
  STD_TORCH_CHECK(static_cast<int64_t>(of_counts.size()) == problem.classes * thresholds &&
                      static_cast<int64_t>(of_entropy.size()) == problem.classes,
                  "softcm: gradients must have the shapes (C, T, 4) and (C,)");
  if (grad_loss) {
    const std::vector<double> scale = to_doubles(*grad_loss);
    STD_TORCH_CHECK(scale.size() == 1 || static_cast<int64_t>(scale.size()) == problem.classes,
                    "softcm: grad_loss must have shape () or (C,)");
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
