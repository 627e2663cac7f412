#include "samples.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../sample.h"
#include "vectorize.h"

namespace softcm {
namespace {

template <class T, class From>
void copy_run(const From* from, int64_t stride, int64_t count, T* to) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(from[i * stride]);
  }
}

template <class T, class From>
void load_from(const From* data, const Problem& problem, const Operand& x, int64_t c, int64_t begin,
               int64_t count, T* to) {
  for_runs(problem, x.stride, c, begin, count, [&](int64_t offset, int64_t done, int64_t length) {
    copy_run(data + offset, x.stride.l, length, to + done);
  });
}

template <class T>
void load(const Problem& problem, const Operand& x, int64_t c, int64_t begin, int64_t count,
          T* to) {
  const void* data = x.tensor.const_data_ptr();
  const auto from = [&](auto element) {
    load_from(static_cast<const decltype(element)*>(data), problem, x, c, begin, count, to);
  };
  switch (x.dtype) {
    case ScalarType::Float:
      return from(float());
    case ScalarType::Double:
      return from(double());
    case ScalarType::Half:
      return from(torch::headeronly::Half());
    case ScalarType::BFloat16:
      return from(torch::headeronly::BFloat16());
    case ScalarType::Bool:
    case ScalarType::Byte:
      return from(uint8_t());
    case ScalarType::Char:
      return from(int8_t());
    case ScalarType::Short:
      return from(int16_t());
    case ScalarType::Int:
      return from(int32_t());
    default:
      return from(int64_t());  // make_problem has admitted no other
  }
}

// Minimum and maximum do not depend on the order, so the compiler may choose the lanes.
template <class T>
SOFTCM_CLONES Range counted_range(const T* x, const T* counted, int64_t count) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  T low = kInfinity, high = -kInfinity;
  int32_t nan = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(| : nan)
  for (int64_t i = 0; i < count; ++i) {
    const T value = x[i];
    const bool skip = counted[i] == T(0);
    const T for_low = skip ? kInfinity : value;
    const T for_high = skip ? -kInfinity : value;
    low = for_low < low ? for_low : low;
    high = for_high > high ? for_high : high;
    const int32_t is_nan = for_low != for_low ? 1 : 0;
    nan |= is_nan;
  }
  return {static_cast<double>(low), static_cast<double>(high), nan != 0};
}

// Labels, or class indices turned into labels, into w1_; which of them count into counted_. Raw is
// the type in which they are looked at: one that holds them exactly (integers up to 2^53).
template <class Raw, class T>
void stage_labels(const Problem& problem, int64_t c, int64_t begin, int64_t count, Staged<T>& to,
                  Totals* totals) {
  alignas(64) Raw target[kBlock], counted[kBlock];
  load(problem, problem.target, c, begin, count, target);
  const bool ignore = problem.ignore_index.has_value();
  const Raw ignored = static_cast<Raw>(problem.ignore_index.value_or(0));
  for (int64_t i = 0; i < count; ++i) {
    counted[i] = ignore && target[i] == ignored ? Raw(0) : Raw(1);
    to.counted_[i] = static_cast<T>(counted[i]);
  }
  for (int64_t i = 0; i < count; ++i) {
    const Raw is_class = target[i] == static_cast<Raw>(c) ? Raw(1) : Raw(0);
    to.w1_[i] = static_cast<T>(problem.class_indices ? is_class : target[i]);
  }
  if (totals) totals->target += counted_range(target, counted, count);
}

// p and 1 - p, from the probabilities in p_ or the logits in z_; 1/2 where a sample is not counted.
template <class T>
SOFTCM_CLONES void resolve_probabilities(Staged<T>& b, int64_t count, bool from_logits) {
  if (!from_logits) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const T p = b.counted_[i] != T(0) ? b.p_[i] : T(0.5);
      b.p_[i] = p;
      b.q_[i] = T(1) - p;
    }
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const T z = b.counted_[i] != T(0) ? b.z_[i] : T(0);
    const Probability<T> of_logit = probability(z);
    b.z_[i] = z;
    b.p_[i] = of_logit.p;
    b.q_[i] = of_logit.q;
  }
}

// The weights of both rows, from labels in w1_ and sample weights in w0_; returns the sum of the
// sample weights.
template <class T>
SOFTCM_CLONES double resolve_weights(Staged<T>& b, int64_t count, T pos_weight) {
  alignas(64) T sum[kLanes] = {};
  for (int64_t i = 0; i < count; i += kLanes) {
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) {
      const bool counts = b.counted_[i + l] != T(0);
      const T y = counts ? b.w1_[i + l] : T(0);
      const T w = counts ? b.w0_[i + l] : T(0);
      b.w0_[i + l] = w * (T(1) - y);
      b.w1_[i + l] = (w * y) * pos_weight;
      sum[l] = sum[l] + w;
    }
  }
  double total = 0;
  for (int64_t l = 0; l < kLanes; ++l) total += static_cast<double>(sum[l]);
  return total;
}

}  // namespace

template <class T>
int64_t stage(const Problem& problem, int64_t c, int64_t begin, int64_t count, Staged<T>& to,
              Totals* totals) {
  // Other integers than 0 and 1 are no labels, but may be ignored: as they are, not as T rounds
  // them.
  constexpr int64_t kExact = 1 << 24;
  const int64_t ignored = problem.ignore_index.value_or(0);
  const bool large = ignored >= kExact || ignored <= -kExact;
  if (problem.class_indices || large || problem.target.dtype == ScalarType::Double) {
    stage_labels<double>(problem, c, begin, count, to, totals);
  } else {
    stage_labels<T>(problem, c, begin, count, to, totals);
  }
  load(problem, problem.input, c, begin, count, problem.from_logits ? to.z_ : to.p_);
  if (problem.weight) {
    load(problem, *problem.weight, c, begin, count, to.w0_);
  } else {
    std::fill_n(to.w0_, count, T(1));
  }
  if (totals && !problem.from_logits) {
    totals->input += counted_range(to.p_, to.counted_, count);
  }
  if (totals && problem.weight) {
    totals->sample_weight += counted_range(to.w0_, to.counted_, count);
  }
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  std::fill(to.counted_ + count, to.counted_ + padded, T(0));
  const T pos_weight = problem.pos_weight.empty() ? T(1) : static_cast<T>(problem.pos_weight[c]);
  resolve_probabilities(to, padded, problem.from_logits);
  const double weight = resolve_weights(to, padded, pos_weight);
  if (totals) totals->weight += weight;
  return padded;
}

template int64_t stage<float>(const Problem&, int64_t, int64_t, int64_t, Staged<float>&, Totals*);
template int64_t stage<double>(const Problem&, int64_t, int64_t, int64_t, Staged<double>&, Totals*);

}  // namespace softcm
