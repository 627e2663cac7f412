// The two passes over the samples, whatever the way to deal with the thresholds.
//
// That way is a Method. It sums the samples of a class up in size() numbers (while a chunk is read:
// in scratch_size()), gets the sums at each threshold from them, and turns the partials there into
// the slopes by which a sample's gradient is found:
//     bool add(samples, count, scratch)   for up to kStretch samples, a multiple of kLanes; false,
//                                         and nothing added, where a value may be out of range
//     void finish(scratch, sums)          at the end of a chunk; sums is added to
//     std::vector<Sums> evaluate(sums)
//     std::vector<Slope> slopes(partials, gated)
//     void gradient(samples, count, slopes, grad)
//     void add_threshold_gradient(samples, count, slopes, threshold_grad), if kThresholdGradient
#pragma once

#include <type_traits>
#include <vector>

#include "chunks.h"
#include "kernels.h"
#include "samples.h"

namespace softcm {
namespace {

// Sums of samples begin ... end - 1 of a class, by way of staged blocks.
template <class T, class Method>
void sum_staged(const Problem& problem, const Method& method, int64_t c, int64_t begin, int64_t end,
                bool with_cross_entropy, Staged<T>& staged, double* scratch, Totals& total) {
  for (; begin < end; begin += kBlock) {
    const int64_t padded = stage(problem, c, begin, std::min(kBlock, end - begin), staged, &total);
    method.add(staged, padded, scratch);
    if (with_cross_entropy) {
      total.cross_entropy += cross_entropy(staged, padded, problem.from_logits);
    }
  }
}

template <class T, class Method>
void sum_chunk(const Problem& problem, const Method& method, const Chunk& chunk,
               bool with_cross_entropy, double* sums, Totals* totals) {
  const bool in_place = is_plain<T>(problem) && !with_cross_entropy;
  const int64_t step = in_place ? Method::kStretch : kBlock;
  const int64_t classes = chunk.last_class - chunk.first_class;
  std::vector<double> scratch(classes * method.scratch_size());
  Staged<T> staged;
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += step) {
    const int64_t end = std::min(begin + step, chunk.end);
    const int64_t whole = in_place ? (end - begin) / kLanes * kLanes : 0;
    for (int64_t i = 0; i < classes; ++i) {
      const int64_t c = chunk.first_class + i;
      double* of_class = scratch.data() + i * method.scratch_size();
      // Where a value may be out of range, staging looks at it more closely.
      const bool done = whole > 0 && method.add(plain<T>(problem, c, begin), whole, of_class);
      if (done) totals[i].weight += static_cast<double>(whole);
      sum_staged<T>(problem, method, c, done ? begin + whole : begin, end, with_cross_entropy,
                    staged, of_class, totals[i]);
    }
  }
  for (int64_t i = 0; i < classes; ++i) {
    method.finish(scratch.data() + i * method.scratch_size(), sums + i * method.size());
  }
}

struct ClassSums {
  std::vector<double> sums;    // (C, method.size())
  std::vector<Totals> totals;  // (C)
};

template <class T, class Method>
ClassSums sum_pass(const Problem& problem, const Method& method, bool with_cross_entropy) {
  const int64_t classes = problem.classes, size = method.size();
  const Chunks chunks(problem.samples(), classes, size);
  std::vector<double> sums(chunks.parts() * classes * size);
  std::vector<Totals> totals(chunks.parts() * classes);
  chunks.for_each_parallel([&](const Chunk& chunk) {
    const int64_t first = chunk.part * classes + chunk.first_class;
    sum_chunk<T>(problem, method, chunk, with_cross_entropy, &sums[first * size], &totals[first]);
  });
  for (int64_t part = 1; part < chunks.parts(); ++part) {
    for (int64_t c = 0; c < classes; ++c) totals[c] += totals[part * classes + c];
    const double* of_part = &sums[part * classes * size];
    for (int64_t i = 0; i < classes * size; ++i) sums[i] += of_part[i];
  }
  sums.resize(classes * size);
  totals.resize(classes);
  return {std::move(sums), std::move(totals)};
}

// Writes dL/dinput of a chunk; adds dL/dthreshold to threshold_grad (T) if it is not null.
template <class T, class Out, class Method>
void gradient_chunk(const Problem& problem, const Method& method, const Chunk& chunk,
                    const std::vector<typename Method::Slope>& slopes,
                    const std::vector<double>& grad_cross_entropy, double* threshold_grad,
                    Out* grad_input) {
  const int64_t slopes_of_class = static_cast<int64_t>(slopes.size()) / problem.classes;
  // Without staging, the gradient is written where it belongs, in one go.
  constexpr bool kSameType = std::is_same_v<T, Out>;
  bool entropy = false;
  for (const double g : grad_cross_entropy) entropy = entropy || g != 0;
  const bool in_place = kSameType && is_plain<T>(problem) && problem.contiguous.l == 1 &&
                        !entropy && threshold_grad == nullptr;
  Staged<T> staged;
  alignas(64) T buffer[kBlock];
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += kBlock) {
    const int64_t count = std::min(kBlock, chunk.end - begin);
    for (int64_t c = chunk.first_class; c < chunk.last_class; ++c) {
      const typename Method::Slope* k = slopes.data() + c * slopes_of_class;
      if constexpr (kSameType) {
        if (in_place) {
          method.gradient(plain<T>(problem, c, begin), count, k,
                          grad_input + c * problem.contiguous.c + begin);
          continue;
        }
      }
      const int64_t padded = stage<T>(problem, c, begin, count, staged, nullptr);
      method.gradient(staged, padded, k, buffer);
      if constexpr (Method::kThresholdGradient) {
        if (threshold_grad) method.add_threshold_gradient(staged, padded, k, threshold_grad);
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

// Writes dL/dinput from dL/dcounts (C, T) and dL/dcross_entropy (C); returns dL/dthreshold (T) if
// asked for.
template <class T, class Out, class Method>
std::vector<double> gradient_pass(const Problem& problem, const Method& method,
                                  const std::vector<Counts>& grad_counts,
                                  const std::vector<double>& grad_cross_entropy,
                                  bool threshold_grad, Out* grad_input) {
  const int64_t thresholds = static_cast<int64_t>(grad_counts.size()) / problem.classes;
  std::vector<typename Method::Slope> slopes;
  for (int64_t c = 0; c < problem.classes; ++c) {
    const auto of_class = method.slopes(&grad_counts[c * thresholds], problem.gated);
    slopes.insert(slopes.end(), of_class.begin(), of_class.end());
  }
  const Chunks chunks(problem.samples(), problem.classes, method.size());
  std::vector<double> partial(threshold_grad ? chunks.count() * thresholds : 0);
  chunks.for_each_parallel([&](const Chunk& chunk) {
    double* of_chunk = threshold_grad ? &partial[chunk.index * thresholds] : nullptr;
    gradient_chunk<T>(problem, method, chunk, slopes, grad_cross_entropy, of_chunk, grad_input);
  });
  std::vector<double> result(threshold_grad ? thresholds : 0);
  for (size_t i = 0; i < partial.size(); ++i) result[i % thresholds] += partial[i];
  return result;
}

}  // namespace
}  // namespace softcm
