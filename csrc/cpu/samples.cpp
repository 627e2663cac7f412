#include "samples.h"

#include "../sample.h"
#include "element.h"
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
void load_from(const From* data, const Batch& batch, const Array& x, int64_t group, int64_t begin,
               int64_t count, T* to) {
  for_runs(batch, x.stride, group, begin, count, [&](int64_t offset, int64_t done, int64_t length) {
    copy_run(data + offset, x.stride.l, length, to + done);
  });
}

template <class T>
void load(const Batch& batch, const Array& x, int64_t group, int64_t begin, int64_t count, T* to) {
  with_element_type(x.dtype, [&](auto element) {
    const auto* data = static_cast<const decltype(element)*>(x.data);
    load_from(data, batch, x, group, begin, count, to);
  });
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
void stage_labels(const Batch& batch, int64_t group, int64_t begin, int64_t count, Staged<T>& to,
                  Totals* totals) {
  alignas(64) Raw target[kBlock], counted[kBlock];
  load(batch, batch.target, group, begin, count, target);
  const Raw class_of_group = static_cast<Raw>(batch.class_of(group));
  // Of a class that is ignored no sample counts; the values of the others are looked at all the
  // same.
  const T counts = batch.ignores_class(group) ? T(0) : T(1);
  const bool ignore = batch.ignore, ignore_nan = batch.ignore_nan;
  const Raw ignored = static_cast<Raw>(batch.ignore_index);
  for (int64_t i = 0; i < count; ++i) {
    const bool is_nan = target[i] != target[i];
    const bool left_out = (ignore && target[i] == ignored) || (ignore_nan && is_nan);
    counted[i] = left_out ? Raw(0) : Raw(1);
    to.counted_[i] = left_out ? T(0) : counts;
  }
  for (int64_t i = 0; i < count; ++i) {
    const Raw is_class = target[i] == class_of_group ? Raw(1) : Raw(0);
    to.w1_[i] = static_cast<T>(batch.class_indices ? is_class : target[i]);
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
int64_t stage(const Batch& batch, int64_t group, int64_t begin, int64_t count, double pos_weight,
              Staged<T>& to, Totals* totals) {
  // Other integers than 0 and 1 are no labels, but may be ignored: as they are, not as T rounds
  // them.
  constexpr int64_t kExact = 1 << 24;
  const bool large = batch.ignore_index >= kExact || batch.ignore_index <= -kExact;
  if (batch.class_indices || large || batch.target.dtype == ScalarType::Double) {
    stage_labels<double>(batch, group, begin, count, to, totals);
  } else {
    stage_labels<T>(batch, group, begin, count, to, totals);
  }
  load(batch, batch.input, group, begin, count, batch.from_logits ? to.z_ : to.p_);
  if (batch.weight.data != nullptr) {
    load(batch, batch.weight, group, begin, count, to.w0_);
  } else {
    std::fill_n(to.w0_, count, T(1));
  }
  if (totals && !batch.from_logits) {
    totals->input += counted_range(to.p_, to.counted_, count);
  }
  if (totals && batch.weight.data != nullptr) {
    totals->sample_weight += counted_range(to.w0_, to.counted_, count);
  }
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  std::fill(to.counted_ + count, to.counted_ + padded, T(0));
  resolve_probabilities(to, padded, batch.from_logits);
  const double weight = resolve_weights(to, padded, static_cast<T>(pos_weight));
  if (totals) totals->weight += weight;
  return padded;
}

template int64_t stage<float>(const Batch&, int64_t, int64_t, int64_t, double, Staged<float>&,
                              Totals*);
template int64_t stage<double>(const Batch&, int64_t, int64_t, int64_t, double, Staged<double>&,
                               Totals*);

}  // namespace softcm
