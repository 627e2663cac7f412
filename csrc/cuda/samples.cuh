// Reading samples of any dtype and layout, and the range rules of their values.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../heaviside.h"
#include "../sample.h"
#include "launch.cuh"

namespace softcm {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// Neighbouring elements, which are loaded and stored 16 bytes at a time.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Pack {
  T value[kCount];
};

template <int kCount, class From, class T>
__device__ __forceinline__ void load_from(const void* data, int64_t offset, T (&to)[kCount]) {
  const From* from = static_cast<const From*>(data) + offset;
  const Pack<From, kCount> pack = *reinterpret_cast<const Pack<From, kCount>*>(from);
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = static_cast<T>(pack.value[i]);
}

__device__ __forceinline__ bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

template <int kCount, class T>
__device__ __forceinline__ void load_floating(const Array& x, int64_t offset, T (&to)[kCount]) {
  switch (x.dtype) {
    case ScalarType::Double:
      return load_from<kCount, double>(x.data, offset, to);
    case ScalarType::Half:
      return load_from<kCount, Half>(x.data, offset, to);
    case ScalarType::BFloat16:
      return load_from<kCount, BFloat16>(x.data, offset, to);
    default:
      return load_from<kCount, float>(x.data, offset, to);
  }
}

template <int kCount, class T>
__device__ __forceinline__ void load_integer(const Array& x, int64_t offset, T (&to)[kCount]) {
  switch (x.dtype) {
    case ScalarType::Char:
      return load_from<kCount, int8_t>(x.data, offset, to);
    case ScalarType::Short:
      return load_from<kCount, int16_t>(x.data, offset, to);
    case ScalarType::Int:
      return load_from<kCount, int32_t>(x.data, offset, to);
    case ScalarType::Long:
      return load_from<kCount, int64_t>(x.data, offset, to);
    default:
      return load_from<kCount, uint8_t>(x.data, offset, to);  // bool or uint8
  }
}

template <int kCount, class T>
__device__ __forceinline__ void load(const Array& x, int64_t offset, T (&to)[kCount]) {
  if (is_floating(x.dtype)) return load_floating<kCount>(x, offset, to);
  load_integer<kCount>(x, offset, to);
}

// Number i of a small vector, or of row c of several.
__device__ __forceinline__ double number(const Array& x, int64_t i, int64_t c = 0) {
  double value[1];
  load<1>(x, c * x.stride.c + i * x.stride.l, value);
  return value[0];
}

// The values out of range that a thread has met. Looked at when it is done: an assert in the loop
// would cost more than the loop.
struct Faults {
  bool input = false, target = false, weight = false;

  __device__ __forceinline__ void raise() const {
    if (input)
      SOFTCM_FAIL("softcm: input must lie in [0, 1]; pass from_logits=True if these are logits");
    if (target)
      SOFTCM_FAIL("softcm: target must lie in [0, 1], or hold class indices or ignore_index");
    if (weight) SOFTCM_FAIL("softcm: weight must be finite and >= 0");
  }
};

template <class T>
struct Sample {
  T p, q;    // probability, and 1 - p exact also where p came from a large logit
  T w1, w0;  // weights of the rows of a positive and of a negative
  T z;       // logit, if there are logits
  T weight;
  bool counted;
};

// Where a sample of a thread's group stands: (n, l) of sample s is (0, s), but for batches that no
// one stride runs through.
struct Position {
  int64_t sample, c, n, l;

  __device__ __forceinline__ Position(const Batch& batch, const Share& share, int64_t s)
      : sample(share.sample), c(share.c), n(0), l(s) {
    if (batch.n == 1) return;
    // 32-bit division takes a third of the time.
    if (batch.samples() <= 0xffffffff) {
      const uint32_t small = static_cast<uint32_t>(s), inner = static_cast<uint32_t>(batch.inner);
      n = small / inner;
      l = small % inner;
    } else {
      n = s / batch.inner;
      l = s % batch.inner;
    }
  }

  __device__ __forceinline__ int64_t offset(const Strides& stride) const {
    return sample * stride.sample + n * stride.n + c * stride.c + l * stride.l;
  }
};

