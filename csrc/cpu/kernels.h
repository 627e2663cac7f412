// The loops over a block of samples, compiled for several instruction sets. For soft_counts.cpp
// only, hence the unnamed namespaces here and in the headers that include this one.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../elementary.h"
#include "../membership.h"
#include "../sample.h"
#include "samples.h"
#include "vectorize.h"

namespace softcm {
namespace {

// Adds to the sums of membership.h those of count samples, a multiple of kLanes. False, and nothing
// added, where a value that nobody has checked may be out of [0, 1].
//
// The form of the inner loop matters: with the sums in locals and a plain if, the compiler makes
// masked additions of the branches. Conditional expressions on the arrays cost three times as much.
template <class T, class H, class Samples>
SOFTCM_CLONES bool add_sums(const H& heaviside, const Samples& s, int64_t count, Sums& sums) {
  const H h = heaviside;
  alignas(64) double totals[8][kLanes] = {};
  alignas(64) T lanes[8][kLanes] = {};
  alignas(64) decltype(s.unchecked_bits(0)) largest[kLanes] = {};
  for (int64_t begin = 0; begin < count; begin += kTerms * kLanes) {
    const int64_t end = std::min(count, begin + kTerms * kLanes);
    for (int64_t i = begin; i < end; i += kLanes) {
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) {
        const T p = s.p(i + l), w1 = s.w1(i + l), w0 = s.w0(i + l);
        const T o = h.other(p, s.q(i + l));
        const T o1 = w1 * o, o0 = w0 * o;
        T other1_below = lanes[0][l], other1_above = lanes[1][l];
        T other0_below = lanes[2][l], other0_above = lanes[3][l];
        T weight1_below = lanes[4][l], weight1_above = lanes[5][l];
        T weight0_below = lanes[6][l], weight0_above = lanes[7][l];
        if (p < h.tau) {
          other1_below += o1;
          other0_below += o0;
          weight1_below += w1;
          weight0_below += w0;
        } else {
          other1_above += o1;
          other0_above += o0;
          weight1_above += w1;
          weight0_above += w0;
        }
        lanes[0][l] = other1_below;
        lanes[1][l] = other1_above;
        lanes[2][l] = other0_below;
        lanes[3][l] = other0_above;
        lanes[4][l] = weight1_below;
        lanes[5][l] = weight1_above;
        lanes[6][l] = weight0_below;
        lanes[7][l] = weight0_above;
        const auto bits = s.unchecked_bits(i + l), before = largest[l];
        largest[l] = bits > before ? bits : before;
      }
    }
    // Cleared here and not where they are declared: that would be a memset, which starts slowly.
    for (int64_t k = 0; k < 8; ++k) {
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) {
        totals[k][l] += static_cast<double>(lanes[k][l]);
        lanes[k][l] = T(0);
      }
    }
  }
  for (int64_t l = 1; l < kLanes; ++l) largest[0] = std::max(largest[0], largest[l]);
  if (largest[0] > ordered_bits(T(1))) return false;
  sums += {sum_lanes(totals[0]), sum_lanes(totals[1]), sum_lanes(totals[2]), sum_lanes(totals[3]),
           sum_lanes(totals[4]), sum_lanes(totals[5]), sum_lanes(totals[6]), sum_lanes(totals[7])};
  return true;
}

// negatives: the factor of the rows of negatives, 0 for the cross-entropy of a softmax.
template <class T>
SOFTCM_CLONES double cross_entropy(const Staged<T>& s, int64_t count, bool from_logits,
                                   T negatives) {
  alignas(64) T sum[kLanes] = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    if (from_logits) {
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) {
        sum[l] = sum[l] + cross_entropy_of_logit(s.z_[i + l], s.w1(i + l), negatives * s.w0(i + l));
      }
    } else {
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) {
        sum[l] = sum[l] + cross_entropy_of_probability(s.p(i + l), s.q(i + l), s.w1(i + l),
                                                       negatives * s.w0(i + l));
      }
    }
  }
  return sum_lanes(sum);
}

// dL/dp of count samples at one threshold; kAdd: added to what is there.
template <class T, class H, class Samples, bool kAdd>
SOFTCM_CLONES void gradient(const H& heaviside, const Slopes<T>& slopes, const Samples& s,
                            int64_t count, T* __restrict grad) {
  const H h = heaviside;
  const Slopes<T> k = slopes;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const T p = s.p(i);
    const T value = h.slope(p, s.q(i)) * k(p < h.tau, s.w1(i), s.w0(i));
    grad[i] = kAdd ? grad[i] + value : value;
  }
}

template <class T, class H, class Samples>
SOFTCM_CLONES double threshold_gradient(const H& heaviside, const Slopes<T>& slopes,
                                        const Samples& s, int64_t count) {
  const H h = heaviside;
  const Slopes<T> k = slopes;
  alignas(64) T sum[kLanes] = {};
  for (int64_t i = 0; i < count; i += kLanes) {
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) {
      const T p = s.p(i + l);
      const T slope = h.slope_threshold(p, s.q(i + l));
      sum[l] = sum[l] + slope * k(p < h.tau, s.w1(i + l), s.w0(i + l));
    }
  }
  return sum_lanes(sum);
}

// From dL/dp in grad to dL/dinput, the cross-entropy's part included; 0 for what is not counted.
template <class T>
SOFTCM_CLONES void finish_gradient(const Staged<T>& s, int64_t count, bool from_logits,
                                   T grad_cross_entropy, T negatives, T* __restrict grad) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const T value = input_gradient(grad[i], s.p(i), s.q(i), s.w1(i), negatives * s.w0(i),
                                   grad_cross_entropy, from_logits);
    grad[i] = s.counted_[i] == T(0) ? T(0) : value;
  }
}

}  // namespace
}  // namespace softcm
