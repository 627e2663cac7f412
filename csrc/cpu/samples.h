// The samples of one class, a block at a time, in the arithmetic type and without strides.
//
// A block is either a view of the caller's memory (Plain: probabilities and labels that need no
// work) or a copy in small buffers (Staged), in which dtypes, strides, logits, weights, class
// indices and ignored samples have been resolved. A kernel is a template over the two.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "../elementary.h"
#include "../loss.h"
#include "../arguments.h"

namespace softcm {

// Fixed, whatever the instruction set and the number of threads: so are the results' bits.
constexpr int64_t kLanes = 16;   // float32 sums side by side: one AVX-512 register
constexpr int64_t kTerms = 16;   // that a lane adds up before float64 takes over: error < 1e-6
constexpr int64_t kBlock = 512;  // samples of a staged block

// The sum of kLanes numbers, in a fixed order.
template <class T>
SOFTCM_HD double sum_lanes(const T* lanes) {
  T eight[8], four[4];
  for (int l = 0; l < 8; ++l) eight[l] = lanes[l] + lanes[l + 8];
  for (int l = 0; l < 4; ++l) four[l] = eight[l] + eight[l + 4];
  return static_cast<double>((four[0] + four[2]) + (four[1] + four[3]));
}

// The bits of a number, which have the order of the numbers from 0 upwards. Those of a negative
// number, of -0 and of NaN are larger than those of 1.
SOFTCM_HD uint32_t ordered_bits(float x) { return static_cast<uint32_t>(float_bits(x)); }
SOFTCM_HD uint64_t ordered_bits(double x) { return double_bits(x); }

template <class T>
struct Plain {
  const T* __restrict input;
  const T* __restrict label;

  SOFTCM_HD T p(int64_t i) const { return input[i]; }
  SOFTCM_HD T q(int64_t i) const { return T(1) - input[i]; }
  SOFTCM_HD T w1(int64_t i) const { return label[i]; }
  SOFTCM_HD T w0(int64_t i) const { return T(1) - label[i]; }
  SOFTCM_HD auto unchecked_bits(int64_t i) const {
    const auto p = ordered_bits(input[i]), y = ordered_bits(label[i]);
    return p > y ? p : y;
  }
};

template <class T>
struct Staged {
  alignas(64) T p_[kBlock];   // probability
  alignas(64) T q_[kBlock];   // 1 - p, exact also where p came from a large logit
  alignas(64) T w1_[kBlock];  // weight of the row of a positive
  alignas(64) T w0_[kBlock];  // weight of the row of a negative
  alignas(64) T z_[kBlock];   // logit, if there are logits
  alignas(64) T counted_[kBlock];

  SOFTCM_HD T p(int64_t i) const { return p_[i]; }
  SOFTCM_HD T q(int64_t i) const { return q_[i]; }
  SOFTCM_HD T w1(int64_t i) const { return w1_[i]; }
  SOFTCM_HD T w0(int64_t i) const { return w0_[i]; }
  SOFTCM_HD auto unchecked_bits(int64_t) const { return decltype(ordered_bits(T()))(0); }
};

// The smallest and largest values met, for the messages; NaN is told apart.
struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  bool nan = false;

  Range& operator+=(const Range& other) {
    low = std::min(low, other.low);
    high = std::max(high, other.high);
    nan = nan || other.nan;
    return *this;
  }
};

// The totals of a class and the values met.
struct Totals : ClassTotals {
  Range input, target, sample_weight;

  Totals& operator+=(const Totals& other) {
    ClassTotals::operator+=(other);
    input += other.input;
    target += other.target;
    sample_weight += other.sample_weight;
    return *this;
  }
};

// Whether the batch is one that Plain can serve: arithmetic-type probabilities and labels with
// stride 1, and nothing else that would have to be resolved.
template <class T>
inline bool is_plain(const Batch& batch) {
  constexpr ScalarType type = sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
  return batch.input.dtype == type && batch.target.dtype == type && batch.n == 1 &&
         batch.input.stride.l == 1 && batch.target.stride.l == 1 && batch.weight.data == nullptr &&
         batch.pos_weight.data == nullptr && !batch.ignore && !batch.ignore_nan &&
         !batch.class_indices && !batch.from_logits;
}

template <class T>
inline Plain<T> plain(const Batch& batch, int64_t group, int64_t begin) {
  const auto at = [&](const Array& x) {
    return static_cast<const T*>(x.data) + batch.offset(x.stride, group) + begin;
  };
  return {at(batch.input), at(batch.target)};
}

// Fills a block with samples begin ... begin + count - 1 of a group, and with samples of weight 0
// up to a multiple of kLanes, which is returned. pos_weight is that of the group's class. Adds to
// totals (not the cross-entropy) if given.
template <class T>
int64_t stage(const Batch& batch, int64_t group, int64_t begin, int64_t count, double pos_weight,
              Staged<T>& to, Totals* totals);

// Runs f(offset of the first element, samples already done, length) over the stretches of constant
// stride of samples begin ... begin + count - 1.
template <class F>
inline void for_runs(const Batch& batch, const Strides& stride, int64_t group, int64_t begin,
                     int64_t count, F f) {
  const int64_t first = batch.offset(stride, group);
  for (int64_t done = 0; done < count;) {
    const int64_t n = (begin + done) / batch.inner, l = (begin + done) % batch.inner;
    const int64_t length = std::min(count - done, batch.inner - l);
    f(first + n * stride.n + l * stride.l, done, length);
    done += length;
  }
}

}  // namespace softcm