// Labels, which of them count, and whether one is out of range.
template <int kCount, class T>
__device__ __forceinline__ void load_labels(const Batch& batch, const Position& at,
                                            T (&label)[kCount], bool (&counted)[kCount],
                                            bool& fault) {
  const int64_t offset = at.offset(batch.target.stride);
  if (is_floating(batch.target.dtype)) {
    load_floating<kCount>(batch.target, offset, label);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      counted[i] = !(batch.ignore && label[i] == static_cast<T>(batch.ignore_index)) &&
                   !(batch.ignore_nan && label[i] != label[i]);
      fault = fault || (counted[i] && !(label[i] >= T(0) && label[i] <= T(1)));
    }
    return;
  }
  int64_t number[kCount];
  load_integer<kCount>(batch.target, offset, number);
  const int64_t high = batch.class_indices ? batch.classes - 1 : 1;
  // No sample of an ignored class counts, but the values of the other classes must be right.
  const bool ignores_class = batch.ignore && batch.class_indices && at.c == batch.ignore_index;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    counted[i] = !(batch.ignore && number[i] == batch.ignore_index);
    fault = fault || (counted[i] && static_cast<uint64_t>(number[i]) > static_cast<uint64_t>(high));
    counted[i] = counted[i] && !ignores_class;
    label[i] = batch.class_indices ? (number[i] == at.c ? T(1) : T(0)) : static_cast<T>(number[i]);
  }
}

// The samples from a position on; more than one only where they are neighbours in memory.
template <int kCount, class T>
__device__ __forceinline__ void load_samples(const Batch& batch, const Position& at, T pos_weight,
                                             Sample<T> (&to)[kCount], Faults& faults) {
  T x[kCount], label[kCount], weight[kCount];
  bool counted[kCount];
  load_floating<kCount>(batch.input, at.offset(batch.input.stride), x);
  load_labels<kCount>(batch, at, label, counted, faults.target);
#pragma unroll
  for (int i = 0; i < kCount; ++i) weight[i] = T(1);
  if (batch.weight.data != nullptr) {
    load<kCount>(batch.weight, at.offset(batch.weight.stride), weight);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const bool finite = weight[i] - weight[i] == T(0);
      faults.weight = faults.weight || (counted[i] && !(finite && weight[i] >= T(0)));
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    // A NaN probability is no error: it reaches the loss.
    const bool outside = x[i] < T(0) || x[i] > T(1);
    faults.input = faults.input || (outside && counted[i] && !batch.from_logits);
    const T z = counted[i] ? x[i] : T(0), p = counted[i] ? x[i] : T(0.5);
    const T w = counted[i] ? weight[i] : T(0), y = counted[i] ? label[i] : T(0);
    const Probability<T> both = batch.from_logits ? probability(z) : Probability<T>{p, T(1) - p};
    to[i] = {both.p, both.q, (w * y) * pos_weight, w * (T(1) - y), z, w, counted[i]};
  }
}

// The negative row's weight in the cross-entropy: that of a softmax has no such row.
template <class T>
__device__ __forceinline__ T entropy_weight_of_negative(const Batch& batch, const Sample<T>& x) {
  return batch.class_indices ? T(0) : x.w0;
}

// load_samples() for probabilities and float labels of one dtype, with no other option set.
template <class In, int kCount, class T>
__device__ __forceinline__ void load_plain(const Batch& batch, int64_t input_offset,
                                           int64_t target_offset, Sample<T> (&to)[kCount],
                                           Faults& faults) {
  T p[kCount], y[kCount];
  load_from<kCount, In>(batch.input.data, input_offset, p);
  load_from<kCount, In>(batch.target.data, target_offset, y);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    faults.input = faults.input || p[i] < T(0) || p[i] > T(1);
    faults.target = faults.target || !(y[i] >= T(0) && y[i] <= T(1));
    to[i] = {p[i], T(1) - p[i], y[i], T(1) - y[i], p[i], T(1), true};
  }
}

}  // namespace softcm
