// Buckets of probabilities, which a block makes in shared memory and finds samples in: those
// between the breakpoints of many thresholds, and the levels of a table.
//
// Bucket 0 begins at 0 and the last one ends at 1. NaN falls into bucket 0.
#pragma once

#include "../segments.h"
#include "soft_counts.cuh"

namespace softcm {

constexpr int kCells = 1024;

// How many of count ascending numbers are less than x, or not greater.
__device__ __forceinline__ int count_less(const float* numbers, int count, float x, bool or_equal) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    const bool less = or_equal ? numbers[middle] <= x : numbers[middle] < x;
    low = less ? middle + 1 : low;
    high = less ? high : middle;
  }
  return low;
}

__device__ __forceinline__ void get_breakpoints(const Linear<float>& h, float (&to)[3]) {
  to[0] = h.low;
  to[1] = h.tau;
  to[2] = next(h.high);
}

__device__ __forceinline__ void get_breakpoints(const Step<float>& h, float (&to)[1]) {
  to[0] = h.tau;
}

// The buckets between all breakpoints of up to kTogether thresholds, and 1/2.
template <template <class> class H>
struct Knots {
  static constexpr bool kIsLinear = std::is_same_v<H<float>, Linear<float>>;
  static constexpr int kKinds = kIsLinear ? 3 : 1;  // of breakpoints

  int thresholds, knots;
  int half;  // the bucket that begins at 1/2
  double tau[kTogether];
  float knot[kKinds * kTogether + 1];  // ascending
  uint16_t begin[kKinds][kTogether];   // the bucket that begins at a threshold's breakpoint
  uint32_t cell[kCells + 1];           // of a regular grid: its buckets, first | last << 16
  float of_kind[kKinds][kTogether];    // breakpoints of a kind, ascending as their thresholds

  __device__ __forceinline__ static int64_t chunks(const Batch& batch) {
    return bucket_chunks(batch);
  }

  __device__ __forceinline__ int buckets() const { return knots + 1; }

  // Those of the chunk.
  __device__ __forceinline__ int64_t thresholds_of(const Batch&) const { return thresholds; }

  // For a chunk of the thresholds of class c, by all threads of the block.
  __device__ __forceinline__ void build(const Batch& batch, int64_t c, int64_t chunk) {
    const int64_t first = chunk * kTogether, left = batch.thresholds - first;
    const int count = left < kTogether ? static_cast<int>(left) : kTogether;
    const int i = threadIdx.x;
    __syncthreads();
    if (i < count) tau[i] = threshold_at(batch, c, first + i);
    __syncthreads();
    int rank = 0;
    if (i < count) {
      for (int j = 0; j < count; ++j) rank += tau[j] < tau[i] || (tau[j] == tau[i] && j < i);
      float breakpoint[kKinds];
      get_breakpoints(H<float>::make(tau[i], batch.parameter), breakpoint);
      for (int k = 0; k < kKinds; ++k) of_kind[k][rank] = breakpoint[k];
    }
    __syncthreads();
    // Equal ones stand in the order of their kinds, 1/2 after them.
    if (i < count) {
      for (int k = 0; k < kKinds; ++k) {
        const float x = of_kind[k][rank];
        int place = rank + (x > 0.5f);
        for (int other = 0; other < kKinds; ++other) {
          if (other != k) place += count_less(of_kind[other], count, x, other < k);
        }
        knot[place] = x;
        begin[k][i] = static_cast<uint16_t>(place + 1);
      }
    } else if (i == kTogether) {
      int place = 0;
      for (int k = 0; k < kKinds; ++k) place += count_less(of_kind[k], count, 0.5f, true);
      knot[place] = 0.5f;
      half = place + 1;
      thresholds = count;
      knots = kKinds * count + 1;
    }
    __syncthreads();
    for (int j = i; j <= kCells; j += kThreads) {
      const float begin = static_cast<float>(j) / kCells, end = static_cast<float>(j + 1) / kCells;
      const int first = count_less(knot, knots, begin, true);
      const int last = j < kCells ? count_less(knot, knots, end, true) : knots;
      cell[j] = static_cast<uint32_t>(first | last << 16);
    }
    __syncthreads();
  }

  // By the cell, and a search among the few knots within it.
  __device__ __forceinline__ int find(float p) const {
    const float positive = p > 0 ? p : 0;
    const int c = static_cast<int>((positive < 1 ? positive : 1) * kCells);
    const uint32_t range = cell[c];
    int low = static_cast<int>(range & 0xffff), high = static_cast<int>(range >> 16);
    while (low < high) {
      const int middle = (low + high) / 2;
      const bool less = knot[middle] <= p;
      low = less ? middle + 1 : low;
      high = less ? high : middle;
    }
    return low;
  }

  __device__ __forceinline__ Segments segments(const Batch& batch, int t) const {
    static_assert(kIsLinear);
    return {Linear<double>::make(inside<float>(tau[t]), batch.parameter), begin[0][t], begin[1][t],
            begin[2][t]};
  }
};

// The levels of a table, whatever its thresholds.
struct Levels {
  Truncation<float> level;
  int levels;

  __device__ __forceinline__ static int64_t chunks(const Batch& batch) {
    return bucket_chunks(batch);
  }

  __device__ __forceinline__ int buckets() const { return levels; }

  __device__ __forceinline__ int64_t thresholds_of(const Batch& batch) const {
    return batch.thresholds;
  }

  __device__ __forceinline__ void build(const Batch& batch, int64_t, int64_t) {
    __syncthreads();
    if (threadIdx.x == 0) {
      levels = static_cast<int>(batch.parameter);
      level = Truncation<float>::make(levels);
    }
    __syncthreads();
  }

  __device__ __forceinline__ int find(float p) const { return level(p); }
};

}  // namespace softcm
