// Sums over a block and over the grid, in a fixed order and without atomics on numbers.
#pragma once

#include "launch.cuh"

namespace softcm {

constexpr unsigned kAllLanes = 0xffffffff;

// Over the lanes that are apart by multiples of step, a power of 2.
__device__ __forceinline__ double sum_lanes(double value, int step) {
  for (int distance = 16; distance >= step; distance >>= 1) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// Over the threads of a block that have the same group: store(value k, group of the tile, sum).
// tile: at most kMostTile.
template <int kMostTile, int kValues, class Store>
__device__ __forceinline__ void sum_block(const double (&values)[kValues], int tile,
                                          const Store& store) {
  __shared__ double of_warp[kWarps][kValues][kMostTile];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int k = 0; k < kValues; ++k) {
    const double sum = sum_lanes(values[k], tile);
    if (lane < tile) of_warp[warp][k][lane] = sum;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kValues * tile; i += kThreads) {
    double sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += of_warp[w][i / tile][i % tile];
    store(i / tile, i % tile, sum);
  }
  __syncthreads();
}

// The sum of value over the lanes below this one; all gets that over all lanes.
__device__ __forceinline__ double sum_lanes_below(double value, double& all) {
  const int lane = threadIdx.x % 32;
  for (int distance = 1; distance < 32; distance *= 2) {
    const double before = __shfl_up_sync(kAllLanes, value, distance);
    value += lane >= distance ? before : 0.0;
  }
  const double below = __shfl_up_sync(kAllLanes, value, 1);
  all = __shfl_sync(kAllLanes, value, 31);
  return lane > 0 ? below : 0.0;
}

// Running sums by one warp: store(i, value(0) + ... + value(i - 1)) for i = 0 ... count.
template <class Value, class Store>
__device__ __forceinline__ void sum_up(int count, const Value& value, const Store& store) {
  double before = 0;
  for (int base = 0; base <= count; base += 32) {
    const int i = base + threadIdx.x % 32;
    double all;
    const double below = sum_lanes_below(i < count ? value(i) : 0.0, all);
    if (i <= count) store(i, before + below);
    before += all;
  }
}

// Over count rows of kValues numbers that other blocks have written, stride numbers apart, by one
// warp: the sums stand in all of its lanes.
template <int kValues>
__device__ __forceinline__ void sum_rows(const double* rows, int64_t count, int64_t stride,
                                         double (&sums)[kValues]) {
#pragma unroll
  for (int k = 0; k < kValues; ++k) sums[k] = 0;
  for (int64_t row = threadIdx.x % 32; row < count; row += 32) {
#pragma unroll
    for (int k = 0; k < kValues; ++k) sums[k] += __ldcg(rows + row * stride + k);
  }
#pragma unroll
  for (int k = 0; k < kValues; ++k) sums[k] = sum_lanes(sums[k], 1);
}

// Whether this block is the last one of count to arrive, so that what all of them have written can
// be read. The ticket must be 0 at the launch.
__device__ __forceinline__ bool is_last_block(unsigned* ticket, unsigned count) {
  __shared__ bool last;
  __syncthreads();
  if (count == 1) return true;
  // One thread releases and acquires for its block, which the barriers order around it.
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(ticket, 1u) == count - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

}  // namespace softcm
