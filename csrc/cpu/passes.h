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
#include "soft_counts.h"

namespace softcm {
namespace {

// One Method for all classes, or one for each that has thresholds of its own; and what belongs to
// the classes beside it.
template <class Method>
struct Methods {
  std::vector<Method> methods;
  std::vector<double> pos_weight;  // empty: all 1

  const Method& of(int64_t c) const { return methods[methods.size() == 1 ? 0 : c]; }
  double pos_weight_of(int64_t c) const { return pos_weight.empty() ? 1 : pos_weight[c]; }

  // Of the class that needs the most: so many numbers are kept for each.
  int64_t size() const { return largest(&Method::size); }
  int64_t scratch_size() const { return largest(&Method::scratch_size); }

 private:
  int64_t largest(int64_t (Method::*size)() const) const {
    int64_t most = 0;
    for (const Method& method : methods) most = std::max(most, (method.*size)());
    return most;
  }
};

// Sums of samples begin ... end - 1 of a group, by way of staged blocks.
template <class T, class Method>
void sum_staged(const Batch& batch, const Method& method, int64_t group, int64_t begin, int64_t end,
                double pos_weight, bool with_cross_entropy, Staged<T>& staged, double* scratch,
                Totals& total) {
  const T negatives = batch.class_indices ? T(0) : T(1);
  for (; begin < end; begin += kBlock) {
    const int64_t count = std::min(kBlock, end - begin);
    const int64_t padded = stage(batch, group, begin, count, pos_weight, staged, &total);
    method.add(staged, padded, scratch);
    if (with_cross_entropy) {
      total.cross_entropy += cross_entropy(staged, padded, batch.from_logits, negatives);
    }
  }
}

// sums: of groups first_group, ..., size() numbers each; totals: of the same groups.
template <class T, class Method>
void sum_chunk(const Batch& batch, const Methods<Method>& methods, const Chunk& chunk,
               bool with_cross_entropy, double* sums, Totals* totals) {
  const bool in_place = is_plain<T>(batch) && !with_cross_entropy;
  const int64_t step = in_place ? Method::kStretch : kBlock;
  const int64_t groups = chunk.last_group - chunk.first_group;
  const int64_t size = methods.size(), scratch_size = methods.scratch_size();
  std::vector<double> scratch(groups * scratch_size);
  Staged<T> staged;
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += step) {
    const int64_t end = std::min(begin + step, chunk.end);
    const int64_t whole = in_place ? (end - begin) / kLanes * kLanes : 0;
    for (int64_t i = 0; i < groups; ++i) {
      const int64_t group = chunk.first_group + i, c = batch.class_of(group);
      const Method& method = methods.of(c);
      double* of_group = scratch.data() + i * scratch_size;
      // Where a value may be out of range, staging looks at it more closely.
      const bool done = whole > 0 && method.add(plain<T>(batch, group, begin), whole, of_group);
      if (done) totals[i].weight += static_cast<double>(whole);
      sum_staged<T>(batch, method, group, done ? begin + whole : begin, end,
                    methods.pos_weight_of(c), with_cross_entropy, staged, of_group, totals[i]);
    }
  }
  for (int64_t i = 0; i < groups; ++i) {
    methods.of(batch.class_of(chunk.first_group + i))
        .finish(scratch.data() + i * scratch_size, sums + i * size);
  }
}

struct GroupSums {
  std::vector<double> sums;    // (groups, methods.size())
  std::vector<Totals> totals;  // (groups)
};

template <class T, class Method>
GroupSums sum_pass(const Batch& batch, const Methods<Method>& methods, bool with_cross_entropy) {
  const int64_t groups = batch.groups, size = methods.size();
  const Chunks chunks(batch.samples(), groups, size);
  std::vector<double> sums(chunks.parts() * groups * size);
  std::vector<Totals> totals(chunks.parts() * groups);
  chunks.for_each_parallel([&](const Chunk& chunk) {
    const int64_t first = chunk.part * groups + chunk.first_group;
    sum_chunk<T>(batch, methods, chunk, with_cross_entropy, &sums[first * size], &totals[first]);
  });
  for (int64_t part = 1; part < chunks.parts(); ++part) {
    for (int64_t g = 0; g < groups; ++g) totals[g] += totals[part * groups + g];
    const double* of_part = &sums[part * groups * size];
    for (int64_t i = 0; i < groups * size; ++i) sums[i] += of_part[i];
  }
  sums.resize(groups * size);
  totals.resize(groups);
  return {std::move(sums), std::move(totals)};
}

// What a group's gradient is made from.
template <class Slope>
struct GroupSlopes {
  std::vector<Slope> slopes;
  double cross_entropy;  // dL/dcross_entropy
};

// Writes dL/dinput of a chunk; adds dL/dthreshold to threshold_grad (as many as there are
// thresholds in all) if it is not null.
template <class T, class Out, class Method>
void gradient_chunk(const Batch& batch, const Methods<Method>& methods, const Chunk& chunk,
                    const std::vector<GroupSlopes<typename Method::Slope>>& slopes,
                    double* threshold_grad, Out* grad_input) {
  // Without staging, the gradient is written where it belongs, in one go.
  constexpr bool kSameType = std::is_same_v<T, Out>;
  const bool plain_samples = kSameType && is_plain<T>(batch) && batch.contiguous.l == 1;
  const T negatives = batch.class_indices ? T(0) : T(1);
  Staged<T> staged;
  alignas(64) T buffer[kBlock];
  for (int64_t begin = chunk.begin; begin < chunk.end; begin += kBlock) {
    const int64_t count = std::min(kBlock, chunk.end - begin);
    for (int64_t group = chunk.first_group; group < chunk.last_group; ++group) {
      const int64_t c = batch.class_of(group);
      const Method& method = methods.of(c);
      const auto* k = slopes[group].slopes.data();
      const double entropy = slopes[group].cross_entropy;
      if constexpr (kSameType) {
        if (plain_samples && entropy == 0 && threshold_grad == nullptr) {
          method.gradient(plain<T>(batch, group, begin), count, k,
                          grad_input + batch.offset(batch.contiguous, group) + begin);
          continue;
        }
      }
      const double pos_weight = methods.pos_weight_of(c);
      const int64_t padded = stage<T>(batch, group, begin, count, pos_weight, staged, nullptr);
      method.gradient(staged, padded, k, buffer);
      if constexpr (Method::kThresholdGradient) {
        const int64_t row = methods.methods.size() == 1 ? 0 : c * batch.thresholds;
        if (threshold_grad) method.add_threshold_gradient(staged, padded, k, threshold_grad + row);
      }
      finish_gradient(staged, padded, batch.from_logits, static_cast<T>(entropy), negatives,
                      buffer);
      for_runs(batch, batch.contiguous, group, begin, count,
               [&](int64_t offset, int64_t done, int64_t length) {
                 for (int64_t i = 0; i < length; ++i) {
                   grad_input[offset + i * batch.contiguous.l] = static_cast<Out>(buffer[done + i]);
                 }
               });
    }
  }
}

// Writes dL/dinput from dL/dcounts (groups, T) and dL/dcross_entropy (groups); returns
// dL/dthreshold, in the shape of the thresholds, if asked for.
template <class T, class Out, class Method>
std::vector<double> gradient_pass(const Batch& batch, const Methods<Method>& methods,
                                  const Gradients& gradients, bool threshold_grad,
                                  Out* grad_input) {
  std::vector<GroupSlopes<typename Method::Slope>> slopes;
  slopes.reserve(batch.groups);
  for (int64_t group = 0; group < batch.groups; ++group) {
    const Method& method = methods.of(batch.class_of(group));
    slopes.push_back({method.slopes(&gradients.counts[group * batch.thresholds], batch.gated),
                      gradients.cross_entropy[group]});
  }
  const Chunks chunks(batch.samples(), batch.groups, methods.size());
  const int64_t thresholds = threshold_grad ? batch.threshold_rows() * batch.thresholds : 0;
  std::vector<double> partial(chunks.count() * thresholds);
  chunks.for_each_parallel([&](const Chunk& chunk) {
    double* of_chunk = threshold_grad ? &partial[chunk.index * thresholds] : nullptr;
    gradient_chunk<T>(batch, methods, chunk, slopes, of_chunk, grad_input);
  });
  std::vector<double> result(thresholds);
  for (size_t i = 0; i < partial.size(); ++i) result[i % thresholds] += partial[i];
  return result;
}

}  // namespace
}  // namespace softcm
